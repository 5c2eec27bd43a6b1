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
	var out []Result
	for _, n := range []uint64{1e3, 1e6} {
		err := inOwnThread(func() error {
			results, err := r.link(ctx, n)
			out = append(out, results...)
			return err
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// link times LINK and REVERT of a CG with n updates, each with a floor measured beside the open pool.
func (r *run) link(ctx context.Context, n uint64) (out []Result, err error) {
	s, err := openSession(r.dev, 4*n, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	note, err := s.completeOne(ctx, n)
	if err != nil {
		return nil, err
	}
	var reverts []float64
	var floors []float64
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, err := r.durableFloor(ctx, min(r.floorTime(), time.Second))
		floors = append(floors, m.nsPerOp()/1e3)
		return m.nsPerOp() / 1e3, err
	}, func() (float64, error) {
		link, revert, err := s.timeLinks(ctx)
		reverts = append(reverts, revert)
		return link, err
	})
	if err != nil {
		return nil, err
	}
	var back []Repetition
	for i, v := range reverts {
		back = append(back, Repetition{Value: v, Floor: (floors[i] + floors[i+1]) / 2})
	}
	floor := "one 4 KiB write and one flush, one after the other"
	return []Result{
		result(Result{Name: fmt.Sprintf("link/%d", n), Goal: "P6", Unit: "us", FloorName: floor, Target: atMost(3), Notes: note}, reps),
		result(Result{Name: fmt.Sprintf("revert/%d", n), Goal: "P7", Unit: "us", FloorName: floor, Target: atMost(3), Notes: note}, back),
	}, nil
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
