package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
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
		for _, part := range []string{"make them equal", fmt.Sprint(rigVolume), fmt.Sprint(2 * rigVolume), `\"a\"`, `group "g"`, `primary \"p1\"`, `secondary \"s1\"`} {
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
			for _, part := range []string{fmt.Sprintf("%q", g.Name), "unknown", `primary \"p1\"`, `secondary \"s1\"`} {
				if said := g.Connections[0].LastError; !strings.Contains(said, part) {
					return fmt.Errorf("group %s: the primary's status says %q, not %s", g.Name, said, part)
				}
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

// TestOneVolumeInTwoGroups: it is refused where it is named a second time, which names the first: in one file, on two primaries, and on a primary
// and its secondary.
func TestOneVolumeInTwoGroups(t *testing.T) {
	t.Run("one primary", func(t *testing.T) {
		r := newRig(t, place{"g", "a", "p1", "s1"}, place{"h", "a", "p1", "s1"})
		f := r.primary("p1")
		if err := os.Symlink(r.path("g-a"), r.path("h-a")); err != nil {
			t.Fatal(err)
		}
		err := Primary(t.Context(), f, r.log, func() { t.Error("it serves") })
		for _, part := range []string{"primary.volume[1]", r.path("h-a"), `"g/a" (primary.volume[0])`, r.path("g-a")} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %s", err, part)
			}
		}
	})
	t.Run("one secondary", func(t *testing.T) {
		r := newRig(t)
		f := r.secondary("s1")
		if err := os.Symlink(r.path("s1.pool"), r.path("again")); err != nil {
			t.Fatal(err)
		}
		f.Secondary.Devices = append(f.Secondary.Devices, r.path("again"))
		err := Secondary(t.Context(), f, r.log, func() { t.Error("it serves") })
		if err == nil || !strings.Contains(err.Error(), "secondary.devices[1]: "+r.path("again")) || !strings.Contains(err.Error(), r.path("s1.pool")+", which holds its pool") {
			t.Errorf("%v", err)
		}
	})
	t.Run("two primaries", func(t *testing.T) {
		defer func(d time.Duration) { lingering = d }(lingering)
		lingering = 0
		r := newRig(t, place{"g", "a", "p1", "s1"}, place{"g", "a", "p2", "s2"})
		r.primary("p1")
		// Another process, as another control is: it has the lock of the file.
		holder := exec.CommandContext(t.Context(), testtool.Need(t, "flock", "util-linux"), r.path("g-a"), "sh", "-c", "echo held; read line # of another control")
		stdin, err := holder.StdinPipe()
		stdout, outErr := holder.StdoutPipe()
		if err := errors.Join(err, outErr, os.WriteFile(r.path("g-a"), make([]byte, rigVolume), 0o600), holder.Start()); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		err = Primary(t.Context(), r.primary("p2"), r.log, func() { t.Error("it serves") })
		for _, part := range []string{r.path("g-a") + ", for volume g/a here", fmt.Sprintf("process %d (", holder.Process.Pid), "of another control"} {
			if !errors.Is(err, ring.ErrInUse) || !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %s", err, part)
			}
		}
		if err := errors.Join(stdin.Close(), holder.Wait()); err != nil && !strings.Contains(err.Error(), "exit status 1") { // read saw the end
			t.Error(err)
		}
	})
	t.Run("a primary and its secondary", func(t *testing.T) {
		r := newRig(t, place{"g", "a", "p1", "s1"})
		r.start(Secondary, r.secondary("s1", fmt.Sprintf("[[secondary.volume]]\nname = \"a\"\ngroup = \"h\"\nsize = %d\n", rigVolume)))
		r.start(Primary, r.primary("p1"))
		await(r, "p1", func(s primary.Status) error {
			for _, part := range []string{`group \"g\"`, `volume \"a\" is in group \"h\" here`, `primary \"p1\"`, `secondary \"s1\"`} {
				if said := s.Groups[0].Connections[0].LastError; !strings.Contains(said, part) {
					return fmt.Errorf("the primary's status says %q, not %s", said, part)
				}
			}
			return nil
		})
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
		o.Ask, o.Timeout = ask, patience
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
	o := RecoveryOptions{Ask: ask, Timeout: patience}
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
