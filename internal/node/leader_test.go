package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
)

// TestTwoManagersWithoutASharedLog: each control obeys one of them only. The one with the older epoch is told, by whichever control it asks first, the epoch
// in force and the name of the manager that has it, and sends nothing more; the other goes on.
func TestTwoManagersWithoutASharedLog(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"g", "b", "p2", "s2"})
	r.all("5ms")
	r.awaitCut()
	r.start(Manager, r.manager("m2", "5ms"))
	halted := await(r, "m1", func(s manager.NodeStatus) error {
		if s.Groups[0].State != manager.StateHalted {
			return fmt.Errorf("it is in %v", s.Groups[0].State)
		}
		return nil
	}).Groups[0]
	lead := await(r, "m2", func(s manager.NodeStatus) error {
		if g := s.Groups[0]; g.CGsFormed < 3 {
			return fmt.Errorf("%d CGs formed, %v, waits for %q", g.CGsFormed, g.State, g.Waiting)
		}
		return nil
	}).Groups[0]
	for _, part := range []string{`manager "m2"`, fmt.Sprintf("epoch %d", halted.Epoch), fmt.Sprint(lead.Epoch)} {
		if !strings.Contains(halted.Halted, part) {
			t.Errorf("the first manager was told %q, which lacks %s", halted.Halted, part)
		}
	}
	if halted.Epoch >= lead.Epoch || lead.Halted != "" {
		t.Errorf("epoch %d, then %d; the second: %q", halted.Epoch, lead.Epoch, lead.Halted)
	}
	for _, name := range []string{"p1", "p2"} {
		await(r, name, func(s primary.Status) error { return leads(s.Groups[0].Manager, s.Groups[0].Epoch, lead.Epoch) })
	}
	for _, name := range []string{"s1", "s2"} {
		await(r, name, func(s target.Status) error { return leads(s.Groups[0].Manager, s.Groups[0].Epoch, lead.Epoch) })
	}
	r.write(r.places[0], 'x')
	await(r, "s1", func(target.Status) error {
		if got := r.shown(place{"g", "a", "p1", "s1"}); got != 'x' {
			return fmt.Errorf("the copy shows %q", got)
		}
		return nil
	})
}

func leads(name string, epoch, want uint64) error {
	if name != "m2" || epoch != want {
		return fmt.Errorf("manager %q leads, epoch %d; want m2 and %d", name, epoch, want)
	}
	return nil
}
