package manager

import (
	"fmt"
	"slices"
	"time"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

// Cause is the kind of error for which a CG was given up.
type Cause string

const (
	CauseTimeout    Cause = "timeout"
	CauseRefusal    Cause = "refusal"
	CauseDisconnect Cause = "disconnect" // a crash looks the same
	CauseIO         Cause = "io-error"
	CauseLost       Cause = "lost"
	CauseStart      Cause = "start" // not an error: a manager took over
	CauseHalt       Cause = "halt"
	CauseMembers    Cause = "members" // not an error: the controls of the group changed
)

// abandon gives up the round before its decision and visits every secondary, whatever is known of it.
func (c *Core) abandon(cause Cause, why string) {
	if c.st == StateDecided || c.st == StateRelease && !c.starting || c.st == StateHalted || c.st == StateReverting {
		return // R3: after the decision only forward; and one revert is enough
	}
	if cause != CauseStart && cause != CauseMembers {
		c.stats.failed++
		c.stats.fail(c.now, c.round, cause, why)
		c.failStreak++
		c.countDrainFailure()
	}
	c.st, c.deadline = StateReverting, time.Time{}
	c.openLost, c.linkedBack = "", c.linkSent
	c.through = c.high
	if c.round <= c.final {
		c.round = max(c.open, c.final+1)
	}
	c.noteBegin(cause, why)
	for _, s := range c.sec {
		s.visit, s.unreached = visitPending, false
		if s.connected {
			s.visit = visitAsked
			c.query(s)
		} else {
			c.noteUnreachable(s)
		}
	}
	c.reserveMore()
}

// noteBegin tells what the visits are for. A start and a change of members are no errors; where nothing is linked that
// was not decided, they take nothing back.
func (c *Core) noteBegin(cause Cause, why string) {
	linked := c.linkSent || slices.ContainsFunc(c.sec, func(s *member) bool { return s.stateKnown && s.state.Linked > c.final })
	c.discards = (cause == CauseStart || cause == CauseMembers) && !linked
	did := "every secondary is visited, "
	switch {
	case c.through <= c.final:
		did += "there is nothing to discard"
	case c.discards:
		did += fmt.Sprintf("what any has received of CGs %d to %d is discarded; nothing is linked that was not decided", c.final+1, c.through)
	default:
		did += fmt.Sprintf("CGs after %d up to %d are discarded", c.final, c.through)
	}
	kind := EntryRevertBegin
	if c.discards {
		kind = EntryDiscardBegin
	}
	c.audit(kind, c.round, "", why, did)
}

// noteEnd tells that the visits are over.
func (c *Core) noteEnd(next uint64) {
	kind := EntryRevertEnd
	if c.discards {
		kind = EntryDiscardEnd
	}
	c.audit(kind, c.round, "", "every secondary answered", fmt.Sprintf("CG %d is the next; it contains everything not final", next))
}

// countDrainFailure counts CGs that were cut and never became complete.
func (c *Core) countDrainFailure() {
	if c.st != StateDrain {
		return
	}
	c.drainStreak++
	if c.drainStreak == drainFailLimit {
		c.audit(EntryAlert, c.round, "", fmt.Sprintf("%d CGs in a row did not become complete", drainFailLimit),
			"the drain timeout is not applied until one succeeds")
	}
}

func (c *Core) noteUnreachable(s *member) {
	if s.role == wire.RoleSecondary && s.visit == visitPending && !s.unreached {
		s.unreached = true
		c.audit(EntryUnreachable, c.round, s.name, s.lastError, "retried until it is reached")
	}
}

// onState takes a secondary's report, the answer to QUERY or FENCE.
func (c *Core) onState(s *member, st wire.State) {
	s.queries = max(0, s.queries-1)
	s.askedSince = c.now
	s.state, s.stateKnown, s.fresh, s.stateAt = st, true, true, c.now
	s.bad, s.refused = "", ""
	switch c.st {
	case StateStarting:
		c.tryPlan()
	case StateReverting:
		c.visitState(s)
	case StateRelease:
		c.releaseState(s)
	case StateIdle:
		c.idleState(s)
	case StateHold, StateThaw, StateDrain, StateLink:
		if st.Failed != "" {
			c.abandon(CauseIO, s.name+" failed: "+st.Failed)
			return
		}
		// A completed CG is durable, so a report of it counts like Complete itself.
		c.onComplete(s, st.Complete, st.LackingThen)
	}
}

// idleState looks at what a secondary shows while no CG is being linked: it must be the last final one.
func (c *Core) idleState(s *member) {
	switch {
	case s.state.Revertible():
		c.round, c.high = s.state.Linked, max(c.high, min(s.state.Linked, maxCG))
		c.abandon(CauseLost, fmt.Sprintf("%s shows CG %d linked, which was never decided", s.name, s.state.Linked))
	default:
		s.bad = c.contradiction(s)
	}
}

// contradiction says how a secondary's report contradicts the decisions, "" if it does not.
func (c *Core) contradiction(s *member) string {
	st := s.state
	switch {
	case st.Final == c.final:
		return ""
	case isNew(c.decided, controlState(s.name, true, st)):
		return "" // its first CG brings a whole copy; one that it links was never decided
	case st.Final == 0 && st.Linked == 0:
		return fmt.Sprintf("%s is empty but had CG %d: if its pool was replaced, take it out of the group and add it under a new name, "+
			"so that a whole copy is made knowingly", s.name, c.final)
	}
	return fmt.Sprintf("%s shows CG %d as final, decided is CG %d: it missed a decision or belongs to another group; "+
		"nothing is sent to it until that is cleared up", s.name, st.Final, c.final)
}

// releaseState goes on with a secondary that came back while the decided CG is being released.
func (c *Core) releaseState(s *member) {
	st := s.state
	switch {
	case s.final:
	case st.Final == c.round:
		s.final = true
		c.noteFinal(c.round)
		c.tryFinish()
	case st.Linked == c.round:
		c.sendRelease(s)
	case c.starting && isNew(c.decided, controlState(s.name, true, st)):
		s.final = true
		c.tryFinish()
	default:
		s.bad = fmt.Sprintf("%s lost CG %d after it was decided: it shows CG %d, final %d. The group waits: the copy on this control needs an operator",
			s.name, c.round, st.Linked, st.Final)
	}
}

// visitState goes on with the visit of a secondary that said which CG its links show.
func (c *Core) visitState(s *member) {
	// Only the answer to the last question counts: an older one may tell of before a LINK.
	if s.visit != visitAsked || s.queries > 0 {
		return
	}
	said := fmt.Sprintf("links show CG %d, final %d, complete %d, receiving %d", s.state.Linked, s.state.Final, s.state.Complete, s.state.Receiving)
	if bad := c.contradiction(s); bad != "" {
		s.bad, s.visit, s.sentAt = bad, visitRefused, c.now
		c.audit(EntryVisit, c.round, s.name, said, bad)
		return
	}
	s.revertCG = c.final + 1
	did := "nothing linked back; unfinished CGs discarded"
	if s.state.Revertible() {
		s.revertCG, c.linkedBack = s.state.Linked, true
		did = fmt.Sprintf("CG %d reverted to CG %d", s.state.Linked, s.state.Final)
	} else if c.linkSent {
		s.revertCG = c.round // a LINK may still be on its way; it must find this CG discarded
	}
	c.audit(EntryVisit, c.round, s.name, said, did)
	s.visit = visitRevert
	c.sendRevert(s)
}

func (c *Core) sendRevert(s *member) {
	s.sentAt = c.now
	r := wire.Revert{Command: c.command(s.revertCG), Discard: c.through >= s.revertCG, Final: c.final}
	if r.Discard { // else the group is new: no number was ever given out
		r.Through = c.through
	}
	c.send(s, &r)
}

func (c *Core) onReverted(s *member, cg uint64) {
	if c.st != StateReverting || s.visit != visitRevert || cg != s.revertCG {
		return
	}
	s.visit = visitDone
	s.state.Linked, s.state.CG = s.state.Final, s.state.Final
	c.audit(EntryReverted, c.round, s.name, "reverted", fmt.Sprintf("shows CG %d", s.state.Final))
}

// tryEndRevert opens a new CG, with all the changes that are not final, once every secondary answered.
func (c *Core) tryEndRevert() {
	late := func(s *member) bool { return plant.On(plant.RevertSkipsLate) && s.visit == visitPending }
	if !all(c.sec, func(s *member) bool { return s.visit == visitDone || late(s) }) {
		return
	}
	next := max(c.through, c.high) + 1
	if next+1 > c.reserved {
		c.high = next - 1
		c.reserveMore()
		return // until the numbers are durable
	}
	c.st, c.open, c.high = StateIdle, next, next
	if c.linkedBack && !c.starting {
		c.stats.reverts++
	}
	c.starting, c.linkSent = false, false
	c.nextRound = c.now.Add(c.backoff())
	c.noteEnd(next)
	for _, p := range c.prim {
		c.sendOpen(p)
	}
}
