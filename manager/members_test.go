package manager

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/wire"
)

// TestMembersUnderFaults adds and removes controls at any moment of a schedule with faults; the model checks the rules against the
// controls that take part, and that a start finds in the log what was answered as durable.
func TestMembersUnderFaults(t *testing.T) {
	joined := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorldWith(rt, rapid.IntRange(1, 2).Draw(rt, "primaries"), rapid.IntRange(1, 2).Draw(rt, "secondaries"), 1, fastSettings())
		f := &faults{w: w, rt: rt, lose: rapid.Bool().Draw(rt, "lose")}
		spare := [][2]string{{w.prim[w.baseP].name, "primary"}, {w.sec[w.baseS].name, "secondary"}}
		for range rapid.IntRange(50, 600).Draw(rt, "steps") {
			if f.pick(25) > 0 {
				f.step()
				continue
			}
			x := spare[f.pick(2)]
			if err := w.change(x[0], x[1]); err != nil {
				rt.Fatal(err)
			}
			if w.takesPart(x[0]) {
				joined++
			}
		}
		f.heal()
		w.progress()
		w.until("the members are those that take part", func() bool {
			m := w.core.Members()
			return len(m.Joining) == 0 && m.Has(spare[0][0]) == w.takesPart(spare[0][0]) && m.Has(spare[1][0]) == w.takesPart(spare[1][0])
		})
	})
	t.Logf("%d times a spare control took part", joined)
}

// A joining control that is not there holds up nothing; once it is there it takes part, and the group's recovery point never went away.
func TestJoiningHoldsUpNothing(t *testing.T) {
	w := newWorldWith(t, 2, 2, 1, fastSettings())
	w.progress()
	point := *w.core.Status(w.now).RecoveryPoint
	w.away = func(name string) bool { return name == "s3" }
	if err := w.change("s3", "secondary"); err != nil {
		t.Fatal(err)
	}
	w.progress()
	st := w.core.Status(w.now)
	if *st.RecoveryPoint <= point || len(st.Members.Joining) != 1 || len(st.Members.Waiting) != 1 || !strings.Contains(st.Members.Waiting[0], "not connected") {
		t.Fatalf("recovery point %d after %d; members %+v", *st.RecoveryPoint, point, st.Members)
	}
	if !strings.Contains(st.Members.Drift, "s3 is not in the configuration") || !slices.ContainsFunc(st.Alerts, func(a string) bool { return strings.Contains(a, "s3") }) {
		t.Errorf("drift %q, alerts %q", st.Members.Drift, st.Alerts)
	}
	point = *st.RecoveryPoint
	w.away = nil
	w.until("s3 takes part", func() bool {
		if p := w.core.Status(w.now).RecoveryPoint; p == nil || *p < point {
			t.Fatalf("recovery point %v after %d", p, point)
		}
		return w.takesPart("s3") && w.sec[2].final > point
	})
	if st := w.core.Status(w.now); st.CGsFailed != 0 || st.Reverts != 0 {
		t.Errorf("a change of members counts as a failure: %+v", st)
	}
	if i := slices.IndexFunc(w.audit, func(e Entry) bool { return e.Kind == EntryDiscardBegin && e.Said == "s3 joins the group" }); i < 0 {
		t.Errorf("a change of members is not told as a discard: %+v", w.audit)
	}
	w.progress()
}

// TestReq20_LogLostWhileOneJoins: a secondary has linked its first CG when the log is lost. A manager with both does not decide, and says what there is to
// choose; with the one that was there before, the group goes on, and the other one joins once more with a new pool.
func TestReq20_LogLostWhileOneJoins(t *testing.T) {
	for _, both := range []bool{false, true} {
		w := newWorldWith(t, 1, 1, 1, fastSettings())
		w.progress()
		if err := w.change("s2", "secondary"); err != nil {
			t.Fatal(err)
		}
		w.until("the first CG with s2 is linked", func() bool { return w.takesPart("s2") && w.core.State() == StateLink })
		if !both {
			w.sec[0].mute = 1 // it does not hear of it
		}
		w.until("s2 links it", func() bool { return w.sec[1].linked > 0 && (w.sec[0].linked > w.sec[0].final) == both })
		point, group := w.sec[0].final, w.group
		w.group.Secondaries, w.halts = []string{"s1", "s2"}, true
		w.crashManager(0, true)
		w.until("the manager halts", w.inState(StateHalted))
		why := w.core.Status(w.now).Halted
		for _, part := range []string{"No CG was ever final on s2", "take s2 out", "show CG " + strconv.FormatUint(point, 10), "format its pool", "add-control"} {
			if !strings.Contains(why, part) {
				t.Errorf("%q does not say %q", why, part)
			}
		}
		w.group, w.halts = group, false
		w.crashManager(0, true)
		w.progress()
		if w.sec[0].final <= point {
			t.Errorf("CG %d after %d", w.sec[0].final, point)
		}
		if err := w.change("s2", "secondary"); err != nil { // with a new pool
			t.Fatal(err)
		}
		w.until("s2 takes part", func() bool { return w.takesPart("s2") && w.sec[1].final > 0 })
		w.progress()
	}
}

// TestReq14_VacantSecondaryHoldsUpNothing: a secondary that waits for no volume of the group completes each CG once all primaries have drained it, also one that was
// being drained when its volumes went, and over a restart of the manager. It shows the same CGs as the others. Where all are vacant no CG is held.
func TestReq14_VacantSecondaryHoldsUpNothing(t *testing.T) {
	w := newWorldWith(t, 2, 1, 1, fastSettings())
	if err := w.change("s2", "secondary"); err != nil {
		t.Fatal(err)
	}
	w.until("s2 takes part", func() bool { return w.takesPart("s2") && w.sec[1].final > 0 })
	w.until("a CG is drained", w.inState(StateDrain))
	w.sec[1].vacant = true
	w.progress()
	w.crashManager(len(w.persists), false)
	w.progress()
	w.until("all show the same", func() bool { return w.sec[0].final == w.sec[1].final })
	st := w.core.Status(w.now)
	if c := st.Controls[3]; c.Name != "s2" || !c.Vacant || !slices.ContainsFunc(st.Alerts, func(a string) bool { return strings.Contains(a, "s2 waits for no volume") }) {
		t.Errorf("%+v, alerts %q", c, st.Alerts)
	}
	w.sec[0].vacant = true
	w.until("no CG is held", func() bool { return strings.Contains(w.core.Status(w.now).Waiting, "no secondary waits for a volume") })
	point := w.sec[0].final
	for range 50 {
		w.pump()
		w.tick()
	}
	if w.core.State() != StateIdle || w.sec[0].final != point {
		t.Errorf("CG %d after %d; the group is in %v", w.sec[0].final, point, w.core.State())
	}
}

// A secondary that is lost for good is removed while its group waits for it, in each state in which it can wait.
func TestRemovingALostSecondary(t *testing.T) {
	for _, state := range []State{StateReverting, StateRelease, StateStarting, StateIdle} {
		t.Run(state.String(), func(t *testing.T) {
			w := newWorldWith(t, 1, 1, 1, fastSettings())
			if err := w.change("s2", "secondary"); err != nil {
				t.Fatal(err)
			}
			w.until("s2 takes part", func() bool { return w.takesPart("s2") && w.sec[1].final > 0 })
			gone := func() {
				w.away = func(name string) bool { return name == "s2" }
				w.disconnect("s2", "lost")
			}
			switch state {
			case StateReverting:
				w.until("linking", w.inState(StateLink))
				gone()
			case StateRelease:
				w.until("releasing", w.inState(StateRelease))
				gone()
			case StateStarting:
				gone()
				w.crashManager(len(w.persists), false)
			case StateIdle:
				w.until("idle", w.inState(StateIdle))
				gone()
			}
			for range 30 {
				w.pump()
				w.tick()
			}
			if w.core.State() != state || w.takesPart("s2") == false {
				t.Fatalf("the group is in %v", w.core.State())
			}
			if err := w.change("s2", ""); err != nil {
				t.Fatal(err)
			}
			w.progress()
			if w.takesPart("s2") || w.core.Members().Has("s2") {
				t.Error("s2 still takes part")
			}
			if !slices.ContainsFunc(w.audit, func(e Entry) bool {
				return e.Kind == EntryMembers && e.Control == "s2" && strings.Contains(e.Did, "no longer")
			}) {
				t.Error("the audit log does not say so")
			}
		})
	}
}

// A secondary that is removed while its first CG is being linked takes that back before it is let go of, so that it can join again as it is.
// One that is lost, or refuses, holds up nothing.
func TestLeavingInTheFirstCG(t *testing.T) {
	for _, end := range []string{"answers", "refuses", "is lost"} {
		t.Run(end, func(t *testing.T) {
			w := newWorldWith(t, 1, 1, 1, fastSettings())
			w.progress()
			if err := w.change("s2", "secondary"); err != nil {
				t.Fatal(err)
			}
			s2 := w.sec[1]
			w.until("s2 links its first CG", func() bool { return w.core.State() == StateLink && s2.linked > 0 })
			if s2.final != 0 {
				t.Fatalf("CG %d is its first", s2.final)
			}
			if err := w.change("s2", ""); err != nil {
				t.Fatal(err)
			}
			for w.persistOne() {
			}
			w.disconnect("s1", "reset")
			switch end {
			case "refuses":
				w.step(Received{"s2", &wire.Error{Code: wire.CodeState, Group: "g", CG: w.core.round, Text: "no"}})
			case "is lost":
				w.disconnect("s2", "reset")
			}
			if end != "answers" {
				if w.takesPart("s2") {
					t.Error("s2 is waited for")
				}
				return
			}
			w.until("s2 is let go of", func() bool { return !w.takesPart("s2") })
			if s2.linked != 0 {
				t.Fatalf("s2 shows CG %d, final %d", s2.linked, s2.final)
			}
			again, err := w.core.Members().With("s2", "secondary")
			if err != nil {
				t.Fatal(err)
			}
			w.step(ChangeMembers{again})
			w.until("s2 takes part again", func() bool { return w.takesPart("s2") })
		})
	}
}

// With the log lost, nothing is decided without a control because it was removed: what it shows may be all that is known.
func TestRemovalIsNoOverrideOfALostLog(t *testing.T) {
	w := newWorldWith(t, 1, 2, 0, fastSettings())
	w.progress()
	w.away = func(name string) bool { return name == "s2" }
	w.crashManager(0, true)
	if err := w.change("s2", ""); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		w.pump()
		w.tick()
	}
	if w.core.State() != StateStarting || !w.takesPart("s2") {
		t.Errorf("the group is in %v", w.core.State())
	}
}

// A control that comes back with what it had when it was removed must not take part with it.
func TestReturningControlIsHeldOff(t *testing.T) {
	w := newWorldWith(t, 1, 1, 1, fastSettings())
	for range 2 {
		if err := w.change("s2", "secondary"); err != nil {
			t.Fatal(err)
		}
		w.progress()
	}
	m, err := w.core.Members().With("s2", "secondary") // without making its volumes again
	if err != nil {
		t.Fatal(err)
	}
	w.step(ChangeMembers{m})
	w.progress()
	if st := w.core.Status(w.now); w.takesPart("s2") || len(st.Members.Waiting) != 1 || !strings.Contains(st.Members.Waiting[0], "use one that has not") {
		t.Errorf("takes part: %t, %q", w.takesPart("s2"), st.Members.Waiting)
	}
}

func TestMembersRefusals(t *testing.T) {
	m := Members{Version: 3, Primaries: []string{"p"}, Secondaries: []string{"s"}}
	for _, c := range []struct {
		what string
		do   func() (Members, error)
	}{
		{"another role", func() (Members, error) { return m.With("s", "primary") }},
		{"no role", func() (Members, error) { return m.With("x", "manager") }},
		{"no name", func() (Members, error) { return m.With("", "primary") }},
		{"the last primary", func() (Members, error) { return m.Without("p") }},
		{"the last secondary", func() (Members, error) { return m.Without("s") }},
	} {
		if got, err := c.do(); !errors.Is(err, ErrMembers) || !cmp.Equal(got, m) {
			t.Errorf("%s: %+v, %v", c.what, got, err)
		}
	}
	for _, same := range []func() (Members, error){
		func() (Members, error) { return m.With("s", "secondary") },
		func() (Members, error) { return m.Without("x") },
	} {
		if got, err := same(); err != nil || !cmp.Equal(got, m) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	// A joining one does not count: the last one that takes part stays.
	if n, err := m.With("s2", "secondary"); err != nil || n.Version != 4 || len(n.Joining) != 1 {
		t.Errorf("%+v, %v", n, err)
	} else if _, err := n.Without("s"); !errors.Is(err, ErrMembers) {
		t.Errorf("%v", err)
	} else if back, err := n.Without("s2"); err != nil || len(back.Joining) != 0 || back.Version != 5 {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []Members{
		{Primaries: []string{"p"}},
		{Primaries: []string{"p"}, Secondaries: []string{"p"}},
		{Primaries: []string{"p"}, Secondaries: []string{"s"}, Joining: []Joining{{"s", "secondary"}}},
		{Primaries: []string{"p"}, Secondaries: []string{"s"}, Joining: []Joining{{"t", "manager"}}},
	} {
		if _, err := NewCore(Group{"g", []string{"p"}, []string{"s"}}, DefaultSettings(), Recovered{Members: &bad}, newWorld(t, 1, 1, fastSettings()).now); err == nil {
			t.Errorf("%+v was taken from the log", bad)
		}
	}
}

// The file of the decision log keeps what a member list says.
func TestMembersInTheLog(t *testing.T) {
	path := t.TempDir() + "/log"
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := l.Begin("g", 0); err != nil || rec.Members != nil {
		t.Fatalf("%+v, %v", rec, err)
	}
	m := Members{Version: 2, Primaries: []string{"p"}, Secondaries: []string{"s", "t"}, Joining: []Joining{{"u", "primary"}}}
	if err := errors.Join(l.Append("g", Record{Members: &m}), l.Append("g", Record{Reserve: 5}), l.Close()); err != nil {
		t.Fatal(err)
	}
	rec, err := ReadLog(path, "g")
	if err != nil || !cmp.Equal(rec.Members, &m) || rec.Reserved != 5 {
		t.Errorf("%v: %s", err, cmp.Diff(rec.Members, &m))
	}
	text, err := json.Marshal(MembersStatus{Members: m, Drift: "x"})
	if err != nil || !strings.Contains(string(text), `"version":2`) {
		t.Errorf("%v: %s", err, text)
	}
}
