package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

func runReads(ctx context.Context, r *run) (out []Result, err error) {
	err = inOwnThread(func() error {
		out, err = r.reads(ctx)
		return err
	})
	return out, err
}

// reads measures a volume that was filled and then overwritten at random, so that its blocks lie
// scattered.
func (r *run) reads(ctx context.Context) (out []Result, err error) {
	s, err := openSession(r.dev, 0, r.o.Full)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := errors.Join(s.fill(ctx), s.updateFor(ctx, 2*cutEvery), s.awaitFinal(ctx)); err != nil {
		return nil, err
	}
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, err := r.randomFloor(ctx, ring.OpRead, r.floorTime())
		return m.perSecond(), err
	}, func() (float64, error) { return s.readFor(ctx, randomDepth, r.duration()) })
	if err != nil {
		return nil, err
	}
	return []Result{result(Result{Name: "reads", Goal: "P10", Unit: "reads/s", Target: atLeast(0.90),
		FloorName: "bare 4 KiB reads at random places at depth 128, one thread",
		Notes:     []string{"engine.Read of one block at depth 128, one read worker; each block's checksum is verified"}}, reps)}, nil
}

// reader keeps one read in flight: its Done starts the next.
type reader struct {
	engine.Read
	rng  random
	done uint64
}

// readFor reads random blocks of the final view for d, in reads per second.
func (s *session) readFor(ctx context.Context, depth int, d time.Duration) (_ float64, err error) {
	arena, err := ring.NewArena(depth * engine.BlockSize)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, arena.Close()) }()
	var stop atomic.Bool
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	readers := make([]reader, depth)
	begin := time.Now()
	for i := range readers {
		x := &readers[i]
		x.rng = newRandom(uint64(i) + 100)
		x.Volume, x.Buf = s.vol, arena.Bytes()[i*engine.BlockSize:(i+1)*engine.BlockSize]
		x.Done = func(rd *engine.Read) {
			if rd.Err != nil {
				failed.CompareAndSwap(nil, &rd.Err)
				stop.Store(true)
			}
			x.done++
			if stop.Load() {
				running.Done()
				return
			}
			x.Off = x.rng.below(s.blocks) * engine.BlockSize
			x.Start()
		}
		running.Add(1)
		x.Off = x.rng.below(s.blocks) * engine.BlockSize
		x.Start()
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	stop.Store(true)
	running.Wait()
	elapsed := time.Since(begin)
	total := uint64(0)
	for i := range readers {
		total += readers[i].done
	}
	if e := failed.Load(); e != nil {
		return 0, *e
	}
	return float64(total) / elapsed.Seconds(), ctx.Err()
}
