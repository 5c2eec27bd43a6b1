package target

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/farside-storage/farside/wire"
)

// socket is the net.Conn of a link. It tells its reader before a read would wait, and another goroutine can end its
// reads without closing it.
//
// Once a session reads from it, the session's thread waits for it by itself where it can: see threadConn.
type socket struct {
	local, remote net.Addr
	// idle is called by Read, on the reader's goroutine, when nothing more has arrived. It returns how many bytes
	// are certain to come. Its error becomes that of the read. Only the reader sets it.
	idle func() (int, error)

	mu      sync.Mutex
	conn    net.Conn    // replaced by begin; the reader may use it without the lock
	thread  *threadConn // conn, if it is one
	writing int         // writes in progress
	stopped bool        // reads fail
	ending  bool        // the reader has taken notice; stopping does nothing more
}

func newSocket(nc net.Conn) *socket {
	return &socket{conn: nc, local: nc.LocalAddr(), remote: nc.RemoteAddr()}
}

// begin has reads call idle from now on, on the goroutine that reads from now on; end takes that back.
func (s *socket) begin(idle func() (int, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = idle
	if s.stopped || s.writing > 0 || s.thread != nil {
		return nil // the connection works as it is
	}
	t, err := takeOver(s.conn)
	if t != nil {
		s.conn, s.thread = t, t
	}
	return err
}

func (s *socket) end() { s.idle = nil }

// Read takes what is there; if nothing is, it calls idle and waits.
func (s *socket) Read(p []byte) (int, error) {
	if s.idle == nil {
		return s.conn.Read(p)
	}
	if s.thread == nil {
		if _, err := s.idle(); err != nil {
			return 0, err
		}
		return s.conn.Read(p)
	}
	n, err := s.thread.readNow(p)
	if err != errNothing {
		return n, err
	}
	certain, err := s.idle()
	if err != nil {
		return 0, err
	}
	return s.thread.readSoon(p, certain)
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	conn := s.conn
	s.writing++
	s.mu.Unlock()
	n, err := conn.Write(p)
	s.mu.Lock()
	s.writing--
	s.mu.Unlock()
	return n, err
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// SetReadDeadline does nothing on a stopped socket, whose reads must go on failing.
func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	return s.conn.SetReadDeadline(t)
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.SetWriteDeadline(t)
}

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// lastWrite is how long a write in progress may go on when the connection has to end. A frame that is cut off, even
// before its first byte, is the last one that the connection carries: the peer would not be told why it ends.
const lastWrite = 500 * time.Millisecond

// stop ends the read in progress and lets further reads fail. A write in progress ends soon.
func (s *socket) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	s.stopped = true
	// These fail on a closed socket only, which has stopped too.
	_ = s.conn.SetReadDeadline(past)
	_ = s.conn.SetWriteDeadline(time.Now().Add(lastWrite))
}

// allow takes stop back for good, so that the peer can be told why.
func (s *socket) allow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped, s.ending = false, true
}

// Close ends reads and writes in progress, too.
func (s *socket) Close() error {
	s.mu.Lock()
	conn := s.conn
	s.stopped = true // begin must not make another one of it
	s.mu.Unlock()
	return conn.Close()
}

func (s *socket) LocalAddr() net.Addr  { return s.local }
func (s *socket) RemoteAddr() net.Addr { return s.remote }

// SyscallConn is that of the connection, where it has one.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc, ok := s.conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite ends one direction, where the transport can.
func (s *socket) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// link is one connection with a peer. One goroutine reads from it and ends it; it may be handed to another.
type link struct {
	conn   *wire.Conn
	sock   *socket
	peer   wire.Hello
	since  time.Time
	ctx    context.Context // done when the connection has to end; its cause says why
	cancel context.CancelCauseFunc
	forget func() // the node's bookkeeping, called once by end
}

// errMoved ends a connection whose stream goes on over a newer one.
var errMoved = errors.New("the stream goes on over a newer connection")

// stop has the link's reader end it, from any goroutine. (The node hooks socket.stop to ctx.)
func (l *link) stop(why error) { l.cancel(why) }

// reason is why the link really ended: err, unless it was stopped.
func (l *link) reason(err error) error {
	if why := context.Cause(l.ctx); why != nil {
		return why
	}
	return err
}

// end closes the connection because of err, and tells the peer if that concerns it. frame, group and cg may be zero.
func (l *link) end(err error, frame uint64, group string, cg uint64) {
	defer l.forget()
	defer l.cancel(err)
	l.sock.end()
	if !blames(err) {
		_ = l.conn.Close() // err tells more
		return
	}
	l.sock.allow()
	_ = l.conn.Abort(wire.Refusal(err, frame, group, cg)) // an attempt; the peer may be gone
}

// name says who the peer is, for logs and status.
func (l *link) name() string {
	return l.peer.Role.String() + " " + l.peer.Node
}
