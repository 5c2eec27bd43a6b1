package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// The tests here carry the numbers of the requirements that one secondary control alone can show.

func (r *rig) used() uint64 { return r.pool.alloc.Stats().Used - reserved(r.w) }

// reserved is what the writer's extent holds that no update has: it counts as used.
func reserved(w *Writer) uint64 { return uint64(w.extent.Free()) + uint64(w.runLeft) }

func (r *rig) written() uint64 {
	n := uint64(0)
	for i := range r.devs.Info() {
		n += r.devs.Stats(i).WriteBytes
	}
	return n
}

// TestReq03_PlacedOnReleasedBlocks: an update goes to a block that nothing names.
func TestReq03_PlacedOnReleasedBlocks(t *testing.T) {
	r := newRig(t, 3)
	v := r.volume("g", "v", 500)
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
	r := newRig(t, 4)
	v := r.volume("g", "v", 2000)
	start := r.written()
	const updates = 1500
	for i := range VBlock(updates) {
		r.put(v, 1, i, 1)
	}
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
		r := newRig(t, 5)
		v := r.volume("g", "v", 4000)
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
	r := newRig(t, 9)
	v := r.volume("g", "v", 100)
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
	r := newRig(t, 10)
	v := r.volume("g", "v", 1000)
	for b := range VBlock(1000) {
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	r.commit(v.group, 1)
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
	r := newRig(t, 11)
	v := r.volume("g", "v", 100)
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
	r := newRig(t, 11)
	v := r.volume("g", "v", 100)
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
	r := newRig(t, 12)
	v := r.volume("g", "v", 100)
	for b := range VBlock(50) {
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	r.commit(v.group, 1)
	steps := []struct {
		what string
		do   func()
		used uint64
	}{
		{"updates of CG 2", func() {
			for b := range VBlock(30) {
				r.put(v, 2, b, 2)
			}
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
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
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
	r.put(v, 3, 5, 3)
	r.seal(3, v)
	r.commit(v.group, 3)
	r.want(v, 0, 1)
	r.want(v, 5, 3)
	if r.used() != 2 {
		t.Fatalf("%d blocks used", r.used())
	}
	r.close()
}

// TestReq18_RevertIsIdempotent: reverting again, or where nothing is linked, changes nothing.
func TestReq18_RevertIsIdempotent(t *testing.T) {
	r := newRig(t, 18)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
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
	r := newRig(t, 19)
	v := r.volume("g", "v", 200)
	for b := range VBlock(200) {
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	r.commit(v.group, 1)
	image := readAll(t, v, FinalView)
	for b := range VBlock(200) {
		r.put(v, 2, b, 2)
	}
	r.seal(2, v)
	r.do(v.group.Link, 2)
	for b := range VBlock(200) {
		r.put(v, 3, b, 3) // n+1 arrives meanwhile and takes free blocks
	}
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
	r := newRig(t, 20)
	v := r.volume("g", "v", 100)
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

// TestDisplacedBlockWaitsForReaders: a block is not reused while a read that began before is on its way.
func TestDisplacedBlockWaitsForReaders(t *testing.T) {
	r := newRig(t, 21)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
	old := r.pool.readers.enter(0)
	r.put(v, 2, 0, 2)
	r.seal(2, v)
	r.commit(v.group, 2)
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

// TestRefusedInput: what must be refused, and what the message must name.
func TestRefusedInput(t *testing.T) {
	r := newRig(t, 22)
	v := r.volume("g", "v", 100)
	ctx := context.Background()
	cases := []struct {
		what string
		do   func() error
		want string
	}{
		{"odd size", func() error { _, err := r.pool.CreateVolume(ctx, "g", "x", 5000); return err }, "nearest sizes are 4096 and 8192"},
		{"name taken", func() error { _, err := r.pool.CreateVolume(ctx, "g", "v", 4096); return err }, "it exists"},
		{"bad name", func() error { _, err := r.pool.CreateVolume(ctx, "g", "a/b", 4096); return err }, "not allowed"},
		{"unknown volume", func() error { _, err := v.group.Volume("w"); return err }, "unknown"},
		{"past the end", func() error { return put(r.w, v, 1, 100, pattern("v", 100, 1)) }, "past the end"},
		{"zero past the end", func() error { return r.w.Zero(v, 1, 50, 51) }, "past the end"},
		{"wrong checksum", func() error {
			if _, err := r.w.Space(1); err != nil {
				return err
			}
			return r.w.Put(v, 1, 0, []uint64{1})
		}, "announced 0000000000000001"},
		{"more than Space gave", func() error { return r.w.Put(v, 1, 0, make([]uint64, 99)) }, "more than Space"},
		{"second writer", func() error { return (&Writer{pool: r.pool}).Bind(v) }, "another writer"},
		{"read past the end", func() error { _, err := v.ReadAt(make([]byte, 10), 100*BlockSize); return err }, "past the end"},
	}
	for _, c := range cases {
		if err := c.do(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.what, err, c.want)
		}
	}
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	if err := r.w.Zero(v, 1, 0, 1); !errors.Is(err, ErrState) {
		t.Errorf("update of a sealed CG: %v", err)
	}
	r.close()
}

// TestOpenRefuses pools that are not whole.
func TestOpenRefuses(t *testing.T) {
	r := newRig(t, 23, 16<<20, 8<<20)
	r.close()
	devs := r.devs.Reopen()
	blank := ringtest.MustNew(ringtest.Options{}, ringtest.Spec{Size: 16 << 20})
	if _, err := Open(blank, Options{Manual: true}); !errors.Is(err, errNoSuperblock) {
		t.Errorf("a blank device: %v", err)
	}
	first := ringtest.MustNew(ringtest.Options{}, ringtest.Spec{Size: 16 << 20})
	head := make([]byte, 1<<20)
	devs.ReadAt(0, head, 0)
	first.WriteAt(0, head, 0)
	if _, err := Open(first, Options{Manual: true}); err == nil || !strings.Contains(err.Error(), "device 1 of 2") {
		t.Errorf("a missing device: %v", err)
	}
	for i := range 3 {
		devs.Rot(0, int64(i)*superblockStride*BlockSize+100, 8, 3)
	}
	var ce *CorruptionError
	if _, err := Open(devs, Options{Manual: true}); !errors.As(err, &ce) || ce.Structure != "superblock" {
		t.Errorf("three damaged superblocks of four: %v", err)
	}
}

// TestSuperblockIsRepaired from the other copies, and said.
func TestSuperblockIsRepaired(t *testing.T) {
	r := newRig(t, 24)
	r.close()
	devs := r.devs.Reopen()
	devs.Rot(0, 2*superblockStride*BlockSize+9, 4, 5)
	rep, err := Check(devs, CheckOptions{})
	if err != nil || len(rep.Repairable) != 1 || len(rep.Damage) != 0 {
		t.Fatalf("%+v %v", rep, err)
	}
	devs = devs.Reopen()
	p, err := Open(devs, Options{Manual: true})
	if err != nil || len(p.Repairs()) != 1 {
		t.Fatalf("%v %v", err, p.Repairs())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err = Check(devs.Reopen(), CheckOptions{}); err != nil || !rep.OK() {
		t.Fatalf("after the repair: %+v %v", rep, err)
	}
}

// TestDamagedDataIsNeverReturned: a flipped bit is an error to the reader, and check finds it.
func TestDamagedDataIsNeverReturned(t *testing.T) {
	r := newRig(t, 25)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 3, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
	_, block := r.pool.locate(v.table.load(3).block())
	r.devs.Rot(0, blocksToBytes(block)+1234, 1, 1)
	var ce *CorruptionError
	if n, err := v.ReadAt(make([]byte, BlockSize), 3*BlockSize); n != 0 || !errors.As(err, &ce) || ce.Offset != blocksToBytes(block) {
		t.Fatalf("%d %v", n, err)
	}
	r.close()
	rep, err := Check(r.devs.Reopen(), CheckOptions{Data: true})
	if err != nil || len(rep.Damage) != 1 || rep.Scanned != 1 {
		t.Fatalf("%+v %v", rep, err)
	}
}

// TestWriteErrorIsPlacedElsewhere, and the bad range is never used again.
func TestWriteErrorIsPlacedElsewhere(t *testing.T) {
	r := newRig(t, 26)
	v := r.volume("g", "v", 100)
	bad := r.pool.sb.zones.data + 2
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpWrite, Device: 0, Off: blocksToBytes(bad), Len: BlockSize})
	for b := range VBlock(20) {
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	r.commit(v.group, 1)
	for b := range VBlock(20) {
		r.want(v, b, 1)
	}
	if r.w.Stats().Retired == 0 {
		t.Fatal("nothing was retired: the fault never struck")
	}
	s, err := r.pool.Stats(context.Background())
	if err != nil || s.Retired != r.w.Stats().Retired {
		t.Fatalf("%+v %v", s, err)
	}
	r.devs.Heal()
	r.reopen()
	if s2, err := r.pool.Stats(context.Background()); err != nil || s2.Retired != s.Retired {
		t.Fatalf("after a restart: %+v, was %+v (%v)", s2, s, err)
	}
	r.close()
}

// TestFlushErrorStopsAcknowledging: after a failed flush nothing is acknowledged until the pool is opened again.
func TestFlushErrorStopsAcknowledging(t *testing.T) {
	r := newRig(t, 27)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 0, 1)
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpFlush, Device: 0})
	if err := r.w.Seal(1, v); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := r.pool.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.group.State(context.Background()); !errors.Is(err, ErrFailed) {
		t.Fatalf("state after a failed flush: %v", err)
	}
	if err := v.group.Link(context.Background(), Command{1, 1}); !errors.Is(err, ErrFailed) {
		t.Fatalf("link after a failed flush: %v", err)
	}
}

func TestDeleteVolume(t *testing.T) {
	r := newRig(t, 28)
	v := r.volume("g", "v", 2000)
	for b := range VBlock(2000) {
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	r.commit(v.group, 1)
	ctx := context.Background()
	if err := r.pool.DeleteVolume(ctx, "g", "v"); !errors.Is(err, ErrState) {
		t.Fatalf("a volume bound to a writer was deleted: %v", err)
	}
	if err := errors.Join(r.pool.Checkpoint(ctx), r.w.Unbind(v), r.pool.DeleteVolume(ctx, "g", "v")); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if r.used() != 0 {
		t.Fatalf("%d blocks used", r.used())
	}
	r.reopen()
	v = r.volume("g", "v", 2000)
	r.want(v, 5, 0)
	r.put(v, 2, 5, 9)
	r.seal(2, v)
	r.commit(v.group, 2)
	r.reopen()
	r.want(r.vol("g", "v"), 5, 9)
	r.close()
}

// TestCGTooLargeForTheJournal is refused at once and said: waiting for room would hold the group up for ever. The group
// goes on with a smaller one.
func TestCGTooLargeForTheJournal(t *testing.T) {
	r := newRig(t, 29, 32<<20)
	r.close()
	if _, err := Format(r.devs, FormatOptions{ExtentBlocks: 64, JournalBytes: 2 << 20}); err != nil {
		t.Fatal(err)
	}
	r.open()
	var refused error
	r.pool.opts.OnRefused = func(_ string, _ uint64, err error) { refused = err }
	v := r.volume("g", "v", 1<<20)
	for b := VBlock(0); b < 50000; b += maxPointZeroes {
		if err := r.w.Zero(v, 1, b, maxPointZeroes); err != nil {
			t.Fatal(err)
		}
	}
	r.put(v, 1, 60000, 1)
	r.seal(1, v)
	if !errors.Is(refused, ErrCGTooLarge) || r.state(v.group).Complete != 0 {
		t.Fatalf("refused with %v; %+v", refused, r.state(v.group))
	}
	if r.used() != 0 {
		t.Fatalf("%d blocks of the refused CG are still used", r.used())
	}
	for b := VBlock(0); b < 30000; b += maxPointZeroes {
		if err := r.w.Zero(v, 2, b, maxPointZeroes); err != nil {
			t.Fatal(err)
		}
	}
	r.seal(2, v)
	r.commit(v.group, 2)
	r.close()
}
