package nettest_test

import (
	"context"
	"sync"
	"time"

	"github.com/farside-storage/farside/internal/hosttest"
)

// watch looks at the copies all the time, at each secondary by itself. What was read between two equal answers of a secondary is of
// one CG, and must be in order; what several secondaries showed of the same CG must be in order together.
type watch struct {
	c      *site
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	shown map[uint64][]hosttest.Images // by CG, then by secondary
	looks int
	pairs int
	first string // what was wrong first
}

func watchCopies(c *site) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{c: c, cancel: cancel, shown: map[uint64][]hosttest.Images{}}
	for i := range c.secondaries() {
		w.wg.Go(func() { w.run(ctx, i) })
	}
	c.t.Cleanup(func() { cancel(); w.wg.Wait() })
	return w
}

func (w *watch) run(ctx context.Context, i int) {
	for ctx.Err() == nil {
		w.look(i)
		select { // between two looks: the roles shall get on
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// look reads the records on one secondary. One that does not answer, or moves on meanwhile, is looked at again later.
func (w *watch) look(i int) {
	s := w.c.secondaries()[i]
	before, err := w.c.state(s)
	if err != nil {
		return
	}
	m, err := hosttest.Records(w.c.volumes, func(v int) bool { return v%2 == i })
	if err != nil {
		return
	}
	if after, err := w.c.state(s); err != nil || after.Final != before.Final || after.Final == 0 {
		return
	}
	w.note(i, before.Final, m)
}

func (w *watch) note(i int, cg uint64, m hosttest.Images) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if _, err := m.Order(); err != nil {
		w.wrong(cg, err.Error())
	}
	all := w.shown[cg]
	if all == nil {
		all = make([]hosttest.Images, 2)
		w.shown[cg] = all
	}
	if all[i] != nil {
		if d := known(all[i]).Differ(known(m)); d != "" {
			w.wrong(cg, "shown twice: "+d)
		}
		return
	}
	all[i] = m
	if all[1-i] == nil {
		return
	}
	w.pairs++
	together := hosttest.Images{all[0][0], all[1][1], all[0][2], all[1][3]}
	if _, err := together.Order(); err != nil {
		w.wrong(cg, "both secondaries: "+err.Error())
	}
}

// known leaves out the images that are nil.
func known(m hosttest.Images) (out hosttest.Images) {
	for _, b := range m {
		if b != nil {
			out = append(out, b)
		}
	}
	return out
}

func (w *watch) wrong(cg uint64, what string) {
	if w.first == "" {
		w.first = what
		w.c.t.Errorf("CG %d: %s", cg, what)
	}
}

func (w *watch) stop() {
	w.c.t.Helper()
	w.cancel()
	w.wg.Wait()
	if w.looks == 0 || w.pairs == 0 {
		w.c.t.Errorf("nothing was seen: %d looks, %d CGs on both secondaries", w.looks, w.pairs)
	}
	w.c.t.Logf("%d looks at copies, %d CGs seen on both secondaries: each in order", w.looks, w.pairs)
}
