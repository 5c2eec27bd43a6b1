package node

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// control adds a control to group g, or removes it if role is empty.
func (r *rig) control(name, role string) error {
	r.t.Helper()
	action := wire.GroupAdd
	if role == "" {
		action = wire.GroupRemove
	}
	document, err := json.Marshal(wire.GroupControl{Control: r.socket(name), Role: role})
	if err != nil {
		r.t.Fatal(err)
	}
	var s manager.NodeStatus
	return r.tool("m1", &wire.GroupChange{Group: "g", Action: action, JSON: document}, &s)
}

// takesPart waits until group g is formed with so many controls, and none is about to join or to leave.
func (r *rig) takesPart(controls int) manager.Status {
	r.t.Helper()
	return await(r, "m1", func(s manager.NodeStatus) error {
		g := s.Groups[0]
		if len(g.Controls) != controls || len(g.Members.Waiting) > 0 || len(g.Members.Joining) > 0 {
			return fmt.Errorf("%d controls, %+v", len(g.Controls), g.Members)
		}
		return nil
	}).Groups[0]
}

// TestReq14_ControlsJoinAndLeave: a running group of one pair gets a second primary with a second secondary, over a restart of the manager, and
// is left by them again. Every host's writes are in the copy, and the recovery point only grows.
func TestReq14_ControlsJoinAndLeave(t *testing.T) {
	first, second := place{"g", "a", "p1", "s1"}, place{"g", "b", "p2", "s2"}
	r := newRig(t, first)
	file := r.manager("m1", "5ms")
	r.start(Secondary, r.secondary("s1"))
	r.start(Primary, r.primary("p1"))
	stopManager := r.start(Manager, file)
	r.write(first, 'x')
	point := *r.awaitCut().Groups[0].RecoveryPoint

	// Added before they are there: the group goes on.
	r.places = append(r.places, second)
	for name, role := range map[string]string{"p2": "primary", "s2": "secondary"} {
		if err := r.control(name, role); err != nil {
			t.Fatal(err)
		}
	}
	s := r.awaitCutOf(first)
	if *s.RecoveryPoint <= point || len(s.Members.Waiting) != 2 {
		t.Fatalf("recovery point %d after %d; %+v", *s.RecoveryPoint, point, s.Members)
	}
	point = *s.RecoveryPoint
	stopManager() // what was answered is durable
	r.start(Secondary, r.secondary("s2"))
	stopSecond := r.start(Primary, r.primary("p2"))
	stopManager = r.start(Manager, file)
	r.write(second, 'y')
	s = r.takesPart(4)
	if !strings.Contains(s.Members.Drift, r.path("s2")) || s.Members.Version == 0 {
		t.Errorf("members %+v", s.Members)
	}
	s = r.awaitCut().Groups[0]
	if *s.RecoveryPoint <= point || r.shown(first) != 'x' || r.shown(second) != 'y' {
		t.Errorf("recovery point %d after %d; the copies show %q and %q", *s.RecoveryPoint, point, r.shown(first), r.shown(second))
	}
	stopManager() // started again, with the file of before, it has the four
	stopManager = r.start(Manager, file)
	r.takesPart(4)
	r.write(second, 'z')
	point = *r.awaitCut().Groups[0].RecoveryPoint

	for _, name := range []string{"p2", "s2"} {
		if err := r.control(name, ""); err != nil {
			t.Fatal(err)
		}
	}
	stopSecond()
	s = r.takesPart(2)
	if s.Members.Drift != "" {
		t.Errorf("members %+v", s.Members)
	}
	r.write(first, 'w')
	if s = r.awaitCutOf(first); *s.RecoveryPoint <= point || r.shown(first) != 'w' || r.shown(second) != 'z' {
		t.Errorf("recovery point %d after %d; the copies show %q and %q", *s.RecoveryPoint, point, r.shown(first), r.shown(second))
	}
	if err := r.control("s1", ""); err == nil || !strings.Contains(err.Error(), "only secondary") {
		t.Errorf("the last secondary was removed: %v", err)
	}
	stopManager()
}

// awaitCutOf is awaitCut for the members that take part.
func (r *rig) awaitCutOf(p place) manager.Status {
	r.t.Helper()
	now := time.Now()
	return await(r, "m1", func(s manager.NodeStatus) error {
		g := s.Groups[0]
		if g.RecoveryCut == nil || !g.RecoveryCut.After(now) {
			return fmt.Errorf("group %s of %v: %v, waits for %q", g.Group, p, g.State, g.Waiting)
		}
		for _, c := range g.Controls {
			if c.Role == "secondary" && !c.Joining && (c.Final == nil || *c.Final < *g.RecoveryPoint) {
				return fmt.Errorf("CG %d is not final on %s", *g.RecoveryPoint, c.Name)
			}
		}
		return nil
	}).Groups[0]
}

// TestLostSecondaryIsRemoved: the group waits in REVERTING for a secondary that is gone; on the operator's word it goes on without it. The primary had
// its copy there taken out of its configuration before.
func TestLostSecondaryIsRemoved(t *testing.T) {
	first, second := place{"g", "a", "p1", "s1"}, place{"g", "b", "p1", "s2"}
	r := newRig(t, first, second)
	r.start(Secondary, r.secondary("s1"))
	stopLost := r.start(Secondary, r.secondary("s2"))
	stopPrimary := r.start(Primary, r.primary("p1"))
	r.start(Manager, r.manager("m1", "5ms"))
	point := *r.awaitCut().Groups[0].RecoveryPoint
	stopLost()
	await(r, "m1", func(s manager.NodeStatus) error {
		if g := s.Groups[0]; !strings.Contains(g.Waiting, r.path("s2")) {
			return fmt.Errorf("waits for %q", g.Waiting)
		}
		return nil
	})
	stopPrimary()
	r.places = r.places[:1]
	r.start(Primary, r.primary("p1"))
	if err := r.control("s2", ""); err != nil {
		t.Fatal(err)
	}
	r.takesPart(2)
	r.write(first, 'x')
	if s := r.awaitCutOf(first); *s.RecoveryPoint <= point || r.shown(first) != 'x' {
		t.Errorf("recovery point %d after %d; the copy shows %q", *s.RecoveryPoint, point, r.shown(first))
	}
}

// TestSecondaryJoinsAfterItsPrimary: a primary that is a member has sent a volume to a secondary that is none, and believes that it is final there,
// because the CG is final in the group. When that secondary joins, it gets all of the volume.
func TestSecondaryJoinsAfterItsPrimary(t *testing.T) {
	first, second := place{"g", "a", "p1", "s1"}, place{"g", "b", "p1", "s2"}
	r := newRig(t, first)
	file := r.manager("m1", "5ms")
	r.start(Secondary, r.secondary("s1"))
	stopPrimary := r.start(Primary, r.primary("p1"))
	r.start(Manager, file)
	r.write(first, 'x')
	r.awaitCut()
	stopPrimary()
	r.places = append(r.places, second)
	r.start(Secondary, r.secondary("s2"))
	r.start(Primary, r.primary("p1"))
	r.write(second, 'y')
	await(r, "p1", func(s primary.Status) error {
		for _, v := range s.Groups[0].Volumes {
			if !v.Copies[0].FirstCopyDone {
				return fmt.Errorf("volume %s: %+v", v.Name, v.Copies[0])
			}
		}
		return nil
	})
	if err := r.control("s2", "secondary"); err != nil {
		t.Fatal(err)
	}
	r.takesPart(3)
	r.awaitCut()
	if a, b := r.shown(first), r.shown(second); a != 'x' || b != 'y' {
		t.Errorf("the copies show %q and %q", a, b)
	}
}
