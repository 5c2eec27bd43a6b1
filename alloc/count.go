package alloc

import "sync/atomic"

const countCells = 32

// counters are changed once per call or per extent, never per block taken.
type counters struct {
	// used is the number of bits set, with those that holders may still take, without those past the
	// end of the pool. In cells, so that releasers of different extents do not meet.
	used [countCells]struct {
		atomic.Int64
		_ [56]byte
	}
	retired  atomic.Int64
	reserved atomic.Int64
	held     atomic.Int64
	empty    atomic.Int64
	full     atomic.Int64
}

func (c *counters) addUsed(extent uint64, n int64) { c.used[extent%countCells].Add(n) }

// Stats of a map, from counters: it costs the same whatever the size. Values are exact when no call is in
// progress; otherwise each is as of some moment during it.
type Stats struct {
	Blocks   uint64 // Used + Free + Retired
	Used     uint64 // taken, or reserved by a holder
	Free     uint64 // what further reservations could take
	Retired  uint64
	Reserved uint64 // what held extents had free when reserved; in Used, less what was released since

	ExtentBlocks uint32
	Extents      uint64
	ExtentsEmpty uint64 // no block used, no holder
	ExtentsHeld  uint64
	ExtentsFull  uint64 // no block free, no holder
}

// Stats returns what the counters say.
func (m *Map) Stats() Stats {
	m.Start()
	blocks, c := m.blocks, &m.counts
	var set int64
	for i := range c.used {
		set += c.used[i].Load()
	}
	retired := atMost(c.retired.Load(), blocks)
	used := atMost(set-int64(retired), blocks-retired)
	return Stats{
		Blocks: blocks, Used: used, Free: blocks - used - retired, Retired: retired,
		Reserved:     atMost(c.reserved.Load(), blocks),
		ExtentBlocks: m.extentBlocks,
		Extents:      m.extentsOf(blocks),
		ExtentsEmpty: atMost(c.empty.Load(), blocks),
		ExtentsHeld:  atMost(c.held.Load(), blocks),
		ExtentsFull:  atMost(c.full.Load(), blocks),
	}
}

// atMost keeps a sum that was read during changes within what can be.
func atMost(n int64, limit uint64) uint64 { return min(uint64(max(n, 0)), limit) }

// tally gathers the changes of one extent, so that a run costs one update per extent.
type tally struct {
	m      *Map
	extent uint64
	delta  int32
}

func (t *tally) add(w uint64, delta int32) {
	if e := t.m.extentOfWord(w); e != t.extent {
		t.flush()
		t.extent = e
	}
	t.delta += delta
}

func (t *tally) flush() {
	if t.delta != 0 {
		t.m.count(t.extent, t.delta)
		t.delta = 0
	}
}

// total gathers changes of many extents in the counter that all of them share.
type total struct {
	m      *Map
	extent uint64 // any of them: a counter's cell is chosen by it
	delta  int64
}

// add notes a change of an extent's bits, after it.
func (t *total) add(e uint64, delta int32) {
	t.extent = e
	t.delta += int64(delta)
	t.m.countExtent(e, delta)
}

func (t *total) flush() {
	if t.delta != 0 {
		t.m.counts.addUsed(t.extent, t.delta)
		t.delta = 0
	}
}

// count notes that delta more bits of an extent are set. The bits are changed before.
func (m *Map) count(e uint64, delta int32) {
	if !m.started.Load() {
		return // Start counts
	}
	m.counts.addUsed(e, int64(delta))
	m.countExtent(e, delta)
}

// countExtent is count without the counter of all bits that are set.
func (m *Map) countExtent(e uint64, delta int32) {
	now := m.words[e].Add(uint32(delta))
	m.moved(e, now-uint32(delta), now)
}

// moved follows one change of an extent's word with the counters and the hints. Each change is
// followed by its own call, after it, in any order with those of other changes.
func (m *Map) moved(e uint64, before, now uint32) {
	from, to := m.classOf(before), m.classOf(now)
	if from == to && from != noClass {
		return // most changes: also neither empty nor full, before or now
	}
	if d := is(to == 0) - is(from == 0); d != 0 {
		m.counts.empty.Add(d)
	}
	if d := is(m.isFull(now)) - is(m.isFull(before)); d != 0 {
		m.counts.full.Add(d)
	}
	if from == to {
		return
	}
	m.begun.Add(1)
	if to != noClass {
		m.hints[to].set(e)
	}
	if from != noClass {
		m.dropHint(e, from)
	}
	m.ended.Add(1)
}

// dropHint clears a hint that seemed wrong, looks again, and sets it again if it is right by now.
func (m *Map) dropHint(e uint64, class int) {
	m.hints[class].clear(e)
	if m.classOf(m.words[e].Load()) == class {
		m.hints[class].set(e)
	}
}

func (m *Map) isFull(word uint32) bool { return word&heldBit == 0 && word >= m.extentBlocks }

func is(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
