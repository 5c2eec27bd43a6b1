package engine

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/ring/ringtest"
)

// FuzzRecord: whatever is decoded encodes to what was read.
func FuzzRecord(f *testing.F) {
	for _, r := range oneOfEachRecord() {
		f.Add(appendRecord(nil, r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &decoder{b: b}
		r, err := decodeRecord(d)
		if err != nil {
			return
		}
		if again := appendRecord(nil, r); !bytes.Equal(again, b[:d.off]) {
			t.Fatalf("%x encodes to %x", b[:d.off], again)
		}
		_ = r.describe()
	})
}

// FuzzRootBody: bodies of any content, without a checksum in the way.
func FuzzRootBody(f *testing.F) {
	r := &root{nextGroup: 2, nextVolume: 5, groups: []catalogGroup{{id: 2, state: groupState{name: "g", final: 1}}},
		volumes: []catalogVolume{{id: 5, group: 2, size: 8192, name: "v", member: Membership{Awaited, 3, 0, 1}}}, retired: []prange{{900, 4}}, directory: []uint64{7, 0, 9}}
	f.Add(r.encodeBody())
	f.Add((&root{}).encodeBody())
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, again root
		if got.decodeBody(b) != nil {
			return
		}
		if err := again.decodeBody(got.encodeBody()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got, again, allowUnexported, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzPiece: a block that may be the start of a piece, as it comes and with its checksum made good.
func FuzzPiece(f *testing.F) {
	pool := UUID{1, 2, 3}
	buf := make([]byte, pieceBytes)
	n := copy(buf[pieceHeader:], appendRecord(nil, record{kind: recFinal, group: 1, cg: 2, epoch: 3}))
	f.Add(bytes.Clone(sealPiece(buf, pool, &piece{seq: 1, length: uint32(n), flags: pieceTwin})[:200]))
	f.Add(bytes.Clone(sealPiece(buf, pool, &piece{seq: 1, length: 5000})[:200]))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := make([]byte, max(BlockSize, (len(in)+BlockSize-1)/BlockSize*BlockSize))
		copy(b, in)
		p, ok := openPiece(b, pool)
		if !ok {
			return
		}
		if p.blocks() == 0 || p.blocks() > pieceMaxBlocks || pieceBytesOf(p.length) > pieceBytes {
			t.Fatalf("%+v is larger than a piece can be", p)
		}
		j := &journalReader{pool: pool}
		pos := journalPos{seq: p.seq, prev: p.prev}
		if _, records, ok := j.parse(b, pos); ok && len(records) != int(p.length) {
			t.Fatalf("%d of %d bytes", len(records), p.length)
		}
		if pieceBytesOf(p.length) <= len(b) {
			le.PutUint64(b[pieceHeader-8:], pieceSum(b, p.length))
			if _, records, ok := j.parse(b, pos); !ok || len(records) != int(p.length) {
				t.Fatalf("refused with a good checksum: %+v", p)
			}
		}
	})
}

// FuzzReplay: any records in a piece with a good checksum are replayed or refused, and what is then held is in order. Volumes above 4 GiB are left out
// for speed.
func FuzzReplay(f *testing.F) {
	var all []byte
	for _, r := range oneOfEachRecord() {
		if r.kind == recVolume {
			r.size = 1 << 30
		}
		all = appendRecord(all, r)
	}
	f.Add(all)
	var two []byte
	two = appendRecord(two, record{kind: recGroup, group: 1, name: "g"})
	two = appendRecord(two, record{kind: recVolume, group: 1, volume: 1, size: 1 << 20, name: "v"})
	for cg := uint64(1); cg < 3; cg++ {
		two = appendRecord(two, record{kind: recBegin, group: 1, cg: cg})
		two = appendRecord(two, record{kind: recPart, group: 1, cg: cg, volume: 1, base: 3, body: appendPartEntry(nil, 2, logEntry{PBlock(1500 + cg), 9}, 0)})
		two = appendRecord(two, record{kind: recZeroes, group: 1, cg: cg, volume: 1, body: appendRange(nil, vrange{20, 30})})
		two = appendRecord(two, record{kind: recComplete, group: 1, cg: cg, entries: 2})
		two = appendRecord(two, record{kind: recLinked, group: 1, cg: cg})
		if cg == 1 {
			two = appendRecord(two, record{kind: recFinal, group: 1, cg: cg})
		}
	}
	f.Add(two)
	devs := ringtest.MustNew(ringtest.Options{Seed: 90}, ringtest.Spec{Size: 8 << 20})
	if _, err := Format(devs, historyFormat()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > pieceBytes || largeVolumes(b) {
			return
		}
		err := offline(devs, func(r *recovery) error {
			for _, stage := range []func() error{r.loadSuperblocks, r.loadRoot, r.loadTables} {
				if err := stage(); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.replayPiece(b); err != nil {
				return nil
			}
			r.end = r.root.tail
			var ce *CorruptionError
			for _, stage := range []func() error{r.settle, r.deriveBitmap} {
				if err := stage(); err != nil {
					if !errors.As(err, &ce) {
						t.Errorf("not a CorruptionError: %v", err)
					}
					return nil
				}
			}
			_ = r.describeAll()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func largeVolumes(b []byte) bool {
	d := &decoder{b: b}
	for d.off < len(b) {
		r, err := decodeRecord(d)
		if err != nil {
			return false
		}
		if r.kind == recVolume && r.size > 4<<30 {
			return true
		}
	}
	return false
}

// TestReplayOfAnyRecords: sequences of records that each look right, in orders that no pool writes, are replayed or refused.
func TestReplayOfAnyRecords(t *testing.T) {
	devs := ringtest.MustNew(ringtest.Options{Seed: 91}, ringtest.Spec{Size: 8 << 20})
	if _, err := Format(devs, historyFormat()); err != nil {
		t.Fatal(err)
	}
	replayed := 0
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		entries := uint64(0)
		for _, r := range rapid.SliceOfN(genSmallRecord(), 3, 40).Draw(t, "records") {
			switch r.kind { // counts that fit, mostly: else nothing would become complete
			case recBegin:
				entries = 0
			case recPart, recZeroes, recWhole:
				entries++
			case recComplete:
				if r.entries > 0 {
					r.entries = entries
				}
			}
			b = appendRecord(b, r)
		}
		err := offline(devs, func(r *recovery) error {
			for _, stage := range []func() error{r.loadSuperblocks, r.loadRoot, r.loadTables} {
				if err := stage(); err != nil {
					return err
				}
			}
			first := appendRecord(appendRecord(nil, record{kind: recGroup, group: 1, name: "g"}), record{kind: recVolume, group: 1, volume: 1, size: 100 * BlockSize, name: "v"})
			if err := r.replayPiece(first); err != nil {
				return err
			}
			if r.replayPiece(b) == nil && r.settle() == nil && r.deriveBitmap() == nil {
				replayed++
				_ = r.describeAll()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if replayed == 0 {
		t.Fatal("nothing was accepted")
	}
}

// genSmallRecord draws from few numbers, so that records meet each other.
func genSmallRecord() *rapid.Generator[record] {
	return rapid.Custom(func(t *rapid.T) record {
		few := func(what string, most uint64) uint64 { return rapid.Uint64Range(1, most).Draw(t, what) }
		r := record{kind: recordKind(rapid.IntRange(int(recPart), int(lastRecord)).Draw(t, "kind")), group: uint32(rapid.SampledFrom([]uint64{1, 1, 1, 2}).Draw(t, "group"))}
		if r.kind != recGroup && r.kind != recVolume && r.kind != recVolumeDelete && r.kind != recRetired && r.kind != recMember {
			r.cg = few("cg", 2)
		}
		switch r.kind {
		case recPart:
			r.volume, r.base = uint32(few("volume", 2)), VBlock(few("base", 50))
			r.body = appendPartEntry(nil, few("rel", 45), logEntry{PBlock(1500 + few("block", 20)), 1}, 0)
		case recZeroes:
			r.volume, r.body = uint32(few("volume", 2)), appendRange(nil, vrange{VBlock(few("first", 40)), few("n", 50)})
		case recComplete:
			r.entries = rapid.Uint64Range(0, 2).Draw(t, "entries")
		case recReverted:
			r.through = rapid.Uint64Range(0, 3).Draw(t, "through")
		case recGroup:
			r.name = "h"
		case recVolume:
			r.volume, r.size, r.name = uint32(few("volume", 3)), 100*BlockSize, rapid.SampledFrom([]string{"v", "w"}).Draw(t, "name")
		case recVolumeDelete:
			r.volume = uint32(few("volume", 2))
		case recMember:
			r.volume, r.cg, r.standing, r.turn = uint32(few("volume", 2)), few("cg", 2), genStanding().Draw(t, "standing"), uint32(few("turn", 3))
		case recWhole:
			r.volume, r.turn = uint32(few("volume", 2)), uint32(few("turn", 3))
		case recRetired:
			r.first, r.blocks = PBlock(1500+few("first", 30)), few("blocks", 3)
		}
		return r
	})
}

// TestReplayRefusesWhatNoPoolWrites: each of these has good checksums and would have to be a bug.
func TestReplayRefusesWhatNoPoolWrites(t *testing.T) {
	part := func(p PBlock) record {
		return record{kind: recPart, group: 1, volume: 1, cg: 1, base: 5, body: appendPartEntry(nil, 0, logEntry{p, 1}, 0)}
	}
	begin, complete := record{kind: recBegin, group: 1, cg: 1}, record{kind: recComplete, group: 1, cg: 1, entries: 1}
	deleted, final := record{kind: recVolumeDelete, group: 1, volume: 1}, record{kind: recFinal, group: 1, cg: 1}
	for what, records := range map[string][]record{
		"a volume deleted under a complete CG":             {begin, part(1500), complete, deleted},
		"a volume deleted under a complete CG, then FINAL": {begin, part(1500), complete, deleted, final},
		"a volume of an unknown group":                     {{kind: recVolume, group: 7, volume: 9, size: BlockSize, name: "x"}},
		"a volume of half a block":                         {{kind: recVolume, group: 1, volume: 9, size: 2048, name: "x"}},
		"FINAL of a CG that is not there":                  {final},
		"LINKED of a CG that is not there":                 {{kind: recLinked, group: 1, cg: 1}},
		"fewer entries than counted":                       {begin, complete},
		"more entries than counted":                        {begin, part(1500), part(1501), complete},
		"an entry past the end of the volume":              {begin, {kind: recPart, group: 1, volume: 1, cg: 1, base: 100, body: appendPartEntry(nil, 0, logEntry{1500, 1}, 0)}, complete},
		"zeroes past the end of the volume":                {begin, {kind: recZeroes, group: 1, volume: 1, cg: 1, body: appendRange(nil, vrange{90, 11})}, complete},
		"a block of the journal as data":                   {begin, part(800), complete},
		"a block past the end of the pool":                 {begin, part(1 << 35), complete},
		"two CGs that are complete":                        {begin, part(1500), complete, {kind: recBegin, group: 1, cg: 2}, {kind: recComplete, group: 1, cg: 2}},
		"retired blocks past the end of the pool":          {{kind: recRetired, first: 1 << 35, blocks: 4}},
		"an unknown kind":                                  {{kind: 99}},
	} {
		t.Run(what, func(t *testing.T) {
			devs := ringtest.MustNew(ringtest.Options{Seed: 92}, ringtest.Spec{Size: 8 << 20})
			if _, err := Format(devs, historyFormat()); err != nil {
				t.Fatal(err)
			}
			b := appendRecord(appendRecord(nil, record{kind: recGroup, group: 1, name: "g"}), record{kind: recVolume, group: 1, volume: 1, size: 100 * BlockSize, name: "v"})
			for _, r := range records {
				if r.kind == 99 {
					b = append(b, 99, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0)
					continue
				}
				b = appendRecord(b, r)
			}
			buf := append(make([]byte, pieceHeader, 2*BlockSize), b...)
			piece := sealPiece(buf, UUID{1}, &piece{seq: 1, length: uint32(len(b))})
			z, _, err := planLayout(devs.Info(), historyFormat())
			if err != nil {
				t.Fatal(err)
			}
			devs.WriteAt(0, piece, blocksToBytes(z.journal))
			rep, err := Check(devs, CheckOptions{})
			if err != nil || len(rep.Damage) != 1 {
				t.Errorf("check: %+v %v", rep, err)
			}
			var ce *CorruptionError
			if _, err := Open(devs, Options{Manual: true}); !errors.As(err, &ce) {
				t.Errorf("open: %v", err)
			}
		})
	}
}
