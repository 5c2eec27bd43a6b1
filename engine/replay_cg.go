package engine

import (
	"fmt"
	"unsafe"
)

// building is a CG of which parts were replayed. Most CGs of a journal are final before it ends, and nobody looks
// anything up in them: their entries are kept as they come, which is in table order, and go straight into the pointer
// tables. Only a CG that is not final when the journal has ended gets an index.
type building struct {
	live    *liveCG
	memory  *replayMemory
	entries uint64 // and ranges, whether their volume is still there or not
	tables  []*replayedTable
}

// replayedTable is the part of a CG that is of one volume.
type replayedTable struct {
	vol    *Volume
	n      int
	chunks [][]replayedEntry // all but the last are full
	zeroed []vrange          // sorted, disjoint; the entries lie above them
}

type replayedEntry struct {
	at VBlock
	logEntry
}

// replayChunk is 12 KiB of entries.
const replayChunk = 512

const replayChunkBytes = replayChunk * uint64(unsafe.Sizeof(replayedEntry{}))

// replayMemory holds the entries of replayed CGs until they are folded; what one CG has used serves the next.
type replayMemory struct {
	regions []*region
	free    [][]replayedEntry
}

// replayRegion is mapped at once.
const replayRegion = 64 << 20

func (m *replayMemory) get() ([]replayedEntry, error) {
	if n := len(m.free); n > 0 {
		c := m.free[n-1]
		m.free = m.free[:n-1]
		return c, nil
	}
	if n := len(m.regions); n == 0 || m.regions[n-1].left() < replayChunkBytes {
		r, err := newRegion(replayRegion)
		if err != nil {
			return nil, err
		}
		m.regions = append(m.regions, r)
	}
	b := m.regions[len(m.regions)-1].take(replayChunkBytes)
	return unsafe.Slice((*replayedEntry)(unsafe.Pointer(&b[0])), replayChunk), nil
}

func (m *replayMemory) close() {
	for _, r := range m.regions {
		r.close()
	}
	m.regions, m.free = nil, nil
}

// drop forgets a CG's entries.
func (b *building) drop() {
	for _, t := range b.tables {
		t.drop(b.memory)
	}
	b.tables = nil
}

func (t *replayedTable) drop(m *replayMemory) {
	m.free = append(m.free, t.chunks...)
	t.chunks, t.n, t.zeroed = nil, 0, nil
}

func (b *building) table(v *Volume) *replayedTable {
	for _, t := range b.tables {
		if t.vol == v {
			return t
		}
	}
	t := &replayedTable{vol: v}
	b.tables = append(b.tables, t)
	return t
}

// add takes over the entries of a PART.
func (t *replayedTable) add(rec *record, m *replayMemory) error {
	blocks := t.vol.table.blocks()
	for left := rec.body; len(left) > 0; {
		if t.n%replayChunk == 0 {
			c, err := m.get()
			if err != nil {
				return err
			}
			t.chunks = append(t.chunks, c)
		}
		room := t.chunks[len(t.chunks)-1][t.n%replayChunk:]
		n := min(len(room), len(left)/partEntrySize)
		for i := range n {
			rel, e, _ := partEntryAt(left, i)
			at := rec.base + VBlock(rel)
			if uint64(at) >= blocks {
				return t.vol.checkRange(at, 1)
			}
			room[i] = replayedEntry{at, e}
		}
		t.n += n
		left = left[n*partEntrySize:]
	}
	return nil
}

// addRanges takes over the ranges of ZEROES.
func (t *replayedTable) addRanges(rec *record) error {
	for i := range len(rec.body) / rangeSize {
		x := rangeAt(rec.body, i)
		if err := t.vol.checkRange(x.first, x.n); err != nil {
			return err
		}
		t.zeroed = addRange(t.zeroed, x)
	}
	return nil
}

// each calls f for runs of entries in their order.
func (t *replayedTable) each(f func([]replayedEntry) error) error {
	left := t.n
	for _, c := range t.chunks {
		n := min(left, replayChunk)
		if err := f(c[:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// foldNow puts a CG into the pointer tables while a pool opens: nothing reads, and nothing is released
// because the bitmap is derived afterwards.
func foldNow(l *liveCG) error {
	for _, t := range l.replayed.tables {
		base := t.vol.table
		for _, x := range t.zeroed {
			for b := x.first; b < x.end(); b++ {
				if next := base.skipUnused(b); next != b {
					b = min(next, x.end()) - 1
					continue
				}
				base.set(b, 0)
			}
		}
		if err := t.each(base.setAll); err != nil {
			return err
		}
	}
	l.replayed.drop()
	return nil
}

// index makes the CG pointer tables of a CG that is complete and not final.
func (b *building) index(mem *tableMemory) error {
	for _, t := range b.tables {
		table, err := newCGTableFor(t.vol, b.live.cg, mem, t.n)
		if err != nil {
			return err
		}
		b.live.tables = append(b.live.tables, table)
		table.zeroed = t.zeroed
		if err := t.each(func(run []replayedEntry) error {
			for _, e := range run {
				if _, _, err := table.put(e.at, e.block, e.sum); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("index of CG %d: %w", b.live.cg, err)
		}
	}
	b.drop()
	return nil
}
