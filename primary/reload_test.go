package primary

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// join opens a device for a volume and has it join.
func (n *testNode) join(name string, size uint64) (*Volume, <-chan struct{}, error) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path, bytes.Repeat([]byte(name), int(size)/len(name)), 0o600); err != nil {
		n.t.Fatal(err)
	}
	devs, err := ring.OpenPlain([]string{path}, ring.OpenOptions{AllowBuffered: true})
	if err != nil {
		n.t.Fatal(err)
	}
	gone := make(chan struct{})
	release := func() {
		if err := devs.Close(); err != nil {
			n.t.Errorf("close the device of %q: %v", name, err)
		}
		close(gone)
	}
	v, err := n.AddVolume("g", VolumeSpec{Name: name, Size: size, Secondaries: []string{"p"}}, devs, n.opt.Secondaries, release)
	if err != nil {
		devs.Close()
	}
	return v, gone, err
}

// attachedTo waits until the secondary has so many volumes.
func (s *fakeSecondary) attachedTo(volumes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.names) != volumes {
		s.changed.Wait()
	}
}

func TestVolumesJoinAndLeaveARunningNode(t *testing.T) {
	n := startNode(t, 1, nil)
	s := n.secondaries[0]
	s.images["c"] = make([]byte, nodeSize)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.round(n, 1)
	if _, err := n.volume("a").WriteAt([]byte("between"), 4096); err != nil {
		t.Fatal(err)
	}
	v, gone, err := n.join("c", nodeSize)
	if err != nil {
		t.Fatal(err)
	}
	m.round(n, 2)
	s.attachedTo(3)
	if _, err := v.WriteAt([]byte("to the new one"), 8192); err != nil {
		t.Fatal(err)
	}
	cg := uint64(3)
	for ; ; cg++ {
		m.round(n, cg)
		s.mu.Lock()
		whole := s.whole["c"]
		s.mu.Unlock()
		if whole {
			break
		}
	}
	for n.Status().Groups[0].Volumes[2].Copies[0].FirstCopyDone == false {
		m.sync()
	}

	last := bytes.Clone(s.images["c"])
	if err := n.RemoveVolume(v); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a volume that leaves takes a write")
	}
	if _, err := v.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrNoVolume) {
		t.Errorf("a read of a volume that leaves: %v", err)
	}
	if _, err := n.Volume("g", "c"); !errors.Is(err, ErrNoVolume) {
		t.Errorf("%v", err)
	}
	m.round(n, cg+1)
	s.attachedTo(2)
	<-gone
	if !bytes.Equal(last, s.images["c"]) {
		t.Error("the copy that was left has changed")
	}
	if _, err := n.volume("b").WriteAt([]byte("goes on"), 0); err != nil {
		t.Fatal(err)
	}
	m.round(n, cg+2)
}

// TestVolumeOfTheStartLeaves: its device is closed once nothing reads from it any more, while the others that were opened with it go on.
func TestVolumeOfTheStartLeaves(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Plain, ring.Auto} {
		t.Run(kind.String(), func(t *testing.T) {
			n := startNode(t, 1, nil)
			n.stop()
			open := func(names ...string) (ring.Devices, error) {
				var paths []string
				for _, name := range names {
					paths = append(paths, filepath.Join(n.dir, name))
				}
				return ring.Open(paths, ring.OpenOptions{Kind: kind, AllowBuffered: true})
			}
			n.openDevices = func() (ring.Devices, error) { return open("a", "b") }
			n.start()
			m := dialManager(t, n.addr, 1)
			m.open(1, 0)
			m.round(n, 1)
			v := n.volume("b")
			if _, err := v.ReadAt(make([]byte, 8192), 0); err != nil {
				t.Fatal(err)
			}
			v.reading.Add(1) // as a host that reads
			if err := n.RemoveVolume(v); err != nil {
				t.Fatal(err)
			}
			m.round(n, 2)
			n.secondaries[0].attachedTo(1)
			if _, err := open("b"); !errors.Is(err, ring.ErrInUse) {
				t.Fatalf("the device was closed under a reader: %v", err)
			}
			v.endRead()
			var devs ring.Devices
			err := error(ring.ErrInUse)
			for deadline := time.Now().Add(time.Minute); errors.Is(err, ring.ErrInUse) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				devs, err = open("b")
			}
			if err != nil {
				t.Fatalf("the device was not closed: %v", err)
			}
			if err := devs.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := n.volume("a").WriteAt([]byte("goes on"), 0); err != nil {
				t.Fatal(err)
			}
			m.round(n, 3)
		})
	}
}

// TestVolumeJoinsWithAnotherSecondary: the connection is made then, and ends when nothing is there any more.
func TestVolumeJoinsWithAnotherSecondary(t *testing.T) {
	n := startNode(t, 1, nil)
	other := newFakeSecondary(t, map[string]uint64{"c": nodeSize})
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.round(n, 1)
	path := filepath.Join(n.dir, "c")
	if err := os.WriteFile(path, make([]byte, nodeSize), 0o600); err != nil {
		t.Fatal(err)
	}
	devs, err := ring.OpenPlain([]string{path}, ring.OpenOptions{AllowBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	v, err := n.AddVolume("g", VolumeSpec{Name: "c", Size: nodeSize, Secondaries: []string{"q"}}, devs,
		map[string]string{"q": other.ln.Addr().String()}, func() { devs.Close(); close(gone) })
	if err != nil {
		t.Fatal(err)
	}
	other.attachedTo(1)
	n.secondaries = append(n.secondaries, other)
	m.round(n, 2)
	m.round(n, 3)
	if err := n.RemoveVolume(v); err != nil {
		t.Fatal(err)
	}
	n.secondaries = n.secondaries[:1]
	m.round(n, 4)
	<-gone
	m.round(n, 5)
}

func TestReloadIsAnswered(t *testing.T) {
	var fails error
	n := startNode(t, 0, func(o *Options) { o.Reload = func() error { return fails } })
	conn, err := wire.Dial(t.Context(), n.addr, patient)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "t"}); err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		if err := conn.WriteMessage(&wire.Reload{}); err != nil {
			t.Fatal(err)
		}
		h, _, err := conn.Next()
		if err == nil && h.Type != wire.TypeStatusReply {
			t.Fatalf("answered with %v", h.Type)
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	fails = errors.New("the file says nothing")
	if told, ok := errors.AsType[*wire.RemoteError](ask()); !ok || told.Message.Code != wire.CodeState || told.Message.Text != fails.Error() {
		t.Fatalf("%+v", told)
	}
}
