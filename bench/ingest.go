package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/loopdev"
)

// ingested is what one run of random updates came to. Rates are those of the steady state: from the end of a
// first second of updates to the last cut.
type ingested struct {
	updates uint64
	elapsed time.Duration
	cpu     time.Duration
	mallocs uint64
	// counted: the device has block statistics. steady is device bytes per payload byte from the end of the
	// first fill to the closed pool, whole is that with format and fill.
	counted       bool
	steady, whole float64
	piece         int // blocks of a device write, on average
	notes         []string
}

func (g *ingested) rate() float64   { return float64(g.updates) / g.elapsed.Seconds() }
func (g *ingested) cpuPer() float64 { return float64(g.cpu.Nanoseconds()) / float64(g.updates) }

// ingest runs random updates for d over a fresh pool.
func (r *run) ingest(ctx context.Context, d time.Duration) (g ingested, err error) {
	err = inOwnThread(func() (err error) {
		g, err = r.ingestHere(ctx, d)
		return err
	})
	return g, err
}

func (r *run) ingestHere(ctx context.Context, d time.Duration) (g ingested, err error) {
	start, _, err := r.dev.stats()
	if err != nil {
		return g, err
	}
	s, err := openSession(r.dev, 0, r.o.Full)
	if err != nil {
		return g, err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.fill(ctx); err != nil {
		return g, err
	}
	if err := s.pool.Checkpoint(ctx); err != nil {
		return g, err
	}
	filled, _, err := r.dev.stats()
	if err != nil {
		return g, err
	}
	fillBlocks := s.w.Stats().Blocks
	if err := s.measure(ctx, d, &g); err != nil {
		return g, err
	}
	if err := errors.Join(s.awaitFinal(ctx), s.verify()); err != nil {
		return g, err
	}
	all := s.w.Stats()
	share := float64(s.blocks) / float64(s.poolBlocks)
	open = false
	if err := s.close(); err != nil {
		return g, err
	}
	end, counted, err := r.dev.stats()
	g.count(counted, start, filled, end, fillBlocks, all.Blocks)
	g.piece = int(all.DeviceBlocks / max(all.DeviceWrites, 1))
	g.notes = append(g.notes, fmt.Sprintf("volume of %d blocks over a pool %.0f %% full, %d CGs in %.1f s, %d cut early for want of room, %d late, %.1f %% of the updates superseded within their CG, %d blocks per device write",
		s.blocks, 100*share, s.cg-1, g.elapsed.Seconds(), s.early, s.late, 100*float64(all.Superseded)/float64(all.Blocks), g.piece))
	return g, err
}

// measure runs one CG to get going, then updates for d.
func (s *session) measure(ctx context.Context, d time.Duration, g *ingested) error {
	if err := s.updateFor(ctx, cutEvery); err != nil {
		return err
	}
	before, heap := s.w.Stats().Blocks, mallocs()
	cpu, begin := processCPU(), time.Now()
	if err := s.updateFor(ctx, d); err != nil {
		return err
	}
	g.elapsed, g.cpu = time.Since(begin), processCPU()-cpu
	g.updates, g.mallocs = s.w.Stats().Blocks-before, mallocs()-heap
	return nil
}

func (g *ingested) count(ok bool, start, filled, end loopdev.Stats, fill, all uint64) {
	if g.counted = ok; !ok {
		return
	}
	g.steady = float64(end.Sub(filled).WriteBytes) / float64((all-fill)*engine.BlockSize)
	g.whole = float64(end.Sub(start).WriteBytes) / float64(all*engine.BlockSize)
}

const ingestNote = "payload stands in the writer's registered buffers with its checksums beside it, as a receiver leaves it there, and is put as a receiver does, " +
	"up to 64 updates in one call; the engine verifies each block's checksum; a sample of the volume was read back and compared at the end"

func runIngest(ctx context.Context, r *run) ([]Result, error) {
	var floors []measured
	var runs []ingested
	var pieces []Repetition
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, err := r.sequentialFloor(ctx, r.floorTime())
		floors = append(floors, m)
		return m.perSecond(), err
	}, func() (float64, error) {
		g, err := r.ingest(ctx, r.duration())
		if err != nil {
			return 0, err
		}
		runs = append(runs, g)
		bare, err := r.piecesFloor(ctx, g.piece, r.floorTime())
		pieces = append(pieces, Repetition{Value: g.rate(), Floor: bare.perSecond()})
		return g.rate(), err
	})
	if err != nil {
		return nil, err
	}
	hash, err := hashFloor(ctx, time.Second)
	if err != nil {
		return nil, err
	}
	many, err := hashMany(ctx, time.Second)
	if err != nil {
		return nil, err
	}
	hashNote := fmt.Sprintf("XXH64 of a block: %.0f ns one after the other, which is what the goal's floor has; %.0f ns the way that a writer computes them, eight side by side where the processor can",
		hash.cpuPerOp(), many.cpuPerOp())
	var cpu, heap []Repetition
	for i, g := range runs {
		cpu = append(cpu, Repetition{Value: g.cpuPer(), Floor: (floors[i].cpuPerOp()+floors[i+1].cpuPerOp())/2 + hash.cpuPerOp()})
		heap = append(heap, Repetition{Value: float64(g.mallocs) / float64(g.updates)})
	}
	out := []Result{
		result(Result{Name: "ingest", Goal: "P1", Unit: "blocks/s", Target: atLeast(0.90),
			FloorName: "bare 256 KiB sequential writes at depth 32, in blocks of 4 KiB",
			Notes:     append([]string{ingestNote}, runs[len(runs)-1].notes...)}, reps),
		result(Result{Name: "ingest/pieces", Unit: "blocks/s",
			FloorName: "bare writes at random places, each of as many blocks as one of ingest has on average, at least as many bytes in flight as in the sequential floor: what the device makes of holes"}, pieces),
		result(Result{Name: "ingest/cpu", Goal: "P4", Unit: "ns/update", Target: atMost(1.5),
			FloorName: "processor time per block of the bare sequential loop, plus one XXH64, one block after the other",
			Notes:     []string{"user and system time of this process, the control loop and the making of updates included; kernel threads (a loop device's) are in neither", hashNote}}, cpu),
		result(Result{Name: "ingest/allocations", Goal: "P5", Unit: "allocations/update", Target: atMost(0.001),
			Notes: []string{"of the whole process, control plane included: 0 for each update, some for each CG; the ingest path alone is tested with testing.AllocsPerRun"}}, heap),
	}
	return append(out, amplified("ingest", runs)...), nil
}

// amplified makes the figures from block statistics.
func amplified(name string, runs []ingested) []Result {
	var steady, whole []Repetition
	for _, g := range runs {
		if g.counted {
			steady = append(steady, Repetition{Value: g.steady})
			whole = append(whole, Repetition{Value: g.whole})
		}
	}
	if len(steady) == 0 {
		return nil
	}
	const unit = "bytes/payload byte"
	return []Result{
		result(Result{Name: name + "/device-bytes", Goal: "P3", Unit: unit, Target: atMost(1.02),
			Notes: []string{"bytes written by the kernel's block statistics, from the end of the first fill to the closed pool: journal, checkpoints and the last one at close included"}}, steady),
		result(Result{Name: name + "/device-bytes-with-fill", Goal: "P3", Unit: unit, Target: atMost(1.02),
			Notes: []string{"the same with formatting and the first sequential fill of the volume"}}, whole),
	}
}

// runAmplification takes 30 s for a repetition, whatever --seconds says, unless it must be quick. It has no floor to
// alternate with: the goal is absolute.
func runAmplification(ctx context.Context, r *run) ([]Result, error) {
	if _, counted, err := r.dev.stats(); err != nil {
		return nil, err
	} else if !counted {
		r.leaveOut("amplification: %s is a regular file and has no block statistics; name a block device, or --loop", r.dev.what)
		return nil, nil
	}
	d := 30 * time.Second
	if r.o.Quick {
		d = 2 * time.Second
	}
	var runs []ingested
	for range r.o.Repetitions {
		g, err := r.ingest(ctx, d)
		if err != nil {
			return nil, err
		}
		runs = append(runs, g)
	}
	out := amplified("amplification", runs)
	out[0].Notes = append(out[0].Notes, runs[len(runs)-1].notes...)
	return out, nil
}
