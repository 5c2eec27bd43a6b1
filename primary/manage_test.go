package primary

import (
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

func managedCore(t *testing.T) *Core {
	t.Helper()
	c, err := NewCore(CoreOptions{}, []GroupSpec{{Name: "g", Volumes: []VolumeSpec{{Name: "v", Size: 1 << 20, Secondaries: []string{"s"}}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func taken(c *Core) (out []ManagerMessage) {
	var a Actions
	c.Take(&a)
	return append(out, a.Manager...)
}

// TestOldConnectionIsNotObeyed: a HOLD that a manager sent over a connection which it has lost since must not hold: the THAW
// of a later hold would cut at another moment here than at the other primaries.
func TestOldConnectionIsNotObeyed(t *testing.T) {
	c := managedCore(t)
	head := wire.Command{Group: "g", Epoch: 3, CG: 1}
	c.Manage(1, &wire.Open{Command: head})
	c.Manage(2, &wire.Open{Command: head}) // the manager has come back
	taken(c)
	c.Manage(1, &wire.Hold{Command: head, TimeoutMicros: uint64(time.Second / time.Microsecond)})
	if out := taken(c); len(out) != 0 {
		t.Fatalf("a HOLD of the old connection was answered: %+v", out)
	}
	if s := c.Status().Groups[0]; s.Held {
		t.Fatal("a HOLD of the old connection holds")
	}
	c.Manage(2, &wire.Hold{Command: head, TimeoutMicros: uint64(time.Second / time.Microsecond)})
	if s := c.Status().Groups[0]; !s.Held {
		t.Fatal("a HOLD of the new connection does not hold")
	}
	// A new epoch may come over any connection: numbers compare within one only.
	c.Manage(1, &wire.Open{Command: wire.Command{Group: "g", Epoch: 4, CG: 2}})
	if s := c.Status().Groups[0]; s.Open != 2 || s.Epoch != 4 {
		t.Fatalf("%+v", s)
	}
}

// TestRefusedOpenNamesTheOpenCG: a manager that lost its log must go on above the numbers in use. If it crept up
// to the open one, the primary would take that for a repetition, and never send again what it had cut.
func TestRefusedOpenNamesTheOpenCG(t *testing.T) {
	c := managedCore(t)
	c.Manage(1, &wire.Open{Command: wire.Command{Group: "g", Epoch: 1, CG: 40}})
	taken(c)
	c.Manage(2, &wire.Open{Command: wire.Command{Group: "g", Epoch: 2, CG: 1}})
	out := taken(c)
	if len(out) != 1 {
		t.Fatalf("%+v", out)
	}
	e, ok := out[0].Message.(*wire.Error)
	if !ok || e.Code != wire.CodeState || e.CG != 40 || !strings.Contains(e.Text, "CG 40 is open here") {
		t.Fatalf("%+v", out[0].Message)
	}
}
