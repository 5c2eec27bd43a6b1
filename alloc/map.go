package alloc

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// MaxBlocks is the largest pool, in blocks: a pointer has 36 bits for the physical block.
	MaxBlocks = 1 << 36
	// DefaultExtentBlocks is 4 MiB of 4 KiB blocks.
	DefaultExtentBlocks = 1024
	// MinExtentBlocks is one word of the bitmap. Below 512 blocks, extents share cache lines.
	MinExtentBlocks = 64
	// MaxExtentBlocks bounds the snapshot that a holder keeps (128 KiB).
	MaxExtentBlocks = 1 << 20
)

// classes: 0 holds the empty extents, 1..partClasses the partly used ones by occupancy.
// Full and held extents are in none (noClass).
const (
	partClasses = 16
	classes     = 1 + partClasses
	noClass     = classes
)

// heldBit of an extent's word says that it has a holder. See [Map.words].
const heldBit = 1 << 31

// Options of a map. All counts are in physical blocks.
type Options struct {
	Blocks       uint64 // size of the pool, 1..MaxBlocks
	ExtentBlocks uint32 // a power of two, MinExtentBlocks..MaxExtentBlocks; 0: DefaultExtentBlocks

	onHeap bool // tests: let the race detector see the memory
}

func (o *Options) validate() error {
	if o.ExtentBlocks == 0 {
		o.ExtentBlocks = DefaultExtentBlocks
	}
	e := o.ExtentBlocks
	if e < MinExtentBlocks || e > MaxExtentBlocks || bits.OnesCount32(e) != 1 {
		return fmt.Errorf("alloc: extents of %d blocks: want a power of two from %d to %d",
			e, MinExtentBlocks, MaxExtentBlocks)
	}
	if o.Blocks == 0 || o.Blocks > MaxBlocks {
		return fmt.Errorf("alloc: %d blocks: want 1 to %d", o.Blocks, uint64(MaxBlocks))
	}
	return nil
}

// Map is the set of free blocks of one pool. Package documentation says who may call what when.
type Map struct {
	extentBlocks uint32
	extentShift  uint32
	blocks       uint64
	mem          []byte // the mapping all slices below lie in
	mapped       bool

	// used has one bit per block, set unless the block is free. It arbitrates: a block changes
	// hands by one compare-and-swap here. Bits past blocks are set as far as the last extent goes.
	used []atomic.Uint64
	// retired is a subset of used, except for the moments in which Retire or Release of the
	// same block is in progress: Retire sets retired first and used second, Release clears used first and
	// looks at retired second (and sets used again), so one of them sees the other.
	retired []atomic.Uint64
	// touched and spoiled have a bit per page of used that may be other than zero, and per page of
	// retired likewise: they keep untouched pages untouched.
	touched, spoiled []atomic.Uint64

	// words has one word per extent: heldBit, and below it the number of its bits in used, so
	// that 0 is empty. While the extent is held the number is too high by extentBlocks less what the holder
	// has taken; only the holder's Return corrects it, so that Take touches no word and no release can
	// bring the number below 0.
	words []atomic.Uint32
	// hints[c] holds every extent without holder of class c, when no call is in progress.
	hints [classes]hints

	// begun and ended count changes of hints. A search that found nothing is believed when no
	// change overlapped it: ended before it equals begun after it.
	begun, ended atomic.Uint64
	cursor       atomic.Uint64 // extent after the last one reserved

	starting sync.Mutex // held by start, and by Retire before it
	started  atomic.Bool
	counts   counters
}

// New makes a map with all blocks free. Memory is mapped, not touched: two bits per block and
// seven bytes per extent where it is in use.
func New(o Options) (*Map, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := &Map{
		extentBlocks: o.ExtentBlocks,
		extentShift:  uint32(bits.TrailingZeros32(o.ExtentBlocks)),
		blocks:       o.Blocks,
	}
	var sizes arena
	m.layOut(&sizes)
	if o.onHeap {
		m.mem = heapMemory(sizes.off)
	} else {
		mem, err := mapMemory(sizes.off)
		if err != nil {
			return nil, err
		}
		m.mem, m.mapped = mem, true
	}
	m.layOut(&arena{mem: m.mem})
	m.blockOut(o.Blocks)
	return m, nil
}

func (m *Map) layOut(a *arena) {
	extents := m.extentsOf(m.blocks)
	words := extents * uint64(m.extentBlocks) / 64
	pages := (words + pageWords - 1) / pageWords
	m.used = a.words64(words)
	m.retired = a.words64(words)
	m.touched = a.words64((pages + 63) / 64)
	m.spoiled = a.words64((pages + 63) / 64)
	m.words = a.words32(extents)
	for c := range m.hints {
		m.hints[c] = newHints(a, extents)
	}
}

// blockOut sets the bits from end to the end of its extent, so that a short last extent needs no
// special case elsewhere.
func (m *Map) blockOut(end uint64) {
	for w, mask := range spans(end, m.extentsOf(end)<<m.extentShift-end) {
		m.touch(w)
		m.used[w].Or(mask)
	}
}

// Close unmaps the memory. It refuses while extents are held, since their holders would
// fault; no other call may be in progress or follow.
func (m *Map) Close() error {
	if n := m.counts.held.Load(); n != 0 {
		return fmt.Errorf("alloc: close: %d extents are still held: return them first", n)
	}
	if m.mem == nil {
		return errors.New("alloc: close: the map is closed already")
	}
	mem, mapped := m.mem, m.mapped
	m.mem, m.used, m.retired, m.touched, m.spoiled, m.words = nil, nil, nil, nil, nil, nil
	m.hints = [classes]hints{}
	if !mapped {
		return nil
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("alloc: unmap the block bitmap: %w", err)
	}
	return nil
}

// Blocks is the size of the pool in blocks.
func (m *Map) Blocks() uint64 { return m.blocks }

func (m *Map) extentsOf(blocks uint64) uint64 {
	return (blocks + uint64(m.extentBlocks) - 1) >> m.extentShift
}

func (m *Map) extentOfWord(w uint64) uint64 { return w >> (m.extentShift - 6) }

// classOf says in which class an extent with this word belongs.
func (m *Map) classOf(word uint32) int {
	switch {
	case word == 0:
		return 0
	case word >= m.extentBlocks: // full, or held
		return noClass
	default:
		return 1 + int(word>>(m.extentShift-4))
	}
}

func (m *Map) touch(w uint64) { setPage(m.touched, w) }

func setPage(pages []atomic.Uint64, w uint64) {
	p := w / pageWords
	bit := uint64(1) << (p & 63)
	if pages[p>>6].Load()&bit == 0 {
		pages[p>>6].Or(bit)
	}
}

func hasPage(pages []atomic.Uint64, w uint64) bool {
	p := w / pageWords
	return pages[p>>6].Load()&(1<<(p&63)) != 0
}

// Used reports whether the block is taken or marked, and not retired.
func (m *Map) Used(b uint64) bool {
	return b < m.blocks && m.usedIn(b>>6)&(1<<(b&63)) != 0
}

func (m *Map) usedIn(w uint64) uint64 { return m.used[w].Load() &^ m.retiredIn(w) }

func (m *Map) retiredIn(w uint64) uint64 {
	if !hasPage(m.spoiled, w) {
		return 0
	}
	return m.retired[w].Load()
}

// checkRange finds the first block of the range that does not exist.
func (m *Map) checkRange(op string, first, n uint64) error {
	blocks := m.blocks
	if first <= blocks && n <= blocks-first {
		return nil
	}
	return &BlockError{Op: op, Block: max(first, blocks), Cause: ErrRange}
}
