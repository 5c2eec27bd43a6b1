package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// slowMemory is Memory by blocking calls. gate, if set, holds reads until it is closed.
type slowMemory struct {
	*Memory
	gate    chan struct{}
	reading chan struct{}
	flushes atomic.Int64
	err     error // what writes, trims, zeroes and flushes return
	short   bool  // reads and writes do one byte less
}

func (m *slowMemory) cut(p []byte) (int, error) {
	if m.short {
		return len(p) - 1, nil
	}
	return len(p), nil
}

func (m *slowMemory) ReadAt(p []byte, off int64) (int, error) {
	if m.gate != nil {
		m.reading <- struct{}{}
		<-m.gate
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.readAt(p, uint64(off))
	return m.cut(p)
}

func (m *slowMemory) WriteAt(p []byte, off int64) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeAt(p, uint64(off))
	return m.cut(p)
}

func (m *slowMemory) Flush() error {
	m.flushes.Add(1)
	return m.err
}

func (m *slowMemory) Trim(off, length int64) error { return m.WriteZeroes(off, length, false, false) }

func (m *slowMemory) WriteZeroes(off, length int64, noHole, fast bool) error {
	if fast {
		return unix.EOPNOTSUPP
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zero(uint64(off), uint64(length), noHole)
	return m.err
}

func (m *slowMemory) BlockStatus(runs []Run, off, length int64) ([]Run, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.status(runs, uint64(off), uint64(length)), nil
}

// do has a device do one request and waits for it. set and check may be nil.
func do(dev Device, cmd Command, off, length uint64, set, check func(*Request)) error {
	done := make(chan error, 1) // Finish may come inside Start
	r := NewRequest(cmd, off, length, func(r *Request, err error) {
		if check != nil {
			check(r)
		}
		done <- err
	})
	if set != nil {
		set(r)
	}
	dev.Start([]*Request{r})
	return <-done
}

func TestSyncDoesEachCommand(t *testing.T) {
	m := &slowMemory{Memory: NewMemory(1 << 20)}
	dev := Sync(m, 2)
	defer dev.Close()
	want := pattern(8192, 1)
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	reads := func(off uint64, want []byte) {
		t.Helper()
		ok("read", do(dev, CmdRead, off, uint64(len(want)), nil, func(r *Request) {
			if !bytes.Equal(r.Data.Bytes(), want) {
				t.Errorf("contents at %d differ", off)
			}
		}))
	}
	fill := func(r *Request) { copy(r.Data.Bytes(), want) }
	ok("write", do(dev, CmdWrite, 4096, 8192, fill, nil))
	reads(4096, want)
	if n := m.flushes.Load(); n != 0 {
		t.Errorf("%d flushes without being asked", n)
	}
	ok("flush", do(dev, CmdFlush, 0, 0, nil, nil))
	ok("write FUA", do(dev, CmdWrite, 65536, 8192, func(r *Request) { fill(r); r.FUA = true }, nil))
	ok("zero FUA", do(dev, CmdWriteZeroes, 65536, 4096, func(r *Request) { r.FUA, r.NoHole = true, true }, nil))
	ok("trim FUA", do(dev, CmdTrim, 4096, 4096, func(r *Request) { r.FUA = true }, nil))
	if n := m.flushes.Load(); n != 4 {
		t.Errorf("%d flushes, want 4", n)
	}
	reads(65536, append(make([]byte, 4096), want[4096:]...))
	reads(4096, append(make([]byte, 4096), want[4096:]...))
	ok("status", do(dev, CmdBlockStatus, 0, 16384, nil, func(r *Request) {
		want := []Run{{8192, true, true}, {4096, false, false}, {4096, true, true}}
		if len(r.Status) != 3 || r.Status[0] != want[0] || r.Status[1] != want[1] || r.Status[2] != want[2] {
			t.Errorf("status %v, want %v", r.Status, want)
		}
	}))
	fast := func(r *Request) { r.FastZero = true }
	if err := do(dev, CmdWriteZeroes, 0, 4096, fast, nil); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("fast zero: %v", err)
	}
}

func TestSyncReportsErrors(t *testing.T) {
	m := &slowMemory{Memory: NewMemory(1 << 20), short: true}
	dev := Sync(m, 1)
	defer dev.Close()
	for _, cmd := range []Command{CmdRead, CmdWrite} {
		if err := do(dev, cmd, 0, 512, nil, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("short %v: %v", cmd, err)
		}
	}
	m.err = unix.ENOSPC
	for _, cmd := range []Command{CmdWrite, CmdFlush, CmdTrim, CmdWriteZeroes} {
		if err := do(dev, cmd, 0, 512, nil, nil); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v: %v, want ENOSPC", cmd, err)
		}
	}
}

// As many requests run at a time as there are workers, and Close waits for what is queued.
func TestSyncRunsInParallelAndCloses(t *testing.T) {
	const workers = 3
	m := &slowMemory{Memory: NewMemory(1 << 20), gate: make(chan struct{}), reading: make(chan struct{}, 100)}
	dev := Sync(m, workers)
	var finished atomic.Int64
	count := func(_ *Request, err error) {
		if err == nil {
			finished.Add(1)
		}
	}
	const total = 3 * syncShare
	for i := range workers { // one batch per worker: each is busy with its own
		batch := make([]*Request, 0, syncShare)
		for range syncShare {
			batch = append(batch, NewRequest(CmdRead, 0, 512, count))
		}
		dev.Start(batch)
		<-m.reading
		if n := finished.Load(); n != 0 {
			t.Fatalf("batch %d: %d reads ended at a closed gate", i, n)
		}
	}
	close(m.gate)
	dev.Close()
	if n := finished.Load(); n != total {
		t.Errorf("%d reads ended before Close returned, want %d", n, total)
	}
	if err := do(dev, CmdRead, 0, 512, nil, nil); !errors.Is(err, unix.ESHUTDOWN) {
		t.Errorf("after Close: %v, want ESHUTDOWN", err)
	}
}

func TestSyncServesClients(t *testing.T) {
	dev := Sync(&slowMemory{Memory: NewMemory(32 << 20)}, 4)
	s := serve(t, Options{Exports: exportsOf(dev)})
	c := s.dial(t)
	c.transmission(true, false)
	const n = 1000
	go func() {
		for i := range uint64(n) {
			if _, err := c.Write(rawRequest(0, 1, i, i*4096, 4096, pattern(4096, byte(i)))); err != nil {
				return // the test sees it by what does not arrive
			}
		}
	}()
	seen := map[uint64]bool{}
	for range n {
		c.want(uint32(0x67446698), uint32(0))
		seen[binary.BigEndian.Uint64(c.recv(8))] = true
	}
	if len(seen) != n {
		t.Fatalf("%d writes were answered, want %d", len(seen), n)
	}
	for i := range uint64(n) {
		if got := c.read(true, i, i*4096, 4096); !bytes.Equal(got, pattern(4096, byte(i))) {
			t.Fatalf("write %d is not there", i)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	dev.Close()
}
