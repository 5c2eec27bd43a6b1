package target

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// threadConn is a connection on which each thread waits for itself, in poll(2).
//
// A goroutine that waits for a socket costs nothing but memory: one thread waits for all sockets, in epoll. A session
// has a thread of its own anyway, because its writer's ring belongs to it. Each wait would be two changes of threads;
// and the kernel wakes the thread in epoll for what arrives while nobody waits, too: on a connection that is busy for
// nothing. So the socket is taken out of epoll.
//
//   - One goroutine reads at a time, and one writes. A deadline that is set while they sleep counts from then on.
//   - A read of what is certain to come sleeps until so much is there (SO_RCVLOWAT), not until the next segment. What
//     has arrived at the deadline is taken, however little it is.
//   - The descriptor is closed when no call uses it any more.
type threadConn struct {
	local, remote net.Addr
	use           sync.RWMutex // held by reads and writes; closing waits for it
	fd            int          // -1 once closed
	closing       atomic.Bool
	in, out       direction
	low           int // SO_RCVLOWAT as it was set last; the reader's
}

// direction is one of the two in which bytes go.
type direction struct {
	by    atomic.Int64 // deadline in nanoseconds since began; 0: none
	event int          // an eventfd that ends the sleep of the one goroutine that waits; -1 once closed
}

// began is what deadlines count from: on the clock that nobody sets.
var began = time.Now()

// errNothing: nothing has arrived.
var errNothing = errors.New("nothing has arrived")

// mostAtOnce is how many bytes a read sleeps for at most: the sender must be able to go on meanwhile.
const mostAtOnce = 256 << 10

// takeOver makes a threadConn of nc, on which no call is in progress, and which is closed then. nil: it cannot be
// done, nc is as it was.
func takeOver(nc net.Conn) (*threadConn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, nil
	}
	c := &threadConn{local: nc.LocalAddr(), remote: nc.RemoteAddr(), fd: -1, low: 1}
	c.in.event, c.out.event = -1, -1
	err = errors.Join(c.in.open(), c.out.open())
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { c.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over the connection with %s: %w", nc.RemoteAddr(), err), c.Close())
	}
	return c, nc.Close() // the connection lives on in the other descriptor
}

func (d *direction) open() (err error) {
	if d.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		d.event = -1
		return fmt.Errorf("make eventfd: %w", err)
	}
	return nil
}

func (c *threadConn) LocalAddr() net.Addr  { return c.local }
func (c *threadConn) RemoteAddr() net.Addr { return c.remote }

// Read waits for any bytes.
func (c *threadConn) Read(p []byte) (int, error) { return c.readSoon(p, 1) }

// readNow does not wait: errNothing.
func (c *threadConn) readNow(p []byte) (int, error) { return c.read(p, 0) }

// readSoon waits. certain bytes will come, so that it waits for as many of them as p has room for; but
// it may return with less.
func (c *threadConn) readSoon(p []byte, certain int) (int, error) {
	return c.read(p, max(1, min(certain, len(p), mostAtOnce)))
}

// read sleeps until least bytes are there; 0: not at all.
func (c *threadConn) read(p []byte, least int) (int, error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := c.check(&c.in); err != nil {
			return 0, c.explain("read", err)
		}
		var late error
		if least > 0 {
			c.setLow(least)
			late = c.sleep(unix.POLLIN, &c.in)
		}
		n, err := unix.Read(c.fd, p)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN && least == 0:
			return 0, errNothing
		case err == unix.EAGAIN && late != nil:
			return 0, c.explain("read", late)
		case err == unix.EAGAIN: // what poll says need not be so
		case err != nil:
			return 0, c.explain("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// setLow saves wake-ups, no more: a socket that refuses it is read as well.
func (c *threadConn) setLow(low int) {
	if low != c.low {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, low)
		c.low = low
	}
}

// Write waits until all of p is in the kernel's hands.
func (c *threadConn) Write(p []byte) (done int, err error) {
	c.use.RLock()
	defer c.use.RUnlock()
	for done < len(p) { // looked at first: a deadline that is set once all is written comes too late to end anything
		if err := c.check(&c.out); err != nil {
			return done, c.explain("write", err)
		}
		n, err := unix.SendmsgN(c.fd, p[done:], nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EAGAIN:
			err = c.sleep(unix.POLLOUT, &c.out)
		case err == unix.EINTR:
			err = nil
		case err == nil:
			done += n
		}
		if err != nil {
			return done, c.explain("write", err)
		}
	}
	return done, nil
}

// check says whether a call may go on.
func (c *threadConn) check(d *direction) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	if t := d.by.Load(); t != 0 && int64(time.Since(began)) >= t {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// sleep waits for an event of the socket. Its error is that of check, where that ended it.
func (c *threadConn) sleep(events int16, d *direction) error {
	for {
		fds := [2]unix.PollFd{{Fd: int32(c.fd), Events: events}, {Fd: int32(d.event), Events: unix.POLLIN}}
		_, err := unix.Poll(fds[:], timeout(d.by.Load()))
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for a socket: %w", err)
		}
		if err == nil && fds[1].Revents != 0 {
			d.lower()
		}
		if err := c.check(d); err != nil {
			return err
		}
		if err == nil && fds[0].Revents != 0 {
			return nil
		}
	}
}

// timeout is the time to a deadline for poll, in milliseconds rounded up; -1: for ever.
func timeout(by int64) int {
	if by == 0 {
		return -1
	}
	left := time.Duration(by) - time.Since(began)
	return int(max(0, min((left+time.Millisecond-1)/time.Millisecond, math.MaxInt32)))
}

// raise ends the sleep in progress, or the next one.
func (d *direction) raise() {
	_, _ = unix.Write(d.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only where it was raised 2^64-2 times
}

func (d *direction) lower() {
	var b [8]byte
	_, _ = unix.Read(d.event, b[:])
}

func (d *direction) set(t time.Time) {
	by := int64(0)
	if !t.IsZero() {
		by = max(1, int64(t.Sub(began)))
	}
	if d.by.Store(by); by != 0 && int64(time.Since(began)) >= by {
		d.raise()
	}
}

// SetReadDeadline bounds reads. One that sleeps is ended by a time that is over; a later time counts from its next
// look at the clock.
func (c *threadConn) SetReadDeadline(t time.Time) error  { return c.setDeadline(t, &c.in) }
func (c *threadConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.out) }
func (c *threadConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *threadConn) setDeadline(t time.Time, d *direction) error {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closing.Load() {
		return c.explain("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

// CloseWrite tells the peer that nothing more comes.
func (c *threadConn) CloseWrite() error {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closing.Load() {
		return c.explain("shutdown", net.ErrClosed)
	}
	if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
		return c.explain("shutdown", err)
	}
	return nil
}

// Close ends reads and writes in progress, and waits until they have.
func (c *threadConn) Close() error {
	if c.closing.Swap(true) {
		return c.explain("close", net.ErrClosed)
	}
	c.in.raise()
	c.out.raise()
	c.use.Lock()
	defer c.use.Unlock()
	var errs []error
	for _, fd := range []*int{&c.fd, &c.in.event, &c.out.event} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
		}
		*fd = -1
	}
	return errors.Join(errs...)
}

// explain makes of an error one as other connections give it.
func (c *threadConn) explain(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}
