package target

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/wire"
)

// socket is a net.Conn that tells its reader before a read would wait, and whose reads another
// goroutine can end without closing it.
type socket struct {
	net.Conn
	// idle is called by Read, on the reader's goroutine, when nothing more has arrived. Its
	// error becomes that of the read. Only the reader sets it.
	idle func() error

	raw  syscall.RawConn // nil: not a socket of the system
	try  func(fd uintptr) bool
	into []byte // of the read that try does
	got  int
	err  error

	mu      sync.Mutex
	stopped bool // reads fail
	ending  bool // the reader has taken notice; stopping does nothing more
}

func newSocket(nc net.Conn) *socket {
	s := &socket{Conn: nc}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
			s.try = s.readNow
		}
	}
	return s
}

// Read takes what is there; if nothing is, it calls idle and waits.
func (s *socket) Read(p []byte) (int, error) {
	if s.idle == nil {
		return s.Conn.Read(p)
	}
	if s.raw != nil && len(p) > 0 {
		s.into = p
		err := s.raw.Read(s.try)
		s.into = nil
		switch {
		case err != nil:
			return 0, err
		case s.err == nil && s.got == 0:
			return 0, io.EOF
		case s.err == nil:
			return s.got, nil
		case !errors.Is(s.err, unix.EAGAIN):
			return 0, &net.OpError{Op: "read", Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: s.err}
		}
	}
	if err := s.idle(); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}

// readNow reads without waiting. The runtime keeps sockets non-blocking.
func (s *socket) readNow(fd uintptr) bool {
	for {
		if s.got, s.err = unix.Read(int(fd), s.into); s.err != unix.EINTR {
			return true
		}
	}
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
	return s.Conn.SetReadDeadline(t)
}

// stop ends the read and the write in progress, and lets further reads fail.
func (s *socket) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	s.stopped = true
	_ = s.SetDeadline(past) // fails on a closed socket only, which has stopped too
}

// allow takes stop back for good, so that the peer can be told why.
func (s *socket) allow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped, s.ending = false, true
}

// SyscallConn is that of the connection, where it has one.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	if s.raw == nil {
		return nil, errors.ErrUnsupported
	}
	return s.raw, nil
}

// CloseWrite ends one direction, where the transport can.
func (s *socket) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
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
	l.sock.idle = nil
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
