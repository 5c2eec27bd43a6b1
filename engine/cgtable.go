package engine

import (
	"fmt"
	"math/bits"
	"slices"
)

// cgTable is the CG pointer table of one volume: virtual block -> physical block and checksum for
// what one CG changed.
//
// It is an open-addressed index over an append-only log. An index slot is 8 bytes and
// holds the whole key, so that a probe touches one cache line and the log only on a hit. At the index's load of
// 3/8 to 3/4 an update costs 16 bytes of log and 11 to 21 of index.
//
// The writer of the volume fills it; once sealed it never changes and any goroutine may look up.
//
// A block written twice keeps its log position and its last location. Zeroed ranges are kept as ranges; a
// point entry inside one takes precedence (it is newer, or was itself zeroed).
type cgTable struct {
	vol *Volume
	cg  uint64
	mem *tableMemory

	index  []uint64 // off heap; 0 empty, else VBlock<<28 | log position + 1
	shift  uint     // 64 - log2(len(index))
	chunks [][]logEntry
	n      uint32   // entries in the log
	zeroed []vrange // sorted, disjoint, not touching
	order  []uint64 // off heap; what sorted returns, once it was asked for
}

// logEntry is the newest location of one virtual block in a CG. block 0: reads as zeros.
type logEntry struct {
	block PBlock
	sum   uint64
}

func (e logEntry) entry() entry { return makeEntry(e.block, e.sum) }

// vrange is a run of virtual blocks.
type vrange struct {
	first VBlock
	n     uint64
}

func (r vrange) end() VBlock { return r.first + VBlock(r.n) }

const (
	posBits      = 28
	posMask      = 1<<posBits - 1
	maxCGEntries = posMask - 1 // per volume and CG: 1 TiB of distinct blocks

	chunkBits    = 13
	chunkEntries = 1 << chunkBits
	minIndexBits = 9
	// A run of zeroes of up to this many blocks is kept as point entries.
	maxPointZeroes = 16
)

// keptIndex is how many slots an outgrown index may have to be kept for the next table. All that a large table grew
// through would be as much again as its index.
const keptIndex = 1 << 12

// smallChunks is how many chunks of a table's log are in small pages, of which only what is used takes memory: a huge
// page that is hardly used shall not make a small CG take more than 48 bytes for each update (goal P8).
const smallChunks = 20

// tableMemory recycles the off-heap memory of CG pointer tables.
type tableMemory struct {
	first   slabs[logEntry]            // the first smallChunks of a table
	chunks  slabs[logEntry]            // the others: cut from huge pages
	indexes [posBits + 3]slabs[uint64] // by log2 of the size; for keys in table order too
}

func newTableMemory() *tableMemory {
	m := &tableMemory{first: slabs[logEntry]{size: chunkEntries}, chunks: slabs[logEntry]{size: chunkEntries, atOnce: hugeBytes / 16 / chunkEntries}}
	for i := range m.indexes {
		m.indexes[i].size = 1 << i
	}
	return m
}

func (m *tableMemory) close() {
	m.first.drain()
	m.chunks.drain()
	for i := range m.indexes {
		m.indexes[i].drain()
	}
}

// log is where chunk i of a table comes from.
func (m *tableMemory) log(i int) *slabs[logEntry] {
	if i < smallChunks {
		return &m.first
	}
	return &m.chunks
}

func newCGTable(vol *Volume, cg uint64, mem *tableMemory) (*cgTable, error) {
	t := &cgTable{vol: vol, cg: cg, mem: mem}
	return t, t.resize(minIndexBits)
}

// newCGTableFor is newCGTable for n entries: the index does not grow on the way.
func newCGTableFor(vol *Volume, cg uint64, mem *tableMemory, n int) (*cgTable, error) {
	indexBits := uint(minIndexBits)
	for n > 1<<indexBits/4*3 {
		indexBits++
	}
	t := &cgTable{vol: vol, cg: cg, mem: mem}
	return t, t.resize(indexBits)
}

// free gives the memory back. Nobody may look up any more.
func (t *cgTable) free() {
	for i, c := range t.chunks {
		t.mem.log(i).put(c)
	}
	if t.index != nil {
		t.mem.indexes[64-t.shift].put(t.index)
	}
	t.dropOrder()
	t.chunks, t.index, t.n, t.zeroed = nil, nil, 0, nil
}

func (t *cgTable) at(pos uint32) *logEntry {
	return &t.chunks[pos>>chunkBits][pos&(chunkEntries-1)]
}

// prefetch brings b's place in the index closer: it is far away from whatever was used last, and an update
// computes a checksum before it needs it.
func (t *cgTable) prefetch(b VBlock) { prefetch(&t.index[t.home(b)]) }

// find is slot, and brings closer what the log has of b, if anything. It reads the index: prefetch that before.
func (t *cgTable) find(b VBlock) (slot uint64) {
	slot = t.slot(b)
	if s := t.index[slot]; s != 0 {
		prefetch(&t.at(uint32(s&posMask) - 1).sum)
	}
	return slot
}

// home is where b would stand in the index if nothing else were there.
func (t *cgTable) home(b VBlock) uint64 { return uint64(b) * 0x9E3779B97F4A7C15 >> t.shift }

// slot returns where b is in the index, or the empty slot where it belongs.
func (t *cgTable) slot(b VBlock) uint64 { return t.slotFrom(t.home(b), b) }

// slotFrom is slot for one who knows that b is not before i: nothing in the index ever moves but in resize.
func (t *cgTable) slotFrom(i uint64, b VBlock) uint64 {
	mask := uint64(len(t.index) - 1)
	for {
		s := t.index[i]
		if s == 0 || s>>posBits == uint64(b) {
			return i
		}
		i = (i + 1) & mask
	}
}

// reserve makes room in the index for n blocks more: until so many are put, it stays where it is.
func (t *cgTable) reserve(n int) error {
	for uint64(t.n)+uint64(n) > uint64(len(t.index))/4*3 {
		if err := t.resize(64 - t.shift + 1); err != nil {
			return err
		}
	}
	return nil
}

// put records that b is now at p. It returns the log position and, if the CG had
// placed b before, the block that it superseded.
func (t *cgTable) put(b VBlock, p PBlock, sum uint64) (pos uint32, superseded PBlock, err error) {
	if err := t.reserve(1); err != nil {
		return 0, 0, err
	}
	return t.putFrom(t.home(b), b, p, sum)
}

// putFrom is put where there is room in the index; from is what find returned since the last resize, or b's home.
func (t *cgTable) putFrom(from uint64, b VBlock, p PBlock, sum uint64) (pos uint32, superseded PBlock, err error) {
	i := t.slotFrom(from, b)
	if s := t.index[i]; s != 0 {
		pos = uint32(s&posMask) - 1
		e := t.at(pos)
		superseded = e.block
		*e = logEntry{p, sum}
		return pos, superseded, nil
	}
	if t.n>>chunkBits == uint32(len(t.chunks)) {
		if err := t.grow(); err != nil {
			return 0, 0, err
		}
	}
	pos = t.n
	*t.at(pos) = logEntry{p, sum}
	t.n++
	t.index[i] = uint64(b)<<posBits | uint64(pos+1)
	return pos, 0, nil
}

func (t *cgTable) grow() error {
	if t.n >= maxCGEntries {
		return fmt.Errorf("volume %s: CG %d has more than %d blocks", t.vol.name, t.cg, maxCGEntries)
	}
	c, err := t.mem.log(len(t.chunks)).get()
	if err != nil {
		return err
	}
	t.chunks = append(t.chunks, c)
	return nil
}

func (t *cgTable) resize(bits uint) error {
	if bits >= uint(len(t.mem.indexes)) {
		return fmt.Errorf("volume %s: CG %d has too many blocks", t.vol.name, t.cg)
	}
	index, err := t.mem.indexes[bits].get()
	if err != nil {
		return err
	}
	clear(index)
	old, oldShift := t.index, t.shift
	t.index, t.shift = index, 64-bits
	for _, s := range old {
		if s != 0 {
			t.index[t.slot(VBlock(s>>posBits))] = s
		}
	}
	switch {
	case len(old) > keptIndex:
		t.mem.indexes[64-oldShift].drop(old)
	case old != nil:
		t.mem.indexes[64-oldShift].put(old)
	}
	return nil
}

// zero records that a run reads as zeros from now on, and calls dead for each block
// of this CG that the run supersedes.
func (t *cgTable) zero(r vrange, dead func(PBlock)) error {
	if r.n <= maxPointZeroes {
		for b := r.first; b < r.end(); b++ {
			_, old, err := t.put(b, 0, 0)
			if err != nil {
				return err
			}
			if old != 0 {
				dead(old)
			}
		}
		return nil
	}
	t.zeroPoints(r, dead)
	t.zeroed = addRange(t.zeroed, r)
	return nil
}

// zeroPoints turns the point entries in r to zero: by probing, or by one walk over the index
// when the run is longer than that.
func (t *cgTable) zeroPoints(r vrange, dead func(PBlock)) {
	drop := func(slot uint64) {
		e := t.at(uint32(slot&posMask) - 1)
		if e.block != 0 {
			dead(e.block)
		}
		*e = logEntry{}
	}
	if r.n < uint64(t.n) {
		for b := r.first; b < r.end(); b++ {
			if s := t.index[t.slot(b)]; s != 0 {
				drop(s)
			}
		}
		return
	}
	for _, s := range t.index {
		if b := VBlock(s >> posBits); s != 0 && b >= r.first && b < r.end() {
			drop(s)
		}
	}
}

// lookup returns what the CG says of b; found is false if it says nothing.
func (t *cgTable) lookup(b VBlock) (e entry, found bool) {
	if t.n > 0 {
		if s := t.index[t.slot(b)]; s != 0 {
			return t.at(uint32(s&posMask) - 1).entry(), true
		}
	}
	if len(t.zeroed) > 0 {
		_, ok := slices.BinarySearchFunc(t.zeroed, b, func(r vrange, b VBlock) int {
			switch {
			case b < r.first:
				return 1
			case b >= r.end():
				return -1
			}
			return 0
		})
		return 0, ok
	}
	return 0, false
}

// forKeys is where memory for n keys comes from.
func (m *tableMemory) forKeys(n int) *slabs[uint64] {
	return &m.indexes[max(minIndexBits, bits.Len(uint(n-1)))]
}

func (t *cgTable) dropOrder() {
	if t.order != nil {
		t.mem.forKeys(cap(t.order)).put(t.order[:cap(t.order)])
		t.order = nil
	}
}

// sorted returns the keys (VBlock<<28 | position + 1) in table order. They are the table's, and right until a block
// is new in it. Control loop only, or whoever else has the table alone.
func (t *cgTable) sorted() ([]uint64, error) {
	if len(t.order) == int(t.n) {
		return t.order, nil
	}
	t.dropOrder()
	from := t.mem.forKeys(int(t.n))
	keys, err := from.get()
	if err != nil {
		return nil, err
	}
	spare, err := from.get()
	if err != nil {
		from.put(keys)
		return nil, err
	}
	i := 0
	for _, s := range t.index {
		if s != 0 {
			keys[i] = s
			i++
		}
	}
	t.order, spare = radixSort(keys[:i], spare[:i])
	from.put(spare[:cap(spare)])
	return t.order, nil
}

// keysAhead is how many keys before its turn an entry of the log is asked for: in table order they are far from each
// other.
const keysAhead = 16

// prefetchKey brings closer what the log has for a key that comes soon after keys[at].
func (t *cgTable) prefetchKey(keys []uint64, at int) {
	if at += keysAhead; at < len(keys) {
		prefetch(&t.at(uint32(keys[at]&posMask) - 1).sum)
	}
}

// radixSort sorts keys by their virtual block, least significant digit first; the digits above the largest block are
// not visited. The result is in one of both slices, which are as long as each other; it returns that one, and the
// other.
func radixSort(keys, spare []uint64) (sorted, rest []uint64) {
	const digit = 11
	if len(keys) < 256 {
		slices.Sort(keys)
		return keys, spare
	}
	var all uint64
	for _, k := range keys {
		all |= k
	}
	for shift := posBits; shift < bits.Len64(all); shift += digit {
		var count [1<<digit + 1]uint32
		for _, k := range keys {
			count[k>>shift&(1<<digit-1)+1]++
		}
		for i := 1; i < len(count); i++ {
			count[i] += count[i-1]
		}
		for _, k := range keys {
			d := k >> shift & (1<<digit - 1)
			spare[count[d]] = k
			count[d]++
		}
		keys, spare = spare, keys
	}
	return keys, spare
}

// blocks calls f for every physical block the table names.
func (t *cgTable) blocks(f func(PBlock)) {
	for pos := uint32(0); pos < t.n; pos++ {
		if p := t.at(pos).block; p != 0 {
			f(p)
		}
	}
}

// addRange inserts r into a sorted list of disjoint runs, merging what touches.
func addRange(list []vrange, r vrange) []vrange {
	lo, _ := slices.BinarySearchFunc(list, r.first, func(x vrange, b VBlock) int {
		if x.end() < b {
			return -1
		}
		return 1
	})
	hi := lo
	end := r.end()
	for hi < len(list) && list[hi].first <= end {
		r.first = min(r.first, list[hi].first)
		end = max(end, list[hi].end())
		hi++
	}
	r.n = uint64(end - r.first)
	return slices.Replace(list, lo, hi, r)
}
