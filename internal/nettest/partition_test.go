package nettest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/nettest"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// silent says whether a connection ended because its peer was silent for as long as a peer may be by default. The kernel notices by itself, a
// little later, and is first where a process is not run for that long; if by then it does not know the way any more, it says that.
func silent(why string) bool {
	return strings.Contains(why, "for 3s: peer is silent") || strings.Contains(why, "for 3.75s: peer is silent") || strings.Contains(why, "no route to host")
}

// gone says whether a connection ended as by silent, or another attempt to make it has failed since. Where the machine stood still just before
// the network was cut, the other side may have been the one to end it.
func gone(why string) bool { return silent(why) || strings.Contains(why, "dial") }

// noticed logs how long it took. What bounds it is the time in the error.
func noticed(t testing.TB, what string, since time.Time) {
	t.Helper()
	t.Logf("%s: noticed %v after the cut", what, time.Since(since).Round(10*time.Millisecond))
}

// TestReq15_Req16_Req18_Req21_PartitionWhileLinking: the manager and one secondary cannot reach each other from the moment in which LINK is on
// its way, or its answer, in both directions or one. The other secondary goes back at once, this one when it is reached again; hosts
// write all the time.
func TestReq15_Req16_Req18_Req21_PartitionWhileLinking(t *testing.T) {
	long(t)
	t.Parallel()
	c := newSite(t)
	for _, p := range []struct {
		name     string
		from, to *role
		kind     wire.Type
		cut      func(tr *nettest.Traffic)
		linked   bool  // on s2
		notices  *role // what it notices by itself, for nothing comes; the other one may by what this one does then
	}{
		{"LINK lost, both directions", c.m, c.s2, wire.TypeLink, func(tr *nettest.Traffic) { tr.Cut(c.m.host, c.s2.host) }, false, c.m},
		{"LINK and all that follows lost, reports come", c.m, c.s2, wire.TypeLink, func(tr *nettest.Traffic) { tr.Lose(c.m.host, c.s2.host) }, false, c.s2},
		{"LINKED and all that follows lost, commands come", c.s2, c.m, wire.TypeLinked, func(tr *nettest.Traffic) { tr.Lose(c.s2.host, c.m.host) }, true, c.m},
	} {
		seen, from := c.seen(), len(p.notices.log(0))
		c.onMessage(p.from, p.to, p.kind, p.cut)
		cut := c.awaitMessage()
		why := c.awaitLostBy(c.s2, anyReason)
		noticed(t, p.name+", by the manager", cut.at)
		if p.notices == c.m {
			c.m.awaitLog(from, "a peer that is gone", gone)
		} else {
			c.awaitApart(p.notices, c.m)
		}

		// Whatever the other secondary had linked, it goes back; the group waits for this one.
		c.awaitGroup("REVERTING", func(s manager.Status) bool { return s.State == manager.StateReverting })
		before := c.awaitState(c.s1, "reverted", func(g target.GroupStatus) bool { return g.Linked < cut.cg && g.Final == g.Linked }).Final
		c.awaitEntry("s2 found unreachable", seen, func(e manager.Entry) bool {
			return e.Kind == manager.EntryUnreachable && e.Control == c.s2.address() && e.CG == cut.cg
		})
		if g := c.awaitState(c.s2, "an answer", anything); g.Final != before || (g.Linked == cut.cg) != p.linked {
			t.Errorf("%s: s2 shows %+v; CG %d was final, CG %d being linked", p.name, g, before, cut.cg)
		}
		c.awaitWrites(50)
		s := c.awaitGroup("an answer", func(manager.Status) bool { return true })
		if s.State != manager.StateReverting || *s.RecoveryPoint != before || !strings.Contains(s.Waiting, c.s2.address()) {
			t.Errorf("%s: while s2 cannot be reached: %v, recovery point %d, waits for %q", p.name, s.State, *s.RecoveryPoint, s.Waiting)
		}

		c.heal()
		c.visited(seen, cut.cg, c.s2, p.linked)
		next := c.awaitCutAfter(time.Now())
		t.Logf("%s at CG %d (%s): CG %d was shown, CG %d followed", p.name, cut.cg, why, before, next)
	}
	c.finish()
}

// TestPartitionWhileDraining: a primary and a secondary cannot reach each other from the moment in which the end of a CG is on its way. The
// primary records changes, and goes on where it was.
func TestPartitionWhileDraining(t *testing.T) {
	long(t)
	t.Parallel()
	c := newSite(t)
	for _, p := range []struct {
		name    string
		cut     func(tr *nettest.Traffic)
		notices []*role // by themselves, for nothing comes
	}{
		{"both directions", func(tr *nettest.Traffic) { tr.Cut(c.p1.host, c.s2.host) }, []*role{c.p1, c.s2}},
		{"updates lost, credits come", func(tr *nettest.Traffic) { tr.Lose(c.p1.host, c.s2.host) }, []*role{c.s2}},
		{"credits lost, updates come", func(tr *nettest.Traffic) { tr.Lose(c.s2.host, c.p1.host) }, []*role{c.p1}},
	} {
		from := len(c.p1.log(0))
		c.onMessage(c.p1, c.s2, wire.TypeManifest, p.cut)
		cut := c.awaitMessage()
		why := c.awaitDetached(c.p1, c.s2, anyReason)
		noticed(t, p.name+", by the primary", cut.at)
		for _, r := range p.notices {
			if r == c.p1 {
				r.awaitLog(from, "a peer that is gone", gone)
			} else {
				c.awaitApart(r, c.p1)
			}
		}
		c.awaitWrites(50)
		healed := time.Now()
		c.heal()
		t.Logf("%s at CG %d (%s): CG %d followed", p.name, cut.cg, why, c.awaitCutAfter(healed))
	}

	// From one host to all others: nobody reaches anybody.
	cut := time.Now()
	c.net.Change(func(tr *nettest.Traffic) {
		tr.Isolate(c.m.host, c.p1.host, c.p2.host, c.s1.host, c.s2.host)
	})
	isolated := time.Now()
	for _, p := range c.primaries() {
		c.awaitLostBy(p, anyReason)
		for _, s := range c.secondaries() {
			c.awaitDetached(p, s, anyReason)
			c.awaitLeftBy(s, p)
		}
	}
	for _, s := range c.secondaries() {
		c.awaitLostBy(s, anyReason)
	}
	for _, r := range []*role{c.p1, c.p2, c.s1, c.s2} {
		c.awaitApart(r, c.m)
	}
	noticed(t, "everything from everything, by all", cut)
	c.awaitWrites(50)
	stood := c.finals()
	for _, cg := range stood {
		c.cutBefore(cg, isolated)
	}
	healed := time.Now()
	c.heal()
	t.Logf("everything from everything at final CGs %v: CG %d followed", stood, c.awaitCutAfter(healed))
	c.finish()
}

func anything(target.GroupStatus) bool { return true }

// cutBefore wants a CG, which is final somewhere, to have been cut before a time. From the cut of a CG to its decision commands and answers
// cross the network.
func (c *site) cutBefore(cg uint64, at time.Time) {
	c.t.Helper()
	entries, err := c.audit().Entries()
	check(c.t, err)
	for _, e := range entries {
		if e.Kind == manager.EntryCut && e.CG == cg && e.Time.Before(at) {
			return
		}
	}
	c.t.Errorf("CG %d is final, and was not cut before %v: the audit log has %+v", cg, at, entries[max(0, len(entries)-10):])
}

func (c *site) finals() (cgs [2]uint64) {
	c.t.Helper()
	for i, s := range c.secondaries() {
		cgs[i] = c.awaitState(s, "an answer", anything).Final
	}
	return cgs
}

// TestSilentPeers: hosts that vanish without a word, and come back knowing nothing of their connections; processes that stand
// still, whose kernel goes on to acknowledge. Each is noticed by all who had to do with it.
func TestSilentPeers(t *testing.T) {
	long(t)
	t.Parallel()
	c := newSite(t)

	cut := time.Now()
	c.net.Change(func(tr *nettest.Traffic) { tr.Isolate(c.s1.host) })
	c.s1.kill() // what its kernel says of that is lost
	c.awaitLostBy(c.s1, gone)
	c.awaitDetached(c.p1, c.s1, gone)
	c.awaitDetached(c.p2, c.s1, gone)
	noticed(t, "s1 vanished, by all", cut)
	c.awaitWrites(50)
	c.s1.host.Replace()
	healed := time.Now()
	c.heal()
	c.s1.start()
	t.Logf("s1 vanished and came back: CG %d followed", c.awaitCutAfter(healed))

	for _, f := range []struct {
		frozen *role
		notice func() // by those who had to do with it
	}{
		{c.s2, func() {
			c.awaitLostBy(c.s2, anyReason)
			c.awaitDetached(c.p1, c.s2, anyReason)
			c.awaitDetached(c.p2, c.s2, anyReason)
		}},
		{c.p1, func() {
			c.awaitLostBy(c.p1, anyReason)
			c.awaitLeftBy(c.s1, c.p1)
			c.awaitLeftBy(c.s2, c.p1)
		}},
		{c.m, func() {}},
	} {
		cut, from := time.Now(), c.logged()
		f.frozen.freeze()
		f.notice()
		c.awaitSilent(f.frozen, from)
		noticed(t, f.frozen.Name+" stood still, by all", cut)
		c.awaitWritesTo(c.p2, 50)
		if f.frozen != c.p1 { // whose hosts can only wait
			c.awaitWrites(50)
		}
		thawed := time.Now()
		f.frozen.thaw()
		t.Logf("%s stood still: CG %d followed", f.frozen.Name, c.awaitCutAfter(thawed))
	}
	c.finish()
}

// logged is how much each role has logged.
func (c *site) logged() map[*role]int {
	n := map[*role]int{}
	for _, r := range c.roles() {
		n[r] = len(r.log(0))
	}
	return n
}

// awaitSilent waits until every role that has to do with one has noticed that it is silent. Whoever connects to it logs so: if the connection
// had just ended for another reason, the next one is silent from its beginning. Whoever it connects to may have had no connection at
// the time, and keeps none.
func (c *site) awaitSilent(one *role, from map[*role]int) {
	c.t.Helper()
	for _, r := range c.roles() {
		switch {
		case r == one || r.Kind == one.Kind:
		case r.Kind == "manager" || r.Kind == "primary" && one.Kind == "secondary":
			r.awaitLog(from[r], "that "+one.Name+" is silent", func(line string) bool {
				return silent(line) && (strings.Contains(line, one.Name) || strings.Contains(line, one.address()))
			})
		default:
			c.awaitApart(r, one)
		}
	}
}

// TestSlowAndLossyNetwork: CGs are formed over a network that delays everything and loses some of it.
func TestSlowAndLossyNetwork(t *testing.T) {
	long(t)
	t.Parallel()
	c := newSite(t, "coordination_timeout = \"1s\"")
	c.net.Change(func(tr *nettest.Traffic) { tr.Shape(nettest.Shape{Delay: 5 * time.Millisecond, Loss: 0.01}) })
	for range 3 {
		c.awaitWrites(20)
		c.awaitCutAfter(time.Now())
	}
	s := c.awaitGroup("an answer", func(manager.Status) bool { return true })
	t.Logf("5 ms delay each way, 1 %% lost: %d CGs formed, %d failed, %d holds failed, %d reverts; RPO p50 %v ms", s.CGsFormed, s.CGsFailed, s.HoldsFailed, s.Reverts, *s.RPO.P50)
	c.finish()
}
