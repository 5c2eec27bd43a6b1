package manager

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestReq20_AssessWithTheLog: what the log says of each control, and what outweighs it.
func TestReq20_AssessWithTheLog(t *testing.T) {
	both := []string{"a", "b"}
	for _, c := range []struct {
		name     string
		decided  uint64
		parties  []string
		in       []ControlState
		row      PlanRow
		action   PlanAction
		controls []string
		steps    string
	}{
		{"all final", 5, both, []ControlState{ctl("a", 5, 5), ctl("b", 5, 5)}, RowLog, PlanNothing, nil, "stays; stays"},
		{"none released", 5, both, []ControlState{ctl("a", 5, 4), ctl("b", 5, 4)}, RowLog, PlanCommit, both, "release CG 5; release CG 5"},
		{"one released", 5, both, []ControlState{ctl("a", 5, 4), ctl("b", 5, 5)}, RowLog, PlanCommit, []string{"a"}, "release CG 5; stays"},
		{"the next linked, not decided", 5, both, []ControlState{ctl("a", 6, 5), ctl("b", 6, 5)}, RowLog, PlanRevert, both, "revert CG 6, back to CG 5; revert CG 6, back to CG 5"},
		{"one linked", 5, both, []ControlState{ctl("a", 6, 5), ctl("b", 5, 5)}, RowLog, PlanRevert, []string{"a"}, "revert CG 6, back to CG 5; stays"},
		{"a new control", 5, []string{"a"}, []ControlState{ctl("a", 5, 5), ctl("b", 0, 0)}, RowLog, PlanNothing, nil, "stays; stays"},
		{"an emptied control", 5, both, []ControlState{ctl("a", 5, 5), ctl("b", 0, 0)}, RowElse, PlanRefuse, nil, "nothing is changed; nothing is changed"},
		{"a control that lost it", 5, both, []ControlState{ctl("a", 5, 5), ctl("b", 4, 4)}, RowElse, PlanRefuse, nil, "nothing is changed; nothing is changed"},
		{"final above linked", 5, both, []ControlState{ctl("a", 5, 5), ctl("b", 4, 5)}, RowElse, PlanRefuse, nil, "nothing is changed; nothing is changed"},
		{"not reached", 5, both, []ControlState{ctl("a", 5, 4), {Name: "b"}}, RowMissing, PlanRefuse, nil, "nothing is changed; nothing is changed"},
		{"an old log", 3, both, []ControlState{ctl("a", 6, 5), ctl("b", 5, 5)}, RowSome, PlanRevert, []string{"a"}, "revert CG 6, back to CG 5; stays"},
		{"nothing decided yet", 0, nil, []ControlState{ctl("a", 1, 0), ctl("b", 0, 0)}, RowLog, PlanRevert, []string{"a"}, "revert CG 1, back to CG 0; stays"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Assess(Recovered{Known: true, Decided: Decision{CG: c.decided, Secondaries: c.parties}}, c.in)
			if p.Row != c.row || p.Action != c.action || !slices.Equal(p.Controls, c.controls) || p.Why == "" {
				t.Errorf("got %+v", p)
			}
			var steps []string
			for _, x := range c.in {
				steps = append(steps, p.Step(x))
			}
			if got := strings.Join(steps, "; "); got != c.steps {
				t.Errorf("steps %q, want %q", got, c.steps)
			}
		})
	}
}

// TestReq20_AssessWithoutTheLogIsTheTable: rows are named as in the architecture.
func TestReq20_AssessWithoutTheLogIsTheTable(t *testing.T) {
	for row, in := range map[PlanRow][]ControlState{
		RowCommitted: {ctl("a", 5, 5), ctl("b", 5, 5)},
		RowSome:      {ctl("a", 6, 5), ctl("b", 5, 5)},
		RowAll:       {ctl("a", 6, 5), ctl("b", 6, 5)},
		RowReleased:  {ctl("a", 6, 5), ctl("b", 6, 6)},
		RowElse:      {ctl("a", 7, 5), ctl("b", 6, 6)},
		RowMissing:   {ctl("a", 7, 5), {Name: "b"}},
	} {
		if p := Assess(Recovered{}, in); p.Row != row {
			t.Errorf("%+v: row %q, want %q", in, p.Row, row)
		}
	}
}

// TestReq20_StartDoesWhatAssessSays: a real start from any state that a crash leaves, with the log and without, brings every control to the CG
// that was foretold.
func TestReq20_StartDoesWhatAssessSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, 2, 2, fastSettings())
		w.progress()
		for range rapid.IntRange(0, 60).Draw(rt, "turns") {
			if !w.pump() {
				w.tick()
			}
		}
		lost := rapid.Bool().Draw(rt, "lost")
		w.crashManager(len(w.persists), lost)
		rec := w.rec
		var in []ControlState
		for _, s := range w.sec {
			in = append(in, ctl(s.name, s.linked, s.final))
		}
		p := Assess(rec, in)
		if p.Action == PlanRefuse {
			rt.Fatalf("refused: %+v for %+v", p, in)
		}
		w.until("recovered", func() bool { return w.core.State() == StateIdle })
		for _, s := range w.sec {
			if s.final != p.CG || s.linked != p.CG {
				rt.Fatalf("%s shows %d, final %d; foretold was %+v", s.name, s.linked, s.final, p)
			}
		}
	})
}
