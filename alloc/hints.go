package alloc

import (
	"math/bits"
	"sync/atomic"
)

// hints is a set of extents as a bitmap with summary levels: bit i of level k+1 is set when word i of
// level k is not zero. It holds hints only: an extent's word decides, and a bit may be stale.
//
// Why no set bit is ever lost, at any level: a goroutine that turns a word from zero sets the summary bit afterwards; a
// goroutine that clears a summary bit looks at the word again afterwards. So either the clearer sees the new word and
// repairs the bit, or the setter comes after the clearer.
type hints struct {
	levels [][]atomic.Uint64 // any goroutine; the last level is one word
}

func newHints(a *arena, extents uint64) hints {
	var h hints
	for n := extents; ; {
		n = (n + 63) / 64
		h.levels = append(h.levels, a.words64(n))
		if n == 1 {
			return h
		}
	}
}

func (h *hints) set(i uint64) { h.setAt(0, i) }

func (h *hints) setAt(level int, i uint64) {
	for ; level < len(h.levels); level++ {
		bit := uint64(1) << (i & 63)
		if old := h.levels[level][i>>6].Or(bit); old != 0 {
			return
		}
		i >>= 6
	}
}

func (h *hints) clear(i uint64) {
	for level := range h.levels {
		word := &h.levels[level][i>>6]
		bit := uint64(1) << (i & 63)
		old := word.And(^bit)
		if level > 0 && h.levels[level-1][i].Load() != 0 {
			h.setAt(level, i)
			return
		}
		if old&^bit != 0 || old&bit == 0 {
			return
		}
		i >>= 6
	}
}

// next returns the first member not below from.
func (h *hints) next(from uint64) (uint64, bool) {
	level, i := 0, from
	for {
		words := h.levels[level]
		if i>>6 < uint64(len(words)) {
			if w := words[i>>6].Load() &^ (1<<(i&63) - 1); w != 0 {
				i = i&^63 + uint64(bits.TrailingZeros64(w))
				if level == 0 {
					return i, true
				}
				level, i = level-1, i<<6
				continue
			}
		}
		if level++; level == len(h.levels) {
			return 0, false
		}
		i = i>>6 + 1
	}
}

// fill makes 0..n-1 members. Only while nobody else uses the set.
func (h *hints) fill(n uint64) {
	for _, words := range h.levels {
		full := n / 64
		for i := range full {
			words[i].Store(^uint64(0))
		}
		if rest := n % 64; rest != 0 {
			words[full].Store(1<<rest - 1)
		}
		n = (n + 63) / 64
	}
}
