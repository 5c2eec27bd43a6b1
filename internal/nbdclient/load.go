package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tick is how long a paced load gathers requests: waking for each one alone would cost more than the request.
const tick = time.Millisecond

// maxLoadSize is the largest request of a load: an answer must fit in the reader's buffer.
const maxLoadSize = 32 << 10

// Load is a stream of requests of one kind, many of them in flight.
type Load struct {
	// Write data, or else read it and drop it.
	Write bool
	// Depth is how many requests are in flight at most, 1 to 65536.
	Depth int
	// Size of each in bytes.
	Size int
	// Rate in requests per second, sent in a burst each millisecond, while no more than Depth wait for answers; 0: as
	// fast as those come.
	Rate float64
	// Offset gives the place of the next request, in bytes. One goroutine calls it.
	Offset func() int64
	// Data is what writes bring, in turn: pieces of Size bytes.
	Data []byte
	// Done is called for each answer, with the time since its burst was sent. One goroutine calls it.
	Done func(took time.Duration)
}

// Run sends the load until ctx ends and everything in flight was answered. The client must not be used for anything
// else meanwhile.
func (c *Client) Run(ctx context.Context, l Load) error {
	if l.Depth < 1 || l.Depth > 1<<16 || l.Size < 1 || l.Size > maxLoadSize || l.Write && len(l.Data) < l.Size {
		return fmt.Errorf("load of %d requests of %d bytes from %d bytes of data: want up to %d bytes each", l.Depth, l.Size, len(l.Data), maxLoadSize)
	}
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	f := &flood{Load: l, c: c, start: time.Now(), free: make(chan uint32, l.Depth), sent: make(chan struct{}),
		began: make([]atomic.Int64, l.Depth), heads: make([][28]byte, l.Depth)}
	for i := range l.Depth {
		f.free <- uint32(i)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sendErr error
	go func() {
		sendErr = f.send(ctx)
		close(f.sent)
		_ = c.conn.SetReadDeadline(time.Now()) // has the receiver look at sent; an error is its own next one, too
	}()
	err := f.receive()
	cancel()
	<-f.sent
	if sendErr != nil {
		return sendErr
	}
	return err
}

// flood is a load on its way.
type flood struct {
	Load
	c     *Client
	start time.Time
	free  chan uint32    // slots that hold no request
	sent  chan struct{}  // closed when nothing more is sent
	began []atomic.Int64 // by slot: since start, in nanoseconds
	heads [][28]byte     // by slot
	bufs  net.Buffers
	data  int // where the next piece of Data begins
}

func (f *flood) send(ctx context.Context) error {
	for sent := 0; ctx.Err() == nil; {
		now, due := time.Now(), f.Depth
		if f.Rate > 0 {
			due = int(now.Sub(f.start).Seconds()*f.Rate) - sent
			if due <= 0 {
				f.pause(ctx, tick)
				continue
			}
		}
		n, err := f.burst(ctx, now, due)
		if err != nil {
			return err
		}
		sent += n
		if f.Rate > 0 {
			f.pause(ctx, time.Until(now.Add(tick)))
		}
	}
	return nil
}

func (f *flood) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// burst sends up to due requests with one system call: as many as there are free slots, at least one.
func (f *flood) burst(ctx context.Context, at time.Time, due int) (n int, err error) {
	f.bufs = f.bufs[:0]
	for ; n < due; n++ {
		slot, ok := f.slot(ctx, n == 0)
		if !ok {
			break
		}
		if f.Rate == 0 && n == 0 {
			at = time.Now() // a slot may have been waited for, which is no part of the request
		}
		f.began[slot].Store(int64(at.Sub(f.start)))
		f.request(slot)
	}
	if n == 0 {
		return 0, nil
	}
	if err := f.c.conn.SetWriteDeadline(time.Now().Add(requestTimeout)); err != nil {
		return n, err
	}
	all := f.bufs // WriteTo consumes it
	_, err = all.WriteTo(f.c.conn)
	return n, err
}

func (f *flood) slot(ctx context.Context, wait bool) (uint32, bool) {
	select {
	case s := <-f.free:
		return s, true
	default:
	}
	if !wait {
		return 0, false
	}
	select {
	case s := <-f.free:
		return s, true
	case <-ctx.Done():
		return 0, false
	}
}

// request adds one to the burst.
func (f *flood) request(slot uint32) {
	cmd := uint16(cmdRead)
	if f.Write {
		cmd = cmdWrite
	}
	h := f.heads[slot][:]
	be.PutUint32(h, requestMagic)
	be.PutUint16(h[4:], 0)
	be.PutUint16(h[6:], cmd)
	be.PutUint64(h[8:], uint64(slot))
	be.PutUint64(h[16:], uint64(f.Offset()))
	be.PutUint32(h[24:], uint32(f.Size))
	f.bufs = append(f.bufs, h)
	if f.Write {
		if f.data+f.Size > len(f.Data) {
			f.data = 0
		}
		f.bufs = append(f.bufs, f.Data[f.data:f.data+f.Size])
		f.data += f.Size
	}
}

// receive takes answers until nothing more is sent and no request is left.
func (f *flood) receive() error {
	last := false
	for {
		err := f.answer()
		if errors.Is(err, os.ErrDeadlineExceeded) && !last && f.ended() {
			last = true
			err = f.c.conn.SetReadDeadline(time.Now().Add(requestTimeout))
		}
		if err != nil {
			return err
		}
		if last && len(f.free) == f.Depth {
			return nil
		}
	}
}

func (f *flood) ended() bool {
	select {
	case <-f.sent:
		return true
	default:
		return false
	}
}

func (f *flood) answer() error {
	head, err := f.c.r.Peek(16) // what a deadline cuts off stays in the buffer
	if err != nil {
		return err
	}
	slot := be.Uint64(head[8:])
	if be.Uint32(head) != replyMagic || slot >= uint64(f.Depth) {
		return fmt.Errorf("reply %x belongs to no request", head)
	}
	if code := be.Uint32(head[4:]); code != 0 {
		return fmt.Errorf("the server answers: %w", unix.Errno(code))
	}
	n := 16
	if !f.Write {
		n += f.Size
	}
	if _, err := f.c.r.Peek(n); err != nil {
		return err
	}
	if _, err := f.c.r.Discard(n); err != nil {
		return err
	}
	f.Done(time.Since(f.start) - time.Duration(f.began[slot].Load()))
	f.free <- uint32(slot)
	return nil
}
