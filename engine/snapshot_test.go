package engine

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestSnapshotsHoldTheirCG: whatever is written, linked, reverted, released, discarded, folded and deleted meanwhile, a snapshot shows its CG until it
// is closed: no block of it is released, and none is leaked afterwards. Crashes under snapshots are in the crash tests.
func TestSnapshotsHoldTheirCG(t *testing.T) {
	most := 50
	if raceDetector {
		most = 20
	}
	reused := 0
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(rapid.Uint64Range(0, 3).Draw(t, "seed"))
		defer h.leave()
		err := all(h.start, h.wholeCG, h.settle)
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 13), 20, most).Draw(t, "operations") {
			if err == nil {
				err = h.underSnapshots(n)
			}
			if errors.Is(err, ErrJournalFull) {
				err = nil
			}
			if err == nil {
				err = errors.Join(h.pool.Inspect().Blocks(h.w), h.pinned())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := h.look(); err != nil {
			t.Fatal(err)
		}
		if len(h.held) > 0 {
			reused++
		}
		h.unhold()
		if err := all(h.settle, func() error { return h.compareViews(h.pool, h.acked) }, h.closeAndCount); err != nil {
			t.Fatal(err)
		}
	})
	if reused == 0 {
		t.Error("no snapshot was open at any end")
	}
}

// underSnapshots does one of a few operations that matter to who holds a view.
func (h *history) underSnapshots(n int) error {
	switch n {
	case 0, 1, 2:
		return h.someCG()
	case 3:
		if h.acked.Complete == h.acked.Final {
			return h.seal()
		}
		return nil
	case 12:
		if h.acked.Complete == h.acked.Final {
			return all(h.wholeCG, h.settle)
		}
		if h.acked.Linked == h.acked.Final {
			return all(h.link, h.release, h.settle)
		}
		return all(h.release, h.settle)
	case 4, 5:
		return h.command()
	case 6:
		return h.discard()
	case 7, 8:
		if len(h.held) < 4 {
			h.hold(ViewKind(n - 7))
		}
		return nil
	case 9:
		if len(h.held) > 0 {
			h.held[0].snap.Close()
			h.held = h.held[1:]
		}
		return nil
	case 10:
		return h.look()
	case 11:
		return h.changeVolumes()
	}
	return h.settle()
}

// pinned says whether all that the open snapshots name is there: a block that was released too early need not be overwritten at once.
func (h *history) pinned() error {
	for _, x := range h.held {
		for _, v := range x.vols {
			vv := &x.snap.view.vols[v.slot]
			if v.table.blocks() == 0 {
				return fmt.Errorf("snapshot of CG %d: the pointer table of volume %s is gone", x.snap.CG(), v.name)
			}
			for b := range VBlock(v.table.blocks()) {
				p, version := vv.lookup(b).block(), x.image[key{v.name, b}]
				if (p == 0) != (version == 0) || p != 0 && !h.pool.alloc.Used(uint64(p)) {
					return fmt.Errorf("snapshot of CG %d: volume %s block %d: version %d is wanted, physical block %d (used: %t) is named", x.snap.CG(), v.name, b, version, p, h.pool.alloc.Used(uint64(p)))
				}
			}
		}
	}
	return nil
}

// closeAndCount ends the writer, after which every block that is used is named.
func (h *history) closeAndCount() error {
	if err := h.w.Close(); err != nil {
		return err
	}
	h.w = nil
	if n := len(h.pool.ctl.graces); n > 0 {
		return fmt.Errorf("%d things still wait for readers", n)
	}
	return blocksAddUp(h.pool)
}

// TestDisplacedBlockWaitsForReaders: a block is not reused while a read that began before is on its way.
func TestDisplacedBlockWaitsForReaders(t *testing.T) {
	r, v := oneVolume(t, 21, 100)
	r.final(v, 1, 0, 1)
	old := r.pool.readers.enter(0)
	r.final(v, 2, 0, 1)
	if r.used() != 2 {
		t.Fatalf("%d blocks used while a reader may still read the displaced one", r.used())
	}
	r.want(v, 0, 2)
	r.pool.readers.leave(old)
	r.settle()
	if r.used() != 1 {
		t.Fatalf("%d blocks used after the reader left", r.used())
	}
	r.close()
}

// TestSnapshotLacksNewerVolumes: what a snapshot does not show is unknown to it.
func TestSnapshotLacksNewerVolumes(t *testing.T) {
	p, _ := filePool(t, 64<<20, Options{})
	first, err := p.CreateVolume(t.Context(), "g", "first", 16*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	s := first.Group().Snapshot(FinalView)
	defer s.Close()
	newer, err := p.CreateVolume(t.Context(), "g", "newer", 16*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	other, err := p.CreateVolume(t.Context(), "h", "first", 16*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Volume{newer, other} {
		if _, err := s.ReadAt(v, make([]byte, BlockSize), 0); !errors.Is(err, ErrUnknown) {
			t.Errorf("volume %s of group %s: %v", v.Name(), v.Group().Name(), err)
		}
	}
	if _, err := s.ReadAt(first, make([]byte, BlockSize), 0); err != nil {
		t.Error(err)
	}
}
