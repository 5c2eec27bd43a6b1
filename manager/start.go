package manager

import (
	"fmt"

	"github.com/farside-storage/farside/wire"
)

// tryPlan decides how to go on after a start, once every secondary said what its links show.
func (c *Core) tryPlan() {
	if !all(c.sec, func(s *member) bool { return s.fresh && s.connected }) {
		return
	}
	c.raiseNumbers()
	if c.st == StateHalted {
		return
	}
	p := Assess(Recovered{Known: c.logKnown, Decided: c.decided}, c.controlStates())
	if c.logKnown && !c.logBehind() {
		c.planFromLog(p)
		return
	}
	c.planFromControls(p)
}

// firstUnknown is the highest number that a manager can have used whose log was lost before any secondary had
// received anything: CG 1, and CG 2, which is open as soon as CG 1 is cut. What a primary sent of them may still be
// on its way to a secondary, and must not be taken for a part of a CG that this manager forms. (Anything given up was
// discarded on the secondaries, which they report.)
const firstUnknown = 2

// raiseNumbers makes sure that no CG number seen anywhere is given out again, should the log not know it.
func (c *Core) raiseNumbers() {
	var seen uint64
	for _, s := range c.sec {
		seen = max(seen, s.state.Final, s.state.Linked, s.state.Complete, s.state.Receiving)
	}
	if seen > maxCG {
		c.halt(fmt.Sprintf("a secondary reports CG number %d, which no group can have reached: run farside check on its pool", seen))
		return
	}
	if !c.logKnown {
		c.high = max(c.high, firstUnknown)
	}
	if seen > c.high || seen > 0 && (!c.logKnown || c.logBehind()) {
		c.high = max(c.high, seen+lostLogGap)
	}
}

// logBehind says whether a control knows of a decision that the log does not: an old copy of the log.
func (c *Core) logBehind() bool { return aboveLog(c.decided.CG, c.controlStates()) }

// planFromLog: decided goes forward, everything else goes back.
func (c *Core) planFromLog(p Plan) {
	if p.Action == PlanRefuse {
		c.halt(p.Why)
		return
	}
	d := c.decided.CG
	for _, s := range c.sec {
		cs := controlState(s.name, true, s.state)
		s.final = cs.Final == d || isNew(c.decided, cs)
	}
	if d > 0 && c.anyFinal(d) {
		c.noteFinal(d)
	}
	if p.Action == PlanCommit {
		c.audit(EntryPlan, d, "", p.Why, "forward: release")
		c.release()
		return
	}
	did := "nothing to release or to take back"
	if p.Action == PlanRevert {
		did = "what is linked above it was never decided: back"
	}
	c.audit(EntryPlan, d, "", p.Why, did)
	c.final = d
	c.abandon(CauseStart, "manager start")
}

func (c *Core) anyFinal(n uint64) bool {
	for _, s := range c.sec {
		if s.state.Final == n {
			return true
		}
	}
	return false
}

// planFromControls uses the decision table: the log knows nothing, or less than the controls.
func (c *Core) planFromControls(p Plan) {
	said := "the decision log is new or was lost: deciding from the controls alone"
	if c.logKnown {
		said = fmt.Sprintf("the decision log ends at CG %d, older than the controls: deciding from the controls alone", c.decided.CG)
	}
	c.audit(EntryPlan, p.CG, "", said, string(p.Action)+": "+p.Why)
	switch p.Action {
	case PlanRefuse:
		c.halt("recovery without the decision log: " + p.Why)
	case PlanRevert:
		c.final = p.CG
		c.decided = c.provenDecision(p.CG)
		if p.CG > 0 {
			// The controls prove it; without a record, a control that joins later would make the next start refuse to
			// decide.
			d := c.decided
			c.persist(Record{Decided: &d})
			c.noteFinal(p.CG)
		}
		c.abandon(CauseStart, "manager start, log lost: "+p.Why)
	case PlanNothing, PlanCommit:
		c.rebuildDecision(p)
	}
}

// rebuildDecision records what the controls prove to be decided before it is acted on (R2, R3).
func (c *Core) rebuildDecision(p Plan) {
	if p.CG == 0 {
		c.abandon(CauseStart, "manager start, new group")
		return
	}
	for _, s := range c.sec {
		s.final = s.state.Final == p.CG
	}
	c.round = p.CG
	d := c.provenDecision(p.CG)
	d.Epoch = c.epoch
	c.decide(d)
}

// provenDecision is the decision for a CG as the controls prove it.
func (c *Core) provenDecision(n uint64) Decision {
	return Decision{CG: n, FirstCopy: c.leavesOut(func(s *member) uint64 { return lackingAt(s.state, n) }),
		Primaries: memberNames(c.prim), Secondaries: memberNames(c.sec)}
}

func (c *Core) controlStates() []ControlState {
	out := make([]ControlState, len(c.sec))
	for i, s := range c.sec {
		out[i] = controlState(s.name, s.connected && s.fresh, s.state)
	}
	return out
}

func controlState(name string, reachable bool, st wire.State) ControlState {
	return ControlState{Name: name, Reachable: reachable, Linked: st.Linked, Final: st.Final}
}
