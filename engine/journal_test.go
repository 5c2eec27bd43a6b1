package engine

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/ring/ringtest"
)

// tinyJournal is a pool whose journal is as small as can be.
func tinyJournal(t testing.TB, seed uint64) *rig {
	t.Helper()
	o := smallFormat()
	o.JournalBytes, o.VirtualBytes = minJournalBlocks*BlockSize, 16<<20
	r := &rig{t: t, devs: ringtest.MustNew(ringtest.Options{Seed: seed}, ringtest.Spec{Size: 24 << 20})}
	if _, err := Format(r.devs, o); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

// TestJournalLaps goes around the ring many times, with crashes at random points; after each the pool shows what it did before.
func TestJournalLaps(t *testing.T) {
	r := tinyJournal(t, 70)
	v := r.volume("g", "v", 600)
	rng := rand.New(rand.NewPCG(70, 0))
	final := make([]uint64, 600) // version of each block
	var crashes, cg uint64
	for blocks := uint64(0); blocks < 4*minJournalBlocks; {
		cg++
		next := append([]uint64(nil), final...)
		for range 1 + rng.IntN(900) { // up to 21 KiB of entries: a piece of 6 blocks
			b := rng.Uint64N(600)
			r.put(v, cg, VBlock(b), cg)
			next[b] = cg
		}
		r.seal(cg, v)
		r.do(v.group.Link, cg)
		if rng.IntN(2) == 0 {
			r.do(v.group.Revert, cg)
			r.do(v.group.Link, cg)
		}
		crash := rng.IntN(5)
		if crash == 0 {
			r = r.crashed()
			v = r.vol("g", "v")
			r.wantVersions(v, FinalView, final)
			r.wantVersions(v, LinkedView, next)
		}
		r.do(v.group.Release, cg)
		final = next
		if crash == 1 {
			r = r.crashed()
			v = r.vol("g", "v")
			crashes++
		}
		r.wantVersions(v, FinalView, final)
		blocks = r.pool.ctl.journal.next.block
	}
	if s := r.state(v.group); s.Final != cg || crashes < 3 {
		t.Fatalf("%+v after %d crashes", s, crashes)
	}
	r.close()
	if rep, err := Check(r.devs.Reopen(), CheckOptions{Data: true}); err != nil || !rep.OK() {
		t.Fatalf("%+v %v", rep, err)
	}
}

func (r *rig) wantVersions(v *Volume, kind ViewKind, versions []uint64) {
	r.t.Helper()
	got := readAll(r.t, v, kind)
	for b, version := range versions {
		if !bytes.Equal(got[b*BlockSize:(b+1)*BlockSize], pattern(v.name, VBlock(b), version)) {
			r.t.Fatalf("view %v, block %d: want version %d, got %d", kind, b, version, le.Uint64(got[b*BlockSize+72:]))
		}
	}
}

// TestJournalHeldByACG: while a CG waits to be linked or released, the journal's tail stands still. Nothing spins, commands are refused before
// the ring is overrun, and releasing the CG makes room again.
func TestJournalHeldByACG(t *testing.T) {
	r := tinyJournal(t, 71)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	ctx, c := context.Background(), Command{Epoch: 1, CG: 1}
	var err error
	for n := 0; n < 2*minJournalBlocks && err == nil; n++ {
		if err = v.group.Link(ctx, c); err == nil {
			err = v.group.Revert(ctx, c)
		}
		for steps := 0; ; steps++ {
			if progress, err := r.pool.Step(); err != nil || !progress {
				break
			}
			if steps > 1000 {
				t.Fatalf("the pool works on and on with %d of %d journal blocks used", r.pool.ctl.journal.used(), r.pool.ctl.journal.size)
			}
		}
	}
	if !errors.Is(err, ErrJournalFull) {
		t.Fatalf("commands without end: %v", err)
	}
	r.do(v.group.Link, 1)
	r.do(v.group.Release, 1)
	r.want(v, 0, 1)
	r.put(v, 2, 0, 2)
	r.seal(2, v)
	r.commit(v.group, 2)
	n := r.crashed()
	n.want(n.vol("g", "v"), 0, 2)
	n.close()
}

// TestNoCheckpointsInARow: a CG that waits for room in the journal, held by another group's, waits without work.
func TestNoCheckpointsInARow(t *testing.T) {
	r := tinyJournal(t, 73)
	a, b := r.volume("g", "a", 100), r.volume("h", "b", 100)
	r.put(a, 1, 0, 1)
	r.seal(1, a)
	ctx, c := context.Background(), Command{Epoch: 1, CG: 1}
	if err := r.pool.Checkpoint(ctx); err != nil { // from here on only group g holds the tail
		t.Fatal(err)
	}
	for r.pool.ctl.journal.room(pieceMaxBlocks) {
		if err := errors.Join(a.group.Link(ctx, c), a.group.Revert(ctx, c)); err != nil {
			t.Fatal(err)
		}
	}
	r.put(b, 1, 0, 1)
	if err := r.w.Seal(1, b); err != nil {
		t.Fatal(err)
	}
	for steps := 0; ; steps++ {
		progress, err := r.pool.Step()
		if err != nil {
			t.Fatal(err)
		}
		if !progress {
			break
		}
		if steps > 1000 {
			t.Fatalf("the pool works on and on; checkpoint %d", r.pool.ctl.ckpt.number)
		}
	}
	if s := r.state(b.group); s.Complete != 0 {
		t.Fatalf("%+v: the test did not fill the journal", s)
	}
	r.commit(a.group, 1)
	r.commit(b.group, 1)
	r.want(b, 0, 1)
	r.close()
}

func TestPlacePiece(t *testing.T) {
	for _, c := range []struct{ block, n, want uint64 }{
		{0, 2, 0}, {510, 2, 510}, {511, 2, 512}, {511, 1, 511}, {512, 64, 512}, {1000, 24, 1000}, {1000, 25, 1024},
	} {
		if got := placePiece(c.block, c.n, 512); got != c.want {
			t.Errorf("%d blocks at %d of a ring of 512: at %d, want %d", c.n, c.block, got, c.want)
		}
	}
}

// TestPieceRoundTrip: what was sealed is read back, only at its place in the chain, and not by another pool.
func TestPieceRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := genUUID().Draw(t, "pool")
		records := rapid.SliceOfN(rapid.Byte(), 1, 20000).Draw(t, "records")
		p := piece{seq: rapid.Uint64().Draw(t, "seq"), prev: rapid.Uint64().Draw(t, "prev"), durable: rapid.Uint64().Draw(t, "durable"), length: uint32(len(records))}
		if len(records) <= BlockSize-pieceHeader && rapid.Bool().Draw(t, "twin") {
			p.flags = pieceTwin
		}
		buf := bytes.Repeat([]byte{0xee}, pieceBytes) // of an earlier use
		copy(buf[pieceHeader:], records)
		out := sealPiece(buf, pool, &p)
		if len(out)%BlockSize != 0 || p.flags == 0 && uint64(len(out)) != p.blocks()*BlockSize {
			t.Fatalf("%d bytes for %d blocks", len(out), p.blocks())
		}
		j := &journalReader{pool: pool}
		got, body, ok := j.parse(out, journalPos{seq: p.seq, prev: p.prev})
		if !ok || !bytes.Equal(body, records) {
			t.Fatalf("not read back: %+v", got)
		}
		if d := cmp.Diff(p, got, allowUnexported); d != "" {
			t.Fatal(d)
		}
		for _, pos := range []journalPos{{seq: p.seq + 1, prev: p.prev}, {seq: p.seq, prev: p.prev + 1}} {
			if _, _, ok := j.parse(out, pos); ok {
				t.Fatalf("read at %+v", pos)
			}
		}
		pool[rapid.IntRange(0, 7).Draw(t, "byte")]++
		if _, _, ok := (&journalReader{pool: pool}).parse(out, journalPos{seq: p.seq, prev: p.prev}); ok {
			t.Fatal("read by another pool")
		}
	})
}

// TestJournalTail: a torn end is an end; the same bytes missing in the middle are damage.
func TestJournalTail(t *testing.T) {
	r := tinyJournal(t, 72)
	v := r.volume("g", "v", 1300)
	for b := range VBlock(1300) { // parts of 8 blocks
		r.put(v, 1, b, 1)
	}
	r.seal(1, v)
	parts := r.pool.ctl.journal.next
	r.do(v.group.Link, 1)
	z := r.pool.sb.zones
	tear := func(blocks ...uint64) (*CheckReport, error) {
		devs := r.devs.Crash(ringtest.None)
		for _, b := range blocks {
			devs.WriteAt(0, make([]byte, BlockSize), blocksToBytes(z.journal+b))
		}
		return Check(devs, CheckOptions{})
	}
	linked := parts.block // LINKED's twins
	for _, c := range []struct {
		what     string
		blocks   []uint64
		linked   uint64
		complete uint64
		damage   int
	}{
		{"nothing", nil, 1, 1, 0},
		{"one twin of LINKED", []uint64{linked}, 1, 1, 0},
		{"the other twin", []uint64{linked + 1}, 1, 1, 0},
		{"both: it was never written", []uint64{linked, linked + 1}, 0, 1, 0},
		{"LINKED and COMPLETE", []uint64{linked - 2, linked - 1, linked, linked + 1}, 0, 0, 0},
		{"COMPLETE, which LINKED says was durable", []uint64{linked - 2, linked - 1}, 0, 0, 1},
		{"a part, which COMPLETE says was durable", []uint64{linked - 3}, 0, 0, 1},
		{"a part, COMPLETE and LINKED", []uint64{linked - 3, linked - 2, linked - 1, linked, linked + 1}, 0, 0, 0},
	} {
		rep, err := tear(c.blocks...)
		if err != nil || len(rep.Damage) != c.damage {
			t.Errorf("%s: %+v %v", c.what, rep, err)
			continue
		}
		if g := rep.Groups; c.damage == 0 && (g[0].Linked != c.linked || g[0].Complete != c.complete) {
			t.Errorf("%s: %+v", c.what, g)
		}
	}
}

// TestPieceBehindATornEnd: a piece that overtook the one before it is passed over, unless it says that that one had been flushed.
func TestPieceBehindATornEnd(t *testing.T) {
	for durable := range uint64(3) {
		devs := ringtest.MustNew(ringtest.Options{Seed: 74}, ringtest.Spec{Size: 8 << 20})
		if _, err := Format(devs, historyFormat()); err != nil {
			t.Fatal(err)
		}
		z, _, err := planLayout(devs.Info(), historyFormat())
		if err != nil {
			t.Fatal(err)
		}
		records := appendRecord(make([]byte, pieceHeader), record{kind: recGroup, group: 1, name: "g"})
		n := uint32(len(records) - pieceHeader)
		out := sealPiece(append(records, make([]byte, BlockSize)...), UUID{1}, &piece{seq: 3, prev: 99, durable: durable, length: n})
		devs.WriteAt(0, out, blocksToBytes(z.journal+300))
		rep, err := Check(devs, CheckOptions{})
		if err != nil || rep.Pieces != 0 || (durable >= 1) != (len(rep.Damage) == 1) {
			t.Errorf("piece 1 is missing, piece 3 says that pieces up to %d were flushed: %+v %v", durable, rep, err)
		}
	}
}
