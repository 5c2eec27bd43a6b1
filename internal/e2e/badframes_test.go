package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/wire"
)

// frame makes a frame as PROTOCOL.md says, section "Frame".
type frame struct {
	kind             wire.Type
	number, sequence uint64
	body, payload    []byte
	// What the header says of the lengths beyond the truth.
	moreBody, morePayload uint32
	badHeader, badBody    bool // wrong checksums
}

func (f frame) bytes() []byte {
	b := make([]byte, wire.HeaderSize)
	le := binary.LittleEndian
	copy(b, magic)
	b[4] = byte(f.kind)
	le.PutUint32(b[8:], uint32(len(f.body))+f.moreBody)
	le.PutUint32(b[12:], uint32(len(f.payload))+f.morePayload)
	le.PutUint64(b[16:], f.number)
	le.PutUint64(b[24:], f.sequence)
	le.PutUint64(b[32:], xxhash.Sum64(f.body)+flip(f.badBody))
	le.PutUint64(b[40:], xxhash.Sum64(b[:40])+flip(f.badHeader))
	return append(append(b, f.body...), f.payload...)
}

func flip(bad bool) uint64 {
	if bad {
		return 1
	}
	return 0
}

// magic is what every frame begins with, as the wire package writes it.
var magic = func() []byte {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		wire.NewConn(b, wire.Options{}).Handshake(wire.Hello{Role: wire.RoleTool, Node: "magic"})
	}()
	head := make([]byte, 4)
	if _, err := io.ReadFull(a, head); err != nil {
		panic(err)
	}
	return head
}()

// TestBadFrames sends what no primary may to the port of a secondary that has a copy: each is answered with an error
// frame, the session ends, and the copy stays as it is. Then a real primary goes on as if nothing had been.
func TestBadFrames(tt *testing.T) {
	t := begin(tt)
	t.Parallel()
	c := newCluster(t, layout{primaries: 1, secondaries: 1, volumeSize: 1 << 20, interval: time.Hour})
	c.primaries[0].kill() // its place is ours
	before := c.awaitState(0, "a copy", func(s target.GroupStatus) bool { return s.Final > 0 })
	copied := c.awaitImages()
	update := make([]byte, 4096)
	const number, sequence = 3, 1 // the third frame of the connection, the first of the stream
	for _, bad := range []struct {
		name string
		send []byte
		code wire.ErrorCode
		says string
	}{
		{"garbage", []byte(strings.Repeat("GET / HTTP/1.1\r\n", 8)), wire.CodeProtocol, "not the start of a frame"},
		{"header checksum", frame{kind: wire.TypePing, number: number, body: make([]byte, 8), badHeader: true}.bytes(), wire.CodeChecksum, "header checksum"},
		{"body checksum", frame{kind: wire.TypePing, number: number, body: make([]byte, 8), badBody: true}.bytes(), wire.CodeChecksum, "body"},
		{"body too large", frame{kind: wire.TypeManifest, number: number, sequence: sequence, moreBody: 1 << 31}.bytes(), wire.CodeProtocol, "body length"},
		{"payload too large", frame{kind: wire.TypeUpdates, number: number, sequence: sequence, morePayload: 1 << 31}.bytes(), wire.CodeProtocol, "payload length"},
		{"payload not in blocks", frame{kind: wire.TypeUpdates, number: number, sequence: sequence, payload: make([]byte, 100)}.bytes(), wire.CodeProtocol, "multiple"},
		{"unknown type", frame{kind: 250, number: number}.bytes(), wire.CodeProtocol, "250"},
		{"number out of order", frame{kind: wire.TypePing, number: number + 5, body: make([]byte, 8)}.bytes(), wire.CodeProtocol, "number"},
		{"truncated body", frame{kind: wire.TypeUpdates, number: number, sequence: sequence, body: []byte{1, 2, 3}, payload: update}.bytes(), wire.CodeProtocol, ""},
		{"command of a manager", frame{kind: wire.TypeLink, number: number, body: make([]byte, 20)}.bytes(), 0, ""},
	} {
		e, end := c.attack(before.Final+1, bad.send)
		if e == nil || bad.code != 0 && e.Code != bad.code || !strings.Contains(e.Text, bad.says) {
			t.Errorf("%s: answered with %+v, want %v saying %q", bad.name, e, bad.code, bad.says)
		}
		if end == nil || errors.Is(end, os.ErrDeadlineExceeded) || errors.Is(end, wire.ErrSilent) {
			t.Errorf("%s: the session did not end: %v", bad.name, end)
		}
		now := c.awaitState(0, "its state", func(target.GroupStatus) bool { return true })
		if now.Final != before.Final || now.Linked != before.Linked || now.Complete != before.Complete {
			t.Errorf("%s: state %+v, was %+v", bad.name, now, before)
		}
	}
	if d := copied.differ(c.awaitImages()); d != "" {
		t.Errorf("the copy: %s", d)
	}
	c.primaries[0].launch()
	await(t, "the real primary", func() error {
		var s target.Status
		if err := c.secondaries[0].status(&s); err != nil {
			return err
		}
		for _, session := range s.Sessions {
			if session.Connected && session.Peer == "p1" {
				return nil
			}
		}
		text, _ := json.Marshal(s.Sessions)
		return errors.New(string(text))
	})
}

// attack attaches as the primary does, sends bytes, and returns the error frame and how the connection ended. It sends no sign of life, as a
// wire.Conn does when the machine is slow: that would take the number of the frame that follows.
func (c *cluster) attack(cg uint64, bytes []byte) (answer *wire.Error, end error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(c.secondaries[0].Listen(), "unix:"))
	check(c.t, err)
	defer nc.Close()
	check(c.t, nc.SetDeadline(time.Now().Add(patience)))
	w, r := wire.NewWriter(nc), wire.NewReader(nc)
	check(c.t, w.WriteMessage(&wire.Hello{Version: wire.Version, Role: wire.RolePrimary, Node: "attacker"}))
	check(c.t, w.WriteMessage(&wire.Attach{Group: groupName, Stream: wire.UUID{byte(cg), 0xbad & 0xff}, Volumes: []wire.VolumeRef{{Name: "v1", Size: uint64(c.l.volumeSize)}}}))
	for kind := wire.Type(0); kind != wire.TypeAttached; {
		h, body, err := r.Next()
		if err != nil || h.Type == wire.TypeError {
			c.t.Fatalf("attach: %v, %v: %q", h.Type, err, body)
		}
		kind = h.Type // Hello, or a sign of life
	}
	_, err = nc.Write(bytes)
	check(c.t, err)
	for {
		h, body, err := r.Next()
		if err != nil {
			return answer, err
		}
		if h.Type == wire.TypeError {
			answer = new(wire.Error)
			check(c.t, wire.DecodeInto(answer, body))
		}
	}
}
