package etcdlog_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/manager/etcdlog"
)

// place is where a log is: opened again, it holds what was written.
type place func(t testing.TB) manager.Log

var prefixes atomic.Uint64

// options of a manager under a prefix that no other test uses, with a lease that lasts on a slow machine too.
func options(s *etcdtest.Servers) etcdlog.Options {
	return etcdlog.Options{
		Endpoints: s.Addrs(), Prefix: fmt.Sprintf("test/%d", prefixes.Add(1)), Lease: time.Minute, Name: "m1", Listen: "unix:/m1",
		Groups: []string{"g"}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func open(t testing.TB, o etcdlog.Options) *etcdlog.Cluster {
	t.Helper()
	c, err := etcdlog.Open(o)
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

func campaign(t testing.TB, c *etcdlog.Cluster) manager.Term {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	elected := make(chan manager.Term, 1)
	go func() {
		term, err := c.Campaign(t.Context())
		if err != nil {
			t.Error(err)
		}
		elected <- term
	}()
	select {
	case term := <-elected:
		if term == nil {
			t.FailNow()
		}
		t.Cleanup(func() { term.Close() })
		return term
	case <-ctx.Done():
		t.Fatal("was not elected")
		return nil
	}
}

// TestLogsConform: the log in a bbolt file and the one in etcd keep the same things in the same way.
func TestLogsConform(t *testing.T) {
	places := map[string]func(t *testing.T) func() place{
		"bbolt": func(t *testing.T) func() place {
			n, dir := 0, t.TempDir()
			return func() place {
				n++
				path := filepath.Join(dir, fmt.Sprint(n))
				return func(t testing.TB) manager.Log {
					l, err := manager.OpenLog(path)
					if err != nil {
						t.Fatal(err)
					}
					return l
				}
			}
		},
		"etcd": func(t *testing.T) func() place {
			s := etcdtest.Start(t, 1)
			return func() place {
				c := open(t, options(s))
				return func(t testing.TB) manager.Log { return campaign(t, c) }
			}
		},
	}
	for name, start := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh := start(t)
			t.Run("model", func(t *testing.T) { conformsToModel(t, fresh) })
			t.Run("bounded", func(t *testing.T) { isBounded(t, fresh()) })
			t.Run("never begun", func(t *testing.T) {
				l := fresh()(t)
				defer l.Close()
				if err := l.Append("nobody", manager.Record{Reserve: 1}); err == nil {
					t.Error("a group that was never begun was written")
				}
				if h, err := l.History("nobody", 5); len(h) > 0 || err != nil {
					t.Errorf("history of nobody: %v, %v", h, err)
				}
			})
		})
	}
}

// model is what a log must hold of one group.
type model struct {
	rec     manager.Recovered
	decided []manager.Decision
}

// conformsToModel does random things to a log and to a model, and compares.
func conformsToModel(t *testing.T, fresh func() place) {
	rapid.Check(t, func(rt *rapid.T) {
		at := fresh()
		l := at(t)
		defer func() { l.Close() }()
		models := map[string]*model{}
		for range rapid.IntRange(1, 25).Draw(rt, "operations") {
			name := rapid.SampledFrom([]string{"g", "group", "h"}).Draw(rt, "group")
			m := models[name]
			switch op := rapid.SampledFrom([]string{"append", "append", "append", "begin", "reopen", "history"}).Draw(rt, "operation"); {
			case op == "reopen":
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				l = at(t)
				for name := range models { // a manager begins all its groups first
					begin(rt, l, name, models[name])
				}
			case op == "begin" || m == nil:
				if m == nil {
					m = new(model)
					models[name] = m
				}
				begin(rt, l, name, m)
			case op == "append":
				r := drawRecord(rt, m)
				if err := l.Append(name, r); err != nil {
					rt.Fatal(err)
				}
				m.append(r)
			default:
				m.compareHistory(rt, l, name)
			}
		}
		for name, m := range models {
			begin(rt, l, name, m)
			m.compareHistory(rt, l, name)
		}
	})
}

func begin(rt *rapid.T, l manager.Log, name string, m *model) {
	floor := rapid.SampledFrom([]uint64{0, 1, m.rec.Epoch, m.rec.Epoch + 1000}).Draw(rt, "floor")
	got, err := l.Begin(name, floor)
	if err != nil {
		rt.Fatal(err)
	}
	if got.Epoch <= m.rec.Epoch || got.Epoch < floor {
		rt.Fatalf("epoch %d after %d with floor %d", got.Epoch, m.rec.Epoch, floor)
	}
	m.rec.Epoch = got.Epoch
	if diff := cmp.Diff(m.rec, got); diff != "" {
		rt.Fatalf("group %s (-want +got):\n%s", name, diff)
	}
}

func drawRecord(rt *rapid.T, m *model) (r manager.Record) {
	if rapid.Bool().Draw(rt, "decide") {
		d := manager.Decision{CG: m.rec.Decided.CG + rapid.Uint64Range(1, 1<<40).Draw(rt, "CG"), Epoch: m.rec.Epoch, FirstCopy: rapid.Bool().Draw(rt, "first copy"),
			Cut: time.Unix(rapid.Int64Range(0, 1<<33).Draw(rt, "cut"), 5).UTC(), Primaries: []string{"p"}, Secondaries: []string{"s", "t"}}
		if rapid.IntRange(0, 9).Draw(rt, "again") == 0 && m.rec.Decided.CG > 0 {
			d.CG = m.rec.Decided.CG // a start without the log may decide the same once more
		}
		r.Decided = &d
	}
	if rapid.Bool().Draw(rt, "reserve") {
		r.Reserve = m.rec.Reserved + rapid.Uint64Range(1, 100).Draw(rt, "numbers")
	}
	if rapid.Bool().Draw(rt, "tune") {
		set := manager.DefaultSettings()
		set.Interval = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "interval"))
		r.Settings = &set
	}
	if rapid.Bool().Draw(rt, "pausing") {
		p := rapid.Bool().Draw(rt, "paused")
		r.Paused = &p
	}
	if rapid.Bool().Draw(rt, "members") {
		r.Members = &manager.Members{Version: rapid.Uint64().Draw(rt, "version"), Primaries: []string{"p"}, Secondaries: []string{"s"},
			Joining: []manager.Joining{{Name: "t", Role: rapid.SampledFrom([]string{"primary", "secondary"}).Draw(rt, "role")}}}
	}
	return r
}

func (m *model) append(r manager.Record) {
	if r.Decided != nil {
		m.rec.Decided, m.rec.Known = *r.Decided, true
		m.decided = slices.DeleteFunc(m.decided, func(d manager.Decision) bool { return d.CG == r.Decided.CG })
		m.decided = slices.Insert(m.decided, 0, *r.Decided)
	}
	if r.Reserve > 0 {
		m.rec.Reserved, m.rec.Known = r.Reserve, true
	}
	if r.Settings != nil {
		m.rec.Settings = r.Settings
	}
	if r.Members != nil {
		m.rec.Members = r.Members
	}
	if r.Paused != nil {
		m.rec.Paused = *r.Paused
	}
}

func (m *model) compareHistory(rt *rapid.T, l manager.Log, name string) {
	limit := rapid.IntRange(0, 5).Draw(rt, "limit")
	got, err := l.History(name, limit)
	if err != nil {
		rt.Fatal(err)
	}
	want := m.decided[:min(limit, len(m.decided))]
	if len(got) != len(want) || len(want) > 0 && cmp.Diff(want, got) != "" {
		rt.Fatalf("history of %s (-want +got):\n%s", name, cmp.Diff(want, got))
	}
}

func isBounded(t *testing.T, at place) {
	const kept, more = 1000, 30
	l := at(t)
	if _, err := l.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(kept + more) {
		if n == kept+more/2 { // what was counted before is counted after
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = at(t)
			if _, err := l.Begin("g", 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Append("g", manager.Record{Decided: &manager.Decision{CG: 2*n + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	defer l.Close()
	h, err := l.History("g", 10*kept)
	if err != nil || len(h) != kept || h[0].CG != 2*(kept+more-1)+1 || h[kept-1].CG != 2*more+1 {
		t.Fatalf("%d decisions, %v", len(h), err)
	}
}
