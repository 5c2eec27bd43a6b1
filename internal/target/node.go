package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/wire"
)

// ErrClosed is what Serve returns on a closed node.
var ErrClosed = errors.New("target: node is closed")

// Node serves a pool to its peers.
type Node struct {
	opts     Options
	started  time.Time
	ctx      context.Context // done when the node closes
	cancel   context.CancelCauseFunc
	counters counters
	leaders  leaders
	managers atomic.Uint64 // connections of managers, ever
	chain    Chain

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	links     map[*link]struct{}
	desks     map[string]*desk // by group
	running   sync.WaitGroup   // Serve calls, connections, sessions; grows under mu while not closed
}

// counters sum up what all sessions did since the node was made.
type counters struct {
	payload      atomic.Uint64 // bytes of updates placed
	updates      atomic.Uint64 // descriptors, zeroes included
	deviceBlocks atomic.Uint64 // blocks that writers sent to devices
}

// New makes a node; nothing runs before Serve.
func New(o Options) (*Node, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	n := &Node{opts: o, started: time.Now(), listeners: map[net.Listener]struct{}{},
		links: map[*link]struct{}{}, desks: map[string]*desk{}}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	return n, nil
}

// Serve accepts peers from l until ctx is done or the node is closed, then closes l and returns nil. Connections go
// on until Close. It may be called several times, with different listeners; wire.Listen makes one that
// is safe without TLS.
func (n *Node) Serve(ctx context.Context, l net.Listener) error {
	if !n.enter(func() { n.listeners[l] = struct{}{} }) {
		return errors.Join(ErrClosed, l.Close())
	}
	defer n.running.Done()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept's error tells the same
	err := n.accept(ctx, l)
	stop()
	n.mu.Lock()
	delete(n.listeners, l)
	closed := n.closed
	n.mu.Unlock()
	if ctx.Err() != nil || closed {
		err = nil
	}
	if cerr := l.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// enter counts something in that Close waits for; false if the node is closed.
func (n *Node) enter(note func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.running.Add(1)
	note()
	return true
}

// accept takes peers until the listener is closed. Running out of descriptors or memory is waited out: it
// passes, and the peers that are connected must not suffer.
func (n *Node) accept(ctx context.Context, l net.Listener) error {
	const maxPause = time.Second
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			n.connect(nc)
			continue
		}
		if !passes(err) {
			return fmt.Errorf("target: accept on %s: %w", l.Addr(), err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), maxPause)
		n.opts.Logger.Warn("accept failed, trying again", "listener", l.Addr().String(), "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-n.ctx.Done():
		}
	}
}

func passes(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connect starts the goroutine of a connection.
func (n *Node) connect(nc net.Conn) {
	l := &link{sock: newSocket(nc), since: time.Now()}
	l.conn = wire.NewConn(l.sock, n.opts.Wire)
	l.ctx, l.cancel = context.WithCancelCause(n.ctx)
	unhook := context.AfterFunc(l.ctx, l.sock.stop)
	l.forget = func() {
		unhook()
		n.mu.Lock()
		delete(n.links, l)
		n.mu.Unlock()
	}
	full := false
	ok := n.enter(func() {
		if full = len(n.links) >= n.opts.MaxConnections; !full {
			n.links[l] = struct{}{}
		}
	})
	if !ok || full {
		n.opts.Logger.Warn("connection refused", "peer", nc.RemoteAddr().String(), "closed", !ok, "limit", n.opts.MaxConnections)
		l.end(net.ErrClosed, 0, "", 0)
		if ok {
			n.running.Done()
		}
		return
	}
	go func() {
		defer n.running.Done()
		n.serve(l)
	}()
}

// serve does the handshake and goes on by the peer's role.
func (n *Node) serve(l *link) {
	own := wire.Hello{Role: wire.RoleSecondary, Node: n.opts.Name, Instance: n.opts.Instance}
	peer, err := l.conn.Answer(own, nil)
	if err != nil {
		n.opts.Logger.Info("handshake failed", "peer", l.conn.RemoteAddr().String(), "error", err)
		l.end(net.ErrClosed, 0, "", 0) // Answer has told the peer and closed
		return
	}
	l.peer = peer
	switch peer.Role {
	case wire.RolePrimary:
		n.attach(l)
	case wire.RoleManager:
		n.obey(l)
	case wire.RoleTool:
		n.inform(l)
	default: // Answer refuses what has nothing to say to a secondary
		l.end(refuse(wire.CodeRefused, "role %v", peer.Role), 0, "", 0)
	}
}

// Close stops accepting, tells the peers, ends all sessions and waits for them. What was received and is not complete
// is forgotten; the pool stays open.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	var errs []error
	for l := range n.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	n.mu.Unlock()
	n.cancel(refuse(wire.CodeShuttingDown, "secondary %q is shutting down", n.opts.Name))
	n.running.Wait()
	return errors.Join(errs...)
}

// inform answers a tool.
func (n *Node) inform(l *link) {
	for {
		h, body, err := l.conn.Next()
		switch {
		case err != nil:
		case h.Type == wire.TypeStatus:
			err = n.replyStatus(l)
		case h.Type == wire.TypeVolume:
			err = n.changeVolume(l, h, body)
		default:
			err = unexpected(h)
		}
		if err != nil {
			l.end(l.reason(err), h.Number, "", 0)
			return
		}
	}
}

func unexpected(h wire.Header) error {
	return refuse(wire.CodeProtocol, "%v frame %d is not expected here", h.Type, h.Number)
}
