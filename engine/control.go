package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/farside-storage/farside/internal/plant"
)

// control is the loop that owns everything but the per-update path. One goroutine steps it; with
// [Options].Manual that is the caller's.
type control struct {
	pool    *Pool
	io      *controlIO
	journal *journal
	ckpt    checkpointer

	completions []*completion
	folds       []*fold
	graces      []grace
	failed      error

	inboxMu sync.Mutex
	inbox   []func()
	closing bool // posts are refused from now on
}

// grace is something to be done when no reader can hold what was unlinked in epoch.
type grace struct {
	epoch uint64
	do    func()
}

// post has f run by the control loop. False: the loop has ended.
func (c *control) post(f func()) bool {
	c.inboxMu.Lock()
	defer c.inboxMu.Unlock()
	if c.closing {
		return false
	}
	c.inbox = append(c.inbox, f)
	c.io.q.Wake()
	return true
}

func (c *control) takeInbox() []func() {
	c.inboxMu.Lock()
	defer c.inboxMu.Unlock()
	in := c.inbox
	c.inbox = nil
	return in
}

// step does a bounded amount of work without waiting; it reports whether there is more to do
// at once.
func (c *control) step() (busy bool, err error) {
	in := c.takeInbox()
	for _, f := range in {
		f()
	}
	busy = len(in) > 0
	if c.failed == nil {
		busy = c.stepGraces() || busy
		busy = c.stepCompletions() || busy
		busy = c.stepFolds() || busy
		busy = c.stepCheckpoint() || busy
		if c.journal.used() > c.journal.size/2 {
			busy = c.relieveJournal() || busy
		}
	}
	ended, err := c.io.poll(false)
	return busy || ended > 0, err
}

// loop steps until stop says so. It sleeps in the kernel when there is nothing to do.
func (c *control) loop(stop func() bool) error {
	for !stop() {
		busy, err := c.step()
		if err != nil {
			c.fail(err)
			return err
		}
		if !busy && !stop() {
			if _, err := c.io.poll(true); err != nil {
				c.fail(err)
				return err
			}
		}
	}
	return nil
}

// whenUnread runs f once nobody can use a view that was replaced before this call.
func (c *control) whenUnread(f func()) {
	if plant.On(plant.ReaderIgnored) {
		f()
		return
	}
	c.graces = append(c.graces, grace{c.pool.readers.epoch.Load(), f})
}

// stepGraces moves the readers' epoch on as far as somebody waits for it.
func (c *control) stepGraces() bool {
	r := &c.pool.readers
	did := false
	for len(c.graces) > 0 {
		before := r.epoch.Load()
		e := r.advance()
		if e == before {
			r.wanted.Store(true)
			if e = r.advance(); e == before {
				return did // the last reader out wakes us
			}
		}
		for len(c.graces) > 0 && c.graces[0].epoch+2 <= e {
			g := c.graces[0]
			c.graces = c.graces[1:]
			g.do()
			did = true
		}
	}
	r.wanted.Store(false)
	return did
}

// fail makes the pool stop acknowledging. What is durable stays as it is; opening the pool again recovers it.
func (c *control) fail(err error) {
	if c.failed != nil {
		return
	}
	if !errors.Is(err, ErrFailed) {
		err = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	c.failed = err
	_ = c.journal.fail(err)
	c.pool.failure.Store(&err)
	c.spaceFreed() // writers that wait for room must learn of it
	for _, g := range c.pool.groups {
		g.takeGaps()
	}
	if f := c.pool.opts.OnFailure; f != nil {
		f(err)
	}
}

// settled says that no work is left that goes on by itself.
func (c *control) settled() bool {
	return len(c.completions) == 0 && len(c.folds) == 0 && len(c.graces) == 0 && !c.ckpt.running && c.io.idle()
}

// spaceFreed tells writers that wait for room to look again.
func (c *control) spaceFreed() {
	p := c.pool
	p.spaceMu.Lock()
	defer p.spaceMu.Unlock()
	close(p.space)
	p.space = make(chan struct{})
}

func sortPages(pages []pageRef) {
	slices.SortFunc(pages, func(a, b pageRef) int { return int(a.pair) - int(b.pair) })
}
