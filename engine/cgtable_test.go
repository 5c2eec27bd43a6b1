package engine

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// loneCGTable is a CG pointer table with a memory of its own.
type loneCGTable struct {
	*cgTable
	memory *tableMemory
}

func emptyCGTable(t rapid.TB) loneCGTable {
	t.Helper()
	memory := newTableMemory()
	table, err := newCGTable(&Volume{name: "v"}, 1, memory)
	if err != nil {
		memory.close()
		t.Fatal(err)
	}
	return loneCGTable{table, memory}
}

func (l loneCGTable) end() {
	l.free()
	l.memory.close()
}

// modelTable is what a CG pointer table says, without any cleverness.
type modelTable struct {
	said map[VBlock]logEntry // zero entry: reads as zeros
	next PBlock
}

// TestCGTableModel compares a table with a map over random puts and zeroes, small and large.
func TestCGTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := emptyCGTable(t)
		defer table.end()
		m := modelTable{said: map[VBlock]logEntry{}, next: 1}
		space := rapid.SampledFrom([]uint64{20, 3000, MaxVolumeBlocks}).Draw(t, "volume")
		block := rapid.Custom(func(t *rapid.T) VBlock { return VBlock(rapid.Uint64Range(0, space-1).Draw(t, "block")) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				b := block.Draw(t, "block")
				m.put(t, table.cgTable, b, rapid.Uint64().Draw(t, "sum"))
			},
			"burst": func(t *rapid.T) { // grows the index
				first, n, step := block.Draw(t, "first"), rapid.Uint64Range(1, 500).Draw(t, "n"), rapid.Uint64Range(1, 1<<27).Draw(t, "step")
				for i := range n {
					m.put(t, table.cgTable, VBlock((uint64(first)+i*step)%space), i*0x9e3779b97f4a7c15)
				}
			},
			"many": func(t *rapid.T) { // as a writer does: all are looked for before the first is put
				blocks := rapid.SliceOfN(block, 1, 40).Draw(t, "blocks")
				m.putMany(t, table.cgTable, append(blocks, blocks[0]))
			},
			"zero": func(t *rapid.T) {
				r := vrange{first: block.Draw(t, "first")}
				r.n = min(rapid.SampledFrom([]uint64{1, maxPointZeroes, maxPointZeroes + 1, 100, 2000}).Draw(t, "n"), space-uint64(r.first))
				m.zero(t, table.cgTable, r)
			},
			"": func(t *rapid.T) { m.compare(t, table.cgTable, space) },
		})
	})
}

func (m *modelTable) put(t *rapid.T, table *cgTable, b VBlock, sum uint64) {
	p := m.next
	m.next++
	old := m.said[b]
	_, superseded, err := table.put(b, p, sum)
	if err != nil || superseded != old.block {
		t.Fatalf("block %d superseded %d, want %d (%v)", b, superseded, old.block, err)
	}
	m.said[b] = logEntry{p, sum}
}

func (m *modelTable) putMany(t *rapid.T, table *cgTable, blocks []VBlock) {
	if err := table.reserve(len(blocks)); err != nil {
		t.Fatal(err)
	}
	slots := make([]uint64, len(blocks))
	for i, b := range blocks {
		slots[i] = table.find(b)
	}
	size := len(table.index)
	for i, b := range blocks {
		p := m.next
		m.next++
		old := m.said[b]
		if _, superseded, err := table.putFrom(slots[i], b, p, uint64(i)); err != nil || superseded != old.block {
			t.Fatalf("block %d superseded %d, want %d (%v)", b, superseded, old.block, err)
		}
		m.said[b] = logEntry{p, uint64(i)}
	}
	if len(table.index) != size || int(table.n) > size/4*3 {
		t.Fatalf("an index of %d slots, with room reserved, has %d now, of which %d are taken", size, len(table.index), table.n)
	}
}

// zero expects that every block of the CG in the range is given up exactly once.
func (m *modelTable) zero(t *rapid.T, table *cgTable, r vrange) {
	want := map[PBlock]int{}
	for b := r.first; b < r.end(); b++ {
		if p := m.said[b].block; p != 0 {
			want[p]++
		}
		m.said[b] = logEntry{}
	}
	got := map[PBlock]int{}
	if err := table.zero(r, func(p PBlock) { got[p]++ }); err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Fatalf("zero %+v gave up (-want +got)\n%s", r, d)
	}
}

func (m *modelTable) compare(t *rapid.T, table *cgTable, space uint64) {
	live := map[PBlock]bool{}
	for b, e := range m.said {
		got, found := table.lookup(b)
		if !found || got != e.entry() {
			t.Fatalf("block %d: %x %v, want %x", b, got, found, e.entry())
		}
		if e.block != 0 {
			live[e.block] = true
		}
		for _, near := range []VBlock{b - 1, b + 1} { // what was not said is not found
			if _, known := m.said[near]; !known && uint64(near) < space {
				if got, found := table.lookup(near); found {
					t.Fatalf("block %d: %x, of which the CG says nothing", near, got)
				}
			}
		}
	}
	named := map[PBlock]bool{}
	table.blocks(func(p PBlock) {
		if named[p] {
			t.Fatalf("physical block %d twice", p)
		}
		named[p] = true
	})
	if !maps.Equal(live, named) {
		t.Fatalf("%d blocks are named, want %d", len(named), len(live))
	}
	keys, err := table.sorted()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != int(table.n) {
		t.Fatalf("%d keys of %d entries", len(keys), table.n)
	}
	for i, k := range keys {
		b := VBlock(k >> posBits)
		if i > 0 && b <= VBlock(keys[i-1]>>posBits) {
			t.Fatalf("key %d: block %d after %d", i, b, keys[i-1]>>posBits)
		}
		if e := *table.at(uint32(k&posMask) - 1); e != m.said[b] {
			t.Fatalf("block %d: log entry %+v, want %+v", b, e, m.said[b])
		}
	}
}

// TestAddRange keeps a list of runs sorted, disjoint and without neighbours that touch.
func TestAddRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []vrange
		model := map[VBlock]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "ranges") {
			r := vrange{VBlock(rapid.Uint64Range(0, 200).Draw(t, "first")), rapid.Uint64Range(1, 20).Draw(t, "n")}
			list = addRange(list, r)
			for b := r.first; b < r.end(); b++ {
				model[b] = true
			}
		}
		var want []vrange
		for _, b := range slices.Sorted(maps.Keys(model)) {
			if n := len(want); n > 0 && want[n-1].end() == b {
				want[n-1].n++
			} else {
				want = append(want, vrange{b, 1})
			}
		}
		if d := gocmp.Diff(want, list, allowUnexported); d != "" {
			t.Fatal(d)
		}
	})
}

func TestRadixSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{0, 1, 2, 255, 256, 257, 5000}).Draw(t, "n")
		high := rapid.SampledFrom([]uint64{1, 1 << 11, 1<<11 + 1, 1 << 22, 1 << 36}).Draw(t, "blocks")
		seed := rapid.Uint64().Draw(t, "seed")
		keys := make([]uint64, n)
		for i := range keys { // positions tell equal blocks apart: the order among them stays
			seed = seed*6364136223846793005 + 1442695040888963407
			keys[i] = seed>>20%high<<posBits | uint64(i+1)
		}
		want := slices.Clone(keys)
		slices.SortStableFunc(want, func(a, b uint64) int { return cmp.Compare(a>>posBits, b>>posBits) })
		got, rest := radixSort(keys, make([]uint64, n))
		if !slices.Equal(want, got) {
			t.Fatalf("%d keys below %d are not sorted", n, high)
		}
		if len(rest) != n || n > 0 && &rest[0] == &got[0] {
			t.Fatal("what is left over is not the other slice")
		}
	})
}

// TestReserve: after it the index may fill up to its limit, however full it was before.
func TestReserve(t *testing.T) {
	table := emptyCGTable(t)
	defer table.end()
	for b := range VBlock(5000) {
		for _, n := range []int{128, 1} {
			if err := table.reserve(n); err != nil {
				t.Fatal(err)
			}
			if limit := len(table.index) / 4 * 3; int(table.n)+n > limit {
				t.Fatalf("%d blocks in an index for %d, with room for %d more", table.n, limit, n)
			}
		}
		if _, _, err := table.putFrom(table.find(b), b, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
}
