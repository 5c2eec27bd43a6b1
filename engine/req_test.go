package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/farside-storage/farside/ring/ringtest"
)

// The tests here carry the numbers of the requirements that one secondary control alone can show.

// TestReq03_PlacedOnReleasedBlocks: an update goes to a block that nothing names.
func TestReq03_PlacedOnReleasedBlocks(t *testing.T) {
	r, v := oneVolume(t, 3, 500)
	for cg := uint64(1); cg <= 30; cg++ {
		before := map[PBlock]bool{}
		v.eachMapped(func(_ VBlock, e entry) { before[e.block()] = true })
		for i := range 40 {
			r.put(v, cg, VBlock(uint64(i)*11+cg)%500, cg)
		}
		r.w.bound[0].table.blocks(func(p PBlock) {
			if before[p] {
				t.Fatalf("CG %d: physical block %d is linked and was written again", cg, p)
			}
		})
		r.seal(cg, v)
		r.commit(v.group, cg)
	}
	r.close()
}

// TestReq04_WrittenOnce: the data zone gets each payload byte once, through link, revert, link again, release and fold.
func TestReq04_WrittenOnce(t *testing.T) {
	r, v := oneVolume(t, 4, 2000)
	start := r.written()
	const updates = 1500
	r.write(v, 1, 0, updates)
	r.seal(1, v)
	payload := r.w.Stats().DeviceBlocks
	r.do(v.group.Link, 1)
	r.do(v.group.Revert, 1)
	r.commit(v.group, 1)
	r.settle()
	if payload != updates || r.w.Stats().DeviceBlocks != updates {
		t.Fatalf("%d blocks put, %d written by the seal, %d after link and revert", updates, payload, r.w.Stats().DeviceBlocks)
	}
	// What else was written is metadata: 24 bytes an entry and a few control records.
	if extra := r.written() - start - updates*BlockSize; extra > updates*24+40*BlockSize {
		t.Fatalf("%d bytes besides the payload", extra)
	}
	r.close()
}

// TestReq05_LinkingWritesMetadataOnly: link, revert and release write the same few blocks for a CG of any size.
func TestReq05_LinkingWritesMetadataOnly(t *testing.T) {
	var cost []uint64
	for _, size := range []int{1, 3000} {
		r, v := oneVolume(t, 5, 4000)
		for i := range size {
			r.put(v, 1, VBlock(i), 1)
		}
		r.seal(1, v)
		before := r.written()
		r.do(v.group.Link, 1)
		r.do(v.group.Revert, 1)
		r.commit(v.group, 1)
		cost = append(cost, r.written()-before)
		r.close()
	}
	if cost[0] != cost[1] || cost[0] > 16*BlockSize {
		t.Fatalf("linking a CG of 1 update wrote %d bytes, of 3000 updates %d", cost[0], cost[1])
	}
}

// TestReq06_NoLinkBeforeComplete: a CG that is not sealed on every volume cannot be linked.
func TestReq06_NoLinkBeforeComplete(t *testing.T) {
	r := newRig(t, 6)
	a, b := r.volume("g", "a", 100), r.volume("g", "b", 100)
	r.put(a, 1, 0, 1)
	r.seal(1, a)
	for _, f := range []func(context.Context, Command) error{a.group.Link, a.group.Release} {
		if err := f(context.Background(), Command{1, 1}); !errors.Is(err, ErrState) {
			t.Fatalf("an incomplete CG: %v", err)
		}
	}
	r.wantLinked(a, 0, 0)
	r.seal(1, b)
	r.commit(a.group, 1)
	r.want(a, 0, 1)
	r.close()
}

// TestReq07_VolumesMoveTogether: at no step does a snapshot show one volume's CG n and another's n-1.
func TestReq07_VolumesMoveTogether(t *testing.T) {
	r := newRig(t, 7)
	a, b := r.volume("g", "a", 100), r.volume("g", "b", 100)
	for cg := uint64(1); cg <= 10; cg++ {
		r.put(a, cg, 1, cg)
		r.put(b, cg, 2, cg)
		if err := r.w.Seal(cg, a, b); err != nil {
			t.Fatal(err)
		}
		ended := 0
		for _, f := range []func(context.Context, Command) error{a.group.Link, a.group.Release} {
			for r.state(a.group).Complete < cg {
				r.together(a, b)
			}
			if err := f(context.Background(), Command{1, cg}); err != nil {
				t.Fatal(err)
			}
			ended++
			r.together(a, b)
		}
	}
	r.close()
}

func (r *rig) together(a, b *Volume) {
	r.t.Helper()
	for _, kind := range []ViewKind{FinalView, LinkedView} {
		s := a.group.Snapshot(kind)
		x, y := make([]byte, BlockSize), make([]byte, BlockSize)
		_, err1 := s.ReadAt(a, x, BlockSize)
		_, err2 := s.ReadAt(b, y, 2*BlockSize)
		cg := s.CG()
		s.Close()
		if err := errors.Join(err1, err2); err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(x, pattern("a", 1, cg)) || !bytes.Equal(y, pattern("b", 2, cg)) {
			r.t.Fatalf("the view of CG %d shows versions %d and %d", cg, le.Uint64(x[72:]), le.Uint64(y[72:]))
		}
	}
}

// TestReq09_LastLocationWins: of a block written many times in one CG only the last place is linked; the others go back.
func TestReq09_LastLocationWins(t *testing.T) {
	r, v := oneVolume(t, 9, 100)
	for n := uint64(1); n <= 200; n++ {
		r.put(v, 1, 7, n)
	}
	r.seal(1, v)
	if r.used() != 1 {
		t.Fatalf("%d blocks are used for one virtual block", r.used())
	}
	r.commit(v.group, 1)
	r.want(v, 7, 200)
	r.close()
}

// TestReq10_ReadsResolveThroughTheTable: blocks that a CG does not touch keep their older links; zeroed ones read as zeros.
func TestReq10_ReadsResolveThroughTheTable(t *testing.T) {
	r, v := oneVolume(t, 10, 1000)
	r.final(v, 1, 0, 1000)
	r.put(v, 2, 10, 2)
	if err := r.w.Zero(v, 2, 100, 800); err != nil {
		t.Fatal(err)
	}
	r.put(v, 2, 500, 2) // newer than the zeroes
	r.seal(2, v)
	check := func() {
		r.want(v, 9, 1)
		r.want(v, 10, 2)
		r.want(v, 100, 0)
		r.want(v, 500, 2)
		r.want(v, 899, 0)
		r.want(v, 900, 1)
	}
	r.commit(v.group, 2)
	check()
	if r.used() != 1000-800+1 {
		t.Fatalf("%d blocks used", r.used())
	}
	r.reopen()
	v = r.vol("g", "v")
	check()
	r.close()
}

// TestReq11_CGPointerTable: the table of a complete CG is durable, checksummed and can be dumped; a block named twice is found.
func TestReq11_CGPointerTable(t *testing.T) {
	r, v := oneVolume(t, 11, 100)
	r.put(v, 1, 42, 1)
	r.seal(1, v)
	after := r.devs.Crash(ringtest.None)
	var lines []string
	err := Dump(after, []Section{DumpCGs, DumpJournal}, func(l Line) error {
		lines = append(lines, l.String())
		return nil
	})
	text := strings.Join(lines, "\n")
	if err != nil || !strings.Contains(text, fmt.Sprintf("CG 1 g/v 42 -> %d checksum %016x", r.where(v, 42), Sum(pattern("v", 42, 1)))) {
		t.Fatalf("%v\n%s", err, text)
	}
	// Flip each bit of the part's piece in turn: the pool must not open, or not with other contents.
	z := r.pool.sb.zones
	at := blocksToBytes(z.journal)
	zone := make([]byte, 64*BlockSize)
	after.ReadAt(0, zone, at)
	part := bytes.Index(zone, append([]byte{byte(recBegin), 0}, 0, 0))
	for bit := part * 8; bit < (part+100)*8; bit += 7 {
		damaged := bytes.Clone(zone)
		damaged[bit/8] ^= 1 << (bit % 8)
		devs := r.devs.Crash(ringtest.None)
		devs.WriteAt(0, damaged, at)
		rep, err := Check(devs, CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if rep.OK() {
			t.Fatalf("bit %d of the journal: damage was accepted: %+v", bit, rep)
		}
	}
}

// where is the physical block of a virtual one in the live CG.
func (r *rig) where(v *Volume, b VBlock) PBlock {
	for _, l := range v.group.live {
		for _, t := range l.tables {
			if e, ok := t.lookup(b); ok {
				return e.block()
			}
		}
	}
	return v.table.load(b).block()
}

func TestReq11_SharedBlockIsFound(t *testing.T) {
	r, v := oneVolume(t, 11, 100)
	r.put(v, 1, 1, 1)
	r.put(v, 1, 2, 2)
	r.seal(1, v)
	r.commit(v.group, 1)
	v.table.set(1, v.table.load(2)) // the bug that must not go unseen
	r.close()
	var ce *CorruptionError
	if _, err := Open(r.devs.Reopen(), Options{Manual: true}); !errors.As(err, &ce) {
		t.Fatalf("a physical block with two links was accepted: %v", err)
	}
}

// TestReq12_DisplacedBlocksAreReleased after RELEASE, not before; a discard frees the CG's own blocks.
func TestReq12_DisplacedBlocksAreReleased(t *testing.T) {
	r, v := oneVolume(t, 12, 100)
	r.final(v, 1, 0, 50)
	steps := []struct {
		what string
		do   func()
		used uint64
	}{
		{"updates of CG 2", func() {
			r.write(v, 2, 0, 30)
			r.seal(2, v)
		}, 80},
		{"link", func() { r.do(v.group.Link, 2) }, 80},
		{"revert", func() { r.do(v.group.Revert, 2) }, 80},
		{"link again", func() { r.do(v.group.Link, 2) }, 80},
		{"release", func() { r.do(v.group.Release, 2) }, 50},
		{"updates of CG 3", func() { r.put(v, 3, 0, 3); r.seal(3, v) }, 51},
		{"discard", func() {
			if err := v.group.Discard(context.Background(), Command{1, 3}, 4); err != nil {
				t.Fatal(err)
			}
			r.settle()
		}, 50},
	}
	for _, s := range steps {
		s.do()
		if got := r.used(); got != s.used {
			t.Fatalf("after %s: %d blocks used, want %d", s.what, got, s.used)
		}
	}
	r.close()
}

// TestReq13_SpaceIsReused: use of space stays bounded over many CGs, and a full pool pushes back without harm.
func TestReq13_SpaceIsReused(t *testing.T) {
	r := newRig(t, 13, 16<<20)
	v := r.volume("g", "v", 1000)
	cgs := uint64(10000)
	if testing.Short() {
		cgs = 500
	}
	for cg := uint64(1); cg <= cgs; cg++ {
		for i := range uint64(4) {
			r.put(v, cg, VBlock(cg*31+i*7)%300, cg)
		}
		r.seal(cg, v)
		r.commit(v.group, cg)
		if r.used() > 300 {
			t.Fatalf("CG %d: %d blocks used for 300 virtual ones", cg, r.used())
		}
	}
	r.close()
}

func TestReq13_FullPoolPushesBack(t *testing.T) {
	r := newRig(t, 13, 16<<20)
	v := r.volume("g", "v", 100000)
	r.final(v, 1, 0, 1)
	var err error
	n := VBlock(0)
	for ; err == nil; n++ {
		err = put(r.w, v, 2, n, pattern("v", n, 2))
	}
	if !errors.Is(err, ErrPoolFull) {
		t.Fatal(err)
	}
	r.want(v, 0, 1)
	if err := v.group.Discard(context.Background(), Command{1, 2}, 2); err != nil {
		t.Fatal(err)
	}
	// The writer learns of it with its next call and gives back what it had received.
	if err := r.w.Zero(v, 2, 0, 1); !errors.Is(err, ErrDropped) {
		t.Fatalf("update of a discarded CG: %v", err)
	}
	r.final(v, 3, 5, 1)
	r.want(v, 0, 1)
	r.want(v, 5, 3)
	if r.used() != 2 {
		t.Fatalf("%d blocks used", r.used())
	}
	r.close()
}

// TestReq18_RevertIsIdempotent: reverting again, or where nothing is linked, changes nothing.
func TestReq18_RevertIsIdempotent(t *testing.T) {
	r, v := oneVolume(t, 18, 100)
	r.final(v, 1, 0, 1)
	r.put(v, 2, 0, 2)
	r.seal(2, v)
	r.do(v.group.Revert, 2) // not linked
	r.do(v.group.Link, 2)
	r.do(v.group.Link, 2)
	image := readAll(t, v, FinalView)
	r.do(v.group.Revert, 2)
	before := r.written()
	r.do(v.group.Revert, 2)
	if r.written() != before {
		t.Fatal("reverting twice wrote twice")
	}
	if !bytes.Equal(readAll(t, v, LinkedView), image) {
		t.Fatal("after the revert the links do not show CG 1")
	}
	if err := v.group.Revert(context.Background(), Command{1, 1}); !errors.Is(err, ErrState) {
		t.Fatalf("a final CG was reverted: %v", err)
	}
	r.close()
}

// TestReq19_NothingIsReleasedBeforeTheDecision: everything CG n displaced is still there when it is
// reverted after all have linked, also after a restart.
func TestReq19_NothingIsReleasedBeforeTheDecision(t *testing.T) {
	r, v := oneVolume(t, 19, 200)
	r.final(v, 1, 0, 200)
	image := readAll(t, v, FinalView)
	r.write(v, 2, 0, 200)
	r.seal(2, v)
	r.do(v.group.Link, 2)
	r.write(v, 3, 0, 200) // n+1 arrives meanwhile and takes free blocks
	r.devs = r.devs.Crash(ringtest.None)
	r.open()
	v = r.vol("g", "v")
	r.do(v.group.Revert, 2)
	if !bytes.Equal(readAll(t, v, LinkedView), image) || !bytes.Equal(readAll(t, v, FinalView), image) {
		t.Fatal("CG 1 is not what it was")
	}
	r.close()
}

// TestReq20_StaleEpochIsRefused, durably (rule R4).
func TestReq20_StaleEpochIsRefused(t *testing.T) {
	r, v := oneVolume(t, 20, 100)
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	if err := v.group.Fence(context.Background(), 7); err != nil {
		t.Fatal(err)
	}
	r.devs = r.devs.Crash(ringtest.None)
	r.open()
	g := r.vol("g", "v").group
	if err := g.Link(context.Background(), Command{6, 1}); !errors.Is(err, ErrStaleEpoch) || !strings.Contains(err.Error(), "7") {
		t.Fatalf("a lower epoch: %v", err)
	}
	if err := g.Link(context.Background(), Command{7, 1}); err != nil {
		t.Fatal(err)
	}
	r.close()
}
