package engine

import (
	"math/bits"
	"slices"
	"sync/atomic"
)

// tablePageEntries is how many entries a table page holds on the device (see FORMAT.md).
const tablePageEntries = (BlockSize - tablePageHeader) / 8

// table is the pointer table of one volume as of the last folded CG.
//
// Entries are written by the control loop (fold) and read by any goroutine: atomic loads
// and stores. Everything else belongs to the control loop.
type table struct {
	entries []uint64 // off heap; atomic access
	// pair[i] is 1 + the pair of slots in the table area that holds page i; 0: none yet.
	pair  []uint32
	dirty []uint64 // bit i: page i differs from the newest checkpoint
}

func newTable(blocks uint64) (*table, error) {
	pages := tablePages(blocks)
	t := &table{dirty: make([]uint64, (pages+63)/64)}
	var err error
	if t.entries, err = mapSlice[uint64](blocks); err != nil {
		return nil, err
	}
	if t.pair, err = mapSlice[uint32](pages); err != nil {
		unmapSlice(t.entries)
		return nil, err
	}
	return t, nil
}

func tablePages(blocks uint64) uint64 { return (blocks + tablePageEntries - 1) / tablePageEntries }

func (t *table) close() {
	unmapSlice(t.entries)
	unmapSlice(t.pair)
	t.entries, t.pair = nil, nil
}

func (t *table) blocks() uint64 { return uint64(len(t.entries)) }

func (t *table) load(b VBlock) entry { return entry(atomic.LoadUint64(&t.entries[b])) }

// loadCold is load for the control loop: it touches no page of the table on which nothing was ever mapped.
func (t *table) loadCold(b VBlock) entry {
	page := uint64(b) / tablePageEntries
	if t.pair[page] == 0 && t.dirty[page/64]>>(page%64)&1 == 0 {
		return 0
	}
	return t.load(b)
}

// set changes an entry; fold only.
func (t *table) set(b VBlock, e entry) {
	atomic.StoreUint64(&t.entries[b], uint64(e))
	page := uint64(b) / tablePageEntries
	t.dirty[page/64] |= 1 << (page % 64)
}

// setAll is set of many entries that come in table order, or nearly; while a pool opens, when nobody reads.
func (t *table) setAll(run []replayedEntry) error {
	var entries []uint64
	var first VBlock // of the page
	for _, e := range run {
		if uint64(e.at-first) >= uint64(len(entries)) {
			page := uint64(e.at) / tablePageEntries
			t.dirty[page/64] |= 1 << (page % 64)
			entries, first = t.page(uint32(page)), VBlock(page*tablePageEntries)
		}
		entries[e.at-first] = uint64(e.entry())
	}
	return nil
}

// isDirty says whether an entry was set since the newest checkpoint began.
func (t *table) isDirty() bool {
	return slices.ContainsFunc(t.dirty, func(w uint64) bool { return w != 0 })
}

// used says whether an entry was ever set.
func (t *table) used() bool {
	if t.isDirty() {
		return true
	}
	for _, p := range t.pair {
		if p != 0 {
			return true
		}
	}
	return false
}

// takeDirty returns the numbers of the dirty pages in ascending order and marks them clean.
func (t *table) takeDirty() []uint32 {
	var pages []uint32
	for w, word := range t.dirty {
		for word != 0 {
			pages = append(pages, uint32(w*64+bits.TrailingZeros64(word)))
			word &= word - 1
		}
		t.dirty[w] = 0
	}
	return pages
}

// page returns the entries of a page: shorter than tablePageEntries at the end of the volume.
func (t *table) page(page uint32) []uint64 {
	lo := uint64(page) * tablePageEntries
	return t.entries[lo:min(lo+tablePageEntries, t.blocks())]
}

// skipUnused returns b, or the first block of the next page if nothing was ever mapped on b's page.
func (t *table) skipUnused(b VBlock) VBlock {
	page := uint64(b) / tablePageEntries
	if t.pair[page] == 0 && t.dirty[page/64]>>(page%64)&1 == 0 {
		return VBlock((page + 1) * tablePageEntries)
	}
	return b
}
