package node

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// TestPeerThatNeverReadsIsGivenUp: a tool asks and asks, sends signs of life, and reads no answer. Every role ends that connection, and
// goes on answering others.
func TestPeerThatNeverReadsIsGivenUp(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"})
	impatient := func(f *config.File) *config.File {
		f.Node.PeerTimeout = config.Duration(time.Second)
		return f
	}
	r.start(Secondary, impatient(r.secondary("s1")))
	r.start(Primary, impatient(r.primary("p1")))
	r.start(Manager, impatient(r.manager("m1", "20ms")))
	for _, name := range []string{"p1", "s1", "m1"} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", r.path(name))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			w := wire.NewWriter(conn)
			err = w.WriteMessage(&wire.Hello{Version: wire.Version, Role: wire.RoleTool, Node: "test"})
			for range 900 { // their answers fill any socket, and fewer than a primary keeps for one peer
				err = errors.Join(err, w.WriteMessage(&wire.Status{}))
			}
			for err == nil {
				time.Sleep(100 * time.Millisecond) // between two signs of life
				err = w.WriteMessage(&wire.Ping{})
			}
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
	await(r, "p1", func(primary.Status) error { return nil })
	await(r, "s1", func(target.Status) error { return nil })
	r.awaitCut()
}
