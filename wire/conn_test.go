package wire

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
)

// tcpPair gives both ends of a connection over loopback, before the handshake.
func tcpPair(t testing.TB) (dialer, listener *Conn) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- nc
	}()
	dialer, err = Dial(t.Context(), l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener = NewConn(<-accepted, Options{})
	t.Cleanup(func() { dialer.Close(); listener.Close() })
	return dialer, listener
}

var (
	primaryHello   = Hello{Role: RolePrimary, Node: "p1", Instance: UUID{1}}
	secondaryHello = Hello{Role: RoleSecondary, Node: "s1", Instance: UUID{2}}
)

// openPair gives a primary and a secondary that have shaken hands over TCP.
func openPair(t testing.TB) (p, s *Conn) {
	t.Helper()
	p, s = tcpPair(t)
	answered := make(chan error, 1)
	go func() {
		_, err := s.Answer(secondaryHello, nil)
		answered <- err
	}()
	if _, err := p.Handshake(primaryHello); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	return p, s
}

// randomBlocks gives n blocks and their checksums.
func randomBlocks(seed uint64, n int) (payload []byte, sums []uint64) {
	payload = make([]byte, n*BlockSize)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(payload)
	for i := range n {
		sums = append(sums, xxhash.Sum64(payload[i*BlockSize:][:BlockSize]))
	}
	return payload, sums
}

func TestUpdatesOverTCP(t *testing.T) {
	p, s := openPair(t)
	payload, sums := randomBlocks(1, 64)
	var b Batch
	b.Reset(7)
	want := []Update{{Volume: 1, Block: 5, Count: 3}, {Volume: 0, Block: 900, Count: 60}, {Volume: 1, Block: 5, Count: 1}}
	at := 0
	for _, u := range want {
		n := int(u.Count)
		piece := payload[at*BlockSize : (at+n)*BlockSize]
		if err := b.Add(u, sums[at:at+n], piece[:100], piece[100:]); err != nil {
			t.Fatal(err)
		}
		at += n
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		for seq := range uint64(3) { // a batch can be sent again
			if err == nil {
				err = p.WriteUpdates(&b, seq+9)
			}
		}
		sent <- err
	}()
	for seq := range uint64(3) {
		h, body, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Sequence != seq+9 || h.Type != TypeUpdates {
			t.Fatalf("got %+v", h)
		}
		var u Updates
		if err := u.Decode(h, body); err != nil {
			t.Fatal(err)
		}
		if u.CG() != 7 || u.Blocks() != 64 || u.Len() != 3 {
			t.Errorf("CG %d, %d blocks, %d descriptors", u.CG(), u.Blocks(), u.Len())
		}
		var got []Update
		var gotSums []uint64
		for d, sums := range u.All() {
			got = append(got, d)
			gotSums = append(gotSums, sums...)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(sums, gotSums); d != "" {
			t.Error(d)
		}
		received := make([]byte, len(payload))
		for _, n := range []int{1, 4095, 40960, 7, len(payload) - 45063} { // in any pieces
			off := len(payload) - s.PayloadLeft()
			if err := s.Payload(received[off : off+n]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(received, payload) {
			t.Error("payload differs")
		}
		if err := s.Payload(received[:1]); err == nil {
			t.Error("read past the end of the payload")
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
