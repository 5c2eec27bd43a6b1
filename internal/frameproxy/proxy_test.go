package frameproxy

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/wire"
)

// rig is a proxy in front of a socket.
type rig struct {
	t      *testing.T
	p      *Proxy
	at     string
	target net.Listener
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, at: filepath.Join(dir, "proxy")}
	var err error
	if r.target, err = net.Listen("unix", filepath.Join(dir, "target")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.target.Close() })
	if r.p, err = Listen("unix:"+r.at, "unix:"+filepath.Join(dir, "target")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.p.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// connect returns both ends of a connection through the proxy.
func (r *rig) connect() (near, far net.Conn) {
	r.t.Helper()
	near, err := net.Dial("unix", r.at)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { near.Close() })
	if far, err = r.target.Accept(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { far.Close() })
	return near, far
}

// frame has a body and a payload of these lengths, as PROTOCOL.md says; the proxy looks at nothing else.
func frame(kind wire.Type, body, payload string) string {
	h := make([]byte, wire.HeaderSize)
	h[4] = byte(kind)
	binary.LittleEndian.PutUint32(h[8:], uint32(len(body)))
	binary.LittleEndian.PutUint32(h[12:], uint32(len(payload)))
	return string(h) + body + payload
}

func (r *rig) send(c net.Conn, s string) {
	r.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) receive(c net.Conn, want string) {
	r.t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		r.t.Errorf("received %q, %v; want %q", b, err, want)
	}
}

// broken wants nothing more to come.
func (r *rig) broken(conns ...net.Conn) {
	r.t.Helper()
	for _, c := range conns {
		if n, err := c.Read(make([]byte, 100)); n != 0 || err == nil {
			r.t.Errorf("received %d bytes, %v, want a broken connection", n, err)
		}
	}
}

func TestFramesPassBothWays(t *testing.T) {
	r := newRig(t)
	near, far := r.connect()
	var seen atomic.Int64
	r.p.OnFrame(func(_ wire.Type, body []byte) Verdict {
		seen.Add(int64(len(body)))
		return Pass
	})
	for _, f := range []string{frame(wire.TypePing, "body", ""), frame(wire.TypeUpdates, "some", strings.Repeat("payload", 100_000)), frame(wire.TypeLink, "", "")} {
		go r.send(near, f)
		r.receive(far, f)
		go r.send(far, f)
		r.receive(near, f)
	}
	if n := seen.Load(); n != 16 {
		t.Errorf("bodies of %d bytes were seen, want 16", n)
	}
	near.Close()
	r.broken(far)
}

func TestBreakLosesTheFrame(t *testing.T) {
	r := newRig(t)
	near, far := r.connect()
	r.p.OnFrame(func(kind wire.Type, _ []byte) Verdict {
		if kind == wire.TypeLink {
			return Break
		}
		return Pass
	})
	first := frame(wire.TypePing, "12345678", "")
	r.send(near, first+frame(wire.TypeLink, "lost", ""))
	r.receive(far, first)
	r.broken(near, far)
	r.p.OnFrame(nil)
	near, far = r.connect()
	r.send(near, frame(wire.TypeLink, "passed", ""))
	r.receive(far, frame(wire.TypeLink, "passed", ""))
}

func TestCut(t *testing.T) {
	r := newRig(t)
	near, far := r.connect()
	half := frame(wire.TypePing, "12345678", "")[:20]
	r.send(near, half)
	r.p.Cut()
	r.broken(near, far)
	near, far = r.connect()
	r.send(far, frame(wire.TypePing, "", ""))
	r.receive(near, frame(wire.TypePing, "", ""))
}

func TestNoFrameIsThatLarge(t *testing.T) {
	for _, at := range []int{8, 12} {
		r := newRig(t)
		near, far := r.connect()
		h := []byte(frame(wire.TypePing, "", ""))
		binary.LittleEndian.PutUint32(h[at:], 1<<31)
		r.send(near, string(h))
		r.broken(near, far)
	}
}

func TestTargetAway(t *testing.T) {
	r := newRig(t)
	r.target.Close()
	near, err := net.Dial("unix", r.at)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	r.broken(near)
}

func TestCloseEndsEverything(t *testing.T) {
	r := newRig(t)
	near, far := r.connect()
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	r.broken(near, far)
	if c, err := net.Dial("unix", r.at); err == nil {
		c.Close()
		t.Error("a closed proxy takes connections")
	}
	if err := r.p.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
