package target

import (
	"context"
	"fmt"
	"sync"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// Report is what a node adds to the state of a group that comes from the pool.
type Report struct {
	Instance wire.UUID
	PoolFull bool
}

// Chain is the chain of command: in one epoch, the newest connection that commanded a group is the only one that may.
// What a manager sent over a connection that it has lost may still arrive; its commands belong to a round that it has
// given up since. The zero value is ready. Any goroutine may use it.
type Chain struct {
	mu     sync.Mutex
	groups map[string]*master
}

// master is who commands a group. The lock is held while a command is carried out, so that none of an older
// connection can end after one of a newer.
type master struct {
	mu         sync.Mutex
	epoch      uint64
	connection uint64
}

func (c *Chain) master(group string) *master {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups == nil {
		c.groups = map[string]*master{}
	}
	m := c.groups[group]
	if m == nil {
		m = &master{}
		c.groups[group] = m
	}
	return m
}

// Obey carries out a command that came over a connection, numbered in the order in which connections were made, and
// gives the answer; an error wraps the sentinel of the code that the manager is told (wire.Refusal).
func (c *Chain) Obey(ctx context.Context, connection uint64, pool *engine.Pool, g *engine.Group, m wire.Commanded, report func() Report) (wire.Message, error) {
	head := m.Head()
	by := c.master(g.Name())
	by.mu.Lock()
	defer by.mu.Unlock()
	if head.Epoch == by.epoch && connection < by.connection {
		return nil, refuse(wire.CodeState, "group %q: a newer connection of this manager commands it", head.Group)
	}
	answer, err := obey(ctx, pool, g, m, report)
	if head.Epoch >= by.epoch {
		by.epoch, by.connection = head.Epoch, connection
	}
	return answer, err
}

// obey carries a command out. The engine knows the epoch rule, and which commands were carried out before.
func obey(ctx context.Context, pool *engine.Pool, g *engine.Group, m wire.Commanded, report func() Report) (wire.Message, error) {
	head := *m.Head()
	c := engine.Command{Epoch: head.Epoch, CG: head.CG}
	var answer wire.Message
	var err error
	switch m := m.(type) {
	case *wire.Fence:
		if err := g.Fence(ctx, head.Epoch); err != nil {
			return nil, fromEngine(err)
		}
		return stateOf(ctx, pool, g, head, report())
	case *wire.Query:
		if m.Drained {
			if err := numbered(head, func() error { return g.CompleteVacant(ctx, c) }); err != nil && pool.Failure() == nil {
				return nil, fromEngine(err)
			}
		}
		return stateOf(ctx, pool, g, head, report())
	case *wire.Link:
		answer, err = &wire.Linked{Command: head}, numbered(head, func() error { return g.Link(ctx, c) })
	case *wire.Release:
		answer, err = &wire.Final{Command: head}, numbered(head, func() error { return g.Release(ctx, c) })
	case *wire.Revert:
		answer, err = &wire.Reverted{Command: head}, numbered(head, func() error {
			if m.Discard {
				return g.Discard(ctx, c, m.Through)
			}
			return g.Revert(ctx, c)
		})
	default:
		return nil, refuse(wire.CodeProtocol, "%v is no command to a secondary", m.Type())
	}
	if err != nil {
		return nil, fromEngine(err)
	}
	return answer, nil
}

// Completed is what a manager is told of the newest complete CG of a group that is in state st.
func Completed(st engine.GroupState, epoch uint64) *wire.Complete {
	return &wire.Complete{Command: wire.Command{Group: st.Group, Epoch: epoch, CG: st.Complete},
		Awaited: uint64(st.Awaited), Lacking: uint64(st.LackingThen)}
}

// numbered runs a command that needs the number of a CG.
func numbered(head wire.Command, run func() error) error {
	if head.CG == 0 {
		return fmt.Errorf("group %q: %w: CG numbers start at 1", head.Group, engine.ErrState)
	}
	return run()
}

// stateOf reports a group; its CG is the newest that the links show. A pool that failed still reports, with the reason.
func stateOf(ctx context.Context, pool *engine.Pool, g *engine.Group, head wire.Command, r Report) (wire.Message, error) {
	st, err := g.State(ctx)
	failed := pool.Failure()
	if err != nil && (failed == nil || st.Group == "") {
		return nil, fromEngine(err)
	}
	if head.Epoch < st.Epoch {
		return nil, refuse(wire.CodeStaleEpoch, "group %q: epoch %d is stale: epoch %d is in force", head.Group, head.Epoch, st.Epoch)
	}
	head.CG = st.Linked
	m := &wire.State{Command: head, Final: st.Final, Linked: st.Linked, Complete: st.Complete, Receiving: st.Receiving,
		PoolFull: r.PoolFull, Instance: r.Instance, FreeBlocks: pool.FreeBlocks(),
		Awaited: uint64(st.Awaited), Lacking: uint64(st.Lacking), LackingThen: uint64(st.LackingThen)}
	if failed != nil {
		m.Failed = failed.Error()
	}
	return m, nil
}
