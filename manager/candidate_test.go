package manager_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/manager/etcdlog"
	"github.com/farside-storage/farside/wire"
)

// patience is after how long a test gives up.
const patience = 3 * time.Minute

var prefixes atomic.Uint64

func newPrefix() string { return fmt.Sprintf("test/%d", prefixes.Add(1)) }

// rival is one of several managers of a site, with a gate between it and etcd.
type rival struct {
	*manager.Candidate
	t     *testing.T
	name  string
	audit *manager.AuditLog
	gate  *etcdtest.Gate // nil: it reaches all members directly
	stop  func()         // as an operator stops it
}

func election(t *testing.T, name, prefix string, lease time.Duration, endpoints []string) *etcdlog.Cluster {
	t.Helper()
	c, err := etcdlog.Open(etcdlog.Options{Endpoints: endpoints, Prefix: prefix, Lease: lease, Name: name, Listen: "unix:/" + name,
		Groups: []string{"g"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// gated starts a manager that reaches etcd through a gate.
func gated(t *testing.T, s manager.Site, addrs map[string]string, name, prefix string, lease time.Duration, servers *etcdtest.Servers) *rival {
	t.Helper()
	g := etcdtest.NewGate(t, servers.Members[0].Addr)
	r := direct(t, s, addrs, name, prefix, lease, []string{g.Addr})
	r.gate = g
	return r
}

func direct(t *testing.T, s manager.Site, addrs map[string]string, name, prefix string, lease time.Duration, endpoints []string) *rival {
	t.Helper()
	o := s.Options(t, name, addrs)
	o.Listen = "127.0.0.1:0"
	c, err := manager.NewCandidate(t.Context(), o, election(t, name, prefix, lease, endpoints))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	r := &rival{Candidate: c, t: t, name: name, audit: o.Audit}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("manager %s: %v", name, err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// kill ends a manager as a power failure does: etcd hears nothing more of it.
func (r *rival) kill() {
	r.gate.Shut()
	r.stop()
}

// expire has etcd end the leader's lease, as it does by itself when the lease is not renewed in time. With leases that are short enough to be waited for, a
// leader loses the lead by itself whenever the machine stands still for that long.
func expire(t *testing.T, servers *etcdtest.Servers, prefix, leader string) {
	t.Helper()
	withEtcd(t, servers.Addrs(), func(c *clientv3.Client) {
		r, err := c.Get(t.Context(), prefix+"/leader/", clientv3.WithFirstCreate()...)
		if err != nil || len(r.Kvs) != 1 || !strings.Contains(string(r.Kvs[0].Value), fmt.Sprintf("%q", leader)) {
			t.Fatalf("leader %s: %v, %v", leader, r, err)
		}
		if _, err := c.Revoke(t.Context(), clientv3.LeaseID(r.Kvs[0].Lease)); err != nil {
			t.Fatal(err)
		}
	})
}

// withEtcd calls f with a client of its own.
func withEtcd(t *testing.T, endpoints []string, f func(*clientv3.Client)) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f(c)
}

// await asks the manager for its state until ok.
func (r *rival) await(what string, ok func(manager.NodeStatus) bool) (st manager.NodeStatus) {
	r.t.Helper()
	r.until(what, func() bool {
		var err error
		st, err = r.Status(r.t.Context())
		return err == nil && ok(st)
	})
	return st
}

// until asks until ok.
func (r *rival) until(what string, ok func() bool) {
	r.t.Helper()
	for late := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) { // between two questions
		if time.Now().After(late) {
			st, err := r.Status(r.t.Context())
			r.t.Fatalf("manager %s never: %s; %v, %+v", r.name, what, err, st.Leadership)
		}
	}
}

func (r *rival) awaitLeads() manager.NodeStatus {
	r.t.Helper()
	return r.await("leads", func(st manager.NodeStatus) bool { return st.Leadership.Leads })
}

func (r *rival) awaitStandby(leader string) {
	r.t.Helper()
	r.await("stands by", func(st manager.NodeStatus) bool {
		return !st.Leadership.Leads && st.Leadership.Leader != nil && *st.Leadership.Leader == leader
	})
}

// TestReq20_LeaderKilledAtEachStep: another manager takes over, brings every secondary to the same CG and goes on; nothing final goes back, and
// no control acts for the old leader once it has heard of the new one.
func TestReq20_LeaderKilledAtEachStep(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 1)
	t.Run("steps", func(t *testing.T) {
		var steps sync.WaitGroup // they wait for leases most of the time: all at once, more than t.Parallel would run
		defer steps.Wait()
		for _, at := range []struct {
			control string
			typ     wire.Type
			start   bool // comes when a manager takes over
		}{
			{"p1", wire.TypeHold, false}, {"p2", wire.TypeThaw, false}, {"s1", wire.TypeLink, false}, {"s2", wire.TypeLink, false},
			{"s1", wire.TypeRelease, false}, {"s2", wire.TypeRelease, false}, {"p1", wire.TypeFinalNote, false},
			{"s1", wire.TypeFence, true}, {"s2", wire.TypeRevert, true}, {"p1", wire.TypeOpen, true},
		} {
			for _, acts := range []bool{false, true} {
				steps.Go(func() {
					t.Run(fmt.Sprintf("%v to %s, acts=%v", at.typ, at.control, acts), func(t *testing.T) {
						killLeaderAt(t, servers, at.control, at.typ, at.start, acts)
					})
				})
			}
		}
	})
}

func killLeaderAt(t *testing.T, servers *etcdtest.Servers, control string, typ wire.Type, atStart, acts bool) {
	s, prefix := manager.NewSite(t, 2, 2), newPrefix()
	addrs := s.Listen()
	var armed, hit bool
	var old uint64 // the first leader's epoch
	var finals []uint64
	seen := 0
	armed = atStart
	s.See(func(c string, epoch uint64, m wire.Message) bool {
		if old == 0 {
			old = epoch
		}
		if epoch != old {
			return true
		}
		if hit {
			return false // the dead one is not heard any more
		}
		if !armed || c != control || m.Type() != typ {
			return true
		}
		if seen++; !atStart && seen < 3 {
			return true
		}
		hit, finals = true, s.Finals()
		return acts
	})
	a := gated(t, s, addrs, "a", prefix, etcdlog.MostLease, servers)
	a.awaitLeads()
	b := direct(t, s, addrs, "b", prefix, etcdlog.MostLease, servers.Addrs())
	b.awaitStandby("a")
	s.Locked(func() { armed = true })
	s.Await("the step", func() bool { return hit })
	killed := time.Now()
	a.kill()
	expire(t, servers, prefix, "a")
	b.awaitLeads()
	leads := time.Since(killed)
	s.AwaitFinal(2)
	t.Logf("leads after %v, two new recovery points after %v", leads.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	s.Locked(func() {
		for i, f := range s.Finals() {
			if f < finals[i] {
				t.Errorf("a secondary had CG %d final, now %d", finals[i], f)
			}
		}
		for i, e := range s.Epochs() {
			if e <= old {
				t.Errorf("control %s was not fenced: epoch %d", s.Names()[i], e)
			}
		}
	})
}

// decidedKeys returns the keys of the decisions in etcd.
func decidedKeys(t *testing.T, servers *etcdtest.Servers, prefix string) (keys []string) {
	t.Helper()
	withEtcd(t, servers.Addrs(), func(c *clientv3.Client) {
		r, err := c.Get(t.Context(), prefix+"/group/g/decided/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range r.Kvs {
			keys = append(keys, string(kv.Key))
		}
	})
	return keys
}

// TestReq20_LeaderKilledWhileDeciding: every secondary has linked, and the leader is killed before it knows that its decision is durable. What
// is in the log counts: if the decision never arrived, all go back; if only the answer was lost, all go forward.
func TestReq20_LeaderKilledWhileDeciding(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 1)
	t.Run("the record", func(t *testing.T) {
		var records sync.WaitGroup
		defer records.Wait()
		for _, arrives := range []bool{false, true} {
			records.Go(func() {
				t.Run(fmt.Sprintf("arrives=%v", arrives), func(t *testing.T) { killWhileDeciding(t, servers, arrives) })
			})
		}
	})
}

func killWhileDeciding(t *testing.T, servers *etcdtest.Servers, arrives bool) {
	s, prefix := manager.NewSite(t, 2, 2), newPrefix()
	addrs := s.Listen()
	a := gated(t, s, addrs, "a", prefix, etcdlog.MostLease, servers)
	a.awaitLeads()
	b := direct(t, s, addrs, "b", prefix, etcdlog.MostLease, servers.Addrs())
	b.awaitStandby("a")
	s.AwaitFinal(1)
	var old, cg uint64
	released := map[uint64]bool{}
	s.See(func(_ string, epoch uint64, m wire.Message) bool {
		h := m.(wire.Commanded).Head()
		if m.Type() == wire.TypeLink && cg == 0 {
			old, cg = epoch, h.CG
			if arrives {
				a.gate.ShutAnswers()
			} else {
				a.gate.Shut()
			}
		}
		if m.Type() == wire.TypeRelease && h.CG == cg {
			if epoch == old {
				t.Errorf("CG %d was released by the leader that could not know that it is decided", cg)
			}
			released[cg] = true
		}
		return true
	})
	s.Await("linked everywhere", func() bool { return cg > 0 && !slices.ContainsFunc(s.Linked(), func(l uint64) bool { return l != cg }) })
	st := a.await("waits for the log", func(st manager.NodeStatus) bool {
		return len(st.Groups) == 1 && st.Groups[0].State == manager.StateDecided
	})
	if w := st.Groups[0].Waiting; !strings.Contains(w, "decision log") {
		t.Errorf("waits for %q", w)
	}
	for arrives && !slices.ContainsFunc(decidedKeys(t, servers, prefix), func(k string) bool { return strings.HasSuffix(k, fmt.Sprintf("/%016x", cg)) }) {
	}
	a.kill()
	expire(t, servers, prefix, "a")
	b.awaitLeads()
	s.AwaitFinal(2)
	s.Locked(func() {
		if s.Reverted() > 0 == arrives || released[cg] != arrives {
			t.Errorf("the decision for CG %d is in the log: %v; links taken back: %d, released: %v", cg, arrives, s.Reverted(), released[cg])
		}
	})
}

// TestReq20_OldLeaderIsRefused: a manager that won its term, slept, and wakes up after another one took over. It is refused by the
// controls and by the log, and disturbs nobody.
func TestReq20_OldLeaderIsRefused(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 1)
	s, prefix := manager.NewSite(t, 2, 3), newPrefix()
	addrs := s.Listen()
	gate := etcdtest.NewGate(t, servers.Members[0].Addr)
	term, err := election(t, "old", prefix, etcdlog.MostLease, []string{gate.Addr}).Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	o := s.Options(t, "old", addrs)
	o.Log = term
	asleep, err := manager.NewNode(t.Context(), o) // it has its epoch
	if err != nil {
		t.Fatal(err)
	}
	gate.Shut()
	expire(t, servers, prefix, "old")
	b := direct(t, s, addrs, "new", prefix, etcdlog.MostLease, servers.Addrs())
	b.awaitLeads()
	s.AwaitFinal(2)
	var now []uint64
	s.Locked(func() { now = s.Epochs() })
	asked := map[string]bool{}
	s.See(func(control string, epoch uint64, _ wire.Message) bool {
		if epoch >= now[0] {
			return true
		}
		asked[control] = true
		return len(asked) == len(s.Names()) // the first refusal would end it before it asked the others
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- asleep.Run(ctx) }()
	s.Await("every control was asked", func() bool { return len(asked) == len(s.Names()) })
	for halted := false; !halted; {
		st, err := asleep.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		halted = st.Groups[0].State == manager.StateHalted
	}
	gate.Open()
	if err := term.Append("g", manager.Record{Reserve: 1 << 20}); !errors.Is(err, manager.ErrNotLeader) {
		t.Errorf("the log took a record of the old leader: %v", err)
	}
	if _, err := term.Begin("g", 0); !errors.Is(err, manager.ErrNotLeader) {
		t.Errorf("the log gave the old leader an epoch: %v", err)
	}
	s.AwaitFinal(2)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if st := b.awaitLeads(); st.Groups[0].CGsFailed > 0 {
		t.Errorf("the new leader was disturbed: %+v", st.Groups[0].LastFailure)
	}
}

// TestStandby: a manager that stands by says who leads, refuses changes, and takes over at once from one that is stopped.
func TestStandby(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 1)
	s, prefix := manager.NewSite(t, 1, 1), newPrefix()
	addrs := s.Listen()
	a := direct(t, s, addrs, "a", prefix, etcdlog.MostLease, servers.Addrs()) // it gives that up when it is stopped
	s.AwaitFinal(1)
	b := direct(t, s, addrs, "b", prefix, etcdlog.MostLease, servers.Addrs())
	b.awaitStandby("a")
	var st manager.NodeStatus
	b.until("tells a tool who leads", func() bool { // etcd may be too slow to answer one question
		st = manager.AskStatus(t, b.Addr().String())
		return st.Leadership == nil || st.Leadership.Leader != nil
	})
	if l := st.Leadership; len(st.Groups) != 0 || l == nil || l.Leads || *l.Leader != "a" || l.LeaderListen != "unix:/a" || l.Problem != "" {
		t.Fatalf("%+v", st)
	}
	b.until("refuses a change and says who leads", func() bool {
		err := manager.AskPause(t, b.Addr().String())
		if err == nil {
			t.Fatal("a manager that stands by took a change")
		}
		return strings.Contains(err.Error(), "manager a at unix:/a")
	})
	if err := manager.AskPause(t, a.Addr().String()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	b.await("has taken over, and what was set is kept", func(st manager.NodeStatus) bool {
		return len(st.Groups) == 1 && st.Groups[0].Paused && st.Leadership.Leads && st.Leadership.Leader != nil && *st.Leadership.Leader == "b"
	})
}

// TestReq20_LogGone: without its etcd a manager decides nothing and says why; when etcd is back, it goes on by itself.
func TestReq20_LogGone(t *testing.T) {
	t.Parallel()
	for members, kill := range map[int][]int{1: {0}, 3: {1, 2}} {
		t.Run(fmt.Sprintf("%d of %d members", len(kill), members), func(t *testing.T) {
			t.Parallel()
			servers := etcdtest.Start(t, members)
			s, prefix := manager.NewSite(t, 1, 2), newPrefix()
			a := direct(t, s, s.Listen(), "a", prefix, etcdlog.LeastLease, servers.Addrs())
			s.AwaitFinal(2)
			for _, i := range kill {
				servers.Members[i].Kill()
			}
			st := a.await("stands by", func(st manager.NodeStatus) bool { return !st.Leadership.Leads && st.Leadership.Error != "" })
			var finals []uint64
			s.Locked(func() { finals = s.Finals() })
			if l := st.Leadership; l.Leader != nil || l.Ended == "" || l.EndedAt == nil {
				t.Errorf("%+v", l)
			}
			for _, i := range kill {
				servers.Members[i].Start()
			}
			a.awaitLeads()
			s.AwaitFinal(2)
			s.Locked(func() {
				for i, f := range s.Finals() {
					if f <= finals[i] {
						t.Errorf("final %d before, %d after", finals[i], f)
					}
				}
			})
			stopped := func(e manager.Entry) bool { return e.Kind == manager.EntryStandby && e.Group == "g" && e.Said != "" }
			if !slices.ContainsFunc(a.audit.Tail(1000), stopped) {
				t.Error("the audit log does not tell that the manager stopped leading")
			}
		})
	}
}

// TestReq20_MemberKilled: of three members any one may be killed, and come back, while CGs are formed.
func TestReq20_MemberKilled(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 3)
	s, prefix := manager.NewSite(t, 1, 2), newPrefix()
	addrs := s.Listen()
	direct(t, s, addrs, "a", prefix, etcdlog.LeastLease, servers.Addrs())
	s.AwaitFinal(1)
	direct(t, s, addrs, "b", prefix, etcdlog.LeastLease, servers.Addrs())
	for _, m := range servers.Members {
		m.Kill()
		s.AwaitFinal(3)
		m.Start()
		s.AwaitFinal(3)
		awaitMember(t, m)
	}
}

// TestReq20_MemberFrozen: of three members one may stand still, and then another, its connections open, while CGs are formed.
func TestReq20_MemberFrozen(t *testing.T) {
	t.Parallel()
	servers := etcdtest.Start(t, 3)
	s, prefix := manager.NewSite(t, 1, 2), newPrefix()
	addrs := s.Listen()
	direct(t, s, addrs, "a", prefix, etcdlog.LeastLease, servers.Addrs())
	s.AwaitFinal(1)
	direct(t, s, addrs, "b", prefix, etcdlog.LeastLease, servers.Addrs())
	for _, m := range servers.Members[:2] {
		m.Freeze()
		s.AwaitFinal(3)
		m.Thaw()
		s.AwaitFinal(3)
		awaitMember(t, m)
	}
}

// TestReq20_FrozenEndpoint: etcd stands still as far as the manager can see. It decides nothing and says why, and goes on when etcd does.
func TestReq20_FrozenEndpoint(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]int{"the only member": 1, "the only one that the manager knows": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := etcdtest.Start(t, members)
			s, prefix := manager.NewSite(t, 1, 2), newPrefix()
			a := direct(t, s, s.Listen(), "a", prefix, etcdlog.LeastLease, servers.Addrs()[:1])
			s.AwaitFinal(2)
			servers.Members[0].Freeze()
			st := a.await("stands by", func(st manager.NodeStatus) bool { return !st.Leadership.Leads && st.Leadership.Error != "" })
			if l := st.Leadership; l.Leader != nil || l.Since != nil || l.TakeoverMillis != nil || l.Ended == "" || l.EndedAt == nil {
				t.Errorf("%+v", l)
			}
			if err := manager.AskPause(t, a.Addr().String()); err == nil || !strings.Contains(err.Error(), "stands by, and who leads is not known") {
				t.Errorf("a change while etcd stands still: %v", err)
			}
			servers.Members[0].Thaw()
			st = a.await("leads and has taken over", func(st manager.NodeStatus) bool { return st.Leadership.Leads && st.Leadership.TakeoverMillis != nil })
			if l := st.Leadership; l.Since == nil || l.Since.Before(*l.EndedAt) || *l.TakeoverMillis < 0 {
				t.Errorf("%+v", l)
			}
			t.Logf("took over within %.1f ms of leading", *st.Leadership.TakeoverMillis)
			s.AwaitFinal(2)
		})
	}
}

// awaitMember waits until a member has caught up: it answers a question that needs the majority.
func awaitMember(t *testing.T, m *etcdtest.Member) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		_, err := c.Get(ctx, "x")
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
