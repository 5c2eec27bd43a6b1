package engine

import (
	"math/bits"
	"slices"
	"sync/atomic"
	"unsafe"
)

// tablePageEntries is how many entries a table page holds on the device (see FORMAT.md).
const tablePageEntries = (BlockSize - tablePageHeader) / 8

// In memory a table has leaves of so many entries, and branches of so many leaves. Both are powers of two; a table
// page is not a multiple of either.
const (
	leafEntries   = 32
	leafBytes     = leafEntries * 8
	branchLeaves  = 16
	branchEntries = branchLeaves * leafEntries
)

// branch says for each of its leaves where it is: 1 + its place among the packed ones; 0: nothing was ever mapped
// there. Atomic access.
type branch [branchLeaves]uint32

// table is the pointer table of one volume as of the last folded CG.
//
// It has three levels. The directory says for each run of 512 entries where its branch is, the branch for each run of
// 32 entries where the leaf is. Branches and leaves are packed in memory in the order of their first use. So memory
// is dense whatever the volume is like: 16 leaves share a page of 4 KiB, and nothing is cleared that is not used. In
// a flat table a volume of which blocks are written here and there takes a page for each of them, which the kernel
// has to provide. Smaller leaves would cost more in branches than they save.
//
// Entries are written by the control loop (fold) and read by any goroutine: atomic loads and stores. A leaf is
// published in its branch, a branch in the directory, and both stay where they are. Everything else belongs to the
// control loop.
type table struct {
	size     uint64   // blocks
	dir      []uint32 // off heap; atomic access: 1 + the place of branch i among the packed ones; 0: nothing was ever mapped there
	branches []branch // off heap; all branches, in order of first use
	entries  []uint64 // off heap; atomic access: all leaves, in order of first use

	branchMemory, leafMemory *region // that branches and entries are in

	// pair[i] is 1 + the pair of slots in the table area that holds page i; 0: none yet. Off heap.
	pair  []uint32
	dirty []uint64 // bit i: page i differs from the newest checkpoint
}

func newTable(blocks uint64) (t *table, err error) {
	pages, branches, leaves := tablePages(blocks), (blocks+branchEntries-1)/branchEntries, (blocks+leafEntries-1)/leafEntries
	t = &table{size: blocks, dirty: make([]uint64, (pages+63)/64)}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.leafMemory, err = newRegion(leaves * leafBytes); err != nil {
		return nil, err
	}
	t.entries = unsafe.Slice((*uint64)(unsafe.Pointer(&t.leafMemory.mem[0])), leaves*leafEntries)
	if t.branchMemory, err = newRegion(branches * uint64(unsafe.Sizeof(branch{}))); err != nil {
		return nil, err
	}
	t.branches = unsafe.Slice((*branch)(unsafe.Pointer(&t.branchMemory.mem[0])), branches)
	if t.dir, err = mapSlice[uint32](branches); err != nil {
		return nil, err
	}
	keepSmall(unsafe.Slice((*byte)(unsafe.Pointer(&t.dir[0])), len(t.dir)*4))
	if t.pair, err = mapSlice[uint32](pages); err != nil {
		return nil, err
	}
	keepSmall(unsafe.Slice((*byte)(unsafe.Pointer(&t.pair[0])), len(t.pair)*4))
	return t, nil
}

func tablePages(blocks uint64) uint64 { return (blocks + tablePageEntries - 1) / tablePageEntries }

func (t *table) close() {
	for _, r := range []*region{t.leafMemory, t.branchMemory} {
		if r != nil {
			r.close()
		}
	}
	unmapSlice(t.dir)
	unmapSlice(t.pair)
	*t = table{}
}

func (t *table) blocks() uint64 { return t.size }

// place finds the leaf of a block: 1 + its place among the packed ones; 0: nothing was ever mapped there.
func (t *table) place(b VBlock) uint64 {
	at := atomic.LoadUint32(&t.dir[b/branchEntries])
	if at == 0 {
		return 0
	}
	return uint64(atomic.LoadUint32(&t.branches[at-1][b/leafEntries%branchLeaves]))
}

// load returns the entry of a block; any goroutine may ask, and it takes no memory.
func (t *table) load(b VBlock) entry {
	place := t.place(b)
	if place == 0 {
		return 0
	}
	return entry(atomic.LoadUint64(&t.entries[(place-1)*leafEntries+uint64(b)%leafEntries]))
}

// set changes an entry. Control loop only, as all that follows.
func (t *table) set(b VBlock, e entry) {
	t.touch(b)
	atomic.StoreUint64(&t.grow(b)[b%leafEntries], uint64(e))
}

// setAll is set of many entries that come in table order, or nearly; while a pool opens, when nobody reads.
func (t *table) setAll(run []replayedEntry) error {
	var entries []uint64
	var first VBlock // of the leaf
	for _, e := range run {
		if uint64(e.at-first) >= uint64(len(entries)) {
			entries, first = t.grow(e.at), e.at&^(leafEntries-1)
		}
		t.touch(e.at)
		entries[e.at-first] = uint64(e.entry())
	}
	return nil
}

// touch notes that the page of a block differs from now on from the newest checkpoint.
func (t *table) touch(b VBlock) {
	page := b / tablePageEntries
	t.dirty[page/64] |= 1 << (page % 64)
}

// grow returns the entries of the leaf of a block, which it makes if there is none.
func (t *table) grow(b VBlock) []uint64 {
	at := t.dir[b/branchEntries]
	if at == 0 {
		size := uint64(unsafe.Sizeof(branch{}))
		at = uint32(t.branchMemory.used/size) + 1
		t.branchMemory.take(size)
		atomic.StoreUint32(&t.dir[b/branchEntries], at)
	}
	leaf := &t.branches[at-1][b/leafEntries%branchLeaves]
	if *leaf == 0 {
		place := uint32(t.leafMemory.used / leafBytes)
		t.leafMemory.take(leafBytes)
		atomic.StoreUint32(leaf, place+1)
	}
	return t.packed(uint64(*leaf))
}

// leaf returns the entries of the leaf of a block: none if nothing was ever mapped there. Those behind the end of the
// volume are 0.
func (t *table) leaf(b VBlock) []uint64 {
	if place := t.place(b); place != 0 {
		return t.packed(place)
	}
	return nil
}

func (t *table) packed(place uint64) []uint64 {
	return t.entries[(place-1)*leafEntries : place*leafEntries]
}

// loadPage takes the entries of a page over from the device, where its newest image is in that pair.
func (t *table) loadPage(page uint64, pair uint32, image []byte) {
	t.eachRun(page, func(b VBlock, n int, at int) {
		from := image[at*8:][:n*8]
		if isZero(from) {
			return
		}
		to := t.grow(b)[b%leafEntries:]
		for i := range n {
			to[i] = le.Uint64(from[8*i:])
		}
	})
	t.pair[page] = pair + 1
}

// eachRun calls f for the runs of entries of a page that are in one leaf: the first block, how many they are, and
// where they begin on the page.
func (t *table) eachRun(page uint64, f func(b VBlock, n int, at int)) {
	first := page * tablePageEntries
	end := min(first+tablePageEntries, t.size)
	for b := first; b < end; {
		n := min(leafEntries-b%leafEntries, end-b)
		f(VBlock(b), int(n), int(b-first))
		b += n
	}
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
	t.eachRun(page, func(b VBlock, n int, at int) {
		leaf := t.leaf(b)
		if leaf == nil {
			return
		}
		for i, e := range leaf[b%leafEntries:][:n] {
			le.PutUint64(image[(at+i)*8:], e)
		}
	})
}

// isDirty says whether an entry was set since the newest checkpoint began.
func (t *table) isDirty() bool {
	return slices.ContainsFunc(t.dirty, func(w uint64) bool { return w != 0 })
}

// used says whether an entry was ever set.
func (t *table) used() bool {
	return t.leafMemory.used > 0 || t.isDirty() || slices.ContainsFunc(t.pair, func(p uint32) bool { return p != 0 })
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

// skipUnused returns b, or the first block of the next leaf or branch if nothing was ever mapped on that of b.
func (t *table) skipUnused(b VBlock) VBlock {
	switch {
	case t.dir[b/branchEntries] == 0:
		return b&^(branchEntries-1) + branchEntries
	case t.place(b) == 0:
		return b&^(leafEntries-1) + leafEntries
	}
	return b
}

// leafCursor remembers the leaf of a table that was looked at last: who works in table order looks many times at the
// same one.
type leafCursor struct {
	table   *table
	first   VBlock   // of the leaf
	entries []uint64 // none if nothing was ever mapped there

	far, mid, near VBlock // what was asked for last, see prefetch
}

// prefetch fetches the entries of blocks that come soon after keys[at]: first the directory's word, then the branch's,
// then the entry. On a sparse volume these are three cache misses, one after the other.
func (c *leafCursor) prefetch(t *table, keys []uint64, at int) {
	if at += keysAhead; at >= len(keys) || t.size < smallTable {
		return
	}
	if b := VBlock(keys[at] >> posBits); b/branchEntries != c.far {
		c.far = b / branchEntries
		prefetch((*uint64)(unsafe.Pointer(&t.dir[c.far&^1])))
	}
	if b := VBlock(keys[at-keysAhead/3] >> posBits); b/leafEntries != c.mid {
		c.mid = b / leafEntries
		if at := t.dir[b/branchEntries]; at != 0 {
			prefetch((*uint64)(unsafe.Pointer(&t.branches[at-1])))
		}
	}
	if b := VBlock(keys[at-2*keysAhead/3] >> posBits); b/leafEntries != c.near {
		c.near = b / leafEntries
		if place := t.place(b); place != 0 {
			prefetch(&t.entries[(place-1)*leafEntries+uint64(b)%leafEntries])
		}
	}
}

// smallTable: what the table of a volume of fewer blocks takes stays in the processor's cache.
const smallTable = 1 << 18

func (c *leafCursor) load(t *table, b VBlock) entry {
	if c.table != t || uint64(b-c.first) >= uint64(len(c.entries)) {
		c.table, c.first, c.entries = t, b&^(leafEntries-1), t.leaf(b)
		if c.entries == nil {
			return 0
		}
	}
	return entry(c.entries[b-c.first])
}

// set changes the entry that was loaded last.
func (c *leafCursor) set(b VBlock, e entry) {
	c.table.touch(b)
	if c.entries == nil {
		c.entries = c.table.grow(b)
	}
	atomic.StoreUint64(&c.entries[b-c.first], uint64(e))
}
