package primary

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

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
