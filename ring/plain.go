package ring

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// plainThreads is how many requests of a plain queue are on their way at once.
const plainThreads = 4

type plainDevices struct{ deviceSet }

// NewQueue opens a plain queue. The calling goroutine is not locked to its thread: there is
// nothing of the thread in the queue.
func (d *plainDevices) NewQueue(o QueueOptions) (Queue, error) {
	depth, err := o.depth()
	if err != nil {
		return nil, err
	}
	q := &plainQueue{
		infos: d.infos, fds: d.fds, slots: newSlots(depth),
		pushed: make([]uint32, 0, depth),
		todo:   make(chan uint32, depth), done: make(chan uint32, depth),
		wakeup: make(chan struct{}, 1),
	}
	for range min(plainThreads, depth) {
		q.threads.Go(q.serve)
	}
	return q, nil
}

// plainQueue does requests by blocking system calls on a few goroutines. A slot belongs to
// the owner, but between its numbers' way through todo and through done to the goroutine that took it.
type plainQueue struct {
	infos   []DeviceInfo
	fds     []int
	slots   slots
	pushed  []uint32
	todo    chan uint32
	done    chan uint32
	wakeup  chan struct{}
	threads sync.WaitGroup
	closed  bool
}

func (q *plainQueue) Depth() int    { return q.slots.depth() }
func (q *plainQueue) InFlight() int { return q.slots.used }

// Wake leaves a token that the next Reap that would block takes.
func (q *plainQueue) Wake() {
	select {
	case q.wakeup <- struct{}{}:
	default:
	}
}

func (q *plainQueue) Push(r Request) bool {
	if q.closed || q.slots.full() {
		return false
	}
	q.pushed = append(q.pushed, q.slots.take(r))
	return true
}

// Submit never blocks: the channel has room for all requests in flight.
func (q *plainQueue) Submit() error {
	for _, i := range q.pushed {
		q.todo <- i
	}
	q.pushed = q.pushed[:0]
	return nil
}

// Reap implements [Queue].
func (q *plainQueue) Reap(out []Completion, min int) (int, error) {
	if q.closed {
		return 0, ErrClosed
	}
	if err := checkReap(len(out), min, q.slots.used); err != nil {
		return 0, err
	}
	if err := q.Submit(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(out) {
		select {
		case i := <-q.done:
			out[n] = q.slots.end(i)
			n++
			continue
		default:
		}
		if n >= min {
			break
		}
		select {
		case i := <-q.done:
			out[n] = q.slots.end(i)
			n++
		case <-q.wakeup:
			return n, nil
		}
	}
	return n, nil
}

// Close waits for requests in flight and ends the goroutines.
func (q *plainQueue) Close() error {
	if q.closed {
		return ErrClosed
	}
	err := q.Submit()
	close(q.todo)
	q.threads.Wait()
	q.closed = true
	return err
}

func (q *plainQueue) serve() {
	for i := range q.todo {
		s := &q.slots.at[i]
		if err := s.req.Check(q.infos); err != nil {
			s.err = err
		} else if err := q.do(s); err != nil {
			s.err = s.req.Fail(q.infos, err)
		}
		q.done <- i
	}
}

func (q *plainQueue) do(s *slot) error {
	r := &s.req
	fd := q.fds[r.Device]
	switch r.Op {
	case OpRead, OpWrite:
		return q.transfer(fd, s)
	case OpFlush:
		return retry(func() error { return unix.Fdatasync(fd) })
	case OpDiscard:
		return retry(func() error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
		})
	case OpWriteZeroes:
		return q.zero(fd, s)
	case OpForget: // nothing here outlives a request
		return nil
	}
	return unix.EINVAL
}

func (q *plainQueue) transfer(fd int, s *slot) error {
	r := &s.req
	for end := false; !end; {
		var n int
		err := retry(func() (err error) {
			if r.Op == OpRead {
				n, err = unix.Pread(fd, r.Buf[s.done:], r.Off+s.done)
			} else {
				n, err = unix.Pwrite(fd, r.Buf[s.done:], r.Off+s.done)
			}
			return err
		})
		if err != nil {
			return err
		}
		if end, err = s.moved(int64(n), &q.infos[r.Device]); err != nil {
			return err
		}
	}
	if r.FUA && r.Op == OpWrite {
		return retry(func() error { return unix.Fdatasync(fd) })
	}
	return nil
}

// zero takes the first way that the device accepts, as the io_uring queue does.
func (q *plainQueue) zero(fd int, s *slot) error {
	r := &s.req
	modes := []uint32{unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_PUNCH_HOLE}
	if q.infos[r.Device].Block {
		modes = modes[:1] // a hole of a block device need not read as zeros
	}
	for _, mode := range modes {
		err := retry(func() error { return unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len) })
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	zeros := zeroMemory()
	for done := int64(0); done < r.Len; {
		n, err := unix.Pwrite(fd, zeros[:min(int64(len(zeros)), r.Len-done)], r.Off+done)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("write zeros: %w", err)
		}
		done += int64(max(n, 0))
	}
	return nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
