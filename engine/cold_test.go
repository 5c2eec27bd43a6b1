package engine

import "testing"

// TestLoadCold: what was mapped is found, before and after its page was written out; what never was reads as nothing.
func TestLoadCold(t *testing.T) {
	tab, err := newTable(3 * tablePageEntries)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.close()
	tab.entries[7] = 99 // nobody says so: a table page that was never used is not looked at
	if e := tab.loadCold(7); e != 0 {
		t.Errorf("entry %#x of a page that was never used", e)
	}
	const b = tablePageEntries + 1
	tab.set(b, 42)
	if e := tab.loadCold(b); e != 42 {
		t.Errorf("entry %#x, want 42: the page is dirty", e)
	}
	for _, page := range tab.takeDirty() {
		tab.pair[page] = 1
	}
	if e := tab.loadCold(b); e != 42 {
		t.Errorf("entry %#x, want 42: the page is on the device", e)
	}
	if e := tab.loadCold(2 * tablePageEntries); e != 0 {
		t.Errorf("entry %#x of a page that was never used", e)
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
