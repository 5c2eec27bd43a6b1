package alloc

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// duel lets a and b run at the same moment, again and again, with a random head start for one of
// them, and checks after each round. It meets windows of a few instructions that long-running stress does not.
func duel(t *testing.T, rounds int, a, b func(round int), check func(round int)) {
	t.Helper()
	var begin, end atomic.Int64
	var stop atomic.Bool
	done := make(chan struct{})
	rnd := rand.New(rand.NewPCG(9, 9))
	delay := func(n int) {
		for range n {
			end.Load()
		}
	}
	starts := make([]int8, rounds)
	for i := range starts {
		starts[i] = int8(rnd.IntN(120) - 60)
	}
	go func() {
		defer close(done)
		for i := range rounds {
			spin(func() bool { return begin.Load() > int64(i) || stop.Load() })
			if stop.Load() {
				return
			}
			delay(int(-starts[i]))
			b(i)
			end.Add(1)
		}
	}()
	for i := range rounds {
		begin.Add(1)
		delay(int(starts[i]))
		a(i)
		spin(func() bool { return end.Load() > int64(i) })
		if check(i); t.Failed() {
			break
		}
	}
	stop.Store(true)
	<-done
}

// spin waits for the other goroutine, awake for as long as that takes if it runs at this moment. Where it does not, as on a busy machine, this
// one gives its processor up: else it would use up its share of it first, milliseconds in each of many rounds.
func spin(ok func() bool) {
	for i := 0; !ok(); i++ {
		if i < 1000 {
			runtime.Gosched()
		} else {
			time.Sleep(time.Microsecond) // between two looks
		}
	}
}

func TestHintSetWhileNeighbourIsCleared(t *testing.T) {
	const n = 64 * 64 * 2
	var sizes arena
	newHints(&sizes, n)
	h := newHints(&arena{mem: heapMemory(sizes.off)}, n)
	const here, neighbour = 200, 201
	h.set(neighbour)
	duel(t, 30_000,
		func(int) { h.clear(neighbour) },
		func(int) { h.set(here) },
		func(round int) {
			if !h.has(here) || !reaches(&h, here) {
				t.Errorf("round %d: the hint is lost", round)
			}
			h.set(neighbour)
			h.clear(here)
		})
}

func TestBlockReleasedWhileRetired(t *testing.T) {
	const blocks = 64
	m := mustNew(t, Options{Blocks: blocks, ExtentBlocks: 64})
	duel(t, 30_000,
		func(round int) { _ = m.ReleaseOne(uint64(round) % blocks) },
		func(round int) { _ = m.Retire(uint64(round)%blocks, 1) },
		func(round int) {
			b := uint64(round) % blocks
			if err := m.verify(); err != nil || !m.Retired(b) || m.Used(b) {
				t.Errorf("round %d: %v; retired %v, used %v", round, err, m.Retired(b), m.Used(b))
			}
			next := uint64(1) << ((b + 1) % blocks) // becomes used, and no longer retired
			m.counts.retired.Add(-int64(count(m.retired[0].And(^next) & next)))
			m.count(0, int32(count(next&^m.used[0].Or(next))))
		})
}

// TestExtentMovesBothWaysAtOnce has one block go and one come at the border of two classes.
func TestExtentMovesBothWaysAtOnce(t *testing.T) {
	m := mustNew(t, Options{Blocks: 64, ExtentBlocks: 64})
	if err := m.MarkUsed(0, 16); err != nil {
		t.Fatal(err)
	}
	m.Start()
	goes, comes := uint64(0), uint64(40)
	duel(t, 30_000,
		func(int) { _ = m.ReleaseOne(goes) },
		func(int) {
			m.used[0].Or(1 << comes)
			m.count(0, 1)
		},
		func(round int) {
			if err := m.verify(); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			goes, comes = comes, goes
		})
}

func TestRetireWhileStarting(t *testing.T) {
	var m *Map
	fresh := func() {
		var err error
		if m, err = New(Options{Blocks: 300, ExtentBlocks: 64, onHeap: true}); err != nil {
			t.Fatal(err)
		}
	}
	fresh()
	duel(t, 3_000,
		func(int) { m.Start() },
		func(int) { _ = m.Retire(10, 200) },
		func(round int) {
			if err := m.verify(); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			fresh()
		})
}

// The tests below build by hand the state that is there in the middle of another call.

func TestReserveInTheMiddleOfRetire(t *testing.T) {
	m := mustNew(t, Options{Blocks: 128, ExtentBlocks: 64})
	m.Start()
	m.used[0].Store(^uint64(0)) // all bits set, not yet counted
	var x Extent
	if err := m.Reserve(&x); err != nil || x.index != 1 || x.Free() != 64 {
		t.Fatalf("extent %d with %d free, %v; want extent 1 with 64", x.index, x.Free(), err)
	}
	m.Return(&x)
	m.count(0, 64)
	if err := m.verify(); err != nil {
		t.Fatal(err)
	}
}

func TestReserveInTheMiddleOfReleaseOfARetiredBlock(t *testing.T) {
	m := mustNew(t, Options{Blocks: 64, ExtentBlocks: 64})
	if err := m.Retire(5, 1); err != nil {
		t.Fatal(err)
	}
	m.Start()
	m.used[0].And(^uint64(1 << 5)) // Release cleared it, and is about to see that it is retired
	var x Extent
	if err := m.Reserve(&x); err != nil {
		t.Fatal(err)
	}
	if first, n := x.Take(64); first != 0 || n != 5 {
		t.Errorf("took %d+%d, want 0+5", first, n)
	}
	m.Return(&x)
}

func TestStaleHintsDoNotChangeTheOrder(t *testing.T) {
	m := mustNew(t, Options{Blocks: 4 * 64, ExtentBlocks: 64})
	for e, used := range []uint64{50, 20, 64, 30} {
		if err := m.MarkUsed(uint64(e)*64, used); err != nil {
			t.Fatal(err)
		}
	}
	m.Start()
	for e := range uint64(4) {
		for class := range m.hints {
			m.hints[class].set(e)
		}
	}
	var x [3]Extent
	for i, want := range []uint64{1, 3, 0} {
		if err := m.Reserve(&x[i]); err != nil || x[i].index != want {
			t.Fatalf("extent %d, %v; want %d", x[i].index, err, want)
		}
	}
	var y Extent
	if err := m.Reserve(&y); err != ErrFull {
		t.Fatalf("error %v, want ErrFull", err)
	}
	for i := range x {
		m.Return(&x[i])
	}
	if err := m.verify(); err != nil {
		t.Fatal(err)
	}
}
