package engine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// fillJournal has a CG hold the journal until there is no room for anything that frees none.
func (r *rig) fillJournal(v *Volume) {
	r.t.Helper()
	r.put(v, 1, 0, 1)
	r.seal(1, v)
	ctx, c := context.Background(), Command{Epoch: 0, CG: 1}
	var err error
	for err == nil {
		if err = v.group.Link(ctx, c); err == nil {
			err = v.group.Revert(ctx, c)
		}
	}
	if !errors.Is(err, ErrJournalFull) {
		r.t.Fatal(err)
	}
}

// TestRefusedVolumeLeavesNothing: a volume that cannot be made leaves no group, no number and no record behind, and the next attempt works.
func TestRefusedVolumeLeavesNothing(t *testing.T) {
	r := tinyJournal(t, 76)
	v := r.volume("g", "v", 100)
	r.fillJournal(v)
	groups, volumes, written := r.pool.nextGroup, r.pool.nextVolume, r.written()
	ctx := context.Background()
	for _, group := range []string{"g", "new"} {
		if _, err := r.pool.CreateVolume(ctx, group, "w", 40*BlockSize); !errors.Is(err, ErrJournalFull) {
			t.Fatalf("a volume of group %s with the journal full: %v", group, err)
		}
	}
	if _, err := r.pool.Group("new"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the group of a volume that was refused: %v", err)
	}
	if r.pool.nextGroup != groups || r.pool.nextVolume != volumes || r.written() != written {
		t.Errorf("the refusals used %d group numbers and %d volume numbers, and wrote %d bytes", r.pool.nextGroup-groups, r.pool.nextVolume-volumes, r.written()-written)
	}
	if err := errors.Join(v.group.Link(ctx, Command{0, 1}), v.group.Release(ctx, Command{0, 1})); err != nil {
		t.Fatal(err)
	}
	r.settle()
	w := r.volume("new", "w", 40)
	r.put(w, 1, 7, 1)
	r.seal(1, w)
	r.commit(w.group, 1)
	n := r.crashed()
	n.want(n.vol("new", "w"), 7, 1)
	n.close()
}

// TestCloseWithoutChangeWritesNothing: opening, looking, asking for what is refused and closing changes no byte of the devices, also where a CG
// waits to be released. What a change needs is written.
func TestCloseWithoutChangeWritesNothing(t *testing.T) {
	r, v := oneVolume(t, 77, 2000)
	unchanged := func(what string) {
		t.Helper()
		r.reopen()
		before, sum, opened := r.pool.ctl.ckpt.number, r.devs.Digest(), r.written()
		ctx := context.Background()
		if _, err := r.pool.CreateVolume(ctx, "g", "v", 40*BlockSize); !errors.Is(err, ErrState) {
			t.Fatalf("the name is taken: %v", err)
		}
		if err := r.pool.DeleteVolume(ctx, "g", "v"); !errors.Is(err, ErrState) {
			t.Fatalf("the volume is bound: %v", err)
		}
		r.close()
		if r.written() != opened || r.devs.Digest() != sum || r.pool.ctl.ckpt.number != before {
			t.Errorf("%s: %d bytes were written, checkpoint %d, was %d", what, r.written()-opened, r.pool.ctl.ckpt.number, before)
		}
		r.devs = r.devs.Reopen()
		r.open()
		v = r.vol("g", "v")
	}
	unchanged("an empty volume")
	r.put(v, 1, 0, 1)
	r.final(v, 1, 1999, 1)
	unchanged("a final CG")
	r.put(v, 2, 3, 2)
	r.seal(2, v)
	r.do(v.group.Link, 2)
	unchanged("a CG that is linked")
	r.wantLinked(v, 3, 2)
	before := r.pool.ctl.ckpt.number
	r.do(v.group.Release, 2)
	r.close()
	if r.pool.ctl.ckpt.number != before+1 {
		t.Errorf("a change without a checkpoint: %d, was %d", r.pool.ctl.ckpt.number, before)
	}
	if rep, err := Check(r.devs.Reopen(), CheckOptions{Data: true}); err != nil || !rep.OK() || rep.Pieces != 0 {
		t.Errorf("%+v %v", rep, err)
	}
}

// TestDamagedRootIsReplaced: what was found damaged is written again when the pool is closed, even if nothing else changed.
func TestDamagedRootIsReplaced(t *testing.T) {
	r, v := oneVolume(t, 78, 100)
	r.final(v, 1, 0, 1)
	r.close()
	older := (r.pool.ctl.ckpt.number + 1) % 2
	r.devs = r.devs.Reopen()
	r.devs.Rot(0, blocksToBytes(r.pool.sb.zones.rootSlot(older))+200, 8, 1)
	r.open()
	if len(r.pool.Repairs()) != 1 {
		t.Fatalf("repairs: %v", r.pool.Repairs())
	}
	r.close()
	if rep, err := Check(r.devs.Reopen(), CheckOptions{}); err != nil || !rep.OK() {
		t.Fatalf("%+v %v", rep, err)
	}
}

// TestRetiredWhileTheJournalIsHeld: bad ranges must not take the room that the release of the CG needs which holds the journal. They are in
// the next checkpoint.
func TestRetiredWhileTheJournalIsHeld(t *testing.T) {
	r := tinyJournal(t, 79)
	v := r.volume("g", "v", 600)
	r.fillJournal(v)
	used := r.pool.ctl.journal.used()
	data := blocksToBytes(r.pool.sb.zones.data)
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpWrite, Off: data, Len: 24<<20 - data, Count: 150})
	for b := range VBlock(600) {
		r.put(v, 2, b, 2)
	}
	if err := r.w.Kick(); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if n := r.w.Stats().Retired; n < 150 || r.pool.ctl.journal.used() != used {
		t.Fatalf("%d blocks retired; the journal has %d blocks, had %d", n, r.pool.ctl.journal.used(), used)
	}
	ctx, c := context.Background(), Command{0, 1}
	if err := errors.Join(r.pool.Failure(), v.group.Link(ctx, c), v.group.Release(ctx, c)); err != nil {
		t.Fatalf("the CG that holds the journal cannot be released any more: %v", err)
	}
	r.settle()
	r.seal(2, v)
	r.commit(v.group, 2)
	if err := r.pool.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	want := r.w.Stats().Retired
	n := r.crashed()
	if s, err := n.pool.Stats(ctx); err != nil || s.Retired != want {
		t.Fatalf("%d blocks are known as bad after a restart, want %d (%v)", s.Retired, want, err)
	}
	for b := range VBlock(600) {
		n.want(n.vol("g", "v"), b, 2)
	}
	n.close()
}

// TestRefusedInput: what must be refused, and what the message must name.
func TestRefusedInput(t *testing.T) {
	r, v := oneVolume(t, 22, 100)
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
