package engine

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
		volumes: []catalogVolume{{id: 5, group: 2, size: 8192, name: "v"}}, retired: []prange{{900, 4}}, directory: []uint64{7, 0, 9}}
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
