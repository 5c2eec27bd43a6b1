package etcdlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/manager/etcdlog"
)

// TestOnlyTheLeaderWrites: from the moment another manager may lead, the old one's writes are refused, and epochs grow from term to term.
func TestOnlyTheLeaderWrites(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	b := open(t, o)
	gate := etcdtest.NewGate(t, s.Members[0].Addr)
	o.Endpoints = []string{gate.Addr}
	a := open(t, o)
	old := campaign(t, a)
	first, err := old.Begin("g", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Append("g", manager.Record{Reserve: 64}); err != nil {
		t.Fatal(err)
	}
	gate.Shut()
	late := make(chan error, 1)
	go func() { late <- old.Append("g", manager.Record{Reserve: 1 << 30}) }()
	runOut(t, s, o)
	term := campaign(t, b)
	second, err := term.Begin("g", 0)
	if err != nil {
		t.Fatal(err)
	}
	if second.Epoch <= first.Epoch || second.Reserved != 64 {
		t.Fatalf("the next term got %+v after %+v", second, first)
	}
	gate.Open()
	if err := <-late; !errors.Is(err, manager.ErrNotLeader) {
		t.Errorf("a write that was under way: %v", err)
	}
	if err := old.Append("g", manager.Record{Reserve: 1 << 30}); !errors.Is(err, manager.ErrNotLeader) {
		t.Errorf("a write of the old leader: %v", err)
	}
	<-old.Context().Done()
	if err := context.Cause(old.Context()); !errors.Is(err, manager.ErrNotLeader) {
		t.Errorf("the old term ended because of %v", err)
	}
	if rec, err := term.Begin("g", 0); err != nil || rec.Reserved != 64 || rec.Epoch <= second.Epoch {
		t.Errorf("%+v, %v", rec, err)
	}
}

// runOut has etcd end the lease of the manager that leads, as it does with one that was not renewed in time.
func runOut(t *testing.T, s *etcdtest.Servers, o etcdlog.Options) {
	t.Helper()
	raw := client(t, s)
	leader, err := raw.Get(t.Context(), o.Prefix+"/leader/", withPrefix)
	if err == nil && len(leader.Kvs) != 1 {
		err = fmt.Errorf("%d managers stand for election", len(leader.Kvs))
	}
	if err == nil {
		_, err = raw.Revoke(t.Context(), clientv3.LeaseID(leader.Kvs[0].Lease))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDeposedByAWrite: a manager whose lease ended without its knowing learns it from the log.
func TestDeposedByAWrite(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	term := campaign(t, open(t, o))
	if _, err := term.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	raw := client(t, s)
	if _, err := raw.Delete(t.Context(), o.Prefix+"/leader/", withPrefix); err != nil {
		t.Fatal(err)
	}
	if err := term.Append("g", manager.Record{Reserve: 1}); !errors.Is(err, manager.ErrNotLeader) {
		t.Fatalf("%v", err)
	}
	if term.Context().Err() == nil {
		t.Error("the term goes on")
	}
	if kvs := keys(t, raw, o.Prefix+"/group/g/reserved"); len(kvs) > 0 {
		t.Errorf("written all the same: %v", kvs)
	}
}

// TestForeignWriter: somebody who writes the keys without leading is noticed, not overwritten.
func TestForeignWriter(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	term := campaign(t, open(t, o))
	if _, err := term.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, s).Put(t.Context(), o.Prefix+"/group/g/written", "by hand"); err != nil {
		t.Fatal(err)
	}
	if err := term.Append("g", manager.Record{Reserve: 1}); !errors.Is(err, manager.ErrNotLeader) || !strings.Contains(err.Error(), "somebody else") {
		t.Fatalf("%v", err)
	}
}

// TestWritesTakeEffectOnce: an attempt to write that was given up may have taken effect, or may arrive late, behind its
// repetition. Each record is written once and in order.
func TestWritesTakeEffectOnce(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	raw := client(t, s)
	for name, shut := range map[string]func(*etcdtest.Gate){"the answer is lost": (*etcdtest.Gate).ShutAnswers, "the question is late": (*etcdtest.Gate).Shut} {
		t.Run(name, func(t *testing.T) {
			o := options(s)
			o.Lease = time.Minute
			gate := etcdtest.NewGate(t, s.Members[0].Addr)
			o.Endpoints = []string{gate.Addr}
			logged := make(lines, 100)
			o.Logger = slog.New(slog.NewTextHandler(logged, nil))
			term := campaign(t, open(t, o))
			if _, err := term.Begin("g", 0); err != nil {
				t.Fatal(err)
			}
			shut(gate)
			done := make(chan error, 1)
			go func() { done <- term.Append("g", manager.Record{Reserve: 10}) }()
			for line := ""; !strings.Contains(line, "cannot be reached"); { // the first attempt was given up
				line = <-logged
			}
			gate.Open()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := term.Append("g", manager.Record{Reserve: 20}); err != nil {
				t.Fatal(err)
			}
			if got := keys(t, raw, o.Prefix+"/group/g/reserved"); len(got) != 1 || got[0] != "20" {
				t.Errorf("reserved: %v", got)
			}
			if got := keys(t, raw, o.Prefix+"/group/g/written"); len(got) != 1 || !strings.HasSuffix(got[0], ".3") {
				t.Errorf("after a begin and two records: %v", got)
			}
		})
	}
}

// lines passes on what is logged.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestOwnOldLeaseIsNoObstacle: a manager that could not give its lease up does not wait for it to run out when etcd is back.
func TestOwnOldLeaseIsNoObstacle(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	o.Lease = etcdlog.MostLease
	c := open(t, o)
	term := campaign(t, c)
	s.Members[0].Kill()
	term.Close()
	s.Members[0].Start()
	campaign(t, c)
}

// TestDamageIsNamed: values that no manager writes are refused at the start of a term, with their keys.
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	term := campaign(t, open(t, o))
	raw := client(t, s)
	for key, value := range map[string]string{
		"epoch": "x", "reserved": "-1", "settings": "{}", "paused": "perhaps", "later": "", "decided/zz": "{}",
		"decided/0000000000000009": `{"cg":3}`, "decided/000000000000000a": "{",
	} {
		full := o.Prefix + "/group/g/" + key
		if _, err := raw.Put(t.Context(), full, value); err != nil {
			t.Fatal(err)
		}
		if _, err := term.Begin("g", 0); err == nil || !strings.Contains(err.Error(), key) || errors.Is(err, manager.ErrNotLeader) {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := raw.Delete(t.Context(), full); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "a/b"} {
		if _, err := term.Begin(name, 0); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
	if _, err := term.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
}

// TestOneLeadsAtATime: of three managers that give up again and again, never two lead, and everyone has its turn.
func TestOneLeadsAtATime(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	var mu sync.Mutex
	leads, epochs := 0, map[uint64]bool{}
	var all sync.WaitGroup
	for i := range 3 {
		o := o
		o.Name = fmt.Sprint("m", i)
		c := open(t, o)
		all.Go(func() {
			for range 5 {
				term, err := c.Campaign(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				rec, err := term.Begin("g", 0)
				mu.Lock()
				if leads++; leads > 1 || err != nil || epochs[rec.Epoch] {
					t.Errorf("%d lead, epoch %d, %v", leads, rec.Epoch, err)
				}
				epochs[rec.Epoch] = true
				if l := standing(t, c); l.Leader == nil || *l.Leader != o.Name {
					t.Errorf("%s leads, and is told %+v", o.Name, l)
				}
				leads--
				mu.Unlock()
				term.Close()
			}
		})
	}
	all.Wait()
}

// standing asks who leads until etcd answers.
func standing(t *testing.T, c *etcdlog.Cluster) (l manager.Leadership) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; {
		if l = c.Standing(t.Context()); l.Error == "" || time.Now().After(late) {
			return l
		}
	}
}

// TestStandingTellsOfOtherGroups: managers with other groups under the same prefix would wait for each other for ever.
func TestStandingTellsOfOtherGroups(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	campaign(t, open(t, o))
	o.Name, o.Groups = "m2", []string{"other"}
	c := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	stood := make(chan error, 1)
	go func() { _, err := c.Campaign(ctx); stood <- err }()
	for {
		l := standing(t, c)
		if l.Leader == nil {
			continue
		}
		if l.Leads || *l.Leader != "m1" || !strings.Contains(l.Problem, "a prefix of their own") {
			t.Errorf("%+v", l)
		}
		break
	}
	if _, err := peek(t, c); !errors.Is(err, manager.ErrLogInUse) || !strings.Contains(err.Error(), "m1") {
		t.Errorf("peek while m1 leads: %v", err)
	}
	cancel()
	if err := <-stood; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestPeekChangesNothing: what a log holds can be read without leading.
func TestPeekChangesNothing(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	o := options(s)
	c := open(t, o)
	if rec, err := peek(t, c); err != nil || rec.Known || rec.Epoch != 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	term := campaign(t, c)
	begun, err := term.Begin("g", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := term.Append("g", manager.Record{Reserve: 5, Decided: &manager.Decision{CG: 3}}); err != nil {
		t.Fatal(err)
	}
	term.Close()
	for range 2 {
		rec, err := peek(t, c)
		for late := time.Now().Add(2 * o.Lease); errors.Is(err, manager.ErrLogInUse) && time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
			rec, err = peek(t, c) // etcd was too slow to take the leadership back: it runs out
		}
		if err != nil || !rec.Known || rec.Epoch != begun.Epoch || rec.Reserved != 5 || rec.Decided.CG != 3 {
			t.Fatalf("%+v, %v", rec, err)
		}
	}
}

// peek asks until etcd answers.
func peek(t *testing.T, c *etcdlog.Cluster) (rec manager.Recovered, err error) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; {
		rec, err = c.Peek(t.Context(), "g")
		if !errors.Is(err, context.DeadlineExceeded) || time.Now().After(late) {
			return rec, err
		}
	}
}

var _ manager.Election = (*etcdlog.Cluster)(nil)
