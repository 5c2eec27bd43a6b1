package target

import (
	"context"
	"fmt"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// Report is what a node adds to the state of a group that comes from the pool.
type Report struct {
	Instance wire.UUID
	PoolFull bool
}

// Obey carries a manager's command out and gives the answer. The engine knows the epoch rule, and which commands
// were carried out before; an error wraps the sentinel of the code that the manager is told (wire.Refusal).
func Obey(ctx context.Context, pool *engine.Pool, g *engine.Group, m wire.Commanded, report func() Report) (wire.Message, error) {
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
		PoolFull: r.PoolFull, Instance: r.Instance, FreeBlocks: pool.FreeBlocks()}
	if failed != nil {
		m.Failed = failed.Error()
	}
	return m, nil
}
