package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/farside-storage/farside/ring/ringtest"
)

// damaged is a small pool in which every structure is in use: a checkpoint, table pages, and after it in the journal
// records of every kind and a CG that is linked and not final.
type damaged struct {
	t     *testing.T
	devs  *ringtest.Devices // to be damaged, block by block, and made good again
	crash *ringtest.Devices // gives more of the same
	stale []byte            // zones of device 0 as of an earlier checkpoint
	parts []damagedPart
	want  string // fingerprint of the whole pool
	final map[string][]byte
	link  map[string][]byte
}

// damagedPart is a run of blocks of device 0 that the pool needs.
type damagedPart struct {
	structure string
	first     uint64
	blocks    uint64
}

func newDamaged(t *testing.T) *damaged {
	r := &rig{t: t, devs: ringtest.MustNew(ringtest.Options{Seed: 60}, ringtest.Spec{Size: 8 << 20}, ringtest.Spec{Size: 4 << 20})}
	if _, err := Format(r.devs, historyFormat()); err != nil {
		t.Fatal(err)
	}
	r.open()
	ctx := context.Background()
	a, b := r.volume("g", "a", 700), r.volume("g", "b", 40)
	cg := func(n uint64) {
		for i := range VBlock(30) {
			r.put(a, n, (i*97+VBlock(n)*40)%700, n)
		}
		r.put(b, n, VBlock(n), n)
		if err := r.w.Zero(a, n, 200+VBlock(n), 50); err != nil {
			t.Fatal(err)
		}
		if n < 5 { // b becomes whole behind the checkpoint
			if err := r.w.SealPartial(n, b); err != nil {
				t.Fatal(err)
			}
			r.seal(n, a)
			return
		}
		r.seal(n, a, b)
	}
	d := &damaged{t: t, final: map[string][]byte{}, link: map[string][]byte{}}
	for n := uint64(1); n <= 3; n++ {
		cg(n)
		r.commit(a.group, n)
		if err := r.pool.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			d.stale = make([]byte, blocksToBytes(r.pool.sb.zones.data))
			r.devs.ReadAt(0, d.stale, 0)
		}
	}
	cg(4)
	r.commit(a.group, 4)
	r.volume("h", "c", 50)
	if err := errors.Join(a.group.Fence(ctx, 3), r.pool.Checkpoint(ctx)); err != nil { // its tail leaves nothing before it
		t.Fatal(err)
	}
	r.everyOtherRecord()
	cg(5)
	r.commitAt(a.group, 5)
	cg(6)
	c := Command{Epoch: 4, CG: 6}
	if err := errors.Join(a.group.Link(ctx, c), a.group.Revert(ctx, c), a.group.Link(ctx, c), a.group.Fence(ctx, 9)); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Volume{a, b} {
		d.final[v.name], d.link[v.name] = readAll(t, v, FinalView), readAll(t, v, LinkedView)
	}
	if bytes.Equal(d.final["a"], d.link["a"]) {
		t.Fatal("the views do not differ")
	}
	d.crash, d.devs = r.devs, r.devs.Crash(ringtest.None)
	d.findParts(r.pool)
	var err error
	if d.want, err = fingerprint(d.devs); err != nil {
		t.Fatal(err)
	}
	if rep, err := Check(d.devs, CheckOptions{Data: true}); err != nil || !rep.OK() {
		t.Fatalf("undamaged: %+v %v", rep, err)
	}
	return d
}

// everyOtherRecord writes records of the kinds that the life of a CG does not.
func (r *rig) everyOtherRecord() {
	r.t.Helper()
	ctx := context.Background()
	d, e := r.volume("k", "d", 50), r.volume("k", "e", 50)
	if err := errors.Join(d.group.Discard(ctx, Command{1, 1}, 2), r.w.Unbind(e), d.group.SetAside(ctx, "e"), d.group.Rejoin(ctx, "e"), r.pool.DeleteVolume(ctx, "k", "e")); err != nil {
		r.t.Fatal(err)
	}
	last := r.pool.sb.devices[1]
	r.pool.retire(prange{last.base + PBlock(last.blocks) - 3, 2}, errors.New("planted"))
	r.settle()
}

func (r *rig) commitAt(g *Group, cg uint64) {
	r.t.Helper()
	c := Command{Epoch: 4, CG: cg}
	if err := errors.Join(g.Link(context.Background(), c), g.Release(context.Background(), c)); err != nil {
		r.t.Fatal(err)
	}
	r.settle()
}

// findParts lists what is in use: each is damaged on its own.
func (d *damaged) findParts(p *Pool) {
	z, k := &p.sb.zones, &p.ctl.ckpt
	for i := range uint64(superblockCopies) {
		d.parts = append(d.parts, damagedPart{fmt.Sprintf("superblock copy %d", i), i * superblockStride, 1})
	}
	for slot := range uint64(2) {
		at := z.rootSlot(slot)
		d.parts = append(d.parts, damagedPart{fmt.Sprintf("header of root %d", slot), at, 1})
		head := make([]byte, BlockSize)
		d.devs.ReadAt(0, head, blocksToBytes(at))
		if _, n, _, err := decodeRootHeader(head, p.sb.pool); err == nil {
			d.parts = append(d.parts, damagedPart{fmt.Sprintf("body of root %d", slot), at + 1, bytesToBlocks(n)})
		}
	}
	for pair, e := range k.directory[:k.used] {
		d.parts = append(d.parts, damagedPart{fmt.Sprintf("table page of pair %d", pair), z.tableSlot(uint32(pair), uint8(e&1)), 1})
	}
	kinds := map[recordKind]bool{}
	err := offline(d.devs, func(r *recovery) error {
		if err := errors.Join(r.loadSuperblocks(), r.loadRoot()); err != nil {
			return err
		}
		j, pos := r.journalReader(), r.root.tail
		for {
			records, next, found, err := j.read(pos)
			if err != nil || !found {
				return err
			}
			for in := (&decoder{b: records}); in.off < len(in.b); {
				x, err := decodeRecord(in)
				if err != nil {
					return err
				}
				kinds[x.kind] = true
			}
			d.parts = append(d.parts, damagedPart{fmt.Sprintf("journal piece %d", pos.seq), z.journal + pos.block%z.journalLen, next.block - pos.block})
			pos = next
		}
	})
	if err != nil || len(d.parts) < 4+4+3+8 || len(kinds) != int(lastRecord) {
		d.t.Fatalf("%v, records of kinds %v: %v", d.parts, kinds, err)
	}
}

// fingerprint loads the pool without writing and describes all that it shows: states, pointer tables, live CG tables.
func fingerprint(devs *ringtest.Devices) (text string, err error) {
	err = offline(devs, func(r *recovery) error {
		if err := r.load(); err != nil {
			return err
		}
		text = r.describeAll()
		if len(r.p.repairs) > 0 {
			return errRepaired
		}
		return nil
	})
	return text, err
}

var errRepaired = errors.New("a redundant copy served")

func (r *recovery) describeAll() string {
	h := fnv.New64a()
	var b strings.Builder
	for _, g := range r.p.Groups() {
		fmt.Fprintf(&b, "%s %+v\n", g.name, g.state)
		for _, v := range g.Volumes() {
			v.eachMapped(func(at VBlock, e entry) { fmt.Fprint(h, v.name, at, e, ";") })
			fmt.Fprintf(&b, "  %s %d %+v %x\n", v.name, v.size, v.Membership(), h.Sum64())
		}
		for _, l := range g.live {
			for _, t := range l.tables {
				keys, _ := t.sorted()
				for _, k := range keys {
					fmt.Fprint(h, k>>posBits, *t.at(uint32(k&posMask) - 1), ";")
				}
				fmt.Fprintf(&b, "  CG %d %s %v %x\n", t.cg, t.vol.name, t.zeroed, h.Sum64())
			}
		}
	}
	return b.String()
}

func (d *damaged) block(devs *ringtest.Devices, n uint64) []byte {
	b := make([]byte, BlockSize)
	devs.ReadAt(0, b, blocksToBytes(n))
	return b
}

// try puts damage in place of a block, and expects a refusal or the same pool. Unless silent is allowed, what is wrong must be said.
func (d *damaged) try(p damagedPart, at uint64, what string, damage []byte, silentOK bool) {
	d.t.Helper()
	good := d.block(d.devs, at)
	if bytes.Equal(good, damage) {
		return
	}
	d.devs.WriteAt(0, damage, blocksToBytes(at))
	got, err := fingerprint(d.devs)
	d.devs.WriteAt(0, good, blocksToBytes(at))
	var ce *CorruptionError
	switch {
	case err == nil && !silentOK:
		d.t.Errorf("%s, block %d, %s: nobody noticed", p.structure, at-p.first, what)
	case err != nil && !errors.Is(err, errRepaired):
		if !errors.As(err, &ce) {
			d.t.Errorf("%s, block %d, %s: not a CorruptionError: %v", p.structure, at-p.first, what, err)
		}
	case got != d.want:
		d.t.Errorf("%s, block %d, %s: another pool is shown:\n%s\nwant\n%s", p.structure, at-p.first, what, got, d.want)
	}
}

// TestDamagedBytes flips a bit in bytes of every structure. The head of each block, where the fields are, gets every byte.
func TestDamagedBytes(t *testing.T) {
	d := newDamaged(t)
	rng := rand.New(rand.NewPCG(61, 0))
	tried := 0
	for _, p := range d.parts {
		for at := p.first; at < p.first+p.blocks; at++ {
			good := d.block(d.devs, at)
			for i := 0; i < BlockSize; i++ {
				if i >= 96 && i < BlockSize-8 && i%131 != 0 {
					continue
				}
				bad := bytes.Clone(good)
				bad[i] ^= 1 << rng.IntN(8)
				d.try(p, at, fmt.Sprintf("byte %d", i), bad, false)
				tried++
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d bits", tried)
	if got, err := fingerprint(d.devs); err != nil || got != d.want {
		t.Fatalf("the damage was not undone: %v", err)
	}
}

// TestDamagedBlocks loses, zeroes and mixes up whole blocks.
func TestDamagedBlocks(t *testing.T) {
	d := newDamaged(t)
	noise := make([]byte, BlockSize)
	rng := rand.New(rand.NewPCG(62, 0))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for i, p := range d.parts {
		for at := p.first; at < p.first+p.blocks; at++ {
			d.try(p, at, "zeroed", make([]byte, BlockSize), false)
			d.try(p, at, "noise", noise, false)
			good := d.block(d.devs, at)
			for _, cut := range []int{512, 2048, 3584} { // a sector boundary: torn
				d.try(p, at, fmt.Sprintf("zero from byte %d", cut), append(bytes.Clone(good[:cut]), make([]byte, BlockSize-cut)...), false)
				d.try(p, at, fmt.Sprintf("zero to byte %d", cut), append(make([]byte, cut), good[cut:]...), false)
			}
			for _, q := range []damagedPart{d.parts[(i+1)%len(d.parts)], d.parts[(i+5)%len(d.parts)]} {
				d.try(p, at, "a block of "+q.structure, d.block(d.devs, q.first), false)
			}
			// A write that never arrived: a whole root of the checkpoint before is as good as this one.
			d.try(p, at, "as of an earlier checkpoint", d.stale[blocksToBytes(at):blocksToBytes(at+1)], strings.HasPrefix(p.structure, "header of root"))
		}
	}
}

// TestSwappedBlocks exchanges the blocks of any two structures.
func TestSwappedBlocks(t *testing.T) {
	d := newDamaged(t)
	for i, p := range d.parts {
		for _, q := range d.parts[i+1:] {
			there := d.block(d.devs, q.first)
			if here := d.block(d.devs, p.first); !bytes.Equal(here, there) {
				d.devs.WriteAt(0, here, blocksToBytes(q.first))
				d.try(p, p.first, "exchanged with "+q.structure, there, false)
				d.devs.WriteAt(0, there, blocksToBytes(q.first))
			}
		}
	}
}

// TestEveryDataBit: whichever bit of a data block flips, a read fails, names the place and returns nothing, from the pointer table and
// from a CG that is not folded; the same for a block that is zeroed, cut short, old or another one.
func TestEveryDataBit(t *testing.T) {
	r := newRig(t, 65)
	v := r.volume("g", "v", 100)
	r.put(v, 1, 3, 1)
	r.put(v, 1, 4, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
	r.put(v, 2, 5, 2)
	r.seal(2, v)
	r.do(v.group.Link, 2)
	for b, kind := range map[VBlock]ViewKind{3: FinalView, 5: LinkedView} {
		device, block := r.pool.locate(r.where(v, b))
		at, good, other := blocksToBytes(block), pattern("v", b, uint64(1+kind)), pattern("v", 4, 1)
		try := func(what string, bad []byte) {
			r.devs.WriteAt(device, bad, at)
			done := make(chan error, 1)
			read := Read{Volume: v, View: kind, Off: uint64(b) * BlockSize, Buf: readMemory()[:BlockSize], Done: func(x *Read) { done <- x.Err }}
			read.Start()
			err := r.pool.stepUntil(done)
			var ce *CorruptionError
			if !errors.As(err, &ce) || ce.Offset != at || ce.Device != r.devs.Info()[device].Path || !bytes.Equal(read.Buf, zeroBlock[:]) {
				t.Fatalf("block %d, %s: %v", b, what, err)
			}
		}
		for bit := range BlockSize * 8 {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			try(fmt.Sprintf("bit %d of byte %d", bit%8, bit/8), bad)
		}
		try("zeroed", zeroBlock[:])
		try("cut short", append(bytes.Clone(good[:512]), zeroBlock[512:]...))
		try("old", pattern("v", b, 9))
		try("another block", other)
		r.devs.WriteAt(device, good, at)
		if err := compareVolume(v, kind, nil, map[key]uint64{{"v", 3}: 1, {"v", 4}: 1, {"v", 5}: 2 * uint64(kind)}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedPoolOpens: what recovery accepts, Open serves with the same contents; Check says what is wrong with it.
func TestDamagedPoolOpens(t *testing.T) {
	d := newDamaged(t)
	repaired, refused := 0, 0
	for _, p := range d.parts {
		devs := d.crash.Crash(ringtest.None)
		bad := d.block(devs, p.first)
		bad[100] ^= 4
		devs.WriteAt(0, bad, blocksToBytes(p.first))
		rep, err := Check(devs, CheckOptions{})
		if err != nil || rep.OK() {
			t.Fatalf("%s: check says %+v, %v", p.structure, rep, err)
		}
		pool, err := Open(devs, Options{Manual: true})
		var ce *CorruptionError
		if err != nil {
			if refused++; !errors.As(err, &ce) || len(rep.Damage) == 0 {
				t.Errorf("%s: %v; check says %+v", p.structure, err, rep)
			}
			continue
		}
		repaired++
		if len(pool.Repairs()) == 0 || len(rep.Repairable) == 0 || len(rep.Damage) > 0 {
			t.Errorf("%s: opened with repairs %v; check says %+v", p.structure, pool.Repairs(), rep)
		}
		g, err := pool.Group("g")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range g.Volumes() {
			if !bytes.Equal(readAll(t, v, FinalView), d.final[v.name]) || !bytes.Equal(readAll(t, v, LinkedView), d.link[v.name]) {
				t.Errorf("%s: volume %s shows something else", p.structure, v.name)
			}
		}
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Superblocks, roots and control records have a second copy; table pages and table parts have none.
	if repaired < 4+4+6 || refused < 3 {
		t.Errorf("%d repaired, %d refused", repaired, refused)
	}
}

// TestEveryBitIsCovered: no bit of a structure in memory is without a checksum.
func TestEveryBitIsCovered(t *testing.T) {
	pool := UUID{1, 2, 3}
	body := padBody((&root{directory: make([]uint64, 9)}).encodeBody())
	header := (&root{checkpoint: 3}).encodeHeader(pool, body, len(body))
	page := make([]byte, BlockSize)
	encodePage(page, 1, 2, 3, func(i int) uint64 { return uint64(i) * 77 }, 200)
	entry := directoryEntry(page, 1)
	records := make([]byte, pieceHeader)
	for _, x := range oneOfEachRecord() {
		records = appendRecord(records, x)
	}
	j := &journalReader{pool: pool}
	sealed := sealPiece(slices.Grow(records, 2*BlockSize), pool, &piece{seq: 5, prev: 6, durable: 4, flags: pieceTwin, length: uint32(len(records) - pieceHeader)})
	accepts := map[string]func() bool{
		"superblock":  nil,
		"root header": func() bool { _, _, _, err := decodeRootHeader(header, pool); return err == nil },
		"root body":   func() bool { return Sum(body) == le.Uint64(header[64:]) },
		"table page":  func() bool { return directoryEntry(page, 1) == entry },
		"piece":       func() bool { _, _, ok := j.parse(sealed, journalPos{seq: 5, prev: 6}); return ok },
	}
	sb := (&superblock{version: FormatVersion, zones: zones{extentBlocks: 64, root: 256, rootBlocks: 3, journal: 262, journalLen: 512,
		tables: 774, tablePairs: 60, data: 896}, devices: []poolDevice{{blocks: 2000}}}).encode(0)
	accepts["superblock"] = func() bool { _, err := decodeSuperblock(sb, 0); return err == nil }
	for what, b := range map[string][]byte{"superblock": sb, "root header": header, "root body": body, "table page": page, "piece": sealed} {
		ok := accepts[what]
		if !ok() {
			t.Fatalf("%s: refused undamaged", what)
		}
		for bit := range len(b) * 8 {
			b[bit/8] ^= 1 << (bit % 8)
			if ok() {
				t.Fatalf("%s: accepted with bit %d of byte %d flipped", what, bit%8, bit/8)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestTruncatedDevice: a device that became smaller is refused by name, wherever it was cut.
func TestTruncatedDevice(t *testing.T) {
	d := newDamaged(t)
	full := make([]byte, 8<<20)
	d.devs.ReadAt(0, full, 0)
	second := make([]byte, 4<<20)
	d.devs.ReadAt(1, second, 0)
	for _, sizes := range [][2]int64{{8<<20 - BlockSize, 4 << 20}, {8 << 20, 4<<20 - BlockSize}, {1 << 20, 4 << 20}, {BlockSize, 4 << 20}, {8 << 20, 2 * BlockSize}} {
		devs := ringtest.MustNew(ringtest.Options{Seed: 63}, ringtest.Spec{Size: sizes[0]}, ringtest.Spec{Size: sizes[1]})
		devs.WriteAt(0, full[:sizes[0]], 0)
		devs.WriteAt(1, second[:sizes[1]], 0)
		cut := 0
		if sizes[1] < 4<<20 {
			cut = 1
		}
		_, err := Open(devs, Options{Manual: true})
		if path := devs.Info()[cut].Path; err == nil || !strings.HasPrefix(err.Error(), path+" holds") {
			t.Errorf("sizes %v: %v", sizes, err)
		}
	}
}
