package bench

import (
	"context"
	"errors"
	"fmt"
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
	arena, err := ring.NewArena(randomDepth * engine.BlockSize)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, arena.Close()) }()
	s, err := newSession(r.dev, sessionOptions{full: r.o.Full, readInto: arena})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := errors.Join(s.fill(ctx), s.updateFor(ctx, 2*cutEvery), s.awaitFinal(ctx)); err != nil {
		return nil, err
	}
	var floor, subject measured
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, err := r.randomFloor(ctx, ring.OpRead, r.floorTime())
		floor.add(m)
		return m.perSecond(), err
	}, func() (float64, error) {
		m, err := s.readFor(ctx, arena.Bytes(), r.duration())
		subject.add(m)
		return m.perSecond(), err
	})
	if err != nil {
		return nil, err
	}
	return []Result{result(Result{Name: "reads", Goal: "P10", Unit: "reads/s", Target: atLeast(0.90),
		FloorName: "bare 4 KiB reads at random places at depth 128, one thread",
		Notes: []string{
			"engine.Read of one block at depth 128, one read worker, into memory registered with its ring as the floor's is; each block's checksum is verified",
			fmt.Sprintf("processor time of this process for a read, kernel threads not included: %.0f ns, the floor's %.0f ns", subject.cpuPerOp(), floor.cpuPerOp()),
		}}, reps)}, nil
}

// reader keeps one read in flight: its Done starts the next.
type reader struct {
	engine.Read
	rng  random
	done uint64
}

// readFor reads random blocks of the final view into mem for d, each block of mem one read in flight.
func (s *session) readFor(ctx context.Context, mem []byte, d time.Duration) (m measured, err error) {
	var stop atomic.Bool
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	readers := make([]reader, len(mem)/engine.BlockSize)
	cpu, begin := processCPU(), time.Now()
	for i := range readers {
		x := &readers[i]
		x.rng = newRandom(uint64(i) + 100)
		x.Volume, x.Buf = s.vol, mem[i*engine.BlockSize:(i+1)*engine.BlockSize]
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
	m.elapsed, m.cpu = time.Since(begin), processCPU()-cpu
	for i := range readers {
		m.ops += readers[i].done
	}
	if e := failed.Load(); e != nil {
		return m, *e
	}
	return m, ctx.Err()
}
