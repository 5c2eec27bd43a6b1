package engine

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestReadersNeverSeeFreed: objects are replaced and, two epochs later, marked as freed. A reader that came in before
// it loaded the pointer never finds the mark, however long it stays.
func TestReadersNeverSeeFreed(t *testing.T) {
	type object struct{ freed atomic.Bool }
	var current atomic.Pointer[object]
	current.Store(&object{})
	woken := make(chan struct{}, 1)
	r := &readers{wake: func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}}
	const replaced = 3000
	var stop atomic.Bool
	var readersIn, seen sync.WaitGroup
	for lane := range uint(4) {
		readersIn.Add(1)
		seen.Add(1)
		go func() {
			defer readersIn.Done()
			for n := 0; ; n++ {
				ticket := r.enter(lane / 2) // two to a lane
				o := current.Load()
				for range n % 50 {
					if o.freed.Load() {
						t.Error("a reader holds what was freed")
						stop.Store(true)
					}
				}
				r.leave(ticket)
				if n == 0 {
					seen.Done()
				}
				if stop.Load() {
					return
				}
			}
		}()
	}
	seen.Wait()
	type retired struct {
		o     *object
		epoch uint64
	}
	var waiting []retired
	for n := 0; (n < replaced || len(waiting) > 0) && !stop.Load(); n++ {
		if n < replaced {
			old := current.Swap(&object{})
			waiting = append(waiting, retired{old, r.epoch.Load()})
		}
		before := r.epoch.Load()
		e := r.advance()
		if e == before && len(waiting) > 10 { // as the control loop: say that somebody waits, look again, sleep
			r.wanted.Store(true)
			if e = r.advance(); e == before {
				<-woken
			}
			r.wanted.Store(false)
		}
		for len(waiting) > 0 && waiting[0].epoch+2 <= e {
			waiting[0].o.freed.Store(true)
			waiting = waiting[1:]
		}
	}
	stop.Store(true)
	readersIn.Wait()
	if e := r.epoch.Load(); e < 10 {
		t.Errorf("the epoch only reached %d", e)
	}
}

// TestReadersHoldTheEpoch: the epoch moves once past a reader, not twice, and the last one out wakes who waits.
func TestReadersHoldTheEpoch(t *testing.T) {
	wakes := 0
	r := &readers{wake: func() { wakes++ }}
	start := r.epoch.Load()
	first := r.enter(1)
	if e := r.advance(); e != start+1 {
		t.Fatalf("epoch %d: a reader of the current epoch does not keep it from moving once", e)
	}
	second := r.enter(17) // the same lane
	for range 3 {
		if e := r.advance(); e != start+1 {
			t.Fatalf("epoch %d with a reader of epoch %d in", e, start)
		}
	}
	r.leave(second)
	if wakes != 0 {
		t.Fatal("woken although nobody waits")
	}
	r.wanted.Store(true)
	r.leave(first)
	if e := r.advance(); wakes != 1 || e != start+2 {
		t.Fatalf("%d wake-ups, epoch %d", wakes, e)
	}
}
