package engine

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/farside-storage/farside/internal/plant"
)

// Group is a set of volumes whose updates become visible together. Each CG belongs to one group.
type Group struct {
	pool *Pool
	id   uint32
	name string

	// Any goroutine may load these; the control loop stores.
	final     atomic.Pointer[View]
	linked    atomic.Pointer[View]
	discarded atomic.Uint64 // state.through, for writers
	receiving atomic.Uint64 // newest CG of which a writer took anything in, or that was discarded

	// Control loop only.
	state   groupState
	volumes []*Volume // by slot; nil where one was deleted
	sealed  []*sealedCG
	live    []*liveCG // complete and not yet folded, ascending
	folding bool
	folded  uint64    // newest CG that is part of the pointer tables
	gaps    []gap     // see gap
	ops     []groupOp // one at a time: a record is durable before the next command looks at the state
	busy    bool
	busyAt  journalPos // where the record of the operation in progress stands, if busy
}

// liveCG is a complete CG whose tables are still needed: it is not folded yet.
type liveCG struct {
	cg       uint64
	replayed *building // while the journal is replayed, instead of tables
	tables   []*cgTable
	start    journalPos // of its first part: the journal's tail must not pass it
	whole    []wholeMark
}

// wholeMark says that a volume, in that turn of its membership, is whole once the CG is final.
type wholeMark struct {
	vol  *Volume
	turn uint32
}

// sealedCG collects the tables of one CG until every volume of the group is sealed.
type sealedCG struct {
	cg      uint64
	volumes map[*Volume]sealedVolume
	asked   bool // by CompleteVacant: it may become complete without a volume
}

// sealedVolume is what a CG does to a volume. A nil table: nothing. partial: and blocks of its first copy are still
// missing.
type sealedVolume struct {
	table   *cgTable
	partial bool
}

// groupOp is a command on its way: decide says which record it needs, if any; applied runs when the record is
// durable and before reply.
type groupOp struct {
	decide  func() (*record, error)
	applied func(*record)
	reply   func(error)
}

// Name of the group.
func (g *Group) Name() string { return g.name }

// GroupState is what a manager learns about a group. All but Receiving comes from durable state.
type GroupState struct {
	Group     string
	Epoch     uint64
	Final     uint64 // newest final CG, 0 none
	Linked    uint64 // newest linked CG; > Final: it can be reverted
	Complete  uint64 // newest complete CG
	Discarded uint64 // CGs up to this that are not final were discarded
	Receiving uint64 // newest CG of which anything was received, or that was discarded
	Folded    bool   // every final CG is part of the pointer tables
	// Awaited counts the volumes that the group waits for here; 0: see [Group.CompleteVacant]. Lacking counts those
	// of them that are not whole as of Final, LackingThen those that would not be if Complete were final.
	Awaited, Lacking, LackingThen int
}

// State asks the control loop for the state of the group.
func (g *Group) State(ctx context.Context) (GroupState, error) {
	var told atomic.Pointer[GroupState] // ctx may end while the control loop is answering
	err := g.pool.call(ctx, func(reply func(error)) {
		st := g.stateNow()
		told.Store(&st)
		reply(g.pool.failed())
	})
	if st := told.Load(); st != nil {
		return *st, err
	}
	return GroupState{}, err
}

// stateNow is State. Control loop only.
func (g *Group) stateNow() GroupState {
	s := &g.state
	lacking, then := g.lacking()
	return GroupState{g.name, s.epoch, s.final, s.linked, s.complete, s.through, g.receiving.Load(), len(g.live) == 0, g.awaited(), lacking, then}
}

// Fence makes epoch the lowest one that the group obeys, durably.
func (g *Group) Fence(ctx context.Context, epoch uint64) error {
	return g.command(ctx, func() (*record, error) { return g.state.fence(epoch) })
}

// Link makes the linked view show CG c.CG, which must be complete. The CG can be reverted until it is released.
// Durable on return; repeating it changes nothing.
func (g *Group) Link(ctx context.Context, c Command) error {
	return g.command(ctx, func() (*record, error) { return g.state.link(c) })
}

// Release makes the linked CG c.CG final: the final view shows it, and it can no longer be reverted. The blocks that it
// displaced are released in the background.
func (g *Group) Release(ctx context.Context, c Command) error {
	return g.command(ctx, func() (*record, error) { return g.state.release(c) })
}

// Revert makes the links show the CG before c.CG, if they show c.CG. That CG stays complete, and may be linked again.
func (g *Group) Revert(ctx context.Context, c Command) error {
	return g.command(ctx, func() (*record, error) { return g.state.revert(c, 0) })
}

// Discard reverts c.CG if it is linked, and forgets all CGs from c.CG to through, whether received in part or complete.
// Updates that writers still deliver for them are dropped.
func (g *Group) Discard(ctx context.Context, c Command, through uint64) error {
	return g.command(ctx, func() (*record, error) { return g.state.revert(c, max(through, c.CG)) })
}

func (g *Group) command(ctx context.Context, decide func() (*record, error)) error {
	return g.pool.call(ctx, func(reply func(error)) {
		g.do(groupOp{decide: decide, applied: g.apply, reply: reply})
	})
}

// do queues an operation on the group's state. Control loop only.
func (g *Group) do(op groupOp) {
	g.ops = append(g.ops, op)
	g.runOps()
}

func (g *Group) runOps() {
	for !g.busy && len(g.ops) > 0 {
		op := g.ops[0]
		g.ops = g.ops[1:]
		if err := g.pool.failed(); err != nil {
			op.reply(err)
			continue
		}
		r, err := op.decide()
		if err != nil || r == nil {
			op.reply(err)
			continue
		}
		j := g.pool.ctl.journal
		if !j.admits(r.kind, g.frees(r)) {
			op.reply(fmt.Errorf("group %s: %v: %w: a CG that is complete holds it; release or discard that, then try again", g.name, r.kind, ErrJournalFull))
			continue
		}
		g.busy = true
		r.group = g.id
		g.busyAt = j.next
		ended := func(err error) {
			g.busy = false
			if err == nil {
				op.applied(r)
			}
			op.reply(err)
			g.runOps()
		}
		switch {
		case plant.On(plant.FlushBeforeComplete) && r.kind == recComplete, plant.On(plant.FlushBeforeLinked) && r.kind == recLinked,
			plant.On(plant.MemberUnflushed) && r.kind == recMember:
			j.commit(func(error) {}, *r)
			ended(nil)
			continue
		case plant.On(plant.ReuseBeforeFinal) && r.kind == recFinal:
			g.releaseDisplaced(r.cg)
		}
		j.commit(ended, *r)
	}
}

// frees says whether a record lets the journal's tail move on, or belongs to parts that are in the journal already.
func (g *Group) frees(r *record) bool {
	discards := r.kind == recReverted && r.through > 0 && g.state.complete > g.state.final
	return discards || r.kind == recFinal || r.kind == recComplete
}

// apply carries out a durable record: the state first, then what readers see.
func (g *Group) apply(r *record) {
	before := g.state
	g.state.apply(r)
	switch r.kind {
	case recLinked:
		if plant.On(plant.ReleaseAtLink) {
			g.releaseDisplaced(r.cg)
		}
		g.linked.Store(g.final.Load().with(r.cg, g.liveTables(r.cg)))
	case recFinal:
		g.final.Store(g.linked.Load())
		g.becomeWhole(r.cg)
		g.pool.ctl.startFold(g)
	case recReverted:
		if before.linked != g.state.linked {
			g.linked.Store(g.final.Load())
		}
		if r.through > 0 {
			g.discarded.Store(g.state.through)
			g.received(g.state.through) // a number that was discarded is in use, too
			g.changeEach(func(m Membership) Membership { return m.discarded(g.state.final, r.through) })
			g.forget(g.state.through)
		}
	}
}

// becomeWhole carries out what the newest final CG says of volumes.
func (g *Group) becomeWhole(cg uint64) {
	for _, l := range g.live {
		if l.cg == cg {
			l.becomeWhole()
		}
	}
}

func (l *liveCG) becomeWhole() {
	for _, w := range l.whole {
		w.vol.change(w.vol.Membership().madeWhole(l.cg, w.turn))
	}
}

func (g *Group) changeEach(f func(Membership) Membership) {
	for _, v := range g.volumes {
		if v != nil {
			v.change(f(v.Membership()))
		}
	}
}

// releaseDisplaced gives back what a CG displaces: a planted fault.
func (g *Group) releaseDisplaced(cg uint64) {
	for _, t := range g.liveTables(cg) {
		t.walk("", false, func(_ PBlock, n namer) {
			if old := t.vol.table.load(n.block).block(); old != 0 {
				_ = g.pool.alloc.ReleaseOne(uint64(old)) // it is to be noticed, not to fail
			}
		})
	}
}

func (g *Group) liveTables(cg uint64) []*cgTable {
	for _, l := range g.live {
		if l.cg == cg {
			return l.tables
		}
	}
	panic(fmt.Sprintf("engine: group %s: CG %d is complete but its tables are gone", g.name, cg))
}

// received raises the newest CG of which anything was received.
func (g *Group) received(cg uint64) {
	for r := g.receiving.Load(); r < cg && !g.receiving.CompareAndSwap(r, cg); r = g.receiving.Load() {
	}
}

// forget drops what is held of CGs up to through that are not final. Their blocks go back when no reader
// of the linked view can use them any more.
func (g *Group) forget(through uint64) {
	var drop []*cgTable
	keep := g.live[:0:0]
	for _, l := range g.live {
		if l.cg > g.state.final && l.cg <= through {
			drop = append(drop, l.tables...)
		} else {
			keep = append(keep, l)
		}
	}
	g.live = keep
	waiting := g.sealed[:0:0]
	for _, s := range g.sealed {
		if s.cg > through {
			waiting = append(waiting, s)
			continue
		}
		for _, x := range s.volumes {
			if x.table != nil {
				drop = append(drop, x.table)
			}
		}
	}
	g.sealed = waiting
	g.pool.ctl.whenUnread(func() { g.pool.releaseTables(drop) })
}

// seal takes what a CG does to a volume over from its writer. Control loop only.
func (g *Group) seal(vol *Volume, cg uint64, x sealedVolume) {
	if cg <= max(g.state.through, g.state.complete) || vol.Membership().Standing != Awaited {
		if x.table != nil { // discarded, or set aside, meanwhile; nobody has seen it
			g.pool.releaseTables([]*cgTable{x.table})
		}
		return
	}
	g.sealedAt(cg).volumes[vol] = x
}

// sealedAt finds where a CG is collected.
func (g *Group) sealedAt(cg uint64) *sealedCG {
	for _, s := range g.sealed {
		if s.cg == cg {
			return s
		}
	}
	s := &sealedCG{cg: cg, volumes: map[*Volume]sealedVolume{}}
	g.sealed = append(g.sealed, s)
	return s
}

// unseal forgets what a writer sealed of a volume in CGs that are not being completed: its primary sends it again.
func (g *Group) unseal(vol *Volume) {
	for _, s := range g.sealed {
		if t := s.volumes[vol].table; t != nil {
			g.pool.releaseTables([]*cgTable{t})
		}
		delete(s.volumes, vol)
	}
	g.sealed = slices.DeleteFunc(g.sealed, func(s *sealedCG) bool { return len(s.volumes) == 0 && !s.asked })
}

// ready returns the next CG to complete: the oldest that is sealed on every volume that is awaited, once the one
// before is final.
func (g *Group) ready() *sealedCG {
	if g.state.complete != g.state.final || len(g.sealed) == 0 {
		return nil
	}
	oldest := 0
	for i, s := range g.sealed {
		if s.cg < g.sealed[oldest].cg {
			oldest = i
		}
	}
	s := g.sealed[oldest]
	for _, v := range g.volumes {
		if v == nil || v.Membership().Standing != Awaited {
			continue
		}
		if _, ok := s.volumes[v]; !ok && !plant.On(plant.AwaitedMissing) {
			return nil
		}
	}
	g.sealed = append(g.sealed[:oldest:oldest], g.sealed[oldest+1:]...)
	return s
}
