package conformance

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/farside-storage/farside/ring"
)

func testTwoQueues(t *testing.T, devs ring.Devices) {
	arenas := []*ring.Arena{newArena(t, 64*block), newArena(t, 64*block)}
	var wg sync.WaitGroup
	for n, arena := range arenas {
		wg.Go(func() {
			q, err := devs.NewQueue(ring.QueueOptions{Depth: 4, Arenas: arenas})
			if err != nil {
				t.Error(err)
				return
			}
			r := &rig{t: t, q: q, infos: devs.Info(), mem: arena.Bytes()}
			for i := range 50 {
				mem := r.mem[i%32*block:][:block]
				fill(mem, uint64(n*1000+i))
				off := int64(2*i+n) * block
				if err := errors.Join(append(r.all(r.write(0, off, mem)), r.all(r.read(0, off, r.mem[32*block:33*block]))...)...); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(mem, r.mem[32*block:33*block]) {
					t.Errorf("queue %d, block %d: read differs from what was written", n, i)
				}
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func newWorker(t *testing.T, devs ring.Devices, o ring.QueueOptions) *ring.Worker {
	t.Helper()
	w, err := ring.NewWorker(devs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func testWorkerDo(t *testing.T, devs ring.Devices) {
	w := newWorker(t, devs, ring.QueueOptions{Depth: 4})
	arena := newArena(t, 16*2*block)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			mem := arena.Bytes()[g*2*block:][:2*block]
			for i := range 20 {
				fill(mem[:block], uint64(g*100+i))
				off := int64(g*20+i) * block
				err := w.Do(ring.Request{Op: ring.OpWrite, Off: off, Buf: mem[:block]})
				err = errors.Join(err, w.Do(ring.Request{Op: ring.OpRead, Off: off, Buf: mem[block:]}))
				if err != nil || !bytes.Equal(mem[:block], mem[block:]) {
					t.Errorf("goroutine %d, write %d: read differs, or error %v", g, i, err)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Do(ring.Request{Op: ring.OpRead, Off: 1}); err == nil {
		t.Error("a wrong request: no error")
	}
}

// testWorkerOrder hands over far more calls than the queue holds, all at once, to a queue of depth 1: they
// then end in the order in which they were handed over.
func testWorkerOrder(t *testing.T, devs ring.Devices) {
	w := newWorker(t, devs, ring.QueueOptions{Depth: 1})
	arena := newArena(t, block)
	const n = 200
	ended := make(chan uint64, n)
	calls := make([]*ring.Call, n)
	for i := range calls {
		calls[i] = &ring.Call{
			Request: ring.Request{Op: ring.OpRead, Buf: arena.Bytes(), Tag: uint64(i)},
			Done:    func(c *ring.Call) { ended <- c.Tag },
		}
	}
	w.Go(calls[:n/2]...)
	w.Go()
	w.Go(calls[n/2:]...)
	for i := range uint64(n) {
		if tag := <-ended; tag != i {
			t.Fatalf("call %d ended where %d should", tag, i)
		}
	}
}

// testWorkerChain hands a call to the worker again from its own Done.
func testWorkerChain(t *testing.T, devs ring.Devices) {
	w := newWorker(t, devs, ring.QueueOptions{Depth: 2})
	arena := newArena(t, block)
	ended := make(chan error)
	left := 100
	call := &ring.Call{Request: ring.Request{Op: ring.OpWrite, Buf: arena.Bytes()}}
	call.Done = func(c *ring.Call) {
		if left--; left == 0 || c.Err != nil {
			go func() { ended <- c.Err }()
			return
		}
		c.Off += block
		w.Go(c)
	}
	w.Go(call)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func testWorkerClose(t *testing.T, devs ring.Devices) {
	w, err := ring.NewWorker(devs, ring.QueueOptions{Depth: 2})
	if err != nil {
		t.Fatal(err)
	}
	arena := newArena(t, block)
	const n = 50
	var ended int // on the worker's goroutine until Close returns
	for range n {
		w.Go(&ring.Call{Request: ring.Request{Op: ring.OpRead, Buf: arena.Bytes()}, Done: func(c *ring.Call) {
			if c.Err != nil {
				t.Error(c.Err)
			}
			ended++
		}})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if ended != n {
		t.Errorf("close came back after %d of %d calls", ended, n)
	}
	if err := w.Do(ring.Request{Op: ring.OpFlush}); !errors.Is(err, ring.ErrClosed) {
		t.Errorf("call after close: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// testWorkerTogether keeps many calls in flight on a worker that takes them in together, hands some over again from
// there, and mixes in calls that somebody waits for.
func testWorkerTogether(t *testing.T, devs ring.Devices) {
	const calls, rounds = 64, 20
	var w *ring.Worker
	var left [calls]int // rounds to go; the worker's goroutine's until its end
	var rest sync.WaitGroup
	w, err := ring.NewThroughputWorker(devs, ring.QueueOptions{Depth: 32}, func(ended []*ring.Call) {
		seen := map[*ring.Call]bool{}
		for _, c := range ended {
			seen[c] = true
			i := c.Owner.(int)
			if wrong := i%8 == 7; wrong != (c.Err != nil) {
				t.Errorf("call %d: error %v", i, c.Err)
			}
			if left[i]--; left[i] > 0 {
				w.Go(c)
			} else {
				rest.Done()
			}
		}
		if len(seen) != len(ended) || len(ended) == 0 {
			t.Errorf("%d calls ended together, %d different ones", len(ended), len(seen))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	arena := newArena(t, (calls+1)*block)
	all := make([]*ring.Call, calls)
	for i := range all {
		left[i] = rounds
		off := int64(i) * block
		if i%8 == 7 {
			off = 1 // refused by the queue
		}
		all[i] = &ring.Call{Owner: i, Done: func(*ring.Call) { t.Error("Done of a call with an owner") },
			Request: ring.Request{Op: ring.OpRead, Off: off, Buf: arena.Bytes()[i*block:][:block]}}
	}
	rest.Add(calls)
	w.Go(all...)
	for range rounds {
		if err := w.Do(ring.Request{Op: ring.OpRead, Buf: arena.Bytes()[calls*block:]}); err != nil {
			t.Error(err)
		}
	}
	rest.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var late error
	all[0].Done = func(c *ring.Call) { late = c.Err }
	w.Go(all[0])
	if !errors.Is(late, ring.ErrClosed) {
		t.Errorf("call after close: %v", late)
	}
}
