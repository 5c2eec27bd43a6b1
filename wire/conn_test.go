package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patient keeps the ends of a connection in real time from giving each other up while a busy machine does not let one of them run.
var patient = Options{IdleTimeout: 5 * time.Minute, WriteTimeout: 5 * time.Minute}

// tcpPair gives both ends of a connection over loopback, before the handshake.
func tcpPair(t testing.TB, o Options) (dialer, listener *Conn) {
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
	dialer, err = Dial(t.Context(), l.Addr().String(), o)
	if err != nil {
		t.Fatal(err)
	}
	listener = NewConn(<-accepted, o)
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
	p, s = tcpPair(t, patient)
	if dialed, answered := shake(p, s, primaryHello, secondaryHello, nil); dialed != nil || answered != nil {
		t.Fatal(dialed, answered)
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

// shake runs both sides of a handshake and gives both outcomes.
func shake(dialer, listener *Conn, from, to Hello, admit func(Hello) error) (dialed, answered error) {
	done := make(chan error, 1)
	go func() {
		_, err := listener.Answer(to, admit)
		done <- err
	}()
	_, dialed = dialer.Handshake(from)
	return dialed, <-done
}

func TestHandshake(t *testing.T) {
	const f1, f2, f3 = 1, 2, 4
	hello := func(r Role, features, required uint64) Hello {
		return Hello{Role: r, Node: r.String(), Features: features, Required: required}
	}
	later := hello(RolePrimary, 0, 0)
	later.Version = 2
	for _, c := range []struct {
		name     string
		from, to Hello
		admit    func(Hello) error
		want     error  // of both sides: one finds it, the other is told
		features uint64 // in force
	}{
		{name: "primary to secondary", from: hello(RolePrimary, f1|f2, f2), to: hello(RoleSecondary, f2|f3, 0), features: f2},
		{name: "manager to primary", from: hello(RoleManager, 0, 0), to: hello(RolePrimary, f1, 0)},
		{name: "manager to secondary", from: hello(RoleManager, 0, 0), to: hello(RoleSecondary, 0, 0)},
		{name: "tool to manager", from: hello(RoleTool, 0, 0), to: hello(RoleManager, 0, 0)},
		{name: "later version", from: later, to: hello(RoleSecondary, 0, 0), want: ErrVersion},
		{name: "dialer requires more", from: hello(RolePrimary, f1, f1), to: hello(RoleSecondary, f2, 0), want: ErrVersion},
		{name: "listener requires more", from: hello(RolePrimary, f1, 0), to: hello(RoleSecondary, f2, f2), want: ErrVersion},
		{name: "primary to primary", from: hello(RolePrimary, 0, 0), to: hello(RolePrimary, 0, 0), want: ErrRefused},
		{name: "secondary dials", from: hello(RoleSecondary, 0, 0), to: hello(RolePrimary, 0, 0), want: ErrRefused},
		{name: "tool to tool", from: hello(RoleTool, 0, 0), to: hello(RoleTool, 0, 0), want: ErrRefused},
		{name: "not admitted", from: hello(RolePrimary, 0, 0), to: hello(RoleSecondary, 0, 0),
			admit: func(p Hello) error { return fmt.Errorf("node %q: %w", p.Node, ErrShuttingDown) }, want: ErrShuttingDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, l := tcpPair(t, patient)
			dialed, answered := shake(d, l, c.from, c.to, c.admit)
			if c.want == nil {
				if dialed != nil || answered != nil {
					t.Fatalf("dialer: %v; listener: %v", dialed, answered)
				}
				if d.Features() != c.features || l.Features() != c.features {
					t.Errorf("features %#x and %#x, want %#x", d.Features(), l.Features(), c.features)
				}
				if d.Peer().Node != c.to.Node || l.Peer().Node != c.from.Node {
					t.Errorf("peers %q and %q", d.Peer().Node, l.Peer().Node)
				}
				return
			}
			if !errors.Is(dialed, c.want) || !errors.Is(answered, c.want) {
				t.Errorf("dialer: %v; listener: %v; want both %v", dialed, answered, c.want)
			}
		})
	}
}

func TestFirstFrameMustBeHello(t *testing.T) {
	d, l := tcpPair(t, patient)
	if err := d.WriteMessage(&Ping{}); err != nil {
		t.Fatal(err)
	}
	dialed, answered := shake(d, l, primaryHello, secondaryHello, nil)
	if !errors.Is(answered, ErrProtocol) || !errors.Is(dialed, ErrProtocol) {
		t.Errorf("dialer: %v; listener: %v", dialed, answered)
	}
}

func TestRolesMaySendTheirTypesOnly(t *testing.T) {
	eachControlType(t, func(t *testing.T, ty Type) {
		if ty == TypePing || ty == TypePong || ty == TypeError {
			return
		}
		p, s := openPair(t)
		m := golden[slices.IndexFunc(golden, func(m Message) bool { return m.Type() == ty })]
		sequence := uint64(0)
		if ty.InStream() {
			sequence = 1
		}
		if err := p.WriteStream(m, sequence); err != nil {
			t.Fatal(err)
		}
		_, _, err := s.Next()
		mine := ty == TypeAttach || ty == TypeZeroes || ty == TypeManifest
		if mine && err != nil || !mine && !errors.Is(err, ErrProtocol) {
			t.Errorf("a primary sends %v: %v", ty, err)
		}
	})
}

// After an Error that refuses a command the connection goes on.
func TestRemoteError(t *testing.T) {
	p, s := openPair(t)
	refusal := Refusal(fmt.Errorf("group %q: %w", "bank", ErrUnknown), 7, "bank", 42)
	if err := s.WriteMessage(refusal); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteMessage(&Credit{Applied: 5}); err != nil {
		t.Fatal(err)
	}
	_, _, err := p.Next()
	var remote *RemoteError
	if !errors.As(err, &remote) || !errors.Is(err, ErrUnknown) {
		t.Fatalf("error %v", err)
	}
	want := Error{Code: CodeUnknown, Frame: 7, Group: "bank", CG: 42, Text: `group "bank": unknown group or volume`}
	if d := cmp.Diff(want, remote.Message); d != "" {
		t.Error(d)
	}
	if h, _, err := p.Next(); err != nil || h.Type != TypeCredit {
		t.Errorf("then %+v, %v", h, err)
	}
}

// Abort's message arrives although the aborting side never read what was sent to it.
func TestAbortIsHeard(t *testing.T) {
	p, s := openPair(t)
	payload, sums := randomBlocks(1, 32)
	var b Batch
	b.Reset(1)
	if err := b.Add(Update{Count: 32}, sums, payload); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(4) {
		if err := p.WriteUpdates(&b, seq+1); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	aborted := make(chan error, 1)
	go func() { aborted <- s.Abort(Refusal(ErrManifest, 1, "bank", 1)) }()
	if _, _, err := p.Next(); !errors.Is(err, ErrManifest) {
		t.Errorf("heard %v", err)
	}
	if _, _, err := p.Next(); err == nil { // io.EOF, or a reset, if a ping went to what was closed by then
		t.Error("heard more")
	}
	p.Close()
	if err := <-aborted; err != nil {
		t.Error(err)
	}
}

// onPipe gives a connection over net.Pipe, for synctest, before the handshake. Both ends are closed at the end.
func onPipe(t *testing.T, o Options) (c *Conn, far net.Conn) {
	near, far := net.Pipe()
	c = NewConn(near, o)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far
}

// pipePair is openPair over net.Pipe, for synctest.
func pipePair(t *testing.T) (p, s *Conn) { return pipePairOf(t, Options{}, Options{}) }

func pipePairOf(t *testing.T, primary, secondary Options) (p, s *Conn) {
	p, far := onPipe(t, primary)
	s = NewConn(far, secondary)
	t.Cleanup(func() { s.Close() })
	if dialed, answered := shake(p, s, primaryHello, secondaryHello, nil); dialed != nil || answered != nil {
		t.Fatal(dialed, answered)
	}
	return p, s
}

// hear reads from c until that ends, and then gives the reason.
func hear(c *Conn) <-chan error {
	heard := make(chan error, 1)
	go func() {
		for {
			if _, _, err := c.Next(); err != nil {
				heard <- err
				return
			}
		}
	}()
	return heard
}

// notEnded fails if a reader or a writer has ended.
func notEnded(t *testing.T, ends ...<-chan error) {
	t.Helper()
	for _, end := range ends {
		select {
		case err := <-end:
			t.Fatal(err)
		default:
		}
	}
}

// write sends a message, and then gives the outcome.
func write(c *Conn, m Message) <-chan error {
	wrote := make(chan error, 1)
	go func() { wrote <- c.WriteMessage(m) }()
	return wrote
}

func TestIdlePeersStayConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePair(t)
		heardP, heardS := hear(p), hear(s)
		time.Sleep(time.Hour) // of the bubble
		notEnded(t, heardP, heardS)
	})
}

func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePair(t)
		s.closed = true
		close(s.closing) // stops its keepalive: a peer that hangs
		s.alive.Wait()
		go io.Copy(io.Discard, s.nc)
		start := time.Now()
		_, _, err := p.Next()
		if !errors.Is(err, ErrSilent) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("noticed after %v", d)
		}
		s.nc.Close() // ends the copying
	})
}

func TestPingIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePair(t)
		hear(s)
		if err := p.WriteMessage(&Ping{Token: 77}); err != nil {
			t.Fatal(err)
		}
		h, body, err := p.r.Next()
		if err != nil || h.Type != TypePong || le.Uint64(body) != 77 {
			t.Errorf("got %v, % x, %v", h.Type, body, err)
		}
	})
}

// half is a pipe that claims to be closed for writing only.
type half struct{ net.Conn }

func (half) CloseWrite() error { return nil }

// After its Error frame, Abort takes in what the peer still sends, but not for ever.
func TestAbortLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		aborted := make(chan error, 1)
		c := NewConn(half{b}, Options{})
		go func() { aborted <- c.Abort(Refusal(ErrState, 0, "", 0)) }()
		start := time.Now()
		if h, _, err := NewReader(a).Next(); err != nil || h.Type != TypeError {
			t.Errorf("got %v, %v", h.Type, err)
		}
		if _, err := a.Write(make([]byte, 100<<10)); err != nil {
			t.Errorf("the rest was not taken in: %v", err)
		}
		if err := <-aborted; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != lingerTimeout {
			t.Errorf("lingered %v", d)
		}
		a.Close()
	})
}

// stuck is a connection whose writes end only when released, whatever Close does.
type stuck struct {
	net.Conn
	writing, release chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	close(s.writing)
	<-s.release
	return 0, net.ErrClosed
}

// Close does not return before the keepalive goroutine has ended.
func TestCloseAwaitsKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		nc := stuck{a, make(chan struct{}), make(chan struct{})}
		c := NewConn(nc, Options{})
		c.open(Hello{})
		<-nc.writing // a ping
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close returned while a goroutine was left")
		default:
		}
		close(nc.release)
		synctest.Wait()
		b.Close()
	})
}

// A peer that is busy elsewhere and does not read still shows that it lives.
func TestBusyReaderIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePair(t)
		if err := p.nc.SetReadDeadline(time.Time{}); err != nil { // that of the handshake
			t.Fatal(err)
		}
		go io.Copy(io.Discard, p.nc) // takes s's pings, without ever answering
		heard := hear(s)
		time.Sleep(time.Minute)
		notEnded(t, heard)
	})
}

func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := onPipe(t, Options{WriteTimeout: 7 * time.Second}) // nobody reads
		start := time.Now()
		if err := c.WriteMessage(&Ping{}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("gave up after %v", d)
		}
	})
}

// A peer that sends signs of life and takes in nothing is given up, and whoever reads from it learns why.
func TestPeerThatTakesInNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := onPipe(t, Options{})
		peer := NewWriter(far)
		heard := hear(c)
		start := time.Now()
		wrote := write(c, &Status{}) // nobody reads it
		for peer.WriteMessage(&Pong{}) == nil {
			time.Sleep(time.Second)
		}
		for who, err := range map[string]error{"the writer": <-wrote, "the reader": <-heard, "the next writer": c.WriteMessage(&Status{})} {
			if !errors.Is(err, ErrStalled) || errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "has taken in nothing for 3s") {
				t.Errorf("%s: %v", who, err)
			}
		}
		if d := time.Since(start); d > 5*time.Second { // 3 s, and the sleep that was going on
			t.Errorf("after %v", d)
		}
	})
}

// A secondary may push back for as long as it tells of it; with signs of life alone it has ten times as long as others.
func TestSecondaryThatPushesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePair(t)
		heard := hear(p)
		wrote := write(p, &Status{}) // s is not read from; its keepalive pings
		var last time.Time
		for range 200 {
			time.Sleep(time.Second)
			if err := s.WriteMessage(&Credit{Applied: 1}); err != nil {
				t.Fatal(err)
			}
			last = time.Now()
		}
		notEnded(t, wrote) // it said that it pushes back
		err := <-wrote
		if d := time.Since(last); !errors.Is(err, ErrStalled) || d < 30*time.Second || d > 33*time.Second || !strings.Contains(err.Error(), `secondary "s1"`) {
			t.Errorf("%v after %v", err, d)
		}
		if err := <-heard; !errors.Is(err, ErrStalled) {
			t.Errorf("the reader: %v", err)
		}
	})
}

// A peer that takes in nothing falls silent, too: that is what is said of it.
func TestPeerThatFallsSilentMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := onPipe(t, Options{})
		if err := c.WriteMessage(&Status{}); !errors.Is(err, ErrSilent) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A slow peer gets a frame whole, however long that takes, also if nothing comes from it meanwhile.
func TestSlowPeerGetsTheFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := onPipe(t, Options{})
		payload, sums := randomBlocks(3, 8)
		var batch Batch
		batch.Reset(1)
		if err := batch.Add(Update{Count: 8}, sums, payload); err != nil {
			t.Fatal(err)
		}
		wrote := make(chan error, 1)
		go func() { wrote <- errors.Join(c.WriteUpdates(&batch, 1), c.WriteMessage(&Credit{Applied: 7})) }()
		r := NewReader(&drip{far})
		h, _, err := r.Next()
		got := make([]byte, h.Payload)
		if err == nil {
			err = r.Payload(got)
		}
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%v; the payload is right: %v", err, bytes.Equal(got, payload))
		}
		if h, _, err := r.Next(); err != nil || h.Type != TypeCredit {
			t.Errorf("then %v, %v", h.Type, err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

// drip reads a little at a time, slowly.
type drip struct{ net.Conn }

func (d *drip) Read(p []byte) (int, error) {
	time.Sleep(2 * time.Second)
	return d.Conn.Read(p[:min(len(p), 500)])
}

// A write that somebody ended by moving its deadline is not taken up again.
func TestEndedWriteStaysEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := onPipe(t, Options{})
		wrote := write(c, &Status{})
		synctest.Wait()
		if err := c.nc.SetDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// Two sides with very different timeouts stay connected, also when the less patient one sends all the time.
func TestUnequalTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := pipePairOf(t, Options{IdleTimeout: time.Second}, Options{IdleTimeout: time.Hour})
		heardP, heardS := hear(p), hear(s)
		for i := range 600 {
			if err := p.WriteStream(&ZeroRanges{CG: 1, Ranges: []Zeroes{{Count: 1}}}, uint64(i+1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		notEnded(t, heardP, heardS)
	})
}

// TestUnacknowledgedIsBounded: the kernel ends connections on which nothing is acknowledged, but for what a primary dialed: there a
// peer that pushes back would be taken for one that is gone.
func TestUnacknowledgedIsBounded(t *testing.T) {
	for _, c := range []struct {
		dialer Hello
		dialed int // ms
	}{{primaryHello, 0}, {Hello{Role: RoleManager, Node: "m"}, 3750}, {Hello{Role: RoleTool, Node: "t"}, 3750}} {
		d, l := tcpPair(t, Options{})
		if dialed, answered := shake(d, l, c.dialer, secondaryHello, nil); dialed != nil || answered != nil {
			t.Fatal(dialed, answered)
		}
		if got := userTimeout(t, d); got != c.dialed {
			t.Errorf("%v dialed: TCP_USER_TIMEOUT %d ms, want %d", c.dialer.Role, got, c.dialed)
		}
		if got := userTimeout(t, l); got != 3750 {
			t.Errorf("accepted from %v: TCP_USER_TIMEOUT %d ms", c.dialer.Role, got)
		}
	}
}

func userTimeout(t *testing.T, c *Conn) (ms int) {
	t.Helper()
	raw, err := c.nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	return ms
}

// Close frees every goroutine that waits, and leaves none behind (synctest would not end).
func TestCloseFreesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := pipePair(t)
		heard := hear(p)
		wrote := make(chan error, 1)
		go func() {
			payload, sums := randomBlocks(1, 1)
			var b Batch
			b.Reset(1)
			err := b.Add(Update{Count: 1}, sums, payload)
			wrote <- errors.Join(err, p.WriteUpdates(&b, 1)) // nobody reads it
		}()
		synctest.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if heard, wrote := <-heard, <-wrote; heard == nil || wrote == nil {
			t.Errorf("went on after Close: %v, %v", heard, wrote)
		}
		if err := p.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// Frames of many writers arrive whole and numbered without gaps (Reader checks that).
func TestManyWriters(t *testing.T) {
	const writers, each = 4, 200
	p, s := openPair(t)
	payload, sums := randomBlocks(2, 4)
	var all sync.WaitGroup
	all.Go(func() {
		var b Batch
		b.Reset(1)
		if err := b.Add(Update{Count: 4}, sums, payload); err != nil {
			t.Error(err)
		}
		for seq := range uint64(each) {
			if err := p.WriteUpdates(&b, seq+1); err != nil {
				t.Error(err)
			}
		}
	})
	for range writers {
		all.Go(func() {
			for range each {
				if err := p.WriteMessage(&Attach{Group: "g", Volumes: []VolumeRef{{"v", BlockSize}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	count := make(map[Type]int)
	for range (writers + 1) * each {
		h, _, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		count[h.Type]++
	}
	all.Wait()
	if d := cmp.Diff(map[Type]int{TypeUpdates: each, TypeAttach: writers * each}, count); d != "" {
		t.Error(d)
	}
}

// transfer sends and receives one frame of updates, and its credit, and allocates nothing.
type transfer struct {
	p, s     *Conn
	b        Batch
	payload  []byte
	dst      []byte
	sums     []uint64
	updates  Updates
	digest   Digest
	credit   Credit
	sequence uint64
}

func newTransfer(t testing.TB, blocks int) *transfer {
	x := &transfer{}
	x.p, x.s = openPair(t)
	x.payload, x.sums = randomBlocks(4, blocks)
	x.dst = make([]byte, len(x.payload))
	return x
}

func (x *transfer) send() error {
	x.b.Reset(1)
	x.digest.Reset()
	for i := range x.sums { // the worst case: random single blocks
		u := Update{Volume: 1, Block: uint64(i * 77), Count: 1}
		if err := x.b.Add(u, x.sums[i:i+1], x.payload[i*BlockSize:(i+1)*BlockSize]); err != nil {
			return err
		}
		x.digest.AddUpdate(u, x.sums[i:i+1])
	}
	x.sequence++
	return x.p.WriteUpdates(&x.b, x.sequence)
}

func (x *transfer) receive() error {
	h, body, err := x.s.Next()
	if err != nil {
		return err
	}
	if err := x.updates.Decode(h, body); err != nil {
		return err
	}
	x.digest.Reset()
	for u, sums := range x.updates.All() {
		x.digest.AddUpdate(u, sums)
	}
	if err := x.s.Payload(x.dst[:h.Payload]); err != nil {
		return err
	}
	x.credit.Applied = h.Sequence
	return x.s.WriteMessage(&x.credit)
}

func (x *transfer) credited() error {
	_, body, err := x.p.Next()
	if err != nil {
		return err
	}
	return DecodeInto(&x.credit, body)
}

func TestUpdatesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget on purpose")
	}
	x := newTransfer(t, 8) // fits the socket's buffers: one goroutine does both sides
	if n := testing.AllocsPerRun(300, func() {
		for _, step := range []func() error{x.send, x.receive, x.credited} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations per frame", n)
	}
	if !bytes.Equal(x.dst, x.payload) {
		t.Error("payload differs")
	}
}

// BenchmarkUpdates sends 256 KiB of single-block updates per operation over TCP loopback, framed
// and received in place, without checksumming payload.
func BenchmarkUpdates(b *testing.B) {
	x := newTransfer(b, 64)
	b.SetBytes(int64(len(x.payload)))
	b.ReportAllocs()
	received := make(chan error, 1)
	go func() {
		for range b.N {
			if err := x.receiveOnly(); err != nil {
				received <- err
				return
			}
		}
		received <- nil
	}()
	b.ResetTimer()
	for range b.N {
		if err := x.send(); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-received; err != nil {
		b.Fatal(err)
	}
}

// receiveOnly is receive without credit and digest, which the sending goroutine uses.
func (x *transfer) receiveOnly() error {
	h, body, err := x.s.Next()
	if err != nil {
		return err
	}
	if err := x.updates.Decode(h, body); err != nil {
		return err
	}
	return x.s.Payload(x.dst[:h.Payload])
}

// BenchmarkBareCopy is the floor of BenchmarkUpdates: the same bytes over the same sockets.
func BenchmarkBareCopy(b *testing.B) {
	p, s := tcpPair(b, patient) // no handshake: no keepalive, no deadlines
	payload, dst := make([]byte, 64*BlockSize), make([]byte, 64*BlockSize)
	b.SetBytes(int64(len(payload)))
	received := make(chan error, 1)
	go func() {
		for range b.N {
			if _, err := io.ReadFull(s.nc, dst); err != nil {
				received <- err
				return
			}
		}
		received <- nil
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := p.nc.Write(payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-received; err != nil {
		b.Fatal(err)
	}
}

func BenchmarkDecodeUpdates(b *testing.B) {
	_, sums := randomBlocks(1, MaxUpdateBlocks)
	var batch Batch
	batch.Reset(1)
	payload := make([]byte, BlockSize)
	for i := range sums {
		if err := batch.Add(Update{Block: uint64(i * 3), Count: 1}, sums[i:i+1], payload); err != nil {
			b.Fatal(err)
		}
	}
	body := append(bytes.Clone(batch.body), batch.sums...)
	h := Header{Type: TypeUpdates, Payload: MaxPayload, Body: uint32(len(body))}
	var u Updates
	b.ReportAllocs()
	for b.Loop() {
		if err := u.Decode(h, body); err != nil {
			b.Fatal(err)
		}
		for d, sums := range u.All() {
			if d.Count != uint32(len(sums)) {
				b.Fatal("count")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(sums)), "ns/update")
}
