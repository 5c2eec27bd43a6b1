package nbd

import (
	"fmt"
	"io"
	"sync"
)

// SyncDevice is a device whose methods block until they are done. They may be called from
// several goroutines at once. Offsets and lengths are in bytes and inside the size.
type SyncDevice interface {
	Info() Info
	// ReadAt fills all of p, or fails.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt stores all of p, or fails.
	WriteAt(p []byte, off int64) (int, error)
	// Flush makes everything that returned before durable.
	Flush() error
	// Trim says that the range's contents are not needed any more.
	Trim(off, length int64) error
	// WriteZeroes is as in Request: noHole keeps the range allocated, fast fails with
	// unix.EOPNOTSUPP rather than being slow.
	WriteZeroes(off, length int64, noHole, fast bool) error
	// BlockStatus appends the runs of the range to runs.
	BlockStatus(runs []Run, off, length int64) ([]Run, error)
}

// SyncAdapter serves a SyncDevice as a Device, by a fixed number of goroutines. The devices of farside do not need it:
// it is for a program that embeds the server, and has a device of its own.
type SyncAdapter struct {
	dev SyncDevice

	mu      sync.Mutex
	work    sync.Cond
	queue   []*Request
	closed  bool
	workers sync.WaitGroup
}

// Sync starts workers goroutines that do dev's requests. Close ends them. What waits is
// bounded by what the server allows in flight.
func Sync(dev SyncDevice, workers int) *SyncAdapter {
	a := &SyncAdapter{dev: dev}
	a.work.L = &a.mu
	for range max(workers, 1) {
		a.workers.Go(a.serve)
	}
	return a
}

// Info describes the device.
func (a *SyncAdapter) Info() Info { return a.dev.Info() }

// Start queues the requests. After Close they fail.
func (a *SyncAdapter) Start(batch []*Request) {
	a.mu.Lock()
	closed := a.closed
	if !closed {
		a.queue = append(a.queue, batch...)
	}
	a.mu.Unlock()
	if closed {
		for _, r := range batch {
			r.Finish(errAdapterClosed)
		}
		return
	}
	if len(batch) == 1 {
		a.work.Signal()
	} else {
		a.work.Broadcast()
	}
}

// Close does what is queued, then ends the workers. The device itself stays open.
func (a *SyncAdapter) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.work.Broadcast()
	a.workers.Wait()
}

// syncShare is how many requests a worker takes at a time: enough to make the lock cheap,
// few enough to leave work for the others.
const syncShare = 8

func (a *SyncAdapter) serve() {
	var share [syncShare]*Request
	for {
		n := a.take(share[:])
		if n == 0 {
			return
		}
		for _, r := range share[:n] {
			r.Finish(a.do(r))
		}
		clear(share[:n])
	}
}

// take moves requests from the queue; none means that the adapter is closed.
func (a *SyncAdapter) take(share []*Request) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) == 0 && !a.closed {
		a.work.Wait()
	}
	n := copy(share, a.queue)
	rest := copy(a.queue, a.queue[n:])
	clear(a.queue[rest:])
	a.queue = a.queue[:rest]
	return n
}

func (a *SyncAdapter) do(r *Request) error {
	off, length := int64(r.Off), int64(r.Len)
	switch r.Cmd {
	case CmdRead:
		n, err := a.dev.ReadAt(r.Data.Bytes(), off)
		return transferred(r, n, err)
	case CmdWrite:
		n, err := a.dev.WriteAt(r.Data.Bytes(), off)
		if err := transferred(r, n, err); err != nil {
			return err
		}
	case CmdFlush:
		return a.dev.Flush()
	case CmdTrim:
		if err := a.dev.Trim(off, length); err != nil {
			return err
		}
	case CmdWriteZeroes:
		if err := a.dev.WriteZeroes(off, length, r.NoHole, r.FastZero); err != nil {
			return err
		}
	case CmdBlockStatus:
		var err error
		r.Status, err = a.dev.BlockStatus(r.Status[:0], off, length)
		return err
	}
	if r.FUA {
		return a.dev.Flush()
	}
	return nil
}

// transferred turns the result of a read or write into an error. io.ReaderAt may return
// io.EOF with all bytes.
func transferred(r *Request, n int, err error) error {
	if uint64(n) == r.Len {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s of %d bytes at %d ended after %d: %w", r.Cmd, r.Len, r.Off, n, err)
}
