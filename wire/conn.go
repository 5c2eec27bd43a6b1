package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options of a connection. The zero value means the defaults.
type Options struct {
	// IdleTimeout is how long the peer may send nothing before reads fail with ErrSilent. It also bounds
	// Dial. The two sides of a connection need not agree on it, as long as both have at least a second. Default 3 s.
	IdleTimeout time.Duration
	// WriteTimeout is how long a write may make no progress: a peer that takes in nothing is of no use, even if it
	// sends signs of life. Default 3 s.
	WriteTimeout time.Duration
	// StallTimeout takes the place of WriteTimeout for writes of a primary to a secondary that sends signs of life.
	// Such a secondary may push back because its pool is full: it then repeats its Credit, and each Credit restarts
	// the timeout. Or its devices hang. Default 10 times WriteTimeout.
	StallTimeout time.Duration
}

// unacknowledged is how long sent bytes may wait for an acknowledgement of the peer's kernel. It is longer than
// IdleTimeout, so that a side that reads notices the silence first, and its error says so.
func (o Options) unacknowledged() time.Duration { return o.IdleTimeout * 5 / 4 }

// pingPeriod is the longest time between two checks of the keepalive. A peer with an IdleTimeout of a second or more
// hears from this side often enough, whatever this side's own IdleTimeout is.
const pingPeriod = 750 * time.Millisecond

func (o Options) withDefaults() Options {
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 3 * time.Second
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 3 * time.Second
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 10 * o.WriteTimeout
	}
	return o
}

// Conn is a connection of the protocol. First comes Handshake (dialer) or Answer (listener);
// then one goroutine reads (Next, Payload), and any number write.
//
// Keepalive is automatic. From the handshake on, a goroutine sends Ping when nothing else was sent or nothing was
// received, and answers the Pings that Next reads; Next returns neither Ping nor Pong. So a live peer is never silent
// for longer than half of IdleTimeout, however busy its reader is. The reader itself never writes: two peers that
// both wait to write would otherwise wait for each other.
//
// A peer that sends signs of life but takes in nothing is given up after WriteTimeout, or after StallTimeout if it is a
// secondary and this side its primary. Then the write fails with ErrStalled, and so does the read.
//
// Two sides cannot notice silence by reading: one that does not read for long (a secondary whose pool is full), and one
// whose own bytes get lost while the peer's arrive. So the kernel ends a TCP connection on which nothing that was sent,
// pings included, is acknowledged for a little longer than IdleTimeout. The connection of a primary to a secondary is
// exempt: the kernel cannot tell a peer that pushes back from one that is gone.
type Conn struct {
	nc       net.Conn
	options  Options
	r        Reader
	w        Writer
	own      Hello
	peer     Hello
	features uint64
	made     time.Time
	heard    atomic.Int64 // when bytes last came, in nanoseconds since made
	said     atomic.Int64 // the same of a frame that is no sign of life only
	patience time.Duration
	due      time.Time             // the write deadline; owned by who writes, as are the next two
	since    time.Time             // when the write in progress began, or last got further
	stuck    bool                  // it got no further until its deadline, and goes on
	failed   atomic.Pointer[error] // why a write ended the connection
	sent     atomic.Bool           // something was written since the last look of the keepalive
	ping     Ping                  // reused by Next
	coder    coder                 // reused by Next
	pings    chan uint64           // Next to keepalive: the token to answer; holds one
	closing  chan struct{}

	life   sync.Mutex     // held while alive grows or closed is set
	closed bool           // Close was called
	alive  sync.WaitGroup // the keepalive goroutine
}

// NewConn makes a connection of nc, which it owns from then on.
func NewConn(nc net.Conn, o Options) *Conn {
	c := &Conn{nc: nc, options: o.withDefaults(), made: time.Now(), closing: make(chan struct{}), pings: make(chan uint64, 1)}
	c.patience = c.options.WriteTimeout
	c.r.src = (*impatient)(c)
	c.w.init(nc)
	c.w.arm = c.arm
	c.w.again = c.again
	return c
}

// arm bounds the write that follows.
func (c *Conn) arm() error {
	c.sent.Store(true)
	now := time.Now()
	if !c.stuck {
		c.since = now
	}
	c.stuck = false
	c.due = now.Add(c.options.WriteTimeout)
	return c.nc.SetWriteDeadline(c.due)
}

// again says whether a write that failed after n bytes goes on (nil): its time is over, but not the peer's. Else it
// says why not.
func (c *Conn) again(err error, n int64) error {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().Before(c.due): // before: somebody else ended it
		return err
	case n > 0:
		return nil
	case c.silence() >= c.options.WriteTimeout:
		return fmt.Errorf("%s takes in nothing, and nothing comes from it for %v: %w (%w)", c.name(), c.options.WriteTimeout, ErrSilent, err)
	}
	stuck := time.Since(c.since)
	if c.patience > c.options.WriteTimeout { // what it says tells that it pushes back
		stuck = min(stuck, time.Since(c.made)-time.Duration(c.said.Load()))
	}
	if stuck < c.patience {
		c.stuck = true
		return nil
	}
	err = fmt.Errorf("%s has taken in nothing for %v, although it sends signs of life: %w (%w)", c.name(), c.patience, ErrStalled, err)
	if c.failed.CompareAndSwap(nil, &err) {
		_ = c.nc.Close() // frees who reads; err says why
	}
	return err
}

// silence is how long nothing has come from the peer.
func (c *Conn) silence() time.Duration {
	return time.Since(c.made) - time.Duration(c.heard.Load())
}

// impatient is the read side of a Conn's socket, with IdleTimeout on each call.
type impatient Conn

func (c *impatient) Read(p []byte) (int, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.options.IdleTimeout)); err != nil {
		return 0, (*Conn)(c).whyFailed(err)
	}
	n, err := c.nc.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.made)))
	}
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("nothing from %s for %v: %w (%w)", (*Conn)(c).name(), c.options.IdleTimeout, ErrSilent, err)
	case errors.Is(err, syscall.ETIMEDOUT):
		err = fmt.Errorf("nothing acknowledged by %s for %v: %w (%w)", (*Conn)(c).name(), c.options.unacknowledged(), ErrSilent, err)
	default:
		err = (*Conn)(c).whyFailed(err)
	}
	return n, err
}

// whyFailed is the error of the write that ended the connection, or else err.
func (c *Conn) whyFailed(err error) error {
	if failed := c.failed.Load(); failed != nil {
		return *failed
	}
	return err
}

// name says who the peer is, for errors.
func (c *Conn) name() string {
	if c.peer.Role == 0 {
		return "peer " + c.nc.RemoteAddr().String()
	}
	return fmt.Sprintf("%v %q", c.peer.Role, c.peer.Node)
}

// Peer is the peer's Hello.
func (c *Conn) Peer() Hello { return c.peer }

// Features are those in force: known to both sides.
func (c *Conn) Features() uint64 { return c.features }

// RemoteAddr is the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Next reads the next frame, up to its payload. It has Pings answered. Besides the errors of
// Reader.Next it gives *RemoteError for an Error frame, after which Next may be called
// again: whether the refusal ends the connection depends on its code (ErrorCode.EndsConnection).
// A type that the peer's role may not send is refused.
func (c *Conn) Next() (Header, []byte, error) {
	for {
		h, body, err := c.r.Next()
		if err != nil {
			return Header{}, nil, err
		}
		switch h.Type {
		case TypePing:
			err = c.answer(body)
		case TypePong:
			err = c.coder.decode(&c.ping, body) // same layout; only that it came matters
		case TypeError:
			return h, nil, c.refused(body)
		default:
			if err := c.allowed(h); err != nil {
				return Header{}, nil, err
			}
			c.said.Store(c.heard.Load())
			return h, body, nil
		}
		if err != nil {
			return Header{}, nil, c.r.keep(err)
		}
	}
}

// answer has the keepalive send Pong. Where one is still to be sent, that one is answer enough.
func (c *Conn) answer(body []byte) error {
	if err := c.coder.decode(&c.ping, body); err != nil {
		return err
	}
	select {
	case c.pings <- c.ping.Token:
	default:
	}
	return nil
}

func (c *Conn) refused(body []byte) error {
	e := &RemoteError{}
	if err := DecodeInto(&e.Message, body); err != nil {
		return c.r.keep(err)
	}
	return e
}

func (c *Conn) allowed(h Header) error {
	if c.peer.Role == 0 || h.Type == TypeHello || !Allowed(h.Type, c.peer.Role, c.own.Role) {
		return c.r.keep(&FormatError{Type: h.Type, Frame: h.Number, Field: "type", Offset: offType,
			Reason: fmt.Sprintf("not allowed from %s to %v at this point", c.name(), c.own.Role)})
	}
	return nil
}

// Payload is Reader.Payload.
func (c *Conn) Payload(dst []byte) error { return c.r.Payload(dst) }

// SkipPayload is Reader.SkipPayload.
func (c *Conn) SkipPayload() error { return c.r.SkipPayload() }

// PayloadLeft is Reader.PayloadLeft.
func (c *Conn) PayloadLeft() int { return c.r.PayloadLeft() }

// ExpectSequence is Reader.ExpectSequence; the goroutine that reads calls it.
func (c *Conn) ExpectSequence(next uint64) { c.r.ExpectSequence(next) }

// WriteMessage is Writer.WriteMessage.
func (c *Conn) WriteMessage(m Message) error { return c.w.WriteMessage(m) }

// WriteStream is Writer.WriteStream.
func (c *Conn) WriteStream(m Message, sequence uint64) error { return c.w.WriteStream(m, sequence) }

// WriteUpdates is Writer.WriteUpdates.
func (c *Conn) WriteUpdates(b *Batch, sequence uint64) error { return c.w.WriteUpdates(b, sequence) }

// keepalive sends Ping in each quarter of IdleTimeout in which nothing else was sent or nothing came, and the
// Pongs, until Close or a failed write (which every writer then learns of).
func (c *Conn) keepalive() {
	period := min(c.options.IdleTimeout/4, pingPeriod)
	tick := time.NewTicker(period)
	defer tick.Stop()
	var ping Ping
	var pong Pong
	for {
		var err error
		select {
		case <-c.closing:
			return
		case pong.Token = <-c.pings:
			err = c.w.WriteMessage(&pong)
		case <-tick.C:
			if c.sent.Swap(false) && c.silence() < period {
				continue
			}
			ping.Token++
			err = c.w.WriteMessage(&ping)
			c.sent.Store(false)
		}
		if err != nil { // kept by c.w
			return
		}
	}
}

// Close ends the connection at once, and all its goroutines. Reads and writes in progress fail
// with net.ErrClosed. Closing again does nothing.
func (c *Conn) Close() error {
	c.life.Lock()
	again := c.closed
	c.closed = true
	c.life.Unlock()
	var err error
	if !again {
		close(c.closing)
		err = c.nc.Close()
	}
	c.alive.Wait()
	return err
}

// lingerTimeout is how long Abort waits for the peer to take the Error frame.
const lingerTimeout = 500 * time.Millisecond

// Abort tells the peer why (e is made by Refusal, say) and ends the connection. Sending
// is an attempt only. What the peer still sends meanwhile is dropped, for a socket
// that is closed with unread bytes takes back what it sent.
func (c *Conn) Abort(e *Error) error {
	sent := c.w.WriteMessage(e)
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && sent == nil && half.CloseWrite() == nil {
		c.drain()
	}
	return errors.Join(sent, c.Close())
}

func (c *Conn) drain() {
	deadline := time.Now().Add(lingerTimeout)
	var b [16 << 10]byte
	for time.Now().Before(deadline) && c.nc.SetReadDeadline(deadline) == nil {
		if _, err := c.nc.Read(b[:]); err != nil {
			return
		}
	}
}
