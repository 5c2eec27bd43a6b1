package alloc

import (
	"fmt"
	"iter"
	"math/bits"
)

// verify checks every structure against the bitmap. No call may be in progress.
func (m *Map) verify() error {
	m.Start()
	blocks, size := m.blocks, uint64(m.extentBlocks)/64
	var set, empty, full, held, retired int64
	for e := range m.extentsOf(blocks) {
		var n uint32
		for w := e * size; w < (e+1)*size; w++ {
			used, ret := m.used[w].Load(), m.retired[w].Load()
			if ret&^used != 0 {
				return fmt.Errorf("word %d: retired %#x, but used %#x", w, ret, used)
			}
			if ret != 0 && !hasPage(m.spoiled, w) || used != 0 && !hasPage(m.touched, w) {
				return fmt.Errorf("word %d: its page is not noted", w)
			}
			n += count(used)
			retired += int64(count(ret))
		}
		set += int64(n)
		word := m.words[e].Load()
		if word&heldBit != 0 {
			held++
			continue
		}
		if word != n {
			return fmt.Errorf("extent %d: word says %d used, bitmap %d", e, word, n)
		}
		empty += is(n == 0)
		full += is(n == m.extentBlocks)
		if c := m.classOf(word); c != noClass && !m.hints[c].has(e) {
			return fmt.Errorf("extent %d, %d used: not reachable in class %d", e, n, c)
		}
	}
	set -= int64(m.extentsOf(blocks)<<m.extentShift - blocks)
	return m.verifyCounts(set, empty, full, held, retired)
}

func (m *Map) verifyCounts(set, empty, full, held, retired int64) error {
	for c := range m.hints {
		levels := m.hints[c].levels
		for k := range levels[:len(levels)-1] {
			for i := range levels[k] {
				if levels[k][i].Load() != 0 && levels[k+1][i>>6].Load()&(1<<(i&63)) == 0 {
					return fmt.Errorf("class %d: word %d of level %d is not in its summary", c, i, k)
				}
			}
		}
	}
	got := [...]int64{m.counts.empty.Load(), m.counts.full.Load(), m.counts.held.Load(), m.counts.retired.Load()}
	if want := [...]int64{empty, full, held, retired}; got != want {
		return fmt.Errorf("counters empty, full, held, retired: %d, want %d", got, want)
	}
	if m.begun.Load() != m.ended.Load() {
		return fmt.Errorf("a change of hints did not end: %d begun, %d ended", m.begun.Load(), m.ended.Load())
	}
	var used int64
	for i := range m.counts.used {
		used += m.counts.used[i].Load()
	}
	if held == 0 && (used != set || m.counts.reserved.Load() != 0) {
		return fmt.Errorf("counters say %d set, %d reserved; bitmap %d, 0", used, m.counts.reserved.Load(), set)
	}
	return nil
}

// has reports whether i is a member that next can reach.
func (h *hints) has(i uint64) bool {
	for _, words := range h.levels {
		if words[i>>6].Load()&(1<<(i&63)) == 0 {
			return false
		}
		i >>= 6
	}
	return true
}

// Retired reports whether the block is retired.
func (m *Map) Retired(b uint64) bool {
	return b < m.blocks && m.retiredIn(b>>6)&(1<<(b&63)) != 0
}

// UsedRuns yields the runs of used blocks, ascending and as long as they are: first block and count.
func (m *Map) UsedRuns() iter.Seq2[uint64, uint64] { return m.runs(m.usedIn) }

// RetiredRuns yields the runs of retired blocks, as [Map.UsedRuns].
func (m *Map) RetiredRuns() iter.Seq2[uint64, uint64] { return m.runs(m.retiredIn) }

func (m *Map) runs(wordAt func(uint64) uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		blocks := m.blocks
		var first, n uint64
		for w := m.nextTouched(0); w<<6 < blocks; {
			word := wordAt(w)
			if end := blocks - w<<6; end < 64 {
				word &= 1<<end - 1
			}
			for word != 0 {
				at := uint64(bits.TrailingZeros64(word))
				k := uint64(bits.TrailingZeros64(^(word >> at)))
				word &^= runMask(at, k)
				if b := w<<6 + at; n > 0 && b == first+n {
					n += k
					continue
				} else if n > 0 && !yield(first, n) {
					return
				}
				first, n = w<<6+at, k
			}
			if w++; w%pageWords == 0 {
				w = m.nextTouched(w)
			}
		}
		if n > 0 {
			yield(first, n)
		}
	}
}

// Held reports whether x holds an extent.
func (x *Extent) Held() bool { return x.m != nil }
