package engine

import "testing"

// TestColdTable: leaves take memory in the order in which they are used first, and only then; looking takes none.
func TestColdTable(t *testing.T) {
	tab, err := newTable(2*tablePageEntries - 7)
	if err != nil {
		t.Fatal(err)
	}
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
	again, err := newTable(tab.blocks())
	if err != nil {
		t.Fatal(err)
	}
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

// TestCursor: changes through a cursor are seen by everybody, on leaves that were never used, too.
func TestCursor(t *testing.T) {
	tab, err := newTable(3 * leafEntries)
	if err != nil {
		t.Fatal(err)
	}
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
	mem := newTableMemory()
	defer mem.close()
	c, err := newCGTable(&Volume{name: "v"}, 1, mem)
	if err != nil {
		t.Fatal(err)
	}
	defer c.free()
	for v := range VBlock(200_000) {
		if _, _, err := c.put(v, PBlock(v+1), uint64(v)); err != nil {
			t.Fatal(err)
		}
	}
	for bits := range mem.indexes {
		s := &mem.indexes[bits]
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
