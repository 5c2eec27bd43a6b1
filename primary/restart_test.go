package primary

import (
	"slices"
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// A manager that was replaced, and does not know it, meets a primary that has lost the epoch (an old state of its log was put back), and
// has it cut a CG which the secondaries drop. That a later CG of the new manager is final says nothing of it.
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
	old := LoadIntent(w.files)
	old.Groups[0].Epoch = 0
	w.files = [2][]byte{encodeSnapshot(old)}
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
	stale(&wire.Open{Final: 42}, 43) // answered once the epoch is durable
	stale(&wire.Hold{TimeoutMicros: uint64(time.Second.Microseconds())}, 43)
	stale(&wire.Thaw{}, 43)
	if w.drained != 43 {
		t.Fatalf("CG 43 was not drained: %v", w.describe())
	}

	w.openCG(66) // the new one, with CG 65 final; the model compares the images
	w.settle()
	w.round()
}

// regionWorld has a region of volume a marked, its write final everywhere and left alone for so long that only the flush is missing.
func regionWorld(t *testing.T) *world {
	w := newWorld(t, testOptions(), testSpec())
	w.openCG(1)
	for _, p := range w.peers {
		p.connect()
	}
	w.round()
	w.flushed()
	w.write(0, 0, BlockSize)
	w.settle()
	w.round()
	if !w.regionMarked() {
		t.Fatal("the region was not marked")
	}
	return w
}

// regionMarked: the region is marked, in memory and in the log as it is on disk.
func (w *world) regionMarked() bool {
	return w.core.volumes[0].intent.marked.has(0) && markedIn(w)[0]&1 != 0
}

// flushOf is the index in flight of the flush of a volume's device, -1 none.
func (w *world) flushOf(volume int) int {
	return slices.IndexFunc(w.flight, func(d *DeviceIO) bool { return d.Op == ring.OpFlush && d.Device == volume })
}

// period lets one period of the log's record of writes pass, without ending a flush of volume a.
func (w *world) period() {
	w.tick(20 * time.Millisecond)
	w.drainBut(func(d *DeviceIO) bool { return d.Op == ring.OpFlush && d.Device == 0 })
}

// drainBut lets everything go on that keep does not say has to stay as it is.
func (w *world) drainBut(keep func(*DeviceIO) bool) {
	for busy := true; busy; {
		busy = false
		for i := 0; i < len(w.flight); {
			if keep(w.flight[i]) {
				i++
				continue
			}
			w.finish(i, nil)
			busy, i = true, 0
		}
		if w.intent != nil {
			w.finishIntent(nil)
			busy = true
		}
		for _, p := range w.peers {
			for p.up && (p.send() || p.receive() || p.credit()) {
				busy = true
			}
		}
	}
}

// awaitFlush lets periods pass until a flush of volume a is in progress.
func (w *world) awaitFlush() {
	w.tb.Helper()
	for range 6 {
		if w.flushOf(0) >= 0 {
			return
		}
		w.period()
		if !w.regionMarked() {
			w.tb.Fatal("the region was cleared without a flush of its device")
		}
	}
	w.tb.Fatal("no flush of the device")
}

// A region is cleared in the write-intent log only when the device has flushed what was written to it: a flush of its own device, that
// ended, and ended well.
func TestRegionClearedAfterFlush(t *testing.T) {
	w := regionWorld(t)
	w.awaitFlush()
	w.period() // time alone does not help
	w.period()
	if !w.regionMarked() {
		t.Fatal("the region was cleared while the flush was in progress")
	}
	w.finish(w.flushOf(0), nil)
	w.settle()
	if w.regionMarked() {
		t.Error("the region is still marked after a flush that ended well")
	}
}

// After a flush that failed, a host's or the log's own, a later one that ends well says nothing of what was written before: the region
// stays marked. What is written to it after a restart is another matter.
func TestFailedFlushKeepsRegionsMarked(t *testing.T) {
	for _, c := range []struct {
		what string
		fail func(w *world)
	}{
		{"its own", func(w *world) {
			w.awaitFlush()
			w.finish(w.flushOf(0), errDevice)
		}},
		{"a host's", func(w *world) {
			w.core.FlushFailed(0, errDevice)
			w.pump()
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := regionWorld(t)
			c.fail(w)
			for range 6 {
				w.tick(20 * time.Millisecond)
				w.settle() // every flush ends well from here on
				if !w.regionMarked() {
					t.Fatal("the region was cleared after a flush that failed")
				}
			}
			w.crash(func() int { return 1 }, 0)
			w.openCG(9)
			for _, p := range w.peers {
				p.connect()
			}
			w.round()
			w.awaitFlush()
			w.settle()
			w.awaitFlushed()
		})
	}
}

// What is written while a flush is in progress is not covered by it, even if it is final, and was left alone, by the time the flush ends.
func TestRegionWrittenDuringItsFlushStaysMarked(t *testing.T) {
	w := regionWorld(t)
	w.awaitFlush()
	slow := w.flight[w.flushOf(0)]
	keep := func(d *DeviceIO) bool { return d == slow }
	w.write(0, 0, BlockSize)
	w.drainBut(keep)
	w.hold(time.Second)
	w.drainBut(keep)
	if !w.thaw() {
		t.Fatal("not cut")
	}
	w.drainBut(keep)
	w.finalize()
	for range 3 {
		w.tick(20 * time.Millisecond)
		w.drainBut(keep)
	}
	w.finish(slices.Index(w.flight, slow), nil)
	w.drainBut(func(d *DeviceIO) bool { return d.Op == ring.OpFlush })
	if !w.regionMarked() {
		t.Fatal("the region was cleared by a flush that began before the write")
	}
	w.settle()
	w.awaitFlushed()
}

// The same for what is written after the flush has ended well, while the log could not be written.
func TestRegionWrittenAfterItsFlushStaysMarked(t *testing.T) {
	w := regionWorld(t)
	w.awaitFlush()
	w.write(0, 40*BlockSize, BlockSize) // another region: a record of the log is being written
	if w.intent == nil {
		t.Fatal("no record")
	}
	w.finish(w.flushOf(0), nil)
	w.finishIntent(errDevice) // now a snapshot is due, but not before a second has passed
	noFlush := func(d *DeviceIO) bool { return d.Op == ring.OpFlush }
	w.write(0, 0, BlockSize)
	w.drainBut(noFlush)
	w.hold(time.Second)
	w.drainBut(noFlush)
	if !w.thaw() {
		t.Fatal("not cut")
	}
	w.drainBut(noFlush)
	w.finalize()
	for range 3 {
		w.tick(20 * time.Millisecond)
		w.drainBut(noFlush)
	}
	w.tick(time.Second)
	w.drainBut(noFlush)
	if !w.regionMarked() {
		t.Fatal("the region was cleared by a flush that began before the write")
	}
	w.settle()
	w.awaitFlushed()
}

func (w *world) awaitFlushed() {
	w.tb.Helper()
	for range 6 {
		if !w.regionMarked() {
			return
		}
		w.tick(20 * time.Millisecond)
		w.settle()
	}
	w.tb.Fatal("the region is never cleared")
}

// joinedWorld has a volume, number 2, that joined the group and was copied.
func joinedWorld(t *testing.T) *world {
	w := synced(t, testOptions())
	w.add("new", w.peers[0])
	w.settle()
	w.round()
	if s := w.core.Status().Groups[0].Volumes[2].Copies[0]; !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
	return w
}

// marksOf gives the regions of a volume that the log on disk marks.
func marksOf(w *world, name string) uint64 { return LoadIntent(w.files).volume("g", name).Marks[0] }

// What was written to a volume before it joined may not be durable. Its device loses that with its power, after the
// copy was made: what the copy has must be sent again.
func TestVolumeLosesWhatItHadWhenItJoined(t *testing.T) {
	w := joinedWorld(t)
	copy(w.images[2][5*BlockSize:], make([]byte, BlockSize))
	w.crash(func() int { return 0 }, 0)
	for _, p := range w.peers {
		p.connect()
	}
	w.abandon()
	w.settle()
	w.round() // compares
	w.flushed()
	if m := marksOf(w, "new"); m != 0 {
		t.Errorf("regions %x are still marked", m)
	}
}

// A first copy stays in the log until a flush of the volume's device that begins later has ended well.
func TestFirstCopyIsMarkedUntilTheDeviceIsFlushed(t *testing.T) {
	all := uint64(1)<<(testBlocks/16) - 1
	for _, failed := range []bool{false, true} {
		w := joinedWorld(t)
		flush := func(d *DeviceIO) bool { return d.Op == ring.OpFlush && d.Device == 2 }
		for range 3 {
			w.tick(w.opt.IntentLinger)
			w.drainBut(flush)
		}
		if m := marksOf(w, "new"); m != all || w.flushOf(2) < 0 {
			t.Fatalf("regions %x are marked before a flush has ended, want %x", m, all)
		}
		if failed {
			w.finish(w.flushOf(2), errDevice)
		}
		w.flushed()
		if m := marksOf(w, "new"); (m == all) != failed || (m == 0) == failed {
			t.Errorf("regions %x are marked; the flush failed: %v", m, failed)
		}
	}
}
