package alloc

import (
	"math/bits"
	"runtime"
	"sync/atomic"
)

// Extent is a reservation: the blocks of one extent that were free when it was made, perhaps without short runs of
// them. It belongs to one goroutine at a time. The zero value holds nothing; one value is used again and again, and
// allocates only at its first [Map.Reserve].
type Extent struct {
	m     *Map
	index uint64
	used  []atomic.Uint64 // the extent's part of Map.used
	free  []uint64        // what is still to take
	word  int             // no block to take is in a word before this one
	got   uint32          // blocks in the snapshot
	left  uint32          // blocks still to take
	taken uint32
}

// Reserve makes x the only holder of an extent that has free blocks: the next empty one after the last
// reserved, round the device; if there is none, one of the emptiest. It returns [ErrFull] if no extent without
// a holder has a free block. It panics if x holds an extent: that one would be lost.
func (m *Map) Reserve(x *Extent) error {
	if x.m != nil {
		panic("alloc: Reserve into an Extent that still holds one")
	}
	m.Start()
	for {
		quiet := m.ended.Load()
		e, ok := m.claim()
		if !ok {
			if m.begun.Load() == quiet {
				return ErrFull
			}
			runtime.Gosched() // an extent may be on its way from class to class
			continue
		}
		if m.snapshot(x, e); x.left > 0 {
			return nil
		}
		m.Return(x) // its free blocks are being retired at this moment
		runtime.Gosched()
	}
}

// claim finds and holds one extent.
func (m *Map) claim() (uint64, bool) {
	at := m.cursor.Load()
	for class := range m.hints {
		if e, ok := m.claimIn(class, at, ^uint64(0)); ok {
			return e, true
		}
		if e, ok := m.claimIn(class, 0, at); ok {
			return e, true
		}
	}
	return 0, false
}

func (m *Map) claimIn(class int, from, to uint64) (uint64, bool) {
	for {
		e, ok := m.hints[class].next(from)
		if !ok || e >= to {
			return 0, false
		}
		if m.hold(e, class) {
			m.cursor.Store(e + 1)
			return e, true
		}
		from = e + 1
	}
}

// hold makes the caller the holder, unless there is one or the extent is fuller than its hint says.
func (m *Map) hold(e uint64, class int) bool {
	for {
		word := m.words[e].Load()
		if m.classOf(word) > class {
			m.begun.Add(1)
			m.dropHint(e, class)
			m.ended.Add(1)
			return false
		}
		held := word + heldBit + m.extentBlocks
		if m.words[e].CompareAndSwap(word, held) {
			m.counts.held.Add(1)
			m.moved(e, word, held)
			return true
		}
	}
}

func (m *Map) snapshot(x *Extent, e uint64) {
	size := uint64(m.extentBlocks) / 64
	x.m, x.index, x.word, x.left, x.taken = m, e, 0, 0, 0
	x.used = m.used[e*size : (e+1)*size]
	if uint64(cap(x.free)) < size {
		x.free = make([]uint64, size)
	}
	x.free = x.free[:size]
	for w := uint64(0); w < size; w += pageWords {
		m.touch(e*size + w)
	}
	for i := range x.free {
		// In this order: a block being retired and released at once is clear in used for a
		// moment, but then set in retired before.
		free := ^x.used[i].Load()
		free &^= m.retiredIn(e*size + uint64(i))
		x.free[i] = free
		x.left += count(free)
	}
	x.sift()
	x.got = x.left
	m.counts.addUsed(e, int64(x.got))
	m.counts.reserved.Add(int64(x.got))
}

// fewLong: a share of 1/fewLong of the free blocks in long runs is enough to leave the short ones alone.
const fewLong = 8

// sift leaves short runs of free blocks out of the reservation, unless they are nearly all there is. Each run costs
// the holder a write of its own, and one that waits grows: where there is room enough its neighbours are released
// before it is needed. Measured with random updates over a pool half full: 10.8 blocks for each write instead of 9.4;
// with runs of 2 and 4 as the limit it is less.
func (x *Extent) sift() {
	n := x.longRuns(false)
	if n < x.left && n*fewLong >= x.left {
		x.longRuns(true)
		x.left = n
	}
}

// longRuns counts the free blocks in runs of at least three, which are worth a write of their own, and forgets the
// others if it is told to.
func (x *Extent) longRuns(only bool) (n uint32) {
	var before uint64 // where in the word before such a run can start
	for i, free := range x.free {
		var next uint64
		if i+1 < len(x.free) {
			next = x.free[i+1]
		}
		start := free & (free>>1 | next<<63) & (free>>2 | next<<62)
		in := start | start<<1 | before>>63 | start<<2 | before>>62
		before = start
		n += count(in)
		if only {
			x.free[i] = in
		}
	}
	return n
}

// Take makes the next run of consecutive free blocks used, at most limit of them. With n == 0
// the extent is used up (or limit is 0, or x holds nothing).
func (x *Extent) Take(limit uint32) (first uint64, n uint32) {
	for n < limit && x.left > 0 {
		free := x.free[x.word]
		if free == 0 {
			x.word++
			continue
		}
		at := uint64(bits.TrailingZeros64(free))
		block := x.First() + uint64(x.word)<<6 + at
		if n > 0 && block != first+uint64(n) {
			break
		}
		run := uint64(bits.TrailingZeros64(^(free >> at)))
		mask := runMask(at, min(run, uint64(limit-n)))
		if lost := x.set(mask); lost != 0 {
			x.forget(lost)
			continue
		}
		x.forget(mask)
		if n == 0 {
			first = block
		}
		n += count(mask)
	}
	x.taken += n
	return first, n
}

// set sets the bits of mask in the current word, or, if some were retired meanwhile, none and returns those.
func (x *Extent) set(mask uint64) (lost uint64) {
	word := &x.used[x.word]
	for {
		old := word.Load()
		if old&mask != 0 {
			return old & mask
		}
		if word.CompareAndSwap(old, old|mask) {
			return 0
		}
	}
}

func (x *Extent) forget(mask uint64) {
	x.free[x.word] &^= mask
	x.left -= count(mask)
}

// First is the first block of the extent, free or not. Only while x holds one.
func (x *Extent) First() uint64 { return x.index << x.m.extentShift }

// Free is the number of blocks still to take.
func (x *Extent) Free() uint32 { return x.left }

// Return ends the reservation. Blocks not taken stay free and can be reserved by
// anybody. It does nothing if x holds no extent, and panics if x was reserved from another map.
func (m *Map) Return(x *Extent) {
	if x.m == nil {
		return
	}
	if x.m != m {
		panic("alloc: Return of an Extent to a map it is not of")
	}
	m.counts.addUsed(x.index, int64(x.taken)-int64(x.got))
	m.counts.reserved.Add(-int64(x.got))
	m.counts.held.Add(-1)
	delta := x.taken - m.extentBlocks - heldBit
	now := m.words[x.index].Add(delta)
	m.moved(x.index, now-delta, now)
	x.m, x.used, x.left, x.got, x.taken = nil, nil, 0, 0, 0
}
