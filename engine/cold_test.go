package engine

import (
	"testing"

	"pgregory.net/rapid"
)

// emptyTable is a pointer table of that many blocks. The caller closes it.
func emptyTable(t rapid.TB, blocks uint64) *table {
	t.Helper()
	tab, err := newTable(blocks)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestColdTable: leaves take memory in the order in which they are used first, and only then; looking takes none.
func TestColdTable(t *testing.T) {
	tab := emptyTable(t, 2*tablePageEntries-7)
	defer tab.close()
	if e := tab.load(7); e != 0 || tab.used() {
		t.Errorf("entry %#x of a leaf that was never used; used: %t", e, tab.used())
	}
	last := VBlock(tab.blocks() - 1)
	set := map[VBlock]entry{}
	for i, b := range []VBlock{last, 3, leafEntries, last - leafEntries} {
		set[b] = entry(40 + i)
		tab.set(b, set[b])
		if n := tab.leafMemory.used; n != uint64(i+1)*leafBytes {
			t.Errorf("after block %d: %d bytes are used", b, n)
		}
	}
	image := make([]byte, BlockSize-tablePageHeader)
	again := emptyTable(t, tab.blocks())
	defer again.close()
	for _, page := range tab.takeDirty() {
		tab.putPage(uint64(page), image)
		again.loadPage(uint64(page), page, image)
	}
	if again.isDirty() || again.leafMemory.used != tab.leafMemory.used {
		t.Errorf("read again: dirty: %t, %d bytes are used, %d were", again.isDirty(), again.leafMemory.used, tab.leafMemory.used)
	}
	var near leafCursor
	for b := range VBlock(tab.blocks()) {
		if e, f, g := tab.load(b), again.load(b), near.load(tab, b); e != set[b] || f != e || g != e {
			t.Errorf("block %d: entry %d, read again %d, in order %d, want %d", b, e, f, g, set[b])
		}
	}
}

// TestTableAgainstMap: a table holds what was set, says which pages differ, and is the same again from its pages, of which two
// neighbours may share a leaf.
func TestTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]uint64{1, leafEntries + 1, tablePageEntries, branchEntries + 1, 4*tablePageEntries - 3}).Draw(t, "size")
		tab := emptyTable(t, size)
		defer tab.close()
		again := emptyTable(t, size)
		defer again.close()
		want := map[VBlock]entry{}
		image := make([]byte, tablePageEntries*8)
		for range rapid.IntRange(0, 3).Draw(t, "checkpoints") {
			changed := map[uint32]bool{}
			for range rapid.IntRange(0, 20).Draw(t, "changes") {
				border := rapid.SampledFrom([]uint64{1, leafEntries, tablePageEntries, branchEntries, 2 * tablePageEntries, size}).Draw(t, "border")
				b := VBlock((border + rapid.Uint64Range(0, leafEntries).Draw(t, "behind") - 1) % size)
				want[b] = entry(rapid.Uint64().Draw(t, "entry"))
				tab.set(b, want[b])
				changed[uint32(b/tablePageEntries)] = true
			}
			for _, page := range tab.takeDirty() {
				if !changed[page] {
					t.Errorf("page %d is dirty", page)
				}
				delete(changed, page)
			}
			if len(changed) > 0 {
				t.Errorf("pages %v are not dirty", changed)
			}
		}
		for page := range tablePages(size) {
			tab.putPage(page, image)
			again.loadPage(page, uint32(page), image)
		}
		var near leafCursor
		var passed VBlock // what is before it is unused, skipUnused says
		for b := range VBlock(size) {
			if e, f, g := tab.load(b), again.load(b), near.load(tab, b); e != want[b] || f != e || g != e {
				t.Errorf("block %d: entry %#x, read again %#x, in order %#x, want %#x", b, e, f, g, want[b])
			}
			if want[b] != 0 && b < passed {
				t.Errorf("block %d: entry %#x, but it is passed over", b, want[b])
			}
			if next := tab.skipUnused(b); next != b {
				passed = max(passed, next)
			}
		}
	})
}

// TestCursor: changes through a cursor are seen by everybody, on leaves that were never used, too.
func TestCursor(t *testing.T) {
	tab := emptyTable(t, 3*leafEntries)
	defer tab.close()
	var at leafCursor
	for i, b := range []VBlock{5, 6, 2 * leafEntries, 7, leafEntries - 1, leafEntries} {
		if e := at.load(tab, b); e != 0 {
			t.Errorf("block %d: entry %d before it was set", b, e)
		}
		at.set(b, entry(i+1))
		if e, f := tab.load(b), at.load(tab, b); e != entry(i+1) || f != e {
			t.Errorf("block %d: entry %d, by the cursor %d, want %d", b, e, f, i+1)
		}
	}
	if pages := tab.takeDirty(); len(pages) != 1 {
		t.Errorf("dirty pages %v", pages)
	}
}

// TestOutgrownIndexIsNotKept: what a large table grew through is given back, but for the small ones.
func TestOutgrownIndexIsNotKept(t *testing.T) {
	c := emptyCGTable(t)
	defer c.end()
	for v := range VBlock(200_000) {
		if _, _, err := c.put(v, PBlock(v+1), uint64(v)); err != nil {
			t.Fatal(err)
		}
	}
	for bits := range c.memory.indexes {
		s := &c.memory.indexes[bits]
		if kept := len(s.free) > 0; kept != (bits >= minIndexBits && 1<<bits <= keptIndex) {
			t.Errorf("indexes of 2^%d slots: %d kept", bits, len(s.free))
		}
	}
	for v := range VBlock(200_000) {
		if e, ok := c.lookup(v); !ok || e.block() != PBlock(v+1) {
			t.Fatalf("block %d: %v, %t", v, e, ok)
		}
	}
}
