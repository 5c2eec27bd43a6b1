package engine

import (
	"math/bits"
	"slices"
	"sync/atomic"
	"unsafe"
)

// tablePageEntries is how many entries a table page holds on the device (see FORMAT.md).
const tablePageEntries = (BlockSize - tablePageHeader) / 8

// In memory a table page is so many leaves.
const (
	leavesOfPage = 4
	leafEntries  = tablePageEntries / leavesOfPage
	leafBytes    = leafEntries * 8
)

var _ [0]byte = [tablePageEntries % leavesOfPage]byte{}

// table is the pointer table of one volume as of the last folded CG.
//
// It has two levels. The directory says for each leaf, a run of 127 entries, where it is in memory; leaves are packed there in the
// order of their first use. So memory is dense whatever the volume is like: four of its leaves share a page of 4 KiB, huge pages can
// do no harm, and nothing is cleared that is not used. In a flat table a volume of which blocks are written here and there takes a page for each of
// them, which the kernel has to provide. A leaf is a quarter of a table page: with smaller ones the directory would cost more than they
// save.
//
// Entries are written by the control loop (fold) and read by any goroutine: atomic loads
// and stores. A leaf is published in the directory, and stays where it is. Everything else belongs to the control loop.
type table struct {
	size    uint64   // blocks
	dir     []uint32 // off heap; atomic access: 1 + the place of leaf i among the packed ones; 0: nothing was ever mapped there
	entries []uint64 // off heap; atomic access: all leaves, in order of first use
	memory  *region  // that the entries are in

	// pair[i] is 1 + the pair of slots in the table area that holds page i; 0: none yet. Off heap.
	pair  []uint32
	dirty []uint64 // bit i: page i differs from the newest checkpoint
}

func newTable(blocks uint64) (t *table, err error) {
	pages, leaves := tablePages(blocks), (blocks+leafEntries-1)/leafEntries
	t = &table{size: blocks, dirty: make([]uint64, (pages+63)/64)}
	if t.memory, err = newRegion(leaves * leafBytes); err != nil {
		return nil, err
	}
	t.entries = unsafe.Slice((*uint64)(unsafe.Pointer(&t.memory.mem[0])), leaves*leafEntries)
	if t.dir, err = mapSlice[uint32](leaves); err == nil {
		t.pair, err = mapSlice[uint32](pages)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	keepSmall(unsafe.Slice((*byte)(unsafe.Pointer(&t.dir[0])), len(t.dir)*4))
	keepSmall(unsafe.Slice((*byte)(unsafe.Pointer(&t.pair[0])), len(t.pair)*4))
	return t, nil
}

func tablePages(blocks uint64) uint64 { return (blocks + tablePageEntries - 1) / tablePageEntries }

func (t *table) close() {
	if t.memory != nil {
		t.memory.close()
	}
	unmapSlice(t.dir)
	unmapSlice(t.pair)
	*t = table{}
}

func (t *table) blocks() uint64 { return t.size }

// load returns the entry of a block; any goroutine may ask, and it takes no memory.
func (t *table) load(b VBlock) entry {
	leaf := uint64(b) / leafEntries
	place := uint64(atomic.LoadUint32(&t.dir[leaf]))
	if place == 0 {
		return 0
	}
	return entry(atomic.LoadUint64(&t.entries[(place-1-leaf)*leafEntries+uint64(b)]))
}

// set changes an entry. Control loop only, as all that follows.
func (t *table) set(b VBlock, e entry) {
	leaf := uint64(b) / leafEntries
	entries := t.change(leaf)
	atomic.StoreUint64(&entries[uint64(b)-leaf*leafEntries], uint64(e))
}

// setAll is set of many entries that come in table order, or nearly; while a pool opens, when nobody reads.
func (t *table) setAll(run []replayedEntry) error {
	var entries []uint64
	var first VBlock // of the leaf
	for _, e := range run {
		if uint64(e.at-first) >= uint64(len(entries)) {
			leaf := uint64(e.at) / leafEntries
			entries, first = t.change(leaf), VBlock(leaf*leafEntries)
		}
		entries[e.at-first] = uint64(e.entry())
	}
	return nil
}

// change returns the entries of a leaf, of which the page differs from now on from the newest checkpoint.
func (t *table) change(leaf uint64) []uint64 {
	page := leaf / leavesOfPage
	t.dirty[page/64] |= 1 << (page % 64)
	if t.dir[leaf] == 0 {
		place := uint32(t.memory.used / leafBytes)
		t.memory.take(leafBytes)
		atomic.StoreUint32(&t.dir[leaf], place+1)
	}
	return t.leaf(leaf)
}

// leaf returns the entries of a leaf: fewer than leafEntries at the end of the volume, none if nothing was ever mapped there.
func (t *table) leaf(leaf uint64) []uint64 {
	if t.dir[leaf] == 0 {
		return nil
	}
	at := uint64(t.dir[leaf]-1) * leafEntries
	return t.entries[at : at+min(leafEntries, t.size-leaf*leafEntries)]
}

// leaves is how many leaves the table has at most.
func (t *table) leaves() uint64 { return uint64(len(t.dir)) }

// loadPage takes the entries of a page over from the device, where its newest image is in that pair.
func (t *table) loadPage(page uint64, pair uint32, image []byte) {
	dirty := t.dirty[page/64]
	for leaf := page * leavesOfPage; leaf < min((page+1)*leavesOfPage, t.leaves()); leaf++ {
		if from := image[leaf%leavesOfPage*leafBytes:][:leafBytes]; !isZero(from) {
			entries := t.change(leaf)
			for i := range entries {
				entries[i] = le.Uint64(from[8*i:])
			}
		}
	}
	t.dirty[page/64] = dirty
	t.pair[page] = pair + 1
}

func isZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if le.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

// putPage writes the entries of a page as they stand to image, zeros where nothing was ever mapped.
func (t *table) putPage(page uint64, image []byte) {
	clear(image)
	for leaf := page * leavesOfPage; leaf < min((page+1)*leavesOfPage, t.leaves()); leaf++ {
		to := image[leaf%leavesOfPage*leafBytes:][:leafBytes]
		for i, e := range t.leaf(leaf) {
			le.PutUint64(to[8*i:], e)
		}
	}
}

// isDirty says whether an entry was set since the newest checkpoint began.
func (t *table) isDirty() bool {
	return slices.ContainsFunc(t.dirty, func(w uint64) bool { return w != 0 })
}

// used says whether an entry was ever set.
func (t *table) used() bool {
	return t.memory.used > 0 || t.isDirty() || slices.ContainsFunc(t.pair, func(p uint32) bool { return p != 0 })
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

// skipUnused returns b, or the first block of the next leaf if nothing was ever mapped on b's leaf.
func (t *table) skipUnused(b VBlock) VBlock {
	leaf := uint64(b) / leafEntries
	if t.dir[leaf] == 0 {
		return VBlock((leaf + 1) * leafEntries)
	}
	return b
}

// leafCursor remembers the leaf of a table that was looked at last: who works in table order looks many times at the same one.
type leafCursor struct {
	table   *table
	leaf    uint64
	first   VBlock   // of the leaf
	entries []uint64 // none if nothing was ever mapped there

	far, near uint64 // leaves that were asked for, see prefetch
}

// prefetch brings closer the entries of blocks that come soon after keys[at]: first the directory's word, then, when that is there,
// the entry. Without it whoever works on a sparse volume waits for both, one after the other.
func (c *leafCursor) prefetch(t *table, keys []uint64, at int) {
	if at += keysAhead; at >= len(keys) || t.leaves() < 1<<smallLeaves {
		return
	}
	if leaf := keys[at] >> posBits / leafEntries; leaf != c.far {
		c.far = leaf
		prefetch((*uint64)(unsafe.Pointer(&t.dir[leaf&^1])))
	}
	b := keys[at-keysAhead/2] >> posBits
	if leaf := b / leafEntries; leaf != c.near {
		c.near = leaf
		if place := uint64(t.dir[leaf]); place != 0 {
			prefetch(&t.entries[(place-1-leaf)*leafEntries+b])
		}
	}
}

// smallLeaves: a directory of fewer than 2^11 leaves stays in the processor's cache.
const smallLeaves = 11

func (c *leafCursor) load(t *table, b VBlock) entry {
	if c.table != t || uint64(b-c.first) >= uint64(len(c.entries)) {
		c.table, c.leaf = t, uint64(b)/leafEntries
		c.first, c.entries = VBlock(c.leaf*leafEntries), t.leaf(c.leaf)
		if c.entries == nil {
			return 0
		}
	}
	return entry(c.entries[b-c.first])
}

// set changes the entry that was loaded last.
func (c *leafCursor) set(b VBlock, e entry) {
	c.entries = c.table.change(c.leaf)
	atomic.StoreUint64(&c.entries[b-c.first], uint64(e))
}
