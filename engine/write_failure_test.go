package engine

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// TestFailedWriterStaysFailed: what a writer could place nowhere is not in its CG, whatever is called next; and its blocks come back
// when it is closed, those of bad places excepted.
func TestFailedWriterStaysFailed(t *testing.T) {
	r := newRig(t, 81)
	v := r.volume("g", "v", 9000)
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
	free := r.pool.FreeBlocks() + reserved(r.w)
	data := blocksToBytes(r.pool.sb.zones.data)
	const bad = 100 // writes: more than there are other places
	b := VBlock(1)
	for ; r.pool.FreeBlocks()+reserved(r.w) > 3; b++ {
		r.put(v, 2, b, 2)
	}
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpWrite, Off: data, Len: 32<<20 - data, Count: bad})
	r.put(v, 2, b, 2) // its buffer is not written yet
	for _, c := range []struct {
		what string
		call func() error
	}{
		{"Seal", func() error { return r.w.Seal(2, v) }},
		{"Seal again", func() error { return r.w.Seal(2, v) }},
		{"Space", func() error { _, err := r.w.Space(1); return err }},
		{"Put", func() error { return r.w.Put(v, 2, 1, nil) }},
		{"Zero", func() error { return r.w.Zero(v, 2, 0, 1) }},
		{"Kick", func() error { return r.w.Kick() }},
	} {
		if err := c.call(); !errors.Is(err, unix.EIO) || errors.Is(err, ErrPoolFull) {
			t.Errorf("%s after a write that has no place: %v", c.what, err)
		}
	}
	retired := r.w.Stats().Retired
	if err := r.w.Close(); !errors.Is(err, unix.EIO) {
		t.Errorf("Close: %v", err)
	}
	r.settle()
	if now := r.pool.FreeBlocks(); retired == 0 || now != free-retired {
		t.Errorf("%d blocks are free, want the %d that were, without %d bad ones", now, free, retired)
	}
	if err := r.pool.Inspect().Blocks(); err != nil {
		t.Error(err)
	}
	if err := r.pool.Failure(); err != nil {
		t.Errorf("the pool failed, too: %v", err)
	}
}

// TestLostDeviceIsNotGivenUp: when a device is gone, its blocks are not: the pool stops, and has them all when it is opened again.
func TestLostDeviceIsNotGivenUp(t *testing.T) {
	for _, c := range []struct {
		what  string
		fault ringtest.Fault
	}{
		{"gone", ringtest.Fault{Kind: ringtest.Vanishes, Device: 1, Op: ring.OpWrite}},
		{"gone, and the kernel says EIO", ringtest.Fault{Kind: ringtest.Fails, Device: 1}},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRig(t, 82, 8<<20, 64<<20)
			v := r.volume("g", "v", 12000)
			r.put(v, 1, 0, 1)
			r.seal(1, v)
			r.commit(v.group, 1)
			r.devs.Inject(c.fault)
			var err error
			for b := VBlock(0); err == nil && b < 12000; b++ {
				if err = put(r.w, v, 2, b, pattern(v.name, b, 2)); err == nil {
					err = r.w.Kick()
				}
			}
			r.settle()
			if !errors.Is(err, ErrFailed) || !errors.Is(r.pool.Failure(), ErrFailed) {
				t.Fatalf("the writer said %v, the pool %v", err, r.pool.Failure())
			}
			if err := r.w.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("Close: %v", err)
			}
			_ = r.pool.Close() // it says ErrFailed
			r.devs.Heal()
			r.devs = r.devs.Reopen()
			r.open()
			if s, err := r.pool.Stats(context.Background()); err != nil || s.Retired >= strikesOut {
				t.Errorf("%d blocks are given up, %v", s.Retired, err)
			}
			r.want(r.vol("g", "v"), 0, 1)
			r.close()
		})
	}
}

// TestStrikesAreOfOneDevice: a device that fails every write is found out also if writes to others end well in between.
func TestStrikesAreOfOneDevice(t *testing.T) {
	r := newRig(t, 83, 16<<20, 16<<20)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 0, 1)
	on := func(device int) writeFlight {
		d := r.pool.sb.devices[device]
		table := r.w.bound[0].table
		return writeFlight{buf: &writeBuffer{at: []PBlock{PBlock(uint64(d.base) + d.blocks - 1)}, owner: []bufferSlot{{table, 0}}}, to: 1}
	}
	r.w.strikes[1] = strikesOut - 2
	r.w.writeFailed(on(1), unix.EIO)
	if r.w.lastErr != nil {
		t.Fatalf("one failure too early: %v", r.w.lastErr)
	}
	r.w.written(on(0))
	r.w.writeFailed(on(1), unix.EIO)
	if !errors.Is(r.w.lastErr, ErrFailed) {
		t.Errorf("a success elsewhere hides a device that fails: %v", r.w.lastErr)
	}
	r.w.lastErr, r.w.strikes[1] = nil, strikesOut-2
	r.w.written(on(1))
	r.w.writeFailed(on(1), unix.EIO)
	if r.w.lastErr != nil {
		t.Errorf("a success on the device counts for nothing: %v", r.w.lastErr)
	}
}
