package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
)

// TestReq14_Topologies: any mix of controls forms CGs, and every copy shows what its primary's host wrote.
func TestReq14_Topologies(t *testing.T) {
	for _, c := range []struct {
		name   string
		places []place
	}{
		{"three primaries to one secondary", []place{{"g", "a", "p1", "s1"}, {"g", "b", "p2", "s1"}, {"g", "c", "p3", "s1"}}},
		{"one primary to three secondaries", []place{{"g", "a", "p1", "s1"}, {"g", "b", "p1", "s2"}, {"g", "c", "p1", "s3"}}},
		{"crossed pairs", []place{{"g", "a", "p1", "s1"}, {"g", "b", "p2", "s1"}, {"g", "c", "p1", "s2"}, {"g", "d", "p2", "s2"}}},
		{"several groups on the same controls", []place{{"g", "a", "p1", "s1"}, {"h", "a", "p1", "s1"}, {"h", "b", "p1", "s2"}, {"k", "a", "p2", "s1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.places...)
			r.all("5ms")
			for i, p := range r.places {
				r.write(p, byte('A'+i))
			}
			s := r.awaitCut()
			for i, p := range r.places {
				if got := r.shown(p); got != byte('A'+i) {
					t.Errorf("%v shows %q", p, got)
				}
			}
			for _, g := range s.Groups {
				if g.Halted != "" || g.Reverts != 0 {
					t.Errorf("group %s: %+v", g.Group, g)
				}
			}
		})
	}
}

// TestGroupsAreIndependent: one group stands still because its control is away; the other, on the controls that are there, goes on.
func TestGroupsAreIndependent(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"h", "a", "p1", "s2"})
	r.start(Secondary, r.secondary("s1"))
	r.start(Primary, r.primary("p1"))
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(r.places[0], 'x')
	await(r, "m1", func(s manager.NodeStatus) error {
		g, h := s.Groups[0], s.Groups[1]
		if h.RecoveryPoint != nil || h.State != manager.StateStarting {
			t.Fatalf("group h has %+v without its secondary", h)
		}
		if g.CGsFormed < 3 || !strings.Contains(h.Waiting, "s2") {
			return fmt.Errorf("g formed %d, h waits for %q", g.CGsFormed, h.Waiting)
		}
		return nil
	})
}

// TestSizesMustBeEqual: the secondary refuses the primary's volume, and both the primary's and the manager's status say why.
func TestSizesMustBeEqual(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"})
	r.start(Secondary, r.secondary("s1", fmt.Sprintf("[[secondary.volume]]\nname = \"a\"\ngroup = \"g\"\nsize = %d\n", 2*rigVolume)))
	r.start(Primary, r.primary("p1"))
	await(r, "p1", func(s primary.Status) error {
		said := s.Groups[0].Connections[0].LastError
		for _, part := range []string{"make them equal", fmt.Sprint(rigVolume), fmt.Sprint(2 * rigVolume)} {
			if !strings.Contains(said, part) {
				return fmt.Errorf("the primary's status says %q, not %s", said, part)
			}
		}
		return nil
	})
}

// TestUnknownVolumesAndGroups: a volume that the secondary does not have, and a group that it has never heard of.
func TestUnknownVolumesAndGroups(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"h", "a", "p1", "s1"})
	r.start(Secondary, r.secondary("s1", fmt.Sprintf("[[secondary.volume]]\nname = \"other\"\ngroup = \"g\"\nsize = %d\n", rigVolume)))
	r.start(Primary, r.primary("p1"))
	r.start(Manager, r.manager("m1", "5ms"))
	await(r, "p1", func(s primary.Status) error {
		for _, g := range s.Groups {
			if said := g.Connections[0].LastError; !strings.Contains(said, fmt.Sprintf("%q", g.Name)) || !strings.Contains(said, "unknown") {
				return fmt.Errorf("group %s: the primary's status says %q", g.Name, said)
			}
		}
		return nil
	})
	await(r, "m1", func(s manager.NodeStatus) error {
		h := s.Groups[1]
		i := slices.IndexFunc(h.Controls, func(c manager.ControlStatus) bool { return c.Role == "secondary" })
		if said := h.Controls[i].Error; !strings.Contains(said, `"h"`) {
			return fmt.Errorf("the manager's status says %q of the secondary", said)
		}
		return nil
	})
}

// TestVolumeOfAnotherSizeIsRefusedAtStart: the pool has it, the file says otherwise.
func TestVolumeOfAnotherSizeIsRefusedAtStart(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"})
	r.start(Secondary, r.secondary("s1"))()
	f := r.secondary("s1", fmt.Sprintf("[[secondary.volume]]\nname = \"a\"\ngroup = \"g\"\nsize = %d\n", 2*rigVolume))
	err := Secondary(t.Context(), f, r.log, func() { t.Error("it serves") })
	if err == nil || !strings.Contains(err.Error(), "g/a") || !strings.Contains(err.Error(), fmt.Sprint(rigVolume)) {
		t.Errorf("%v", err)
	}
}

// TestReq20_RecoverRealControls: a group is settled by PlanRecovery and Recover alone, with the log and without; then a manager goes on from there.
func TestReq20_RecoverRealControls(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) { recoverReal(t, lost) })
	}
}

func recoverReal(t *testing.T, lost bool) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"g", "b", "p1", "s2"})
	stop := r.all("1ms")
	file := r.manager("m1", "1ms")
	plan := func(o RecoveryOptions) ([]GroupRecovery, error) {
		o.Ask, o.Timeout = ask, wireTimeout
		return PlanRecovery(t.Context(), file, o)
	}
	r.write(r.places[0], 'x')
	r.awaitCut()
	if got, err := plan(RecoveryOptions{}); err != nil || got[0].LogState != LogInUse || got[0].Controls[0].Step != "nothing: a manager runs" {
		t.Errorf("while the manager runs: %v %+v", err, got)
	}
	if _, err := Recover(t.Context(), file, []GroupRecovery{{Group: "g"}}, r.log); !errors.Is(err, manager.ErrLogInUse) {
		t.Errorf("while the manager runs: %v", err)
	}
	r.awaitCut() // it was not disturbed
	stop()
	if lost {
		file.Manager.DecisionLog = r.path("another")
	}
	planned, err := plan(RecoveryOptions{Group: "g"})
	if err != nil || planned[0].Plan.Action == manager.PlanRefuse || (planned[0].LogState == LogLost) != lost {
		t.Fatalf("%v %+v", err, planned)
	}
	if _, err := plan(RecoveryOptions{Absent: []string{r.socket("s1")}}); !errors.Is(err, ErrOverride) {
		t.Errorf("a control that answers was left out: %v", err)
	}
	if _, err := plan(RecoveryOptions{Group: "other"}); err == nil {
		t.Error("an unknown group was planned")
	}
	done, err := Recover(t.Context(), file, planned, r.log)
	if err != nil || done[0].Halted != "" || done[0].RecoveryPoint == nil {
		t.Fatalf("%v %+v, planned %+v", err, done, planned)
	}
	// A command of the manager that was on its way may have been carried out after the plan was made.
	if point := *done[0].RecoveryPoint; point != planned[0].Plan.CG && point != *planned[0].Controls[0].Linked {
		t.Errorf("CG %d, planned %+v", point, planned)
	}
	again, err := plan(RecoveryOptions{})
	if err != nil || again[0].Plan.Action != manager.PlanNothing || again[0].Plan.CG != *done[0].RecoveryPoint || again[0].LogState != LogPresent {
		t.Errorf("afterwards: %v %+v", err, again)
	}
	r.start(Manager, file)
	r.write(r.places[1], 'y')
	r.awaitCut()
	if a, b := r.shown(r.places[0]), r.shown(r.places[1]); a != 'x' || b != 'y' {
		t.Errorf("the copies show %q and %q", a, b)
	}
}

// TestReq20_RecoverWithoutAControl: no decision until an operator leaves it out.
func TestReq20_RecoverWithoutAControl(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"g", "b", "p1", "s2"})
	r.start(Secondary, r.secondary("s1"))
	r.secondary("s2")
	file := r.manager("m1", "1ms")
	o := RecoveryOptions{Ask: ask, Timeout: wireTimeout}
	planned, err := PlanRecovery(t.Context(), file, o)
	if err != nil || planned[0].Plan.Row != manager.RowMissing || planned[0].Controls[1].Error == "" {
		t.Fatalf("%v %+v", err, planned)
	}
	o.Absent = []string{r.socket("s2")}
	if planned, err = PlanRecovery(t.Context(), file, o); err != nil || planned[0].Plan.Action != manager.PlanNothing || planned[0].Controls[1].Step != "left out" {
		t.Fatalf("%v %+v", err, planned)
	}
	if done, err := Recover(t.Context(), file, planned, r.log); err != nil || done[0].Halted != "" {
		t.Fatalf("%v %+v", err, done)
	}
	o.Absent = []string{r.socket("s9")}
	if _, err := PlanRecovery(t.Context(), file, o); !errors.Is(err, ErrOverride) {
		t.Errorf("a control that no group has: %v", err)
	}
}
