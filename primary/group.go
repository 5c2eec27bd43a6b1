package primary

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

type holdState uint8

const (
	holdNone    holdState = iota
	holdWaiting           // new writes wait, writes in progress end
	holdHeld              // none is in progress
)

// group is the part of a consistency group on this node.
type group struct {
	index   int
	name    string
	volumes []*volume
	conns   []*conn

	session  int    // of the manager that sent the last valid command
	epoch    uint64 // highest seen
	durable  uint64 // epoch that the write-intent log has, and in noting the one it is being given
	noting   uint64
	withheld []ManagerMessage // answers in an epoch that is not durable yet
	leader   string           // name of the manager that has it; "" not known
	open     uint64           // 0: no manager has said yet
	final    uint64           // newest known to be final
	lastCut  uint64           // newest CG cut here and neither final nor given up; 0 none
	cutEpoch uint64           // in which lastCut was cut
	drained  bool             // lastCut's manifest was sent everywhere
	blocks   uint64           // payload blocks of lastCut that were sent, once drained
	// lost is a cut CG that cannot be completed, 0 none: until the manager opens another one,
	// nothing is sent.
	lost       uint64
	lostReason string

	hold         holdState
	holdStart    time.Duration
	holdDeadline time.Duration
	writing      int // host writes that were admitted and have not ended
	waiting      fifo[*IO]
	holds        holdTimes
	expired      uint64 // holds that ended by timeout
}

// Manage takes a message of a manager. The answers go to the same session, later perhaps.
func (c *Core) Manage(session int, m wire.Commanded) {
	h := *m.Head()
	g := c.byName[h.Group]
	if g == nil {
		c.refuse(session, h, wire.CodeUnknown, fmt.Sprintf("no volume of this primary is in group %q: check the group's name in both configurations", h.Group))
		return
	}
	if h.Epoch < g.epoch && !plant.On(plant.LowerEpoch) {
		c.refuse(session, h, wire.CodeStaleEpoch, fmt.Sprintf("epoch %d is stale, the current one is %d: %s", h.Epoch, g.epoch, g.whoLeads()))
		return
	}
	if h.Epoch == g.epoch && session < g.session {
		// It was sent over a connection that the manager has lost, and belongs to a round that it has given up: a
		// late HOLD could cut at another moment than the other primaries do.
		return
	}
	c.enterEpoch(g, h.Epoch)
	g.session = session
	switch m := m.(type) {
	case *wire.Fence:
		// Nothing is answered: the epoch is all there is to it.
	case *wire.Open:
		c.openCG(g, h, m.Final)
	case *wire.Hold:
		c.holdCG(g, h, time.Duration(m.TimeoutMicros)*time.Microsecond)
	case *wire.Thaw:
		c.thaw(g, h)
	case *wire.FinalNote:
		c.finalNote(g, h)
	default:
		c.refuse(session, h, wire.CodeRefused, fmt.Sprintf("a primary does not take %T", m))
	}
}

// enterEpoch has a higher epoch noted in the write-intent log: a primary that is restarted must go on refusing the
// managers that this one took over from.
func (c *Core) enterEpoch(g *group, epoch uint64) {
	if epoch == g.epoch {
		return
	}
	g.epoch = epoch
	clear(g.withheld)
	g.withheld = g.withheld[:0] // they were for the manager before
	c.intent.snapshotDue = true
}

// answer gives a manager nothing to build on before its epoch is durable.
func (c *Core) answer(g *group, m wire.Message) {
	g.withheld = append(g.withheld, ManagerMessage{g.session, m})
	c.giveOut(g)
}

func (c *Core) giveOut(g *group) {
	if g.durable < g.epoch {
		return
	}
	c.out.Manager = append(c.out.Manager, g.withheld...)
	clear(g.withheld)
	g.withheld = g.withheld[:0]
}

func (c *Core) refuse(session int, h wire.Command, code wire.ErrorCode, text string) {
	c.out.Manager = append(c.out.Manager, ManagerMessage{session, &wire.Error{Code: code, Group: h.Group, CG: h.CG, Text: text}})
}

func (g *group) command(cg uint64) wire.Command {
	return wire.Command{Group: g.name, Epoch: g.epoch, CG: cg}
}

// openCG makes h.CG the open CG. A number higher than the present one means that everything after final
// is given up, and becomes part of h.CG.
func (c *Core) openCG(g *group, h wire.Command, final uint64) {
	switch {
	case h.CG == 0 || h.CG < g.open:
		h.CG = g.open // the manager has to go on above it
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d is open here: a number is never used again", g.open))
		return
	case final >= h.CG:
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d cannot be open with CG %d final", h.CG, final))
		return
	case !g.leftOut(final) && g.unsent(final):
		c.refuseUnsent(g, h)
		return
	}
	if g.open == 0 && final < g.final {
		c.distrust(g, final)
	}
	if g.leftOut(final) {
		c.rejoin(g, final)
	} else {
		c.setFinal(g, final)
	}
	same := h.CG == g.open
	if !same {
		c.restart(g, h.CG)
	}
	if g.hold != holdNone {
		c.endHold(g)
	}
	c.answer(g, &wire.Opened{Command: h})
	if same {
		c.repeatReports(g)
	}
	c.kickGroup(g)
}

// leftOut says that CGs up to final were decided without this primary: it has not cut all of them.
func (g *group) leftOut(final uint64) bool { return g.open != 0 && final >= g.open }

// rejoin takes note of CGs that were decided while this primary was no member. They say nothing of a CG that it cut
// before it left: that may have been given up. So nothing is forgotten; all of it becomes part of the CG that is opened.
func (c *Core) rejoin(g *group, final uint64) {
	c.notice(slog.LevelInfo, "CGs were decided while this primary was not in the group: what it sent of its own last ones is sent again",
		"group", g.name, "open", g.open, "final", final)
	g.final, c.intent.finalMoved = final, true
}

// distrust deals with a manager that knows less than the write-intent log: its decision log was lost or is
// another one, so that CG numbers say nothing any more about what the secondaries hold.
func (c *Core) distrust(g *group, final uint64) {
	c.notice(slog.LevelWarn, "the manager's newest final CG is older than the write-intent log's: its numbers have begun anew, and every volume is copied again as a whole",
		"group", g.name, "manager", final, "write-intent log", g.final)
	g.final = final
	for _, v := range g.volumes {
		for _, r := range v.replicas {
			r.synced, r.whole = false, "the manager's CG numbers have begun anew"
			c.copyWhole(r)
		}
	}
	c.intent.snapshotDue = true
}

// repeatReports tells a manager that may have missed it what became of the cut CG.
func (c *Core) repeatReports(g *group) {
	switch {
	case g.lost != 0:
		c.answer(g, &wire.Lost{Command: g.command(g.lost), Reason: g.lostReason})
	case g.lastCut != 0 && g.drained:
		c.answer(g, &wire.Drained{Command: g.command(g.lastCut), Blocks: g.blocks})
	}
}

// restart opens cg with all that the remembered CGs changed; nothing of them is sent any more.
func (c *Core) restart(g *group, cg uint64) {
	for _, v := range g.volumes {
		c.mergeGenerations(v, cg)
	}
	for _, cn := range g.conns {
		c.dropLane(cn, cn.cut)
		c.dropLane(cn, cn.open)
		cn.cut, cn.open, cn.lacks = nil, cn.newLane(cg), 0 // what was lost is in cg
	}
	g.open, g.lastCut, g.drained, g.blocks = cg, 0, false, 0
	g.lost, g.lostReason = 0, ""
	for _, cn := range g.conns {
		c.tryRegroup(cn)
	}
}

func (c *Core) mergeGenerations(v *volume, cg uint64) {
	all := v.gens[0].changed
	for _, r := range v.replicas {
		r.open.or(r.cut)
		r.cut.reset()
		r.open.or(r.pending)
		r.pending.reset()
		for _, gen := range v.gens {
			if gen.cg != 0 && !plant.On(plant.ChangesForgotten) { // what is in generation 0 was recorded for each copy, and nothing of it was sent
				r.open.or(gen.changed)
			}
		}
		if !r.synced {
			c.reopen(r, cg)
		}
	}
	for _, gen := range v.gens[1:] {
		all.or(gen.changed)
		gen.changed.reset()
	}
	v.gens = append(v.gens[:0], generation{cg, v.group.epoch, all})
	for _, r := range v.replicas {
		all.or(r.open) // what was pending, and is not any more
	}
}

// finalNote forgets CGs up to h.CG.
func (c *Core) finalNote(g *group, h wire.Command) {
	if g.open != 0 && h.CG >= g.open {
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d cannot be final: CG %d is open here", h.CG, g.open))
		return
	}
	if g.unsent(h.CG) {
		c.refuseUnsent(g, h)
		return
	}
	c.setFinal(g, h.CG)
}

// unsent says that a CG up to final has not been sent whole, so that it cannot be final.
func (g *group) unsent(final uint64) bool {
	return g.lastCut != 0 && !g.drained && g.vouches(g.lastCut, g.cutEpoch, final)
}

// vouches says whether CG cg, opened in epoch, is final if CG final is. Of an older manager's CG a higher final one
// says nothing: a manager that was replaced, and does not know it, can have a primary that has just started, and
// knows no epoch yet, cut a CG that no secondary takes any more.
func (g *group) vouches(cg, epoch, final uint64) bool {
	return cg == final || cg < final && epoch == g.epoch
}

func (c *Core) refuseUnsent(g *group, h wire.Command) {
	c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d cannot be final: this primary has not sent all of it", g.lastCut))
}

func (c *Core) setFinal(g *group, final uint64) {
	if final <= g.final {
		return
	}
	g.final = final
	if g.lastCut != 0 && g.lastCut <= final {
		g.lastCut, g.drained = 0, false
	}
	for _, v := range g.volumes {
		c.forgetFinal(v, final)
		for _, r := range v.replicas {
			c.arrange(r, 0)
		}
	}
	for _, cn := range g.conns {
		if cn.lacks != 0 && cn.lacks <= final {
			c.finalWithout(cn)
		}
		c.tryRegroup(cn)
	}
	c.intent.finalMoved = true
}

// finalWithout: a CG is final that a secondary does not have. It had no part in that CG, for it has joined the group
// since; what it got of it does not count, and is forgotten here.
func (c *Core) finalWithout(cn *conn) {
	lacked := cn.lacks
	cn.lacks = 0
	for _, r := range cn.replicas {
		r.synced, r.whole = false, fmt.Sprintf("CG %d is final, and the secondary did not have it: it has joined the group since", lacked)
		c.notice(slog.LevelWarn, "the whole volume is copied", "group", cn.group.name, "volume", r.volume.spec.Name,
			"secondary", cn.secondary, "reason", r.whole)
		c.copyWhole(r)
	}
	c.intent.snapshotDue = true
}

// forgetFinal drops what is remembered of CGs up to final; never the open one.
func (c *Core) forgetFinal(v *volume, final uint64) {
	for len(v.gens) > 1 && v.group.vouches(v.gens[0].cg, v.gens[0].epoch, final) {
		v.gens[0].changed.reset()
		v.gens = append(v.gens[:0], v.gens[1:]...)
	}
	for _, r := range v.replicas {
		if !r.synced && !r.apart && r.fullCG != 0 && v.group.vouches(r.fullCG, r.fullEpoch, final) {
			r.synced, r.fullCG, r.whole, r.rest, r.hole = true, 0, "", false, false
			c.intent.snapshotDue = true // what is still in lacking becomes marks
			c.notice(slog.LevelInfo, "first copy is final", "group", v.group.name, "volume", v.spec.Name,
				"secondary", r.conn.secondary, "CG", final)
		}
	}
}

// holdCG begins, or prolongs, a hold.
func (c *Core) holdCG(g *group, h wire.Command, timeout time.Duration) {
	switch {
	case h.CG == 0 || h.CG != g.open:
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("cannot hold CG %d: CG %d is open here", h.CG, g.open))
		return
	case g.lost != 0:
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d is lost: open another one first", g.lost))
		return
	case g.lastCut != 0 && !g.drained:
		c.refuse(g.session, h, wire.CodeState, fmt.Sprintf("CG %d is still being sent", g.lastCut))
		return
	}
	g.holdDeadline = c.now + timeout
	c.dueAt(g.holdDeadline)
	switch {
	case g.hold == holdHeld:
		c.answer(g, &wire.Held{Command: g.command(g.open)})
		return
	case g.hold == holdNone:
		g.hold, g.holdStart = holdWaiting, c.now
	}
	if g.writing == 0 {
		c.held(g)
	}
}

func (c *Core) held(g *group) {
	g.hold = holdHeld
	c.answer(g, &wire.Held{Command: g.command(g.open)})
}

// thaw cuts h.CG if it is held.
func (c *Core) thaw(g *group, h wire.Command) {
	ok := true
	switch {
	case h.CG == g.open && g.hold == holdHeld:
		c.cut(g)
		c.endHold(g)
	case h.CG == g.lastCut && h.CG != 0: // a repetition
	default:
		ok = false
		if h.CG == g.open && g.hold != holdNone { // thawed before it was held
			c.endHold(g)
		}
	}
	c.answer(g, &wire.Thawed{Command: h, OK: ok})
	if ok {
		if g.lastCut == h.CG && g.drained {
			c.repeatReports(g)
		}
		c.loseHalved(g)
		c.checkDrained(g)
	}
	c.kickGroup(g)
}

// cut ends the open CG: no write of it is in progress.
func (c *Core) cut(g *group) {
	if g.writing != 0 && !plant.On(plant.WriteAfterHeld) { // the fault has to be noticed by what it does
		panic(fmt.Sprintf("primary: CG %d of group %q is cut with %d writes in progress", g.open, g.name, g.writing))
	}
	g.lastCut, g.cutEpoch, g.drained, g.blocks = g.open, g.epoch, false, 0
	g.open++
	for _, v := range g.volumes {
		v.gens = append(v.gens, generation{g.open, g.epoch, newBitmap(v.blocks, &c.chunks)})
		for _, r := range v.replicas {
			c.cutCopy(r)
		}
	}
	for _, cn := range g.conns {
		if cn.cut, cn.open = cn.open, cn.newLane(g.open); len(cn.replicas) == 0 {
			cn.cut = nil // nobody there waits for a manifest
		}
	}
}

// endHold lets waiting writes go on.
func (c *Core) endHold(g *group) {
	g.hold = holdNone
	g.holds.add(c.now - g.holdStart)
	for n := g.waiting.len(); n > 0; n-- {
		c.advance(g.waiting.pop())
	}
}

// expireHold thaws without a cut.
func (c *Core) expireHold(g *group) {
	g.expired++
	c.notice(slog.LevelWarn, "hold expired: no thaw came in time, the CG goes on", "group", g.name, "CG", g.open,
		"held", g.hold == holdHeld, "after", c.now-g.holdStart)
	c.endHold(g)
	c.kickGroup(g)
}

// checkDrained reports the cut CG once its manifest was sent on every connection.
func (c *Core) checkDrained(g *group) {
	if g.lastCut == 0 || g.drained || g.lost != 0 {
		return
	}
	for _, cn := range g.conns {
		if cn.cut != nil {
			return
		}
	}
	g.drained = true
	c.answer(g, &wire.Drained{Command: g.command(g.lastCut), Blocks: g.blocks})
}

// lose gives up the cut CG: what remains of it is not sent any more, and becomes part of the CG
// that the manager opens next.
func (c *Core) lose(g *group, reason string) {
	if g.lastCut == 0 || g.lost != 0 {
		return
	}
	g.lost, g.lostReason = g.lastCut, reason
	c.notice(slog.LevelWarn, "the CG cannot be completed and is given up", "group", g.name, "CG", g.lost, "reason", reason)
	for _, cn := range g.conns {
		c.dropLane(cn, cn.cut)
		cn.cut = nil
	}
	for _, v := range g.volumes {
		for _, r := range v.replicas {
			r.lackAll(r.cut)
			r.cut.reset()
		}
	}
	c.answer(g, &wire.Lost{Command: g.command(g.lost), Reason: reason})
}
