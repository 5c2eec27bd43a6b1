package alloc

import (
	"iter"
	"math/bits"
)

// spans yields the bitmap words that the blocks first..first+n-1 lie in, each with the mask of them.
func spans(first, n uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		for n > 0 {
			at := first & 63
			k := min(n, 64-at)
			if !yield(first>>6, runMask(at, k)) {
				return
			}
			first, n = first+k, n-k
		}
	}
}

// runMask has k bits (1..64) from bit at.
func runMask(at, k uint64) uint64 { return (^uint64(0) >> (64 - k)) << at }

// below cuts a mask off at the lowest bit of stop.
func below(mask, stop uint64) uint64 { return mask & (stop&-stop - 1) }

func firstBlock(w, mask uint64) uint64 { return w<<6 + uint64(bits.TrailingZeros64(mask)) }

func count(mask uint64) uint32 { return uint32(bits.OnesCount64(mask)) }
