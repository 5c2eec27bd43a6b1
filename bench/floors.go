package bench

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/engine/blocksum"
	"github.com/farside-storage/farside/ring"
)

const (
	sequentialPiece = 256 << 10
	sequentialDepth = 32
	randomDepth     = 128
	pieceBlocks     = sequentialPiece / engine.BlockSize
)

// The floors. All use registered buffers and files and batched submission, from one thread.
var (
	sequentialLoad = load{op: ring.OpWrite, size: sequentialPiece, depth: sequentialDepth}
	durableLoad    = load{op: ring.OpWrite, size: engine.BlockSize, depth: 1, random: true, flush: true}
)

func randomLoad(op ring.Op) load {
	return load{op: op, size: engine.BlockSize, depth: randomDepth, random: true}
}

// sequentialFloor: 256 KiB writes one after the other, in blocks per second.
func (r *run) sequentialFloor(ctx context.Context, d time.Duration) (measured, error) {
	m, err := drive(ctx, r.dev, sequentialLoad, d)
	m.ops *= pieceBlocks
	return m, err
}

// randomFloor: 4 KiB reads or writes at random places at depth 128.
func (r *run) randomFloor(ctx context.Context, op ring.Op, d time.Duration) (measured, error) {
	return drive(ctx, r.dev, randomLoad(op), d)
}

// piecesFloor: writes of so many blocks at random places, at least as many bytes in flight as in sequentialFloor, in blocks per
// second.
func (r *run) piecesFloor(ctx context.Context, blocks int, d time.Duration) (measured, error) {
	size := max(blocks, 1) * engine.BlockSize
	depth := 1 << bits.Len(uint((sequentialDepth*sequentialPiece-1)/size)) // a queue's depth is a power of two
	m, err := drive(ctx, r.dev, load{op: ring.OpWrite, size: size, depth: depth, random: true}, d)
	m.ops *= uint64(size / engine.BlockSize)
	return m, err
}

// durableFloor: one 4 KiB write and one flush, one after the other, where no pool is.
func (r *run) durableFloor(ctx context.Context, d time.Duration) (measured, error) {
	return drive(ctx, r.dev, r.inTail(durableLoad), d)
}

// inTail is a load where no pool is.
func (r *run) inTail(l load) load {
	l.start = r.dev.region() - tail
	return l
}

// hashFloor: XXH64 of 4 KiB blocks that stand in 8 MiB of memory, as much as a writer's buffers, one after the other.
func hashFloor(ctx context.Context, d time.Duration) (measured, error) {
	return sumUp(ctx, d, func(sums []uint64, mem []byte) {
		for i := range sums {
			sums[i] = engine.Sum(mem[i*engine.BlockSize : (i+1)*engine.BlockSize])
		}
	})
}

// hashMany is hashFloor the way that a writer verifies: eight blocks side by side where the processor can.
func hashMany(ctx context.Context, d time.Duration) (measured, error) {
	return sumUp(ctx, d, blocksum.Run)
}

func sumUp(ctx context.Context, d time.Duration, sum func([]uint64, []byte)) (measured, error) {
	mem := make([]byte, 8<<20)
	newRandom(2).fill(mem)
	var m measured
	sums := make([]uint64, len(mem)/engine.BlockSize)
	cpu, start := processCPU(), time.Now()
	for time.Since(start) < d && ctx.Err() == nil {
		sum(sums, mem)
		m.ops += uint64(len(sums))
	}
	m.elapsed, m.cpu = time.Since(start), processCPU()-cpu
	runtime.KeepAlive(sums) // so that the compiler does not leave the hash out
	return m, ctx.Err()
}

// floor is one of the figures of workload floors.
type floor struct {
	name, unit, note string
	measure          func(context.Context, time.Duration) (measured, error)
	figure           func(measured) float64
	fio              *load // that fio can drive, too; nil: none
}

func (r *run) floors() []floor {
	micros := func(m measured) float64 { return m.nsPerOp() / 1e3 }
	random := func(op ring.Op) func(context.Context, time.Duration) (measured, error) {
		return func(ctx context.Context, d time.Duration) (measured, error) { return r.randomFloor(ctx, op, d) }
	}
	durable, write, read := r.inTail(durableLoad), randomLoad(ring.OpWrite), randomLoad(ring.OpRead)
	return []floor{
		{"sequential-write", "blocks/s", "256 KiB writes at depth 32, counted in blocks of 4 KiB", r.sequentialFloor, measured.perSecond, &sequentialLoad},
		{"random-write", "blocks/s", "4 KiB writes at depth 128", random(ring.OpWrite), measured.perSecond, &write},
		{"random-read", "blocks/s", "4 KiB reads at depth 128", random(ring.OpRead), measured.perSecond, &read},
		{"write-flush", "us", "one 4 KiB write, then one flush", r.durableFloor, micros, &durable},
		{"receive-and-write", "blocks/s", "bytes of another process received over TCP on loopback into registered buffers, written 256 KiB at a time at depth 32, one thread", r.receiveFloor, measured.perSecond, nil},
		{"sequential-read", "blocks/s", "256 KiB reads at depth 32, counted in blocks of 4 KiB: what pointer tables and journal are read with after a crash", r.scanRate, measured.perSecond, nil},
		{"xxh64", "us/block", "XXH64 of one 4 KiB block, processor time of one thread", hashFloor, func(m measured) float64 { return m.cpuPerOp() / 1e3 }, nil},
	}
}

// scanRate: 256 KiB reads one after the other, in blocks per second.
func (r *run) scanRate(ctx context.Context, d time.Duration) (measured, error) {
	m, err := drive(ctx, r.dev, load{op: ring.OpRead, size: sequentialPiece, depth: sequentialDepth}, d)
	m.ops *= pieceBlocks
	return m, err
}

func runFloors(ctx context.Context, r *run) ([]Result, error) {
	floors := r.floors()
	reps := make([][]Repetition, len(floors))
	costs := make([]floorCost, len(floors))
	uncompared := r.whyNoFio()
	for range r.o.Repetitions {
		for i, f := range floors {
			m, err := f.measure(ctx, r.floorTime())
			if err != nil {
				return nil, err
			}
			rep := Repetition{Value: f.figure(m)}
			if f.fio != nil && uncompared == "" {
				x, err := r.fio(ctx, *f.fio, r.floorTime())
				if ctx.Err() != nil {
					return nil, ctx.Err()
				} else if err != nil {
					uncompared = "not compared with fio: " + err.Error()
				} else {
					rep.Floor = f.ofFio(x.perSecond)
					costs[i].fio = append(costs[i].fio, x.cpu*engine.BlockSize/float64(f.fio.size))
				}
			}
			costs[i].own = append(costs[i].own, m.cpuPerOp())
			reps[i] = append(reps[i], rep)
		}
	}
	var out []Result
	for i, f := range floors {
		x := f.judge(reps[i], uncompared)
		if uncompared == "" && f.fio != nil {
			x.Notes = append(x.Notes, costs[i].String())
		}
		out = append(out, x)
	}
	return out, nil
}

// floorCost is the processor time of a floor, in nanoseconds for 4 KiB: it tells of the loop alone, where the rate
// tells of all that goes on on the machine.
type floorCost struct{ own, fio []float64 }

func (c *floorCost) String() string {
	_, own, _ := spread(c.own)
	_, fio, _ := spread(c.fio)
	return fmt.Sprintf("processor time for 4 KiB, the median: %.0f ns, fio's %.0f ns", own, fio)
}

// ofFio turns fio's requests per second into the figure.
func (f floor) ofFio(rate float64) float64 {
	if f.unit == "us" {
		return 1e6 / rate
	}
	return rate * float64(f.fio.size) / engine.BlockSize
}

// judge compares a floor of bench's own with fio's: a floor that is too low would flatter everything that is measured
// against it.
func (f floor) judge(reps []Repetition, uncompared string) Result {
	x := Result{Name: "floors/" + f.name, Unit: f.unit, Notes: []string{f.note}}
	if f.fio == nil {
		return result(x, reps)
	}
	if uncompared != "" {
		x.Notes = append(x.Notes, uncompared)
		for i := range reps {
			reps[i].Floor = 0
		}
		return result(x, reps)
	}
	x.Goal, x.FloorName, x.Target = "fio", "the same by fio, with io_uring, registered buffers and files, and batches", atLeast(0.95)
	if f.unit == "us" {
		x.Target = atMost(1 / 0.95)
	}
	x = result(x, reps)
	if !*x.Reached {
		x.Notes = append(x.Notes, "bench's own floor is more than 5 % worse than fio's: ratios against it flatter")
	}
	return x
}
