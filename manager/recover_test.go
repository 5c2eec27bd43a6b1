package manager

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// shows sets what the links of the secondaries show.
func (s *site) shows(states ...ControlState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, st := range states {
		s.sec[i].linked, s.sec[i].final, s.sec[i].complete = st.Linked, st.Final, st.Linked
	}
}

func (s *site) shown() (out []ControlState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sec {
		out = append(out, ctl(x.name, x.linked, x.final))
	}
	return out
}

// recoverSite runs a recovery of the site's group with a log in memory.
func recoverSite(t *testing.T, s *site, l Log, a *AuditLog, absent ...Absence) ([]Status, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	return Recover(ctx, s.options(s.listen(), l, a), absent)
}

// TestReq20_RecoverCarriesOutThePlan: every row of the table over real connections, with the log lost and with it. It ends by itself, speaks to
// no primary and forms no CG; where the table refuses, nothing is changed.
func TestReq20_RecoverCarriesOutThePlan(t *testing.T) {
	parties := []string{"s1", "s2"}
	for _, c := range []struct {
		name    string
		rec     Recovered
		in      []ControlState
		want    uint64 // shown and final everywhere
		refused bool
	}{
		{"lost: committed", Recovered{}, []ControlState{ctl("", 5, 5), ctl("", 5, 5)}, 5, false},
		{"lost: some revertible", Recovered{}, []ControlState{ctl("", 6, 5), ctl("", 5, 5)}, 5, false},
		{"lost: all revertible", Recovered{}, []ControlState{ctl("", 6, 5), ctl("", 6, 5)}, 5, false},
		{"lost: one released", Recovered{}, []ControlState{ctl("", 6, 5), ctl("", 6, 6)}, 6, false},
		{"lost: anything else", Recovered{}, []ControlState{ctl("", 7, 5), ctl("", 6, 6)}, 0, true},
		{"log: decided", Recovered{Known: true, Reserved: 64, Decided: Decision{CG: 6, Secondaries: parties}}, []ControlState{ctl("", 6, 5), ctl("", 6, 5)}, 6, false},
		{"log: committed", Recovered{Known: true, Reserved: 64, Decided: Decision{CG: 6, Secondaries: parties}}, []ControlState{ctl("", 6, 6), ctl("", 6, 6)}, 6, false},
		{"log: not decided", Recovered{Known: true, Reserved: 64, Decided: Decision{CG: 5, Secondaries: parties}}, []ControlState{ctl("", 6, 5), ctl("", 6, 5)}, 5, false},
		{"log: lost a decided CG", Recovered{Known: true, Reserved: 64, Decided: Decision{CG: 6, Secondaries: parties}}, []ControlState{ctl("", 6, 6), ctl("", 4, 4)}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, 1, 2)
			s.shows(c.in...)
			before := s.shown()
			s.see = func(control string, m wire.Message) bool {
				if control == "p1" || m.Type() == wire.TypeLink {
					t.Errorf("%s was sent %v", control, m.Type())
				}
				return true
			}
			plan := Assess(c.rec, before)
			log := &memoryLog{rec: map[string]Recovered{"g": c.rec}}
			audit := memoryAudit(t)
			got, err := recoverSite(t, s, log, audit)
			if err != nil || len(got) != 1 || got[0].Epoch <= c.rec.Epoch {
				t.Fatalf("%v %+v", err, got)
			}
			if c.refused {
				if got[0].State != StateHalted || got[0].Halted == "" || plan.Action != PlanRefuse {
					t.Errorf("%+v, plan %+v", got[0], plan)
				}
				if after := s.shown(); !slices.Equal(before, after) {
					t.Errorf("changed %+v to %+v", before, after)
				}
				return
			}
			for _, x := range s.shown() {
				if x.Linked != c.want || x.Final != c.want || plan.CG != c.want {
					t.Errorf("%+v, want CG %d; plan %+v", x, c.want, plan)
				}
			}
			checkTold(t, plan.Action, audit.Tail(100))
			if log.rec["g"].Paused {
				t.Error("the recovery left the group paused")
			}
		})
	}
}

// checkTold: the audit log calls a revert what takes links back, and nothing else.
func checkTold(t *testing.T, did PlanAction, entries []Entry) {
	t.Helper()
	want := []EntryKind{EntryDiscardBegin, EntryDiscardEnd}
	if did == PlanRevert {
		want = []EntryKind{EntryRevertBegin, EntryRevertEnd}
	}
	var got []EntryKind
	for _, e := range entries {
		switch e.Kind {
		case EntryRevertBegin, EntryRevertEnd, EntryDiscardBegin, EntryDiscardEnd:
			got = append(got, e.Kind)
		}
		if did == PlanNothing && e.Kind == EntryPlan && strings.Contains(e.Did, "back") && !strings.HasPrefix(e.Did, "nothing") {
			t.Errorf("told as a plan that does nothing: %+v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("told as %q, want %q: %+v", got, want, entries)
	}
}

// TestAuditEntriesAreWarningsIfSomethingIsWrong: a start with nothing to take back is none.
func TestAuditEntriesAreWarningsIfSomethingIsWrong(t *testing.T) {
	for kind, want := range map[EntryKind]string{EntryDiscardBegin: "INFO", EntryDiscardEnd: "INFO", EntryRevertBegin: "WARN", EntryRevertEnd: "INFO", EntryAlert: "WARN"} {
		var out bytes.Buffer
		n := &Node{opts: Options{Audit: memoryAudit(t)}, log: slog.New(slog.NewTextHandler(&out, nil))}
		if err := n.audit(Entry{Kind: kind, Group: "g"}); err != nil || !strings.Contains(out.String(), "level="+want+" msg="+string(kind)) {
			t.Errorf("%s: %v, %q", kind, err, out.String())
		}
	}
}

// TestReq20_RecoverWaitsForEveryControl: one that does not answer keeps the recovery from deciding; it ends when its time does.
func TestReq20_RecoverWaitsForEveryControl(t *testing.T) {
	s := newSite(t, 1, 2)
	s.shows(ctl("", 6, 5), ctl("", 6, 6))
	asked := make(chan struct{})
	s.see = func(control string, m wire.Message) bool {
		if control == "s1" && m.Type() == wire.TypeFence {
			close(asked)
		}
		return control != "s2"
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	got, err := Recover(ctx, s.options(s.listen(), &memoryLog{}, memoryAudit(t)), nil)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "missing: ") || !strings.Contains(err.Error(), "s2") {
		t.Errorf("%v %+v", err, got)
	}
	if x := s.shown(); x[0] != ctl("s1", 6, 5) {
		t.Errorf("s1 was changed: %+v", x)
	}
}

// TestReq20_OverrideIsRecordedAndNotForgotten: without the absent control the others decide; it is in the audit log; when it comes back and shows
// that it knew better, the next start refuses.
func TestReq20_OverrideIsRecordedAndNotForgotten(t *testing.T) {
	s := newSite(t, 1, 3)
	s.shows(ctl("", 6, 5), ctl("", 6, 5), ctl("", 6, 6))
	s.see = func(control string, m wire.Message) bool {
		if control == "s3" {
			t.Errorf("the absent control was sent %v", m.Type())
		}
		return true
	}
	audit := memoryAudit(t)
	log := &memoryLog{}
	got, err := recoverSite(t, s, log, audit, Absence{"s3", "connection refused"})
	if err != nil || got[0].State != StateIdle || len(got[0].Controls) != 3 {
		t.Fatalf("%v %+v", err, got)
	}
	if x := s.shown(); x[0] != ctl("s1", 5, 5) || x[1] != ctl("s2", 5, 5) || x[2] != ctl("s3", 6, 6) {
		t.Fatalf("%+v", x)
	}
	override := func(e Entry) bool {
		return e.Kind == EntryOverride && e.Control == "s3" && strings.Contains(e.Said, "connection refused")
	}
	if !slices.ContainsFunc(audit.Tail(auditTail), override) {
		t.Errorf("not in the audit log: %+v", audit.Tail(auditTail))
	}
	s.mu.Lock()
	s.see = nil
	s.mu.Unlock()
	got, err = recoverSite(t, s, log, memoryAudit(t))
	if err != nil || got[0].State != StateHalted || !strings.Contains(got[0].Halted, "different CGs") {
		t.Errorf("with the control back: %v %+v", err, got)
	}

	if _, err := recoverSite(t, s, log, audit, Absence{"s1", ""}, Absence{"s2", ""}, Absence{"s3", ""}); err == nil {
		t.Error("a recovery without any control")
	}
}

// TestReadLog: what is there, what is not, and what another process has.
func TestReadLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if _, err := ReadLog(path, "g"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that is not there: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("reading made the file")
	}
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := l.Begin("g", 7)
	if err == nil {
		err = errors.Join(l.Append("g", Record{Reserve: 64}), l.Append("g", Record{Decided: &Decision{CG: 5, Epoch: rec.Epoch}}))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLog(path, "g"); !errors.Is(err, ErrLogInUse) {
		t.Fatalf("in use: %v", err)
	}
	if _, err := OpenLog(path); !errors.Is(err, ErrLogInUse) {
		t.Fatalf("in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if rec, err := ReadLog(path, "g"); err != nil || !rec.Known || rec.Decided.CG != 5 || rec.Epoch != 7 || rec.Reserved != 64 {
		t.Errorf("%+v %v", rec, err)
	}
	if rec, err := ReadLog(path, "another"); err != nil || rec.Known {
		t.Errorf("a group that the log does not have: %+v %v", rec, err)
	}
	if err := os.WriteFile(path, []byte("not a log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLog(path, "g"); err == nil {
		t.Error("nonsense was read")
	}
}
