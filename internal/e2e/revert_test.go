package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/internal/sitetest"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// smallVolume is read quickly, while a command waits.
const smallVolume = 2 << 20

// halfway is a cluster stopped in the middle of linking CG n: the first secondary links it, LINK waits on its
// way to the second.
type halfway struct {
	*cluster
	g      *gates
	before uint64 // final everywhere
	n      uint64
	image  images // of CG before
	acked  uint64 // newest record when n was being linked
	seen   int    // length of the audit log before n
}

// linkHalf waits until a CG is linked on the first secondary only.
func linkHalf(c *cluster, g *gates, h *hosts) *halfway {
	c.t.Helper()
	w := &halfway{cluster: c, g: g, seen: c.seen()}
	h.awaitRecords(c.t, 20)
	g.hold(c.point()+1, wire.TypeLink, 1) // one more, so that none is on its way already
	w.n = g.awaitWaiting(c.point(), wire.TypeLink, 1)
	g.hold(w.n, wire.TypeLink, 0) // what follows the failure waits, so that it can be looked at
	w.before = c.awaitState(0, "LINKED on the first secondary", func(s target.GroupStatus) bool { return s.Linked == w.n }).Final
	s := c.awaitState(1, "the state of the second secondary", func(target.GroupStatus) bool { return true })
	if s.Linked != w.before || s.Final != w.before {
		c.t.Fatalf("while LINK waits: %+v; want CG %d", s, w.before)
	}
	w.acked = h.acked.Load()
	w.image = c.awaitImages()
	return w
}

// settled wants every secondary to show CG cg, with the contents that the copies had before n was linked.
func (w *halfway) settled(cg uint64) {
	w.t.Helper()
	for i := range w.secondaries {
		w.awaitState(i, fmt.Sprintf("CG %d everywhere", cg), func(s target.GroupStatus) bool { return s.Linked == cg && s.Final == cg })
	}
	now := w.awaitImages()
	if d := w.image.differ(now); cg == w.before && d != "" {
		w.t.Errorf("after the revert to CG %d: %s", cg, d)
	}
	if _, err := now.order(); err != nil {
		w.t.Errorf("CG %d: %v", cg, err)
	}
}

// had says what a secondary had done with LINK when it was visited.
type had int

const (
	notLinked had = iota
	linked
	either // who was faster decides
)

// visits wants the audit log to show that CG n was given up, and every control visited and reverted.
func (w *halfway) visits(want ...had) {
	w.t.Helper()
	entries := w.awaitEntry("the end of the revert", w.seen, func(e manager.Entry) bool { return e.Kind == manager.EntryRevertEnd && e.CG == w.n })
	for i := range w.secondaries {
		v := sitetest.VisitOf(entries, w.managed(i), w.n, w.before)
		said := map[had]bool{notLinked: v.NotLinked, linked: v.Linked, either: v.NotLinked || v.Linked}[want[i]]
		if !said || !v.Reverted {
			w.t.Errorf("CG %d at %s: visited as wanted (%d) %v, reverted %v; the audit log has %+v", w.n, w.secondaries[i].Name, want[i], said, v.Reverted, entries)
		}
		w.t.Logf("CG %d at %s: was found linked %v", w.n, w.secondaries[i].Name, v.Linked)
	}
}

// goOn lets the next CG be linked; it must contain what the host had an answer for when CG n was given up. None after it is
// linked before it was looked at, but where the machine is slow another one may already have been let through.
func (w *halfway) goOn() {
	w.t.Helper()
	var cg uint64
	var m images
	await(w.t, "the next CG", func() error {
		finals, err := w.finals()
		if err != nil {
			return err
		}
		if slices.Max(finals) <= w.before {
			w.letNext()
		}
		if cg = finals[0]; cg <= w.before || cg != finals[1] {
			return fmt.Errorf("final CGs %d", finals)
		}
		if m, err = w.images(); err != nil {
			return err
		}
		after, err := w.finals()
		if err == nil && !slices.Equal(finals, after) {
			err = fmt.Errorf("final CGs %d, then %d", finals, after)
		}
		return err
	})
	newest, err := m.order()
	if err != nil {
		w.t.Errorf("CG %d: %v", cg, err)
	}
	if newest < w.acked {
		w.t.Errorf("CG %d follows the reverted CG %d, but shows records to %d only; %d was written before", cg, w.n, newest, w.acked)
	}
	w.g.release()
	// What waited until now is behind: whoever asks for the recovery point next must not hear of an older one.
	w.awaitPoint(fmt.Sprintf("CG %d", cg), func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint >= cg })
}

// letNext lets the CG be linked that waits for it now. One that waited too long was given up, and another one waits.
func (w *halfway) letNext() {
	w.g.mu.Lock()
	next := min(w.g.newestWaiting(place{0, wire.TypeLink}), w.g.newestWaiting(place{1, wire.TypeLink}))
	w.g.mu.Unlock()
	if next > w.n {
		w.g.hold(next, wire.TypeLink, 0, 1)
	}
}

// TestReq15_Req16_Req17_Req18_Req21_ErrorsWhileLinking: a secondary fails when it is told to link while another one
// links already. Every control is visited, asked, and shows CG n-1, byte for byte; the next CG has the data.
func TestReq15_Req16_Req17_Req18_Req21_ErrorsWhileLinking(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	c := newCluster(t, layout{primaries: 2, secondaries: 2, proxies: true, volumeSize: smallVolume, commandTimeout: 20 * time.Second}) // one case waits for it; the others look around before it is over
	h := c.startHosts(3)
	g := newGates(c)
	s2 := c.secondaries[1]
	for _, f := range []struct {
		name string
		had  had // the second secondary, by the time of the visit
		fail func(w *halfway)
	}{
		{"killed", notLinked, func(w *halfway) {
			s2.kill()
			c.proxies[1].Cut()
			c.awaitEntry("s2 found unreachable", w.seen, func(e manager.Entry) bool {
				return e.Kind == manager.EntryUnreachable && e.Control == c.managed(1) && e.CG == w.n
			})
			s2.launch()
		}},
		{"disconnected", notLinked, func(*halfway) { c.proxies[1].Cut() }},
		// It gets LINK, and does it only after the manager gave up. A slow machine may give up before LINK got there.
		{"silent", either, func(w *halfway) {
			s2.pause()
			g.hold(w.n, wire.TypeLink, 1)
			c.awaitEntry("the revert", w.seen, func(e manager.Entry) bool { return e.Kind == manager.EntryReverted && e.CG == w.n })
			s2.resume()
		}},
	} {
		w := linkHalf(c, g, h)
		f.fail(w)
		// The frame that waited is lost with its connection, or was passed; later ones wait.
		g.hold(w.n, wire.TypeLink, 1)
		w.visits(linked, f.had)
		w.settled(w.before)
		w.goOn()
		t.Logf("%s at LINK of CG %d: reverted to %d", f.name, w.n, w.before)
	}
	c.awaitCutAfter(h.stop(t))
	c.compare()
}

// TestReq19_Req21_LastAnswerLost: every secondary has linked, and the answer of the last one is lost. All of it is
// taken back: nothing was released.
func TestReq19_Req21_LastAnswerLost(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	c := newCluster(t, layout{primaries: 2, secondaries: 2, proxies: true, volumeSize: smallVolume})
	h := c.startHosts(4)
	g := newGates(c)
	w := linkHalf(c, g, h)
	g.loseNext(wire.TypeLinked, 1)
	g.hold(w.n, wire.TypeLink, 0, 1)
	w.visits(linked, linked)
	w.settled(w.before)
	w.goOn()
	c.awaitCutAfter(h.stop(t))
	c.compare()
}

// TestReq20_DecisionLogLost: the manager is killed in the middle of a CG and its decision log deleted. It recovers
// by the decision table, from what the secondary controls say.
func TestReq20_DecisionLogLost(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	c := newCluster(t, layout{primaries: 2, secondaries: 2, proxies: true, volumeSize: smallVolume})
	h := c.startHosts(5)
	g := newGates(c)

	t.Log("none revertible")
	{
		h.awaitRecords(t, 20)
		g.hold(c.point()+1, wire.TypeLink, 0, 1) // nothing is linked while the manager is killed
		n := g.awaitWaiting(c.point(), wire.TypeLink, 0, 1)
		c.restartManager(true)
		c.planned(manager.PlanNothing)
		g.release()
		c.awaitPoint("CGs", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > n })
	}
	t.Log("some revertible, others at the CG before")
	{
		w := linkHalf(c, g, h)
		c.restartManager(true)
		c.planned(manager.PlanRevert)
		g.hold(w.n, wire.TypeLink, 1)
		w.settled(w.before)
		w.goOn()
	}
	t.Log("all revertible")
	{
		w := linkAll(c, g, h)
		c.restartManager(true)
		c.planned(manager.PlanRevert)
		w.settled(w.before)
		g.hold(1<<62, wire.TypeRelease, 0, 1)
		w.goOn()
	}
	t.Log("all revertible, but the log is there")
	{
		w := linkAll(c, g, h)
		c.restartManager(false)
		g.hold(1<<62, wire.TypeRelease, 0, 1)
		w.settled(w.n)
		w.before = w.n
		w.goOn()
	}
	t.Log("some revertible, all at one CG")
	{
		w := linkAll(c, g, h)
		g.hold(w.n, wire.TypeRelease, 0) // final there
		c.awaitState(0, "FINAL on the first secondary", func(s target.GroupStatus) bool { return s.Final == w.n })
		c.restartManager(true)
		c.planned(manager.PlanCommit)
		g.hold(1<<62, wire.TypeRelease, 0, 1)
		w.settled(w.n)
		w.before = w.n
		w.goOn()
	}
	c.awaitCutAfter(h.stop(t))
	c.compare()
}

// linkAll waits until a CG is decided: linked everywhere, RELEASE waits on its way.
func linkAll(c *cluster, g *gates, h *hosts) *halfway {
	c.t.Helper()
	w := linkHalf(c, g, h)
	g.hold(w.before, wire.TypeRelease, 0, 1)
	g.hold(w.n, wire.TypeLink, 0, 1)
	if n := g.awaitWaiting(w.before, wire.TypeRelease, 0, 1); n != w.n {
		c.t.Fatalf("RELEASE of CG %d, want %d", n, w.n)
	}
	return w
}

// restartManager kills the manager, and perhaps its decision log.
func (c *cluster) restartManager(lose bool) {
	c.t.Helper()
	c.manager.kill()
	for _, p := range c.proxies {
		p.Cut() // what waits there is lost, too
	}
	if lose {
		check(c.t, os.Remove(filepath.Join(c.dir, "m1", node.DecisionLogFile)))
	}
	c.manager.launch()
}

// planned wants the newest manager's plan.
func (c *cluster) planned(want manager.PlanAction) {
	c.t.Helper()
	all := c.awaitEntry("a plan", c.lastStart(), func(e manager.Entry) bool { return e.Kind == manager.EntryPlan })
	if plan := all[len(all)-1]; !strings.HasPrefix(plan.Did, string(want)+":") {
		c.t.Errorf("plan %+v, want %q", plan, want)
	}
}

// lastStart is where the audit log of the newest manager begins, after it has begun.
func (c *cluster) lastStart() (at int) {
	c.t.Helper()
	c.awaitManager()
	all, err := c.audit().Entries()
	check(c.t, err)
	for i, e := range all {
		if e.Kind == manager.EntryStart {
			at = i
		}
	}
	return at
}

// awaitManager waits until the manager answers.
func (c *cluster) awaitManager() {
	c.t.Helper()
	c.awaitPoint("the manager", func(manager.Status) bool { return true })
}
