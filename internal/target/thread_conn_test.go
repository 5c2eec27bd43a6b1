package target

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/wire"
)

// connected makes a connection.
func connected(t *testing.T, network string) (accepted, dialed net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	check(t, err)
	defer l.Close()
	dialed, err = net.Dial(network, l.Addr().String())
	check(t, err)
	t.Cleanup(func() { dialed.Close() })
	accepted, err = l.Accept()
	check(t, err)
	return accepted, dialed
}

// eachTransport runs f with a connection that was taken over, and its peer.
func eachTransport(t *testing.T, f func(t *testing.T, c *threadConn, peer net.Conn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			nc, peer := connected(t, network)
			c, err := takeOver(nc)
			if c == nil || err != nil {
				t.Fatal(c, err)
			}
			defer c.Close() // closed already, in most tests
			if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection that was taken over: %v", err)
			}
			f(t, c, peer)
		})
	}
}

func TestThreadConnCarriesBytes(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *threadConn, peer net.Conn) {
		const size = 3 << 20
		there, back := make([]byte, size), make([]byte, size)
		r := rand.NewChaCha8([32]byte{1})
		r.Read(there)
		r.Read(back)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := peer.Write(there); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if n, err := c.Write(back); n != size || err != nil {
				t.Error(n, err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, back) {
				t.Errorf("the peer got %d bytes, %v", len(got), err)
			}
		})
		got := make([]byte, 0, size)
		for len(got) < size {
			// Some reads look, some wait for any bytes, some for all that are left.
			p := got[len(got):min(size, len(got)+1+rand.IntN(400<<10))]
			n, err := 0, errNothing
			switch rand.IntN(3) {
			case 0:
				n, err = c.readNow(p)
			case 1:
				n, err = c.Read(p)
			case 2:
				n, err = c.readSoon(p, size-len(got))
			}
			if err != nil && err != errNothing {
				t.Fatal(err)
			}
			got = got[:len(got)+n]
		}
		if !bytes.Equal(got, there) {
			t.Error("not what was sent")
		}
		wg.Wait()
		peer.Close()
		if _, err := c.readSoon(make([]byte, 10), 10); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestThreadConnTakesLittle: what has arrived is not lost and no silence, although more was certain to come.
func TestThreadConnTakesLittle(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *threadConn, peer net.Conn) {
		p := make([]byte, 256<<10)
		if _, err := peer.Write([]byte("deadline")); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for got := 0; got < len("deadline"); {
			n, err := c.readSoon(p, len(p))
			if got += n; errors.Is(err, os.ErrDeadlineExceeded) && n == 0 { // it was not there yet
				c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			} else if err != nil {
				t.Fatal(err)
			}
		}
		c.SetReadDeadline(time.Time{})
		if _, err := peer.Write([]byte("end")); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		got := []byte{}
		for {
			n, err := c.readSoon(p, len(p))
			if got = append(got, p[:n]...); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != "end" {
			t.Errorf("%q", got)
		}
	})
}

// TestThreadConnIsEnded: a deadline that is over, and Close, end a read and a write wherever they are.
func TestThreadConnIsEnded(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *threadConn, peer net.Conn) {
		for _, end := range []struct {
			do   func() error
			want error
		}{
			{func() error { return c.SetDeadline(past) }, os.ErrDeadlineExceeded},
			{func() error { return c.SetDeadline(past) }, os.ErrDeadlineExceeded},
			{c.Close, net.ErrClosed},
		} {
			if err := c.SetDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Write([]byte("still there")); err != nil {
				t.Fatal(err)
			}
			if n, err := c.readSoon(make([]byte, 100), len("still there")); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			if raised, err := unix.Poll([]unix.PollFd{{Fd: int32(c.in.event), Events: unix.POLLIN}}, 0); raised != 0 || err != nil {
				t.Fatalf("what ended the read before would end the next, too: %d, %v", raised, err)
			}
			ended := make(chan error, 2)
			go func() {
				_, err := c.Write(make([]byte, 64<<20)) // nobody reads
				ended <- err
			}()
			for c.use.TryLock() { // until it is in there, and asleep after some more turns, most of the time
				c.use.Unlock()
				runtime.Gosched()
			}
			go func() {
				_, err := c.readSoon(make([]byte, 100), 100) // nothing comes
				ended <- err
			}()
			for range 1000 {
				runtime.Gosched()
			}
			if err := end.do(); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := <-ended; !errors.Is(err, end.want) {
					t.Errorf("%v, want %v", err, end.want)
				}
			}
		}
		for _, err := range []error{c.Close(), c.SetDeadline(time.Time{}), c.CloseWrite()} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("of a closed connection: %v", err)
			}
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write to a closed connection: %v", err)
		}
	})
}

// TestThreadConnDeadlineAfterTheLastByte: what the kernel has taken whole was written, although the deadline is over by then.
func TestThreadConnDeadlineAfterTheLastByte(t *testing.T) {
	eachTransport(t, func(t *testing.T, c *threadConn, peer net.Conn) {
		for range 2000 {
			if err := c.SetWriteDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			read := make(chan error)
			go func() {
				_, err := io.ReadFull(peer, make([]byte, 1))
				read <- errors.Join(err, c.SetWriteDeadline(past))
			}()
			if n, err := c.Write([]byte{1}); n != 1 || err != nil {
				t.Errorf("wrote %d bytes: %v", n, err)
			}
			if err := <-read; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// stoppedConn is a connection of which the socket, once armed, is stopped between a write's deadline and the write.
type stoppedConn struct {
	net.Conn
	armed atomic.Bool
	stop  func()
}

func (w *stoppedConn) Write(p []byte) (int, error) {
	if w.armed.Load() {
		w.stop()
	}
	return w.Conn.Write(p)
}

// TestStoppedBetweenDeadlineAndWrite: a frame on its way when the connection has to end does not keep the peer from being told why.
func TestStoppedBetweenDeadlineAndWrite(t *testing.T) {
	near, far := connected(t, "tcp")
	w := &stoppedConn{Conn: near}
	s := newSocket(w)
	w.stop = s.stop
	ours, theirs := wire.NewConn(s, patient), wire.NewConn(far, patient)
	defer theirs.Close()
	answered := make(chan error)
	go func() {
		_, err := ours.Answer(wire.Hello{Role: wire.RoleSecondary, Node: "b1"}, nil)
		answered <- err
	}()
	_, err := theirs.Handshake(wire.Hello{Role: wire.RolePrimary, Node: "a1"})
	check(t, errors.Join(err, <-answered))

	w.armed.Store(true)
	if err := ours.WriteMessage(&wire.Credit{Applied: 7}); err != nil {
		t.Error(err)
	}
	s.allow()
	if err := ours.Abort(wire.Refusal(refuse(wire.CodeState, "another took over"), 0, "", 0)); err != nil {
		t.Error(err)
	}
	_, _, err = theirs.Next() // the Credit
	if err == nil {
		_, _, err = theirs.Next()
	}
	if told, ok := errors.AsType[*wire.RemoteError](err); !ok || told.Message.Code != wire.CodeState {
		t.Errorf("the peer was not told, but found %v", err)
	}
}

// TestThreadConnOfNoSocket: what is no socket of the system stays what it is, and has idle called before each read.
func TestThreadConnOfNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := newSocket(a)
	idle := 0
	if err := s.begin(func() (int, error) { idle++; return 1, nil }); err != nil || s.thread != nil {
		t.Fatal(s.thread, err)
	}
	go b.Write([]byte("x"))
	if n, err := s.Read(make([]byte, 5)); n != 1 || err != nil || idle != 1 {
		t.Errorf("%d bytes, %v, idle %d times", n, err, idle)
	}
	refused := errors.New("refused")
	if err := s.begin(func() (int, error) { return 0, refused }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 5)); err != refused {
		t.Errorf("%v, want that of idle", err)
	}
}

// TestSocketInUseIsNotTakenOver: a write in progress goes on, and so does everything else.
func TestSocketInUseIsNotTakenOver(t *testing.T) {
	nc, peer := connected(t, "tcp")
	s := newSocket(nc)
	defer s.Close()
	s.writing = 1
	if err := s.begin(func() (int, error) { return 1, nil }); err != nil || s.thread != nil || s.conn != nc {
		t.Fatal(s.thread, err)
	}
	s.writing = 0
	if err := s.begin(func() (int, error) { return 1, nil }); err != nil || s.thread == nil {
		t.Fatal(s.thread, err)
	}
	if _, err := s.Write([]byte("y")); err != nil || s.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Error(err, s.RemoteAddr())
	}
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
