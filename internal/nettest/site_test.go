package nettest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/hosttest"
	"github.com/farside-storage/farside/internal/nettest"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/internal/sitetest"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

const (
	volumeSize = 2 << 20
	poolSize   = 128 << 20
)

// site is an installation, each role on a host of its own: a manager, two primaries, two secondaries, and a volume for each pair of
// these. Timeouts are the defaults, unless a test gives others.
type site struct {
	t            testing.TB
	net          *nettest.Net
	dir          string
	m, p1, p2    *role
	s1, s2       *role
	volumes      []hosttest.Volume // v1: p1 to s1, v2: p1 to s2, v3: p2 to s1, v4: p2 to s2
	writers      *hosttest.Hosts
	watched      *watch
	seenByFilter chan event
}

// event is a moment in which the network was changed because of a message.
type event struct {
	at time.Time
	cg uint64
}

// newSite makes a site that runs; settings are lines for the group.
func newSite(t testing.TB, settings ...string) *site {
	t.Helper()
	c := &site{t: t, net: nettest.New(t), dir: folder(t)}
	for _, r := range []struct {
		at         **role
		kind, name string
	}{{&c.m, "manager", "m1"}, {&c.p1, "primary", "p1"}, {&c.p2, "primary", "p2"}, {&c.s1, "secondary", "s1"}, {&c.s2, "secondary", "s2"}} {
		*r.at = newRole(t, r.kind, r.name, c.dir, c.net.Host(r.name))
	}
	for i := range 4 {
		p, s := []*role{c.p1, c.p2}[i/2], []*role{c.s1, c.s2}[i%2]
		c.volumes = append(c.volumes, hosttest.Volume{Export: fmt.Sprintf("shop/v%d", i+1), Host: "unix:" + p.path("nbd"), Replica: "unix:" + s.path("nbd"), Blocks: volumeSize / 4096})
	}
	c.configure(strings.Join(settings, "\n"))
	for _, r := range []*role{c.s1, c.s2, c.p1, c.p2, c.m} {
		r.start()
		t.Cleanup(r.end)
	}
	c.awaitGroup("the first copy", func(s manager.Status) bool { return s.RecoveryPoint != nil })
	for _, r := range []*role{c.p1, c.p2, c.s1, c.s2} { // else awaitApart would wait for nothing
		await(t, r.Name+" to have a connection with the manager", func() error {
			n, err := r.connections(c.m)
			if err == nil && n == 0 {
				err = errors.New("none is seen")
			}
			return err
		})
	}
	c.writers = hosttest.Start(t, c.volumes, 1)
	c.watched = watchCopies(c)
	return c
}

// configure writes the configurations, and formats the pools.
func (c *site) configure(settings string) {
	c.t.Helper()
	program, err := farside()
	check(c.t, err)
	for i, s := range c.secondaries() {
		out, err := exec.Command(program, "format", "--device", s.path("pool"), "--pool", s.Name, "--create", fmt.Sprint(poolSize)).CombinedOutput()
		if err != nil {
			c.t.Fatalf("format: %v\n%s", err, out)
		}
		text := fmt.Sprintf("[secondary]\ndevices = [%q]\nnbd = %q\n", s.path("pool"), "unix:"+s.path("nbd"))
		for v := i; v < 4; v += 2 {
			text += fmt.Sprintf("[[secondary.volume]]\nname = \"v%d\"\ngroup = \"shop\"\nsize = %d\n", v+1, volumeSize)
		}
		c.write(s, text)
	}
	for i, p := range c.primaries() {
		text := fmt.Sprintf("[primary]\nnbd = %q\n", "unix:"+p.path("nbd"))
		for j, s := range c.secondaries() {
			v := 2*i + j + 1
			text += fmt.Sprintf("[[primary.volume]]\nname = \"v%d\"\ngroup = \"shop\"\nfile = %q\nsize = %d\nsecondary = %q\n", v, p.path(fmt.Sprintf("v%d", v)), volumeSize, s.address())
		}
		c.write(p, text)
	}
	c.write(c.m, fmt.Sprintf("[[manager.group]]\nname = \"shop\"\nprimaries = %s\nsecondaries = %s\ninterval = \"100ms\"\n%s\n",
		quoted([]string{c.p1.address(), c.p2.address()}), quoted([]string{c.s1.address(), c.s2.address()}), settings))
}

func (c *site) write(r *role, text string) {
	c.t.Helper()
	check(c.t, os.Mkdir(r.path("state"), 0o700))
	text = fmt.Sprintf("[node]\nname = %q\nlisten = %q\nstate_dir = %q\n\n", r.Name, r.address(), r.path("state")) + text
	check(c.t, os.WriteFile(r.path("toml"), []byte(text), 0o600))
}

func (c *site) primaries() []*role   { return []*role{c.p1, c.p2} }
func (c *site) secondaries() []*role { return []*role{c.s1, c.s2} }

func (c *site) roles() []*role { return []*role{c.m, c.p1, c.p2, c.s1, c.s2} }

// finish wants the copies equal to the primaries after the last write, and every look at them before in order.
func (c *site) finish() {
	c.t.Helper()
	c.awaitCutAfter(c.writers.Stop(c.t))
	if err := hosttest.Compare(c.volumes); err != nil {
		c.t.Error(err)
	}
	c.watched.stop()
}

// group is the manager's view.
func (c *site) group() (manager.Status, error) { return sitetest.Group(c.m.Name, c.m.status) }

func (c *site) awaitGroup(what string, ok func(manager.Status) bool) manager.Status {
	c.t.Helper()
	return sitetest.AwaitGroup(c.t, what, c.group, ok)
}

// awaitCutAfter waits for a recovery point that was cut after a time, and is final everywhere.
func (c *site) awaitCutAfter(at time.Time) (cg uint64) {
	c.t.Helper()
	c.awaitGroup("a CG cut after the failure, final everywhere", func(s manager.Status) bool {
		if s.RecoveryCut == nil || !s.RecoveryCut.After(at) {
			return false
		}
		cg = *s.RecoveryPoint
		for _, k := range s.Controls {
			if k.Role == "secondary" && (k.Final == nil || *k.Final < cg) {
				return false
			}
		}
		return true
	})
	return cg
}

// awaitWrites waits until n more records were answered: every primary answers its hosts.
func (c *site) awaitWrites(n uint64) {
	c.t.Helper()
	sitetest.AwaitCount(c.t, "answers to the hosts", c.writers.Acked.Load, n)
}

// awaitWritesTo waits until a primary answered n more writes of the hosts that write to it alone.
func (c *site) awaitWritesTo(p *role, n uint64) {
	c.t.Helper()
	v := 0
	if p == c.p2 {
		v = 2
	}
	sitetest.AwaitCount(c.t, "answers to the hosts of "+p.Name, func() uint64 { return c.writers.Random(v) }, n)
}

// state is what a secondary says of its group.
func (c *site) state(s *role) (target.GroupStatus, error) { return sitetest.Copy(s.Name, s.status) }

func (c *site) awaitState(s *role, what string, ok func(target.GroupStatus) bool) target.GroupStatus {
	c.t.Helper()
	return sitetest.AwaitCopy(c.t, s.Name, what, func() (target.GroupStatus, error) { return c.state(s) }, ok)
}

// awaitLostBy waits until the manager has no connection with a control any more, for a reason that will do, and says why.
func (c *site) awaitLostBy(control *role, because func(why string) bool) (why string) {
	c.t.Helper()
	c.awaitGroup("the manager to notice "+control.Name, func(s manager.Status) bool {
		for _, k := range s.Controls {
			if k.Name == control.address() {
				why = k.Error
				return !k.Connected && because(why)
			}
		}
		return false
	})
	return why
}

// awaitDetached waits until a primary has no stream to a secondary any more, for a reason that will do, and says why.
func (c *site) awaitDetached(p, s *role, because func(why string) bool) (why string) {
	c.t.Helper()
	await(c.t, p.Name+" to notice "+s.Name, func() error {
		var st primary.Status
		if err := p.status(&st); err != nil {
			return err
		}
		for _, k := range st.Groups[0].Connections {
			if k.Secondary == s.address() && !k.Attached && because(k.LastError) {
				why = k.LastError
				return nil
			}
		}
		return fmt.Errorf("it shows %+v", st.Groups[0].Connections)
	})
	return why
}

// awaitApart waits until a role has no connection with another one any more. Where nothing of the other one arrives, and it makes no new
// connections, only the role itself can have ended those that there were.
func (c *site) awaitApart(r, other *role) {
	c.t.Helper()
	await(c.t, r.Name+" to give "+other.Name+" up", func() error {
		n, err := r.connections(other)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d connections", n)
		}
		return err
	})
}

func anyReason(string) bool { return true }

// awaitLeftBy waits until a secondary has no connection with a primary any more, and says why.
func (c *site) awaitLeftBy(s, p *role) {
	c.t.Helper()
	await(c.t, s.Name+" to notice "+p.Name, func() error {
		var st target.Status
		if err := s.status(&st); err != nil {
			return err
		}
		for _, k := range st.Sessions {
			if k.Peer == p.Name {
				return fmt.Errorf("it shows %+v", k)
			}
		}
		return nil
	})
}

// onMessage changes the network in the moment in which a message of that type, of some CG, is for the first time on its way from one role to
// another; the message is lost if the change says so. awaitMessage waits for it.
func (c *site) onMessage(from, to *role, kind wire.Type, change func(tr *nettest.Traffic)) {
	c.t.Helper()
	seen := make(chan event, 1)
	c.seenByFilter = seen
	passed := map[uint64]bool{} // CGs; guarded by the network, as is open
	open := uint64(1 << 62)
	c.net.Change(func(tr *nettest.Traffic) {
		tr.Filter(func(tr *nettest.Traffic, f, t *nettest.Host, payload []byte) bool {
			if f != from.host || t != to.host {
				return false
			}
			cg, ok := find(payload, kind)
			if again := passed[cg]; !ok || again || cg <= open {
				passed[cg] = ok
				return false
			}
			tr.Filter(nil)
			change(tr)
			seen <- event{time.Now(), cg}
			return false
		})
	})
	// The message of a CG that comes after the one that is open now was not on its way before the filter looked: what
	// the filter has not seen is no repetition.
	now := c.awaitGroup("the open CG", func(s manager.Status) bool { return s.OpenCG > 0 }).OpenCG
	c.net.Change(func(*nettest.Traffic) { open = now })
}

func (c *site) awaitMessage() event {
	c.t.Helper()
	select {
	case e := <-c.seenByFilter:
		return e
	case <-time.After(sitetest.Patience):
		c.t.Fatal("the message never came")
		return event{}
	}
}

// find looks for a whole message in what a segment carries, and returns its CG. PROTOCOL.md, "Frame": magic "FSW1", type at byte 4, length of
// the body at 8.
func find(payload []byte, kind wire.Type) (cg uint64, ok bool) {
	for at := 0; ; at++ {
		next := bytes.Index(payload[at:], []byte("FSW1"))
		if next < 0 || len(payload) < at+next+wire.HeaderSize {
			return 0, false
		}
		at += next
		body := int(binary.LittleEndian.Uint32(payload[at+8:]))
		if wire.Type(payload[at+4]) != kind || body > len(payload)-at-wire.HeaderSize {
			continue
		}
		m, err := wire.Decode(kind, payload[at+wire.HeaderSize:][:body])
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case wire.Commanded:
			return m.Head().CG, true
		case *wire.Manifest:
			return m.CG, true
		}
	}
}

// heal undoes all that was done to the network.
func (c *site) heal() { c.net.Change((*nettest.Traffic).Heal) }

// audit is the manager's audit log.
func (c *site) audit() sitetest.AuditLog {
	return sitetest.AuditLog{Path: filepath.Join(c.m.path("state"), node.AuditLogFile)}
}

// awaitEntry waits for an entry behind the first seen ones, and returns all from there to it.
func (c *site) awaitEntry(what string, seen int, ok func(manager.Entry) bool) []manager.Entry {
	c.t.Helper()
	return c.audit().Await(c.t, what, seen, ok)
}

func (c *site) seen() int {
	c.t.Helper()
	return c.audit().Seen(c.t)
}

// visited wants the audit log to show that CG cg was given up, and every secondary visited and reverted; one of them must have shown that it
// had linked the CG, or that it had not.
func (c *site) visited(seen int, cg uint64, one *role, linked bool) {
	c.t.Helper()
	entries := c.awaitEntry("the end of the revert", seen, func(e manager.Entry) bool { return e.Kind == manager.EntryRevertEnd && e.CG == cg })
	for _, s := range c.secondaries() {
		v := sitetest.VisitOf(entries, s.address(), cg, 0)
		said := v.Linked || v.NotLinked
		if s == one {
			said = v.Linked && linked || v.NotLinked && !linked
		}
		if !said || !v.Reverted {
			c.t.Errorf("CG %d at %s: visited %v, reverted %v; %s had linked it: %v; the audit log has %+v", cg, s.Name, said, v.Reverted, one.Name, linked, entries)
		}
	}
}
