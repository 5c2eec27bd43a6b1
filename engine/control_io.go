package engine

import (
	"fmt"

	"github.com/farside-storage/farside/ring"
)

// controlIO is the control loop's way to the devices: requests with a continuation each. Continuations
// run in poll, after all completions of a batch were collected, never inside start.
type controlIO struct {
	q       ring.Queue
	devices []ring.DeviceInfo
	order   []int // requests name devices of the pool; this says where they were opened. nil: the same

	waiting []func(error) // by tag; nil: free
	free    []uint64
	backlog []ring.Request // did not fit into the queue yet
	reaped  []ring.Completion
	written uint64 // bytes of all writes started
}

func newControlIO(devs ring.Devices, depth int, arenas ...*ring.Arena) (*controlIO, error) {
	q, err := devs.NewQueue(ring.QueueOptions{Depth: depth, Arenas: arenas})
	if err != nil {
		return nil, err
	}
	return &controlIO{q: q, devices: devs.Info(), reaped: make([]ring.Completion, depth)}, nil
}

// start begins r; done gets the outcome, later.
func (io *controlIO) start(r ring.Request, done func(error)) {
	if r.Op == ring.OpWrite {
		io.written += uint64(len(r.Buf))
	}
	if io.order != nil {
		r.Device = io.order[r.Device]
	}
	if n := len(io.free); n > 0 {
		r.Tag = io.free[n-1]
		io.free = io.free[:n-1]
		io.waiting[r.Tag] = done
	} else {
		r.Tag = uint64(len(io.waiting))
		io.waiting = append(io.waiting, done)
	}
	if len(io.backlog) > 0 || !io.q.Push(r) {
		io.backlog = append(io.backlog, r)
	}
}

// idle says that nothing is in flight.
func (io *controlIO) idle() bool { return len(io.backlog) == 0 && io.q.InFlight() == 0 }

// poll submits what was started and runs the continuations of what has ended. With block it
// sleeps until something has ended, or until the queue is woken.
func (io *controlIO) poll(block bool) (ended int, err error) {
	io.pushBacklog()
	least := 0
	if block {
		least = 1
	}
	n, err := io.q.Reap(io.reaped, least)
	if err != nil {
		return 0, fmt.Errorf("control loop: %w", err)
	}
	batch := append([]ring.Completion(nil), io.reaped[:n]...)
	io.pushBacklog()
	for _, c := range batch {
		done := io.waiting[c.Tag]
		io.waiting[c.Tag] = nil
		io.free = append(io.free, c.Tag)
		done(c.Err)
	}
	return n, nil
}

func (io *controlIO) pushBacklog() {
	i := 0
	for i < len(io.backlog) && io.q.Push(io.backlog[i]) {
		i++
	}
	io.backlog = io.backlog[i:]
}

// do runs one request to its end. For format, open and close, where nothing else goes on.
func (io *controlIO) do(r ring.Request) error {
	var result error
	ended := false
	io.start(r, func(err error) { result, ended = err, true })
	for !ended {
		if _, err := io.poll(true); err != nil {
			return err
		}
	}
	return result
}

func (io *controlIO) read(device int, block uint64, buf []byte) error {
	return io.do(ring.Request{Op: ring.OpRead, Device: device, Off: blocksToBytes(block), Buf: buf})
}

func (io *controlIO) write(device int, block uint64, buf []byte) error {
	return io.do(ring.Request{Op: ring.OpWrite, Device: device, Off: blocksToBytes(block), Buf: buf})
}

// flushAll flushes every device; done gets the first error once all have ended.
func (io *controlIO) flushAll(done func(error)) {
	left, first := len(io.devices), error(nil)
	for i := range io.devices {
		io.start(ring.Request{Op: ring.OpFlush, Device: i}, func(err error) {
			if first == nil {
				first = err
			}
			if left--; left == 0 {
				done(first)
			}
		})
	}
}

// flush flushes every device and waits.
func (io *controlIO) flush() error {
	var result error
	ended := false
	io.flushAll(func(err error) { result, ended = err, true })
	for !ended {
		if _, err := io.poll(true); err != nil {
			return err
		}
	}
	return result
}
