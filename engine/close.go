package engine

import (
	"context"
	"errors"
	"fmt"
)

// Checkpoint writes what the journal holds into the table area, so that the next open need not replay it.
func (p *Pool) Checkpoint(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		c := p.ctl
		if c.failed != nil {
			reply(c.failed)
			return
		}
		c.startCheckpoint()
		c.ckpt.done = append(c.ckpt.done, reply)
	})
}

// Close finishes background work, writes a checkpoint if that saves the next open any work, and closes the pool. The
// devices stay open. All writers must have been closed, and no read may be in flight.
func (p *Pool) Close() error {
	if n := p.writers.Load(); n > 0 {
		return fmt.Errorf("close pool: %w: %d writers are open", ErrState, n)
	}
	var errs []error
	for _, r := range p.reads {
		errs = append(errs, r.Close())
	}
	err := p.callWait(func(reply func(error)) { p.windUp(reply) })
	if p.opts.Manual {
		return errors.Join(append(errs, err, p.shut())...)
	}
	<-p.ended
	return errors.Join(append(errs, err, p.err)...)
}

// windUp waits for background work, then checkpoints, then stops the loop.
func (p *Pool) windUp(reply func(error)) {
	c := p.ctl
	if c.failed != nil {
		p.stop = true
		reply(c.failed)
		return
	}
	if !c.settled() {
		c.post(func() { p.windUp(reply) })
		return
	}
	if !c.needsCheckpoint() {
		p.stop = true
		reply(nil)
		return
	}
	c.startCheckpoint()
	c.ckpt.done = append(c.ckpt.done, func(err error) {
		p.stop = true
		reply(err)
	})
}

// shut frees what the pool holds. Control loop's goroutine only.
func (p *Pool) shut() error {
	c := p.ctl
	c.inboxMu.Lock()
	c.closing = true
	c.inboxMu.Unlock()
	err := c.io.q.Close()
	for _, g := range p.groups {
		for _, l := range g.live {
			for _, t := range l.tables {
				t.free()
			}
		}
		for _, v := range g.volumes {
			if v != nil {
				v.table.close()
			}
		}
	}
	p.memory.close()
	return errors.Join(err, c.ckpt.close(), p.alloc.Close())
}

// run is the control loop's goroutine.
func (p *Pool) run(opened chan<- error) {
	defer close(p.ended)
	if err := p.recover(); err != nil {
		opened <- err
		return
	}
	opened <- nil
	err := p.ctl.loop(func() bool { return p.stop })
	p.err = errors.Join(err, p.shut())
}
