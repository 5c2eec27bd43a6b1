package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/alloc"
)

// A pool of 1 TiB, or with Quick of 64 GiB.
const (
	allocBlocks      = 1 << 28
	allocBlocksQuick = 1 << 24
)

// runAlloc times the allocator alone, on pools whose blocks are used at random.
func runAlloc(ctx context.Context, r *run) ([]Result, error) {
	blocks := uint64(allocBlocks)
	if r.o.Quick {
		blocks = allocBlocksQuick
	}
	var out []Result
	for _, percent := range []uint64{1, 50, 95} {
		results, err := r.allocAt(ctx, blocks, percent)
		if err != nil {
			return out, err
		}
		out = append(out, results...)
	}
	return out, nil
}

func (r *run) allocAt(ctx context.Context, blocks, percent uint64) (_ []Result, err error) {
	m, err := alloc.New(alloc.Options{Blocks: blocks})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := occupy(m, blocks, percent); err != nil {
		return nil, err
	}
	var reserve, take, release []Repetition
	for range r.o.Repetitions {
		x := extents{m: m}
		if err := errors.Join(ctx.Err(), x.reserveAndReturn(r.allocTime()), x.takeAll(ctx, r.allocTime())); err != nil {
			return nil, err
		}
		reserve = append(reserve, Repetition{Value: x.reserve})
		take = append(take, Repetition{Value: x.take})
		release = append(release, Repetition{Value: x.release})
	}
	note := fmt.Sprintf("pool of %d blocks, %d %% of them used, each on its own", blocks, percent)
	name := func(what string) string { return fmt.Sprintf("alloc/%s/used=%d%%", what, percent) }
	return []Result{
		result(Result{Name: name("reserve"), Unit: "ns/extent", Notes: []string{note, "an extent is reserved and returned, nothing is taken"}}, reserve),
		result(Result{Name: name("take"), Unit: "ns/block", Notes: []string{"extents are reserved and emptied in runs of at most 64 blocks"}}, take),
		result(Result{Name: name("release"), Unit: "ns/block", Notes: []string{"the blocks that were taken are released one by one"}}, release),
	}, nil
}

func (r *run) allocTime() time.Duration { return min(r.duration()/10, 500*time.Millisecond) }

// occupy marks each block used with the given probability, in percent.
func occupy(m *alloc.Map, blocks, percent uint64) error {
	rng := newRandom(percent)
	for b := range blocks {
		if rng.below(100) < percent {
			if err := m.MarkUsedOne(b); err != nil {
				return err
			}
		}
	}
	m.Start()
	return nil
}

// extents is one measurement of a map; nanoseconds.
type extents struct {
	m                      *alloc.Map
	reserve, take, release float64
	runs                   []taken
}

// taken is a run of blocks.
type taken struct{ first, n uint64 }

func (x *extents) reserveAndReturn(d time.Duration) error {
	var e alloc.Extent
	n, begin := 0, time.Now()
	for time.Since(begin) < d {
		for range 1000 {
			if err := x.m.Reserve(&e); err != nil {
				return err
			}
			x.m.Return(&e)
		}
		n += 1000
	}
	x.reserve = float64(time.Since(begin).Nanoseconds()) / float64(n)
	return nil
}

// takeAll takes blocks for a while, then releases all of them one by one, so that the map is as it was.
func (x *extents) takeAll(ctx context.Context, d time.Duration) error {
	x.runs = append(x.runs, make([]taken, 1<<20)...)[:0] // touched, so that no fault is measured
	blocks := uint64(0)
	begin := time.Now()
	for time.Since(begin) < d && len(x.runs)+1024 <= cap(x.runs) && ctx.Err() == nil {
		err := x.empty()
		if errors.Is(err, alloc.ErrFull) && len(x.runs) > 0 {
			break
		}
		if err != nil {
			return err
		}
	}
	spent := time.Since(begin)
	for _, r := range x.runs {
		blocks += r.n
	}
	x.take = float64(spent.Nanoseconds()) / float64(blocks)
	begin = time.Now()
	for _, r := range x.runs {
		for i := range r.n {
			if err := x.m.ReleaseOne(r.first + i); err != nil {
				return err
			}
		}
	}
	x.release = float64(time.Since(begin).Nanoseconds()) / float64(blocks)
	return ctx.Err()
}

// empty takes all blocks of one extent.
func (x *extents) empty() error {
	var e alloc.Extent
	if err := x.m.Reserve(&e); err != nil {
		return err
	}
	for first, n := e.Take(64); n > 0; first, n = e.Take(64) {
		x.runs = append(x.runs, taken{first, uint64(n)})
	}
	x.m.Return(&e)
	return nil
}
