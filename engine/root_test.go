package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func genRoot() *rapid.Generator[*root] {
	return rapid.Custom(func(t *rapid.T) *root {
		u64 := func() uint64 { return rapid.Uint64().Draw(t, "number") }
		u32 := func() uint32 { return rapid.Uint32().Draw(t, "number") }
		r := &root{checkpoint: u64(), tail: journalPos{u64(), u64(), u64()}, nextGroup: u32(), nextVolume: u32()}
		for range rapid.IntRange(0, 4).Draw(t, "groups") {
			r.groups = append(r.groups, catalogGroup{id: u32(), folded: u64(), state: groupState{name: genName().Draw(t, "name"),
				epoch: u64(), final: u64(), linked: u64(), complete: u64(), through: u64()}})
		}
		for range rapid.IntRange(0, 4).Draw(t, "volumes") {
			r.volumes = append(r.volumes, catalogVolume{id: u32(), group: u32(), size: u64(), name: genName().Draw(t, "name"),
				member: Membership{genStanding().Draw(t, "standing"), u64(), u64(), u32()}})
		}
		for range rapid.IntRange(0, 4).Draw(t, "retired") {
			r.retired = append(r.retired, prange{PBlock(u64()), u64()})
		}
		r.directory = rapid.SliceOfN(rapid.Uint64(), 0, 1200).Draw(t, "directory")
		return r
	})
}

func TestRootRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, pool := genRoot().Draw(t, "root"), genUUID().Draw(t, "pool")
		raw := r.encodeBody()
		body := padBody(append([]byte(nil), raw...))
		header := r.encodeHeader(pool, body, len(raw))
		got, n, sum, err := decodeRootHeader(header, pool)
		if err != nil || n != uint64(len(raw)) || sum != Sum(body) || len(header) != BlockSize || len(body)%BlockSize != 0 {
			t.Fatalf("%v: body of %d bytes, checksum %x", err, n, sum)
		}
		if err := got.decodeBody(body[:n]); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, got, allowUnexported, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		for _, n := range []int{rapid.IntRange(0, len(raw)-1).Draw(t, "cut"), len(raw) - 1} {
			if err := new(root).decodeBody(raw[:n]); err == nil {
				t.Fatalf("accepted cut to %d of %d bytes", n, len(raw))
			}
		}
		if err := new(root).decodeBody(append(raw, 0)); err == nil {
			t.Fatal("accepted with a byte too many")
		}
		pool[3]++
		if _, _, _, err := decodeRootHeader(header, pool); err == nil {
			t.Fatal("another pool's root was accepted")
		}
	})
}

// TestDirectoryEntry: never 0, the slot in the lowest bit, and another entry for every other page.
func TestDirectoryEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		page := make([]byte, BlockSize)
		entries := rapid.SliceOfN(rapid.Uint64(), 0, tablePageEntries).Draw(t, "entries")
		encodePage(page, rapid.Uint32().Draw(t, "volume"), 3, 4, func(i int) uint64 { return entries[i] }, len(entries))
		a, b := directoryEntry(page, 0), directoryEntry(page, 1)
		if a == 0 || b == 0 || a&1 != 0 || b&1 != 1 || a|1 != b && a != 2 {
			t.Fatalf("%x %x", a, b)
		}
		le.PutUint64(page[16:], 5) // the same contents, one checkpoint later
		if directoryEntry(page, 0) == a {
			t.Fatal("a stale page has the entry of the current one")
		}
	})
}

// encodePage makes a whole table page of n entries.
func encodePage(b []byte, volume uint32, page uint32, checkpoint uint64, load func(i int) uint64, n int) {
	clear(b)
	encodePageHeader(b, volume, page, checkpoint)
	for i := range n {
		le.PutUint64(b[tablePageHeader+8*i:], load(i))
	}
}
