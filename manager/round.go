package manager

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

// awaited says what the group waits for in states that may last, "" if for nothing.
func (c *Core) awaited() string {
	switch c.st {
	case StateIdle:
		return c.waiting()
	case StateStarting:
		return "every secondary must say what its links show; missing: " + missing(c.sec, func(m *member) bool { return m.fresh && m.connected })
	case StateReverting:
		if names := missing(c.sec, func(m *member) bool { return m.visit == visitDone }); names != "" {
			return "every secondary must be visited; missing: " + names
		}
		return "waiting for the decision log"
	case StateDecided:
		return fmt.Sprintf("the decision log must make the decision for CG %d durable", c.round)
	case StateRelease:
		return "every secondary must make the decided CG final; missing: " + missing(c.sec, func(m *member) bool { return m.final })
	}
	return ""
}

// waiting says why no CG can be started now, "" if one can.
func (c *Core) waiting() string {
	isUp := func(m *member) bool { return m.connected }
	isOpen := func(m *member) bool { return m.opens == 0 }
	switch {
	case c.paused:
		return "paused"
	case !all(c.prim, isUp):
		return "not connected: " + missing(c.prim, isUp)
	case !all(c.sec, isUp):
		return "not connected: " + missing(c.sec, isUp)
	case !all(c.prim, isOpen):
		return "waiting for the answer to OPEN of " + missing(c.prim, isOpen)
	case c.open+1 > c.reserved, c.membersID != 0: // who takes part in the CG must be durable when it is held
		return "waiting for the decision log"
	}
	for _, s := range c.sec {
		switch {
		case !s.fresh:
			return "waiting for the state of " + s.name
		case s.bad != "":
			return s.bad
		case s.state.Failed != "":
			return s.name + " failed: " + s.state.Failed
		}
	}
	if all(c.sec, func(m *member) bool { return m.state.Vacant() }) {
		return "no secondary waits for a volume of the group: there would be no copy of what a CG has. Add a volume (farside group add-volume)"
	}
	return ""
}

func (c *Core) tryHold() {
	if c.openLost != "" {
		c.abandon(CauseLost, c.openLost)
		return
	}
	if c.now.Before(c.nextRound) || c.waiting() != "" {
		return
	}
	c.beginRound(c.open)
	c.st, c.holdStart = StateHold, c.now
	t := c.settings.CoordinationTimeout
	// The last fifth of the primaries' time belongs to THAW's way there.
	c.deadline = c.now.Add(t / 5 * 4)
	for _, p := range c.prim {
		c.send(p, &wire.Hold{Command: c.command(c.round), TimeoutMicros: uint64(t.Microseconds())})
	}
}

func (c *Core) beginRound(n uint64) {
	c.round, c.linkSent = n, false
	for _, m := range c.prim {
		m.held, m.thawed, m.drained, m.blocks = false, false, false, 0
	}
	for _, m := range c.sec {
		m.complete, m.linked, m.final, m.vacantAsked = false, false, false, false
	}
}

func (c *Core) onHeld(m *member, cg uint64) {
	if c.st != StateHold || cg != c.round {
		return
	}
	if !m.held {
		m.heldTimes.add(c.now.Sub(c.holdStart))
	}
	m.held = true
	if all(c.prim, func(m *member) bool { return m.held }) {
		c.cut()
	}
}

// cut ends the CG: every primary holds its writes at this moment.
func (c *Core) cut() {
	c.cutTime = c.now
	c.st, c.deadline = StateThaw, c.now.Add(c.settings.CommandTimeout)
	c.open = c.round + 1
	c.high = max(c.high, c.open)
	for _, p := range c.prim {
		c.send(p, &wire.Thaw{Command: c.command(c.round)})
	}
	c.audit(EntryCut, c.round, "", "all primaries held", "thaw sent")
}

// failHold gives up an attempt. The CG stays open, and OPEN both ends the hold and separates this
// attempt's answers from the next one's.
func (c *Core) failHold(why string) {
	c.audit(EntryHoldFailed, c.round, "", why, "CG stays open, held again later")
	c.stats.holdFailed(c.now, c.round, why)
	c.st, c.deadline = StateIdle, time.Time{}
	c.failStreak++
	c.nextRound = c.now.Add(max(c.settings.Interval, c.backoff()))
	for _, p := range c.prim {
		c.sendOpen(p)
	}
}

func (c *Core) backoff() time.Duration {
	if c.failStreak == 0 {
		return 0
	}
	return min(backoffMost, backoffLeast<<min(c.failStreak-1, 10))
}

func (c *Core) onThawed(m *member, t wire.Thawed) {
	if c.st != StateThaw || t.CG != c.round {
		return
	}
	if !t.OK {
		c.abandon(CauseTimeout, m.name+" was held longer than the coordination timeout: the THAW came too late, the CG is not cut there")
		return
	}
	if !m.thawed {
		m.holdTimes.add(c.now.Sub(c.holdStart))
	}
	m.thawed = true
	if !all(c.prim, func(m *member) bool { return m.thawed }) {
		return
	}
	c.stats.hold.add(c.now.Sub(c.holdStart))
	c.st, c.deadline = StateDrain, c.drainDeadline()
}

// drainDeadline is counted from the cut; zero where the drain timeout does not apply before all secondaries have the CG,
// see boundDrain.
func (c *Core) drainDeadline() time.Time {
	if c.firstCopy() || c.drainStreak >= drainFailLimit {
		return time.Time{}
	}
	return c.cutTime.Add(c.settings.DrainTimeout)
}

// firstCopy says whether the CG may hold much of a first copy: the group has no recovery point yet, or a control takes
// part that had no part in the last decision.
func (c *Core) firstCopy() bool {
	if c.final == 0 || !c.founded() {
		return true
	}
	return !c.took(c.prim, c.decided.Primaries) || !c.took(c.sec, c.decided.Secondaries)
}

func (c *Core) took(ms []*member, part []string) bool {
	return all(ms, func(m *member) bool { return contains(part, m.name) })
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (c *Core) onDrained(m *member, d wire.Drained) {
	if (c.st == StateThaw || c.st == StateDrain) && d.CG == c.round {
		m.drained, m.blocks = true, d.Blocks
	}
}

func (c *Core) onComplete(m *member, cg, lacking uint64) {
	if (c.st == StateThaw || c.st == StateDrain) && cg == c.round {
		m.complete, m.lacking = true, lacking
	}
}

// tryLink sends LINK once every secondary has the whole CG (R1).
func (c *Core) tryLink() {
	complete := all(c.sec, func(m *member) bool { return m.complete })
	if plant.On(plant.LinkBeforeComplete) {
		complete = slices.ContainsFunc(c.sec, func(m *member) bool { return m.complete })
	}
	if !complete || !c.drained() {
		c.boundDrain(complete)
		c.askVacant()
		return
	}
	c.st, c.deadline, c.linkSent = StateLink, c.now.Add(c.settings.CommandTimeout), true
	c.drainStreak = 0
	c.audit(EntryLink, c.round, "", "complete on every secondary", "link sent to all")
	for _, s := range c.sec {
		c.send(s, &wire.Link{Command: c.command(c.round)})
	}
}

// boundDrain applies the drain timeout also where it is lifted, once all secondaries have the whole CG. A primary that has
// not drained it then wants to send to a volume that no secondary waits for: it attaches for the first time, to a
// secondary where the CG is complete without that volume. There it has to wait until the CG is final or given up.
func (c *Core) boundDrain(complete bool) {
	if complete && c.st == StateDrain && c.deadline.IsZero() {
		c.deadline = c.now.Add(c.settings.DrainTimeout)
	}
}

// drained says whether every primary has sent all of the CG.
func (c *Core) drained() bool {
	return c.st == StateDrain && all(c.prim, func(m *member) bool { return m.drained })
}

// askVacant has secondaries complete the CG that wait for no volume of it: nothing comes that would make it complete
// there. See "Vacant secondaries" in the package comment. Whoever is vacant and has not said so yet does with the
// next poll; who is not any more takes no notice.
func (c *Core) askVacant() {
	if !c.drained() {
		return
	}
	for _, s := range c.sec {
		if s.fresh && s.state.Vacant() && !s.complete && !s.vacantAsked {
			s.vacantAsked = true
			c.query(s)
		}
	}
}

func (c *Core) onLinked(m *member, cg uint64) {
	if c.st != StateLink || cg != c.round {
		return
	}
	m.linked = true
	joined := func(m *member) bool {
		return plant.On(plant.JoinedUnheard) && c.decided.CG > 0 && !contains(c.decided.Secondaries, m.name)
	}
	if all(c.sec, func(m *member) bool { return m.linked || joined(m) }) {
		c.decide(Decision{CG: c.round, Epoch: c.epoch, Cut: c.cutTime,
			FirstCopy: c.leavesOut(func(s *member) uint64 { return s.lacking }) && !plant.On(plant.PointEarly),
			Primaries: memberNames(c.prim), Secondaries: memberNames(c.sec)})
	}
}

func memberNames(ms []*member) []string {
	out := make([]string, len(ms))
	for i, m := range ms {
		out[i] = m.name
	}
	return out
}

// decide hands the decision to the log. From here on the CG only goes forward (R3).
func (c *Core) decide(d Decision) {
	c.st, c.deadline = StateDecided, time.Time{}
	c.pending = d
	c.decideID = c.persist(Record{Decided: &d})
	if plant.On(plant.DecidedNotDurable) {
		c.onDurable(c.decideID)
	}
}

func (c *Core) onDurable(id uint64) {
	switch id {
	case c.reserveID:
		c.reserveID = 0
		c.reserved = max(c.reserved, c.reserveTo)
	case c.membersID:
		c.membersID = 0
	case c.decideID:
		if c.st != StateDecided {
			return
		}
		c.decided, c.decideID = c.pending, 0
		c.audit(EntryDecided, c.round, "", "linked on every secondary", "decision durable: release sent to all")
		c.release()
	}
}

func (c *Core) onNotDurable(ev NotDurable) {
	if errors.Is(ev.Err, ErrNotLeader) {
		c.halt(fmt.Sprintf("%v. Whoever leads next reads in the log what was decided", ev.Err))
		return
	}
	if ev.ID == c.decideID && c.st == StateDecided {
		c.halt(fmt.Sprintf("CG %d: the decision log failed (%v): whether the decision is durable is not known, so the CG can go "+
			"neither forward nor back. Repair the log's device and restart the manager: it reads the truth", c.round, ev.Err))
		return
	}
	c.halt(fmt.Sprintf("the decision log failed: %v. Repair its device and restart the manager", ev.Err))
}

// release lets every secondary make the decided CG final, again and again until all did.
func (c *Core) release() {
	c.st, c.round, c.deadline = StateRelease, c.decided.CG, time.Time{}
	for _, s := range c.sec {
		c.sendRelease(s)
		if s.final {
			c.noteFinal(c.round) // a start finds it so
		}
	}
	c.tryFinish()
}

func (c *Core) sendRelease(s *member) {
	if s.connected && !s.final && s.bad == "" {
		s.sentAt = c.now
		c.send(s, &wire.Release{Command: c.command(c.round)})
	}
}

func (c *Core) onFinal(m *member, cg uint64) {
	if cg == 0 || cg != c.decided.CG {
		return
	}
	c.noteFinal(cg)
	if c.st == StateRelease && cg == c.round {
		m.final, m.state.Final, m.state.Linked, m.state.CG = true, cg, cg, cg
		if m.complete { // in this round
			m.state.Lacking = m.lacking
		}
		c.tryFinish()
	}
}

// noteFinal takes note of the decided CG, which is final somewhere, and is thereby a recovery point (R5).
func (c *Core) noteFinal(n uint64) {
	if n <= c.stats.point || !c.founded() {
		return
	}
	if c.stats.cutKnown {
		c.stats.rpo.add(c.now.Sub(c.stats.cut))
	}
	c.stats.point, c.stats.cutKnown = n, false
	if n == c.decided.CG && !c.decided.Cut.IsZero() {
		c.stats.cut, c.stats.cutKnown = c.decided.Cut, true
	}
}

func (c *Core) tryFinish() {
	if c.st != StateRelease || !all(c.sec, func(m *member) bool { return m.final }) {
		return
	}
	c.final = c.round
	c.audit(EntryFinal, c.round, "", "final on every secondary", c.pointText())
	if c.starting {
		c.abandon(CauseStart, "manager start")
		return
	}
	for _, p := range c.prim {
		c.send(p, &wire.FinalNote{Command: c.command(c.round)})
	}
	c.stats.formed++
	c.failStreak, c.linkSent = 0, false
	c.st = StateIdle
	c.nextRound = c.cutTime.Add(c.settings.Interval)
	if c.settings.Interval == 0 {
		c.nextRound = c.now.Add(c.pauseWhenIdle())
	}
	c.reserveMore()
}

// pauseWhenIdle keeps continuous replication from spinning on a group that nobody writes: it is nothing after a CG
// that brought something, and after each one in a row that was empty twice as long as before.
func (c *Core) pauseWhenIdle() time.Duration {
	if all(c.prim, func(m *member) bool { return m.blocks == 0 }) {
		c.idlePause = min(idleMost, max(idleLeast, 2*c.idlePause))
	} else {
		c.idlePause = 0
	}
	return c.idlePause
}

// reserveMore keeps some numbers in reserve, so that no cut waits for the log.
func (c *Core) reserveMore() {
	if c.reserveID == 0 && c.reserved < c.high+reserveLow {
		c.reserveTo = c.high + reserveStep
		c.reserveID = c.persist(Record{Reserve: c.reserveTo})
	}
}
