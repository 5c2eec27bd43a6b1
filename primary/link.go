package primary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/farside-storage/farside/wire"
)

const (
	minBackoff = 20 * time.Millisecond
	// lastWords is how long an Error frame is awaited after writing failed, and how long sending one may take.
	lastWords = 200 * time.Millisecond
)

// link keeps the stream to one secondary going, connection after connection.
type link struct {
	node    *Node
	index   int
	spec    ConnSpec
	address string
	ready   chan struct{} // the core has something to send
	again   chan struct{} // the connection is to be made anew
	batch   wire.Batch
	zeroes  wire.ZeroRanges
	quiet   string // the error that was logged last
}

// run connects again and again until the node closes.
func (l *link) run() {
	pause := minBackoff
	for {
		attached, err := l.connect()
		if l.node.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errNothing) {
			select {
			case <-l.node.ctx.Done():
				return
			case <-l.again:
			}
			continue
		}
		l.report(err)
		if attached {
			pause = minBackoff
		}
		if errors.Is(err, ErrListChanged) {
			continue
		}
		select {
		case <-l.node.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, l.node.opt.MaxBackoff)
	}
}

// errNothing: no volume has a copy there any more.
var errNothing = errors.New("nothing to attach")

// report logs an error once, not at every attempt.
func (l *link) report(err error) {
	if errors.Is(err, ErrListChanged) {
		l.log(slog.LevelInfo, "attaching anew, with other volumes")
		return
	}
	text := fmt.Sprint(err)
	if text == l.quiet {
		return
	}
	l.quiet = text
	l.log(slog.LevelWarn, "no connection to the secondary: changes are recorded, and it is tried again", "error", err)
}

func (l *link) log(level slog.Level, text string, args ...any) {
	args = append([]any{"group", l.spec.Group, "secondary", l.spec.Secondary, "address", l.address}, args...)
	l.node.log.Log(l.node.ctx, level, text, args...)
}

// connect makes one connection and serves it until it ends. It says whether it came as far as streaming.
func (l *link) connect() (attached bool, err error) {
	select {
	case <-l.again: // what it was about is in the list by now
	default:
	}
	some := false
	l.node.visit(func(c *Core) { some = c.attaches(l.index) })
	if !some {
		return false, errNothing
	}
	defer func() { l.node.visit(func(c *Core) { c.Down(l.index, err) }) }()
	conn, err := wire.Dial(l.node.ctx, l.address, l.node.opt.Wire)
	if err != nil {
		return false, err
	}
	left := make(chan struct{})
	stop := context.AfterFunc(l.node.ctx, func() {
		defer close(left)
		l.leave(conn)
	})
	defer func() {
		if !stop() {
			<-left
		}
	}()
	if err := l.attach(conn); err != nil {
		return false, errors.Join(err, conn.Close())
	}
	l.quiet = ""
	l.log(slog.LevelInfo, "streaming to the secondary")
	return true, l.serve(conn)
}

// leave tells the secondary that this stream has ended, so that it does not wait for it to be resumed, and closes the
// connection. A secondary that takes in nothing is not waited for.
func (l *link) leave(conn *wire.Conn) {
	late := time.AfterFunc(lastWords, func() { _ = conn.Close() }) // all its errors would be those of a dying connection
	defer late.Stop()
	_ = conn.WriteMessage(wire.Refusal(fmt.Errorf("primary %q is shutting down: %w", l.node.opt.Name, wire.ErrShuttingDown), 0, l.spec.Group, 0))
	_ = conn.Close()
}

// attach opens the connection and binds it to the volumes.
func (l *link) attach(conn *wire.Conn) error {
	if _, err := conn.Handshake(wire.Hello{Role: wire.RolePrimary, Node: l.node.opt.Name, Instance: l.node.instance}); err != nil {
		return err
	}
	var m *wire.Attach
	l.node.visit(func(c *Core) { m = c.Attach(l.index, newUUID()) })
	if m == nil {
		return ErrListChanged
	}
	if err := conn.WriteMessage(m); err != nil {
		return err
	}
	h, body, err := conn.Next()
	if err != nil {
		return err
	}
	if h.Type != wire.TypeAttached {
		return fmt.Errorf("secondary %q answered Attach with a frame of type %v: %w", l.spec.Secondary, h.Type, wire.ErrProtocol)
	}
	var answer wire.Attached
	if err := wire.DecodeInto(&answer, body); err != nil {
		return err
	}
	l.node.visit(func(c *Core) { err = c.Attached(l.index, answer) })
	return err
}

// serve sends frames and takes credits until the connection ends.
func (l *link) serve(conn *wire.Conn) error {
	ended := make(chan struct{})
	var readErr error
	go func() {
		defer close(ended)
		readErr = l.receive(conn)
		_ = conn.Close() // frees a sender that waits for the socket; readErr says why
	}()
	writeErr := l.send(conn, ended)
	if errors.Is(writeErr, ErrListChanged) {
		_ = conn.Close() // nothing of what was sent is in question
	}
	select {
	case <-ended:
	case <-time.After(lastWords): // the secondary may have said why, before it stopped reading
	}
	_ = conn.Close() // the errors at hand say more
	<-ended
	// What was written when the reader closed the connection says nothing; why the reader did, says all.
	if writeErr != nil && !errors.Is(writeErr, net.ErrClosed) && errors.Is(readErr, errConnEnded) {
		return writeErr
	}
	return readErr
}

var errConnEnded = errors.New("connection ended")

// receive takes credits until the connection ends.
func (l *link) receive(conn *wire.Conn) error {
	var credit wire.Credit
	for {
		h, body, err := conn.Next()
		if err != nil {
			if _, said := errors.AsType[*wire.RemoteError](err); said {
				return err
			}
			return fmt.Errorf("%w: %w", errConnEnded, err)
		}
		if h.Type != wire.TypeCredit {
			return fmt.Errorf("secondary %q sent a frame of type %v on a data connection: %w", l.spec.Secondary, h.Type, wire.ErrProtocol)
		}
		if err = wire.DecodeInto(&credit, body); err == nil {
			b := l.node.enter()
			err = l.node.core.Credit(l.index, credit.Applied)
			l.node.leave(b)
		}
		if err != nil {
			return err
		}
	}
}

// send transmits frames until writing fails or ended is closed. While one is being written, the next gathers
// in the core: under load frames are large, and without load nothing waits.
func (l *link) send(conn *wire.Conn, ended chan struct{}) error {
	var f *Frame
	for {
		f = l.next(f)
		if f == nil {
			select {
			case <-l.ready:
				continue
			case <-l.again:
				return ErrListChanged
			case <-ended:
				return nil
			}
		}
		f.Seal()
		if err := l.transmit(conn, f); err != nil {
			b := l.node.enter()
			l.node.core.ReturnFrame(f)
			l.node.leave(b)
			return err
		}
	}
}

// next gives f back and takes another frame.
func (l *link) next(f *Frame) *Frame {
	b := l.node.enter()
	if f != nil {
		l.node.core.ReturnFrame(f)
	}
	f = l.node.core.TakeFrame(l.index)
	l.node.leave(b)
	return f
}

func (l *link) transmit(conn *wire.Conn, f *Frame) error {
	switch f.Kind {
	case wire.TypeManifest:
		return conn.WriteStream(&f.Manifest, f.Seq)
	case wire.TypeZeroes:
		l.zeroes.CG, l.zeroes.Ranges = f.CG, l.zeroes.Ranges[:0]
		for i := range f.Len() {
			l.zeroes.Ranges = append(l.zeroes.Ranges, f.ZeroRange(i))
		}
		return conn.WriteStream(&l.zeroes, f.Seq)
	}
	l.batch.Reset(f.CG)
	for i := range f.Len() {
		u, sums, data := f.Update(i)
		if err := l.batch.Add(u, sums, data); err != nil {
			return fmt.Errorf("frame %d of CG %d: %w", f.Seq, f.CG, err)
		}
	}
	err := conn.WriteUpdates(&l.batch, f.Seq)
	l.batch.Reset(f.CG) // lets go of the payload
	return err
}
