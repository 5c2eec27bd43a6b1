package manager

import (
	"fmt"
	"time"
)

// timers does what is due at c.now.
func (c *Core) timers() {
	if c.st == StateHalted {
		return
	}
	if !c.deadline.IsZero() && !c.now.Before(c.deadline) {
		c.expired()
	}
	c.retry()
	if !c.now.Before(c.nextPoll) {
		c.nextPoll = c.now.Add(pollInterval)
		c.poll()
	}
}

// expired: the state took longer than allowed.
func (c *Core) expired() {
	c.deadline = time.Time{}
	switch c.st {
	case StateHold:
		c.failHold("not held within the coordination timeout: " + missing(c.prim, func(m *member) bool { return m.held }))
	case StateThaw:
		c.abandon(CauseTimeout, "no answer to THAW: "+missing(c.prim, func(m *member) bool { return m.thawed }))
	case StateDrain:
		c.abandon(CauseTimeout, fmt.Sprintf("drain timeout %v: not drained: [%s], not complete: [%s]", c.settings.DrainTimeout,
			missing(c.prim, func(m *member) bool { return m.drained }), missing(c.sec, func(m *member) bool { return m.complete })))
	case StateLink:
		c.abandon(CauseTimeout, "no answer to LINK: "+missing(c.sec, func(m *member) bool { return m.linked }))
	}
}

// retry repeats what must be done in the end, however often it fails.
func (c *Core) retry() {
	for _, s := range c.repeated() {
		if !c.retryDue(s) || c.now.Before(s.sentAt.Add(retryInterval)) {
			continue
		}
		switch {
		case c.st == StateRelease:
			c.sendRelease(s)
		case s.visit == visitRevert:
			c.sendRevert(s)
		case s.visit == visitRefused:
			s.visit, s.sentAt = visitAsked, c.now
			c.query(s)
		}
	}
}

// repeated are the members to which a command may have to be sent again. Most events arrive in states in which there
// are none, so that an event does not cost more with more secondaries.
func (c *Core) repeated() []*member {
	if c.st == StateRelease || c.st == StateReverting {
		return c.sec
	}
	return nil
}

func (c *Core) retryDue(s *member) bool {
	if !s.connected {
		return false
	}
	return c.st == StateRelease && !s.final && s.bad == "" ||
		c.st == StateReverting && (s.visit == visitRevert || s.visit == visitRefused)
}

// poll asks the secondaries how they are, and drops connections on which a question stays unanswered.
func (c *Core) poll() {
	late := func(since time.Time) bool { return c.now.Sub(since) >= c.settings.CommandTimeout }
	for _, s := range c.sec {
		switch {
		case !s.connected:
		case s.queries > 0 && late(s.askedSince):
			c.reconnect(s, fmt.Sprintf("no answer to QUERY for %v", c.settings.CommandTimeout))
		case s.queries == 0:
			c.query(s)
		}
	}
	for _, p := range c.prim {
		if p.connected && p.opens > 0 && late(p.openSince) {
			c.reconnect(p, fmt.Sprintf("no answer to OPEN for %v", c.settings.CommandTimeout))
		}
	}
	c.watchRPO()
}

// watchRPO writes the RPO alert's beginning and end into the audit log.
func (c *Core) watchRPO() {
	over := c.rpoOver(c.now)
	if over == c.stats.rpoAlert {
		return
	}
	c.stats.rpoAlert = over
	did := "alert ended"
	if over {
		did = "alert raised"
	}
	c.audit(EntryAlert, c.stats.point, "", fmt.Sprintf("RPO threshold %v", c.settings.RPOAlert), did)
}

func (c *Core) rpoOver(now time.Time) bool {
	return c.settings.RPOAlert > 0 && c.stats.cutKnown && now.Sub(c.stats.cut) > c.settings.RPOAlert
}

// rearm sets the timer to the next moment at which something is due.
func (c *Core) rearm() {
	var next time.Time
	earliest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if c.st != StateHalted {
		earliest(c.deadline)
		earliest(c.nextPoll)
		if c.st == StateIdle && c.nextRound.After(c.now) {
			earliest(c.nextRound)
		}
		for _, s := range c.repeated() {
			if c.retryDue(s) {
				earliest(s.sentAt.Add(retryInterval))
			}
		}
	}
	if !next.Equal(c.timer) {
		c.timer = next
		c.out = append(c.out, SetTimer{next})
	}
}
