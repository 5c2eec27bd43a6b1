package engine

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func genStanding() *rapid.Generator[Standing] {
	return rapid.SampledFrom([]Standing{Unattached, Awaited, SetAside})
}

func genRecord() *rapid.Generator[record] {
	return rapid.Custom(func(t *rapid.T) record {
		u64 := func(what string) uint64 { return rapid.Uint64().Draw(t, what) }
		r := record{kind: recordKind(rapid.IntRange(int(recPart), int(lastRecord)).Draw(t, "kind")), group: rapid.Uint32().Draw(t, "group")}
		volume := func() uint32 { return rapid.Uint32().Draw(t, "volume") }
		switch r.kind {
		case recPart:
			r.volume, r.cg, r.base = volume(), u64("cg"), VBlock(u64("base"))
			for range rapid.IntRange(0, 40).Draw(t, "entries") {
				e := logEntry{PBlock(rapid.Uint64Range(0, pblockMask).Draw(t, "block")), u64("sum")}
				r.body = appendPartEntry(r.body, rapid.Uint64Range(0, maxPartSpan-1).Draw(t, "rel"), e, entry(u64("displaced")))
			}
		case recZeroes:
			r.volume, r.cg = volume(), u64("cg")
			for range rapid.IntRange(0, 40).Draw(t, "ranges") {
				r.body = appendRange(r.body, vrange{VBlock(u64("first")), u64("n")})
			}
		case recComplete:
			r.cg, r.entries = u64("cg"), u64("entries")
		case recBegin:
			r.cg = u64("cg")
		case recLinked, recFinal, recFence:
			r.cg, r.epoch = u64("cg"), u64("epoch")
		case recReverted:
			r.cg, r.epoch, r.through = u64("cg"), u64("epoch"), u64("through")
		case recGroup:
			r.name = genName().Draw(t, "name")
		case recVolume:
			r.volume, r.size, r.name, r.standing = volume(), u64("size"), genName().Draw(t, "name"), genStanding().Draw(t, "standing")
		case recMember:
			r.volume, r.cg, r.standing, r.turn = volume(), u64("cg"), genStanding().Draw(t, "standing"), rapid.Uint32().Draw(t, "turn")
		case recWhole:
			r.volume, r.cg, r.turn = volume(), u64("cg"), rapid.Uint32().Draw(t, "turn")
		case recVolumeDelete:
			r.volume = volume()
		case recRetired:
			r.first, r.blocks = PBlock(u64("first")), u64("blocks")
		}
		return r
	})
}

// TestRecordRoundTrip: records one after the other are read back as they were; cut short or with a byte too many they are refused.
func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(genRecord(), 1, 5).Draw(t, "records")
		var b []byte
		for _, r := range records {
			b = appendRecord(b, r)
		}
		d := &decoder{b: b}
		for _, want := range records {
			got, err := decodeRecord(d)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, allowUnexported, cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
			if want.kind.String() == "?" || got.describe() == "" {
				t.Fatalf("kind %d has no name", want.kind)
			}
		}
		if d.off != len(b) {
			t.Fatalf("%d of %d bytes were read", d.off, len(b))
		}
		one := appendRecord(nil, records[0])
		if _, err := decodeRecord(&decoder{b: one[:rapid.IntRange(0, len(one)-1).Draw(t, "cut")]}); err == nil {
			t.Fatal("accepted cut short")
		}
		longer := append(bytes.Clone(one), 7)
		le.PutUint32(longer[4:], uint32(len(longer)-recordHeader))
		if _, err := decodeRecord(&decoder{b: longer}); err == nil {
			t.Fatal("accepted with a byte too many")
		}
	})
}

func TestPartEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rel := rapid.Uint64Range(0, maxPartSpan-1).Draw(t, "rel")
		e := logEntry{PBlock(rapid.Uint64Range(0, pblockMask).Draw(t, "block")), rapid.Uint64().Draw(t, "sum")}
		old := entry(rapid.Uint64().Draw(t, "displaced"))
		b := appendPartEntry(appendPartEntry(nil, 0, logEntry{}, 0), rel, e, old)
		gotRel, got, gotOld := partEntryAt(b, 1)
		if len(b) != 2*partEntrySize || gotRel != rel || got != e || gotOld != old {
			t.Fatalf("%d %+v %x", gotRel, got, gotOld)
		}
	})
}

// TestGroupStateOrder: whatever records come, final <= linked <= complete, nothing that only grows shrinks, and applying
// a record again changes nothing.
func TestGroupStateOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s groupState
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			c := Command{Epoch: rapid.Uint64Range(0, 4).Draw(t, "epoch"), CG: rapid.Uint64Range(0, s.complete+3).Draw(t, "cg")}
			before := s
			var r *record
			var err error
			switch rapid.IntRange(0, 5).Draw(t, "command") {
			case 0:
				r, err = s.fence(c.Epoch)
			case 1:
				if s.complete == s.final { // else nothing is completed: see Group.ready
					r, err = s.completed(c.CG, 1)
				}
			case 2:
				r, err = s.link(c)
			case 3:
				r, err = s.release(c)
			case 4:
				r, err = s.revert(c, 0)
			case 5:
				r, err = s.revert(c, rapid.Uint64Range(c.CG, c.CG+3).Draw(t, "through"))
			}
			if s != before {
				t.Fatalf("deciding changed the state: %+v, was %+v", s, before)
			}
			if r == nil {
				continue
			}
			if err != nil {
				t.Fatalf("a record and an error: %v", err)
			}
			s.apply(r)
			once := s
			s.apply(r)
			if s != once {
				t.Fatalf("%v twice: %+v, once %+v", r.kind, s, once)
			}
			if s.final > s.linked || s.linked > s.complete || s.final < before.final || s.epoch < before.epoch || s.through < before.through {
				t.Fatalf("%v of CG %d: %+v, was %+v", r.kind, r.cg, s, before)
			}
			if s.linked != s.final && s.linked != s.complete {
				t.Fatalf("%v of CG %d: linked is neither final nor complete: %+v", r.kind, r.cg, s)
			}
		}
	})
}
