package alloc

import (
	"iter"
	"math/bits"
)

// Used reports whether the block is taken or marked, and not retired.
func (m *Map) Used(b uint64) bool {
	return b < m.blocks.Load() && m.usedIn(b>>6)&(1<<(b&63)) != 0
}

// Retired reports whether the block is retired.
func (m *Map) Retired(b uint64) bool {
	return b < m.blocks.Load() && m.retiredIn(b>>6)&(1<<(b&63)) != 0
}

// UsedRuns yields the runs of used blocks, ascending and as long as they are: first block and count. What
// changes meanwhile may or may not be seen.
func (m *Map) UsedRuns() iter.Seq2[uint64, uint64] { return m.runs(m.usedIn) }

// RetiredRuns yields the runs of retired blocks, as [Map.UsedRuns].
func (m *Map) RetiredRuns() iter.Seq2[uint64, uint64] { return m.runs(m.retiredIn) }

func (m *Map) usedIn(w uint64) uint64 { return m.used[w].Load() &^ m.retiredIn(w) }

func (m *Map) runs(wordAt func(uint64) uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		blocks := m.blocks.Load()
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
