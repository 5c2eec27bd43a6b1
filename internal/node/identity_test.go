package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// tool sends a message to a node as an operator's command does, and decodes the status that answers it.
func (r *rig) tool(name string, m wire.Message, status any) error {
	r.t.Helper()
	conn, err := wire.Dial(r.t.Context(), r.socket(name), patient)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "test"}); err != nil {
		r.t.Fatal(err)
	}
	if err := conn.WriteMessage(m); err != nil {
		r.t.Fatal(err)
	}
	h, body, err := conn.Next()
	if err != nil {
		return err
	}
	reply, err := wire.Decode(h.Type, body)
	if err != nil {
		r.t.Fatal(err)
	}
	return json.Unmarshal(reply.(*wire.StatusReply).JSON, status)
}

// pause pauses a group and waits until nothing of it is between two states.
func (r *rig) pause(group string) {
	r.t.Helper()
	var s manager.NodeStatus
	if err := r.tool("m1", &wire.GroupChange{Group: group, Action: wire.GroupPause}, &s); err != nil {
		r.t.Fatal(err)
	}
	await(r, "m1", func(s manager.NodeStatus) error {
		for _, g := range s.Groups {
			if g.Group == group && g.State != manager.StateIdle {
				return fmt.Errorf("group %s is in %v", group, g.State)
			}
		}
		return nil
	})
}

func (r *rig) resume(group string) {
	r.t.Helper()
	var s manager.NodeStatus
	if err := r.tool("m1", &wire.GroupChange{Group: group, Action: wire.GroupResume}, &s); err != nil {
		r.t.Fatal(err)
	}
}

// TestVolumeMadeAgainGetsAFirstCopy: deleted and made again on the secondary between two runs of its primary, the volume gets all the data
// again. Nothing else tells the primary: name and size are the same.
func TestVolumeMadeAgainGetsAFirstCopy(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"g", "b", "p1", "s1"})
	stopSecondary := r.start(Secondary, r.secondary("s1"))
	stopPrimary := r.start(Primary, r.primary("p1"))
	stopManager := r.start(Manager, r.manager("m1", "5ms"))
	r.write(r.places[0], 'x')
	r.write(r.places[1], 'y')
	r.awaitCut()
	r.pause("g")
	stopManager()
	stopPrimary()
	stopSecondary() // with it ends the session that waits for the primary, and what is final is folded
	r.start(Secondary, r.secondary("s1"))
	for _, change := range []wire.Volume{{Group: "g", Name: "a", Action: wire.VolumeDelete}, {Group: "g", Name: "a", Action: wire.VolumeMake, Size: rigVolume}} {
		var status target.Status
		err := r.tool("s1", &change, &status)
		for late := time.Now().Add(patience); errors.Is(err, wire.ErrState) && time.Now().Before(late); time.Sleep(3 * time.Millisecond) {
			err = r.tool("s1", &change, &status) // what is final may still be folded
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if c, err := nbdclient.Dial(t.Context(), r.socket("s1n"), "g/a"); err == nil {
		t.Fatalf("the new volume is served: %v", c.Close())
	}
	r.start(Primary, r.primary("p1"))
	r.start(Manager, r.manager("m1", "5ms"))
	r.resume("g")
	r.awaitCut()
	for i, want := range "xy" {
		if got := r.shown(r.places[i]); got != byte(want) {
			t.Errorf("%v shows %q, want %q", r.places[i], got, want)
		}
	}
	await(r, "p1", func(s primary.Status) error {
		for _, v := range s.Groups[0].Volumes {
			if c := v.Copies[0]; !c.FirstCopyDone || c.WholeCopy != "" {
				return fmt.Errorf("volume %s: %+v", v.Name, c)
			}
		}
		return nil
	})
}

// TestUnknownCopyIsLeftAlone: a primary that has lost its state directory does not overwrite a copy, until an operator names it.
func TestUnknownCopyIsLeftAlone(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"})
	r.start(Secondary, r.secondary("s1"))
	stopPrimary := r.start(Primary, r.primary("p1"))
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(r.places[0], 'x')
	r.awaitCut()
	stopPrimary()
	for _, name := range []string{"intent.0", "intent.1"} {
		if err := os.Remove(r.path("p1.d/" + name)); err != nil {
			t.Fatal(err)
		}
	}
	stopPrimary = r.start(Primary, r.primary("p1"))
	r.write(r.places[0], 'y')
	var overwrite string
	await(r, "p1", func(s primary.Status) error {
		said := s.Groups[0].Connections[0].LastError
		match := regexp.MustCompile(`--overwrite-copies (\S{36})`).FindStringSubmatch(said)
		if match == nil || !strings.Contains(said, `"g"`) || !strings.Contains(said, r.path("s1")) {
			return fmt.Errorf("status says %q", said)
		}
		overwrite = match[1]
		return nil
	})
	if got := r.shown(r.places[0]); got != 'x' {
		t.Errorf("the copy shows %q", got)
	}
	stopPrimary()
	var id config.Identity
	if err := id.UnmarshalText([]byte(overwrite)); err != nil {
		t.Fatal(err)
	}
	f := r.primary("p1")
	f.Primary.OverwriteCopies = []config.Identity{id}
	r.start(Primary, f)
	r.awaitCut()
	if got := r.shown(r.places[0]); got != 'y' {
		t.Errorf("the copy shows %q", got)
	}
}
