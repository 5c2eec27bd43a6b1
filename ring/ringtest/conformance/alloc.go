package conformance

import (
	"testing"

	"github.com/farside-storage/farside/ring"
)

// testNoAllocation is the promise of [ring.Request]: nothing is allocated on the way of a request.
func testNoAllocation(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 16)
	out := make([]ring.Completion, 16)
	round := func() {
		for i := range 8 {
			r.q.Push(ring.Request{Op: ring.OpWrite, Off: int64(i) * block, Buf: r.mem[i*block:][:block]})
		}
		r.q.Push(ring.Request{Op: ring.OpRead, Off: 64 * block, Buf: r.mem[64*block:][:block]})
		if err := r.q.Submit(); err != nil {
			t.Fatal(err)
		}
		drain(t, r.q, out)
		r.q.Push(ring.Request{Op: ring.OpFlush})
		drain(t, r.q, out)
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations for 10 requests, want none", n)
	}
}

func drain(t *testing.T, q ring.Queue, out []ring.Completion) {
	for q.InFlight() > 0 {
		n, err := q.Reap(out, 1)
		if err != nil {
			t.Fatal(err)
		}
		for i := range out[:n] {
			if out[i].Err != nil {
				t.Fatal(out[i].Err)
			}
		}
	}
}

func testWorkerNoAllocation(t *testing.T, devs ring.Devices) {
	w := newWorker(t, devs, ring.QueueOptions{Depth: 4})
	arena := newArena(t, 8*block)
	ended := make(chan struct{}, 8)
	calls := make([]*ring.Call, 8)
	for i := range calls {
		calls[i] = &ring.Call{
			Request: ring.Request{Op: ring.OpRead, Off: int64(i) * block, Buf: arena.Bytes()[i*block:][:block]},
			Done:    func(*ring.Call) { ended <- struct{}{} },
		}
	}
	round := func() {
		w.Go(calls...)
		for range calls {
			<-ended
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations for 8 calls, want none", n)
	}
}
