package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
)

const (
	smallVolume = 4 << 30
	largeVolume = 4 << 40
)

// grown is what a volume of one size came to: processor time for each update.
type grown struct {
	steady, cold float64 // nanoseconds
	rate         float64 // updates per second, steady
	updates      uint64
}

// growth updates the same number of blocks, scattered over a volume of so many bytes: each once while the table is
// cold, then at random for d.
func (r *run) growth(ctx context.Context, bytes uint64, d time.Duration) (g grown, err error) {
	err = inOwnThread(func() (err error) {
		g, err = r.growthHere(ctx, bytes, d)
		return err
	})
	return g, err
}

// scattered is how many blocks are updated: each may need a table page of its own, in two slots on the device, and
// a CG of all of them must fit the pool three times.
func (r *run) scattered() uint64 {
	return uint64(r.dev.forPool().Info()[0].Size) / engine.BlockSize / 8
}

func (r *run) growthHere(ctx context.Context, bytes uint64, d time.Duration) (g grown, err error) {
	n := r.scattered()
	const entries = 508 // of a table page
	s, err := newSession(r.dev, sessionOptions{blocks: bytes / engine.BlockSize, virtual: int64(n+n/64) * entries * engine.BlockSize})
	if err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	places := scatter{blocks: n, stride: s.blocks / n}
	if g.cold, err = s.touchAll(ctx, places); err != nil {
		return g, err
	}
	before, cpu, begin := s.w.Stats().Blocks, processCPU(), time.Now()
	for time.Since(begin) < d {
		for range n { // a CG of as many updates as there are blocks, so that no volume has more of them superseded
			if err := s.putAt(places.at(s.rng.below(n))); err != nil {
				return g, err
			}
		}
		if err := errors.Join(s.awaitFinal(ctx), s.cut()); err != nil {
			return g, err
		}
	}
	if err := s.awaitFolded(ctx); err != nil {
		return g, err
	}
	g.updates = s.w.Stats().Blocks - before
	g.steady = float64((processCPU() - cpu).Nanoseconds()) / float64(g.updates)
	g.rate = float64(g.updates) / time.Since(begin).Seconds()
	return g, nil
}

// scatter is a set of blocks, spread evenly over a volume.
type scatter struct{ blocks, stride uint64 }

func (s scatter) at(i uint64) engine.VBlock { return engine.VBlock(i * s.stride) }

// shuffled visits 0..n-1 in an order without a pattern that a processor sees: steps of a number that has no factor in
// common with n.
func (s scatter) shuffled(i uint64) engine.VBlock {
	const step = 2654435761 // prime, and larger than any n here
	return s.at(i * step % s.blocks)
}

// touchAll updates each place once, in CGs of a quarter of them, and waits until they are folded.
func (s *session) touchAll(ctx context.Context, places scatter) (nsPerUpdate float64, err error) {
	cpu := processCPU()
	for i := range places.blocks {
		if err := s.putAt(places.shuffled(i)); err != nil {
			return 0, err
		}
		if i%(places.blocks/4) == places.blocks/4-1 {
			if err := errors.Join(s.awaitFinal(ctx), s.cut()); err != nil {
				return 0, err
			}
		}
	}
	if s.put > 0 {
		if err := errors.Join(s.awaitFinal(ctx), s.cut()); err != nil {
			return 0, err
		}
	}
	if err := s.awaitFolded(ctx); err != nil {
		return 0, err
	}
	return float64((processCPU() - cpu).Nanoseconds()) / float64(places.blocks), nil
}

// awaitFolded waits until every final CG is part of the pointer table, by asking now and then: nobody tells.
func (s *session) awaitFolded(ctx context.Context) error {
	if err := s.awaitFinal(ctx); err != nil {
		return err
	}
	for {
		st, err := s.pool.Stats(ctx)
		if err != nil || st.Unfolded == 0 {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pageCost is the processor time in which the system provides a page of 4 KiB that is touched for the first time, in
// nanoseconds: clearing it, and getting it from the host if this is a virtual machine. It is what a table that is
// cold cannot avoid, as often as it needs one.
func pageCost() (ns float64, err error) {
	const bytes, page = 64 << 20, 4096
	mem, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return 0, fmt.Errorf("map %d bytes: %w", bytes, err)
	}
	before := processCPU()
	for at := 0; at < bytes; at += page {
		mem[at] = 1
	}
	ns = float64((processCPU() - before).Nanoseconds()) / (bytes / page)
	if err := unix.Munmap(mem); err != nil {
		return 0, fmt.Errorf("unmap: %w", err)
	}
	return ns, nil
}

func runGrowth(ctx context.Context, r *run) ([]Result, error) {
	var small, large []grown
	var pages []Repetition
	steady, err := r.alternate(ctx, func() (float64, error) {
		g, err := r.growth(ctx, smallVolume, r.floorTime())
		small = append(small, g)
		return g.steady, err
	}, func() (float64, error) {
		page, err := pageCost()
		if err != nil {
			return 0, err
		}
		pages = append(pages, Repetition{Value: page})
		g, err := r.growth(ctx, largeVolume, r.floorTime())
		large = append(large, g)
		return g.steady, err
	})
	if err != nil {
		return nil, err
	}
	var cold, rates []Repetition
	for i, g := range large {
		cold = append(cold, Repetition{Value: g.cold, Floor: (small[i].cold + small[i+1].cold) / 2})
		rates = append(rates, Repetition{Value: g.rate, Floor: (small[i].rate + small[i+1].rate) / 2})
	}
	note := fmt.Sprintf("%d blocks, spread evenly over the volume: at 4 TiB each has a table page of its own on the device, and a leaf of 256 bytes in memory; "+
		"processor time of the process, folding and journal included, checkpoints where they fall", r.scattered())
	return []Result{
		result(Result{Name: "growth/steady", Goal: "P15", Unit: "ns/update", Target: atMost(1.3), FloorName: "the same number of blocks on a volume of 4 GiB",
			Notes: []string{note, "each block was updated before; CGs of as many random updates as there are blocks, one after the other as fast as they become final"}}, steady),
		result(Result{Name: "growth/cold", Goal: "P15", Unit: "ns/update", Target: atMost(1.6), FloorName: "the first update of the same number of blocks on a volume of 4 GiB, whose table is cold as well",
			Notes: []string{"each block's first update, in CGs of a quarter of them: at 4 TiB a leaf of 256 bytes and a branch of 64 for each, and parts of the directory"}}, cold),
		result(Result{Name: "growth/page", Unit: "ns/page",
			Notes: []string{"processor time in which the kernel provides a page of 4 KiB, of 64 MiB that were mapped just now: to read growth/cold by"}}, pages),
		result(Result{Name: "growth/rate", Unit: "updates/s", FloorName: "a volume of 4 GiB",
			Notes: []string{"elapsed time of the steady part"}}, rates),
	}, nil
}
