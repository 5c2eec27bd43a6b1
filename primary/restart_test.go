package primary

import (
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// A manager that was replaced, and does not know it, meets a primary that has just started, and has it cut a CG which the
// secondaries drop. That a later CG of the new manager is final says nothing of it.
func TestStaleManagerAfterRestart(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	w.epoch = 2
	w.openCG(65)
	for _, p := range w.peers {
		p.connect()
	}
	w.round() // CG 65 is final: a copy of everything
	w.write(0, 0, BlockSize)
	w.settle()
	w.crash(func() int { return 1 }, 0)

	// The old manager comes first. What it gives out lies below what was discarded.
	for _, p := range w.peers {
		p.through = 64
		p.connect()
	}
	stale := func(m wire.Commanded, cg uint64) {
		*m.Head() = wire.Command{Group: "g", Epoch: 1, CG: cg}
		w.core.Manage(1, m)
		w.pump()
		w.settle()
	}
	stale(&wire.Open{Final: 42}, 43)
	stale(&wire.Hold{TimeoutMicros: uint64(time.Second.Microseconds())}, 43)
	stale(&wire.Thaw{}, 43)
	if w.drained != 43 {
		t.Fatalf("CG 43 was not drained: %v", w.describe())
	}

	w.openCG(66) // the new one, with CG 65 final; the model compares the images
	w.settle()
	w.round()
}

// A region is cleared in the write-intent log only when the device has flushed what was written to it.
func TestRegionClearedAfterFlush(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	w.openCG(1)
	for _, p := range w.peers {
		p.connect()
	}
	w.round()
	w.write(0, 0, BlockSize)
	w.settle()
	w.round()
	marked := func() bool { return w.core.volumes[0].intent.marked.has(0) }
	if !marked() {
		t.Fatal("the region was not marked")
	}
	var flushes int
	for range 4 { // periods without a write
		w.tick(20 * time.Millisecond)
		for _, d := range w.flight {
			if d.Op == ring.OpFlush && d.Device == 0 {
				flushes++
			}
		}
		if flushes == 0 && !marked() {
			t.Fatal("the region was cleared without a flush of its device")
		}
		if flushes == 1 && marked() {
			w.finish(0, errDevice) // the flush of volume a: it failed
			w.settle()
			if !marked() {
				t.Fatal("the region was cleared although the flush failed")
			}
		}
		w.settle()
	}
	if flushes < 2 || marked() {
		t.Errorf("%d flushes, marked %t: want the region cleared once a flush ended well", flushes, marked())
	}
}
