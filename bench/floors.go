package bench

import (
	"context"
	"runtime"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

const (
	sequentialPiece = 256 << 10
	sequentialDepth = 32
	randomDepth     = 128
	pieceBlocks     = sequentialPiece / engine.BlockSize
)

// The floors. All use registered buffers and files and batched submission, from one thread.

// sequentialFloor: 256 KiB writes one after the other, in blocks per second.
func (r *run) sequentialFloor(ctx context.Context, d time.Duration) (measured, error) {
	m, err := drive(ctx, r.dev, load{op: ring.OpWrite, size: sequentialPiece, depth: sequentialDepth}, d)
	m.ops *= pieceBlocks
	return m, err
}

// randomFloor: 4 KiB reads or writes at random places at depth 128.
func (r *run) randomFloor(ctx context.Context, op ring.Op, d time.Duration) (measured, error) {
	return drive(ctx, r.dev, load{op: op, size: engine.BlockSize, depth: randomDepth, random: true}, d)
}

// durableFloor: one 4 KiB write and one flush, one after the other, where no pool is.
func (r *run) durableFloor(ctx context.Context, d time.Duration) (measured, error) {
	return drive(ctx, r.dev, load{op: ring.OpWrite, size: engine.BlockSize, depth: 1, random: true, flush: true,
		start: r.dev.region() - tail}, d)
}

// hashFloor: XXH64 of 4 KiB blocks that stand in 8 MiB of memory, as much as a writer's buffers.
func hashFloor(ctx context.Context, d time.Duration) (measured, error) {
	mem := make([]byte, 8<<20)
	newRandom(2).fill(mem)
	var m measured
	var all uint64
	cpu, start := processCPU(), time.Now()
	for time.Since(start) < d && ctx.Err() == nil {
		for at := 0; at < len(mem); at += engine.BlockSize {
			all ^= engine.Sum(mem[at : at+engine.BlockSize])
		}
		m.ops += uint64(len(mem) / engine.BlockSize)
	}
	m.elapsed, m.cpu = time.Since(start), processCPU()-cpu
	runtime.KeepAlive(all) // so that the compiler does not leave the hash out
	return m, ctx.Err()
}

func runFloors(ctx context.Context, r *run) ([]Result, error) {
	floors := []struct {
		name, unit, note string
		measure          func(context.Context, time.Duration) (measured, error)
		figure           func(measured) float64
	}{
		{"floors/sequential-write", "blocks/s", "256 KiB writes at depth 32, counted in blocks of 4 KiB", r.sequentialFloor, measured.perSecond},
		{"floors/random-write", "blocks/s", "4 KiB writes at depth 128", func(ctx context.Context, d time.Duration) (measured, error) {
			return r.randomFloor(ctx, ring.OpWrite, d)
		}, measured.perSecond},
		{"floors/random-read", "blocks/s", "4 KiB reads at depth 128", func(ctx context.Context, d time.Duration) (measured, error) {
			return r.randomFloor(ctx, ring.OpRead, d)
		}, measured.perSecond},
		{"floors/write-flush", "us", "one 4 KiB write, then one flush", r.durableFloor, func(m measured) float64 { return m.nsPerOp() / 1e3 }},
		{"floors/xxh64", "us/block", "XXH64 of one 4 KiB block, processor time of one thread", hashFloor, func(m measured) float64 { return m.cpuPerOp() / 1e3 }},
	}
	reps := make([][]Repetition, len(floors))
	for range r.o.Repetitions {
		for i, f := range floors {
			m, err := f.measure(ctx, r.floorTime())
			if err != nil {
				return nil, err
			}
			reps[i] = append(reps[i], Repetition{Value: f.figure(m)})
		}
	}
	var out []Result
	for i, f := range floors {
		out = append(out, result(Result{Name: f.name, Unit: f.unit, Notes: []string{f.note}}, reps[i]))
	}
	return out, nil
}
