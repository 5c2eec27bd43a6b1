package manager

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func ctl(name string, linked, final uint64) ControlState {
	return ControlState{Name: name, Reachable: true, Linked: linked, Final: final}
}

// TestReq20_DecisionTable has every row of the decision table, and what falls outside of it.
func TestReq20_DecisionTable(t *testing.T) {
	for _, c := range []struct {
		name     string
		in       []ControlState
		action   PlanAction
		cg       uint64
		controls []string
		why      string
	}{
		{"none revertible, all equal", []ControlState{ctl("a", 5, 5), ctl("b", 5, 5)}, PlanNothing, 5, nil, "committed"},
		{"a new group", []ControlState{ctl("a", 0, 0), ctl("b", 0, 0)}, PlanNothing, 0, nil, "committed"},
		{"some revertible, the two differ", []ControlState{ctl("a", 6, 5), ctl("b", 5, 5), ctl("c", 6, 5)}, PlanRevert, 5, []string{"a", "c"}, "never decided"},
		{"all revertible, all equal", []ControlState{ctl("a", 6, 5), ctl("b", 6, 5)}, PlanRevert, 5, []string{"a", "b"}, "go back to CG 5"},
		{"some revertible, all equal", []ControlState{ctl("a", 6, 5), ctl("b", 6, 6)}, PlanCommit, 6, []string{"a"}, "b already released CG 6"},
		{"numbers with gaps", []ControlState{ctl("a", 70, 5), ctl("b", 5, 5)}, PlanRevert, 5, []string{"a"}, ""},

		{"no control", nil, PlanRefuse, 0, nil, "no secondary"},
		{"unreachable", []ControlState{ctl("a", 5, 5), {Name: "b"}}, PlanRefuse, 0, nil, "b could not be reached"},
		{"none revertible, not equal", []ControlState{ctl("a", 5, 5), ctl("b", 6, 6)}, PlanRefuse, 0, nil, "a links 5"},
		{"revertible not equal", []ControlState{ctl("a", 7, 5), ctl("b", 6, 5)}, PlanRefuse, 0, nil, "not at the same"},
		{"revertible with other finals", []ControlState{ctl("a", 7, 5), ctl("b", 7, 6)}, PlanRefuse, 0, nil, "not at the same"},
		{"others not equal", []ControlState{ctl("a", 7, 5), ctl("b", 5, 5), ctl("c", 4, 4)}, PlanRefuse, 0, nil, "different CGs"},
		{"reverting would not make equal", []ControlState{ctl("a", 7, 5), ctl("b", 4, 4)}, PlanRefuse, 0, nil, "not make"},
		{"one has just joined", []ControlState{ctl("a", 6, 5), ctl("b", 6, 0)}, PlanRefuse, 0, nil, "take b out of the manager's file and do this again, so that the others decide alone (all of them would show CG 5: every control links CG 6"},
		{"one was joining", []ControlState{ctl("a", 5, 5), ctl("b", 6, 0), ctl("c", 5, 5)}, PlanRefuse, 0, nil, "all of them would show CG 5: every control shows CG 5 as final"},
		{"one joined, and links nothing", []ControlState{ctl("a", 6, 5), ctl("b", 0, 0)}, PlanRefuse, 0, nil, "No CG was ever final on b"},
		{"two have joined", []ControlState{ctl("a", 6, 5), ctl("b", 6, 0), ctl("c", 4, 4), ctl("d", 6, 0)}, PlanRefuse, 0, nil, "take b, d out of the manager's file and do this again, so that the others decide alone (they do not agree either)"},
		{"one has just joined, and the CG was released", []ControlState{ctl("a", 6, 6), ctl("b", 6, 0)}, PlanCommit, 6, []string{"b"}, "a already released CG 6"},
		{"final above linked", []ControlState{ctl("a", 5, 6), ctl("b", 6, 6)}, PlanRefuse, 0, nil, "newer than its linked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Decide(c.in)
			if p.Action != c.action || p.CG != c.cg || !slices.Equal(p.Controls, c.controls) {
				t.Fatalf("got %+v", p)
			}
			if p.Why == "" || !strings.Contains(p.Why, c.why) {
				t.Fatalf("explanation %q lacks %q", p.Why, c.why)
			}
		})
	}
}

// TestReq20_DecidePlansMakeEqual: whatever is reported, a plan that changes something leaves all controls at the plan's CG.
func TestReq20_DecidePlansMakeEqual(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(rt, "n")
		var in []ControlState
		for i := range n {
			final := rapid.Uint64Range(0, 3).Draw(rt, "final")
			in = append(in, ctl(string(rune('a'+i)), final+rapid.Uint64Range(0, 2).Draw(rt, "above"), final))
		}
		p := Decide(in)
		if p.Action == PlanRefuse {
			return
		}
		for _, c := range in {
			touched := slices.Contains(p.Controls, c.Name)
			if touched != c.Revertible() {
				rt.Fatalf("%+v for %+v: %s touched %v", p, in, c.Name, touched)
			}
			shows := c.Linked
			if touched && p.Action == PlanRevert {
				shows = c.Final
			}
			if shows != p.CG {
				rt.Fatalf("%+v leaves %s at %d", p, c.Name, shows)
			}
		}
	})
}
