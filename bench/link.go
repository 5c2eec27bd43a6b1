package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/engine"
)

// linkRounds is how often LINK and REVERT are timed in one repetition.
const linkRounds = 200

func runLink(ctx context.Context, r *run) ([]Result, error) {
	return r.linkBoth(ctx, "link", "P6", func(link, _ float64) float64 { return link })
}

func runRevert(ctx context.Context, r *run) ([]Result, error) {
	return r.linkBoth(ctx, "revert", "P7", func(_, revert float64) float64 { return revert })
}

// linkBoth measures a small and a large CG. LINK and REVERT take turns, so that there is always one to do; which
// says which of the two is asked for.
func (r *run) linkBoth(ctx context.Context, name, goal string, which func(link, revert float64) float64) (out []Result, err error) {
	for _, n := range []uint64{1e3, 1e6} {
		err := inOwnThread(func() error {
			x, err := r.link(ctx, n, which)
			if err != nil {
				return err
			}
			x.Name, x.Goal = fmt.Sprintf("%s/%d", name, n), goal
			out = append(out, result(x, x.Repetitions))
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// link times LINK and REVERT of a CG with n updates, each with a floor measured beside the open pool.
func (r *run) link(ctx context.Context, n uint64, which func(link, revert float64) float64) (x Result, err error) {
	s, err := openSession(r.dev, 4*n, 0)
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	note, err := s.completeOne(ctx, n)
	if err != nil {
		return x, err
	}
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, err := r.durableFloor(ctx, min(r.floorTime(), time.Second))
		return m.nsPerOp() / 1e3, err
	}, func() (float64, error) {
		link, revert, err := s.timeLinks(ctx)
		return which(link, revert), err
	})
	return Result{Unit: "us", FloorName: "one 4 KiB write and one flush, one after the other", Target: atMost(3), Notes: note, Repetitions: reps}, err
}

// completeOne makes a CG of n updates complete, and leaves it so: nothing commits it.
func (s *session) completeOne(ctx context.Context, n uint64) (notes []string, err error) {
	data := n <= s.pool.FreeBlocks()/2
	notes = []string{fmt.Sprintf("each value is the median of %d", linkRounds)}
	if !data {
		notes = append(notes, "the device is too small for the payload: the CG's entries are blocks of zeros, which have none")
	}
	s.hold.Store(true)
	for i := range n {
		v := engine.VBlock(i * 4)
		if !data {
			err = s.w.Zero(s.vol, s.cg, v, 1)
		} else {
			err = s.putAt(v)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := s.cut(); err != nil {
		return nil, err
	}
	for !s.held.Load() {
		if err := s.err(); err != nil {
			return nil, err
		}
		select {
		case <-s.turned:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return notes, nil
}

// timeLinks links and reverts the complete CG; medians in microseconds.
func (s *session) timeLinks(ctx context.Context) (link, revert float64, err error) {
	c := engine.Command{Epoch: 1, CG: s.cg - 1}
	var links, reverts []float64
	for range linkRounds {
		t0 := time.Now()
		if err := s.group.Link(ctx, c); err != nil {
			return 0, 0, err
		}
		t1 := time.Now()
		if err := s.group.Revert(ctx, c); err != nil {
			return 0, 0, err
		}
		links = append(links, float64(t1.Sub(t0).Nanoseconds())/1e3)
		reverts = append(reverts, float64(time.Since(t1).Nanoseconds())/1e3)
	}
	_, link, _ = spread(links)
	_, revert, _ = spread(reverts)
	return link, revert, nil
}
