package primary

import "math/bits"

const (
	chunkBits  = 1 << 15 // blocks of one chunk: 128 MiB of volume, 4 KiB of bits
	chunkWords = chunkBits / 64
)

type chunk struct {
	words [chunkWords]uint64
	set   int // bits set
}

// bitmap is a set of block numbers. Chunks without a bit take no memory beyond a pointer, and
// neither do chunks with all bits (fullChunk): a first copy starts with every block set.
type bitmap struct {
	size   uint64 // bits
	count  uint64 // bits set
	chunks []*chunk
	free   *chunkPool
}

// chunkPool keeps chunks for reuse: a bitmap is built and dropped for every CG.
type chunkPool struct{ free []*chunk }

// fullChunk stands for a chunk with all bits set. It is never written to.
var fullChunk = func() *chunk {
	c := &chunk{set: chunkBits}
	for i := range c.words {
		c.words[i] = ^uint64(0)
	}
	return c
}()

func (p *chunkPool) get() *chunk {
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		*c = chunk{}
		return c
	}
	return new(chunk)
}

func (p *chunkPool) put(c *chunk) {
	if c != nil && c != fullChunk && len(p.free) < 4096 {
		p.free = append(p.free, c)
	}
}

func newBitmap(size uint64, pool *chunkPool) *bitmap {
	return &bitmap{size: size, chunks: make([]*chunk, (size+chunkBits-1)/chunkBits), free: pool}
}

func (b *bitmap) empty() bool { return b.count == 0 }

// writable gives chunk i for changes, made or copied if need be.
func (b *bitmap) writable(i uint64) *chunk {
	switch b.chunks[i] {
	case nil:
		b.chunks[i] = b.free.get()
	case fullChunk:
		c := b.free.get()
		*c = *fullChunk
		b.chunks[i] = c
	}
	return b.chunks[i]
}

// wordMask has the bits of [lo, hi) of a word's 64, 0 <= lo < hi <= 64.
func wordMask(lo, hi uint64) uint64 { return ^uint64(0) << lo & (^uint64(0) >> (64 - hi)) }

// words visits the words of chunk-relative bits [lo, hi).
func (c *chunk) eachWord(lo, hi uint64, f func(w *uint64, mask uint64)) {
	for lo < hi {
		end := min(hi, lo/64*64+64)
		f(&c.words[lo/64], wordMask(lo%64, end-lo/64*64))
		lo = end
	}
}

// eachChunk visits the chunks of [first, first+count) with the chunk-relative range.
func eachChunk(first, count uint64, f func(i, lo, hi uint64) bool) {
	for end := first + count; first < end; {
		i := first / chunkBits
		hi := min(end-i*chunkBits, chunkBits)
		if !f(i, first%chunkBits, hi) {
			return
		}
		first = i*chunkBits + hi
	}
}

// set adds [first, first+count).
func (b *bitmap) set(first, count uint64) {
	if count == 1 { // the usual case, without closures
		i := first / chunkBits
		if b.chunks[i] == fullChunk {
			return
		}
		c := b.writable(i)
		w, m := &c.words[first%chunkBits/64], uint64(1)<<(first%64)
		if *w&m == 0 {
			*w |= m
			c.set++
			b.count++
		}
		return
	}
	eachChunk(first, count, func(i, lo, hi uint64) bool {
		if old := b.chunks[i]; old == fullChunk {
			return true
		} else if hi-lo == chunkBits {
			if old != nil {
				b.count -= uint64(old.set)
			}
			b.free.put(old)
			b.chunks[i] = fullChunk
			b.count += chunkBits
			return true
		}
		c := b.writable(i)
		before := c.set
		c.eachWord(lo, hi, func(w *uint64, mask uint64) {
			c.set += bits.OnesCount64(mask &^ *w)
			*w |= mask
		})
		b.count += uint64(c.set - before)
		return true
	})
}

// clear removes [first, first+count).
func (b *bitmap) clear(first, count uint64) {
	if b.count == 0 {
		return
	}
	eachChunk(first, count, func(i, lo, hi uint64) bool {
		old := b.chunks[i]
		if old == nil {
			return true
		}
		if hi-lo == chunkBits {
			b.count -= uint64(old.set)
			b.drop(i)
			return true
		}
		c := b.writable(i)
		before := c.set
		c.eachWord(lo, hi, func(w *uint64, mask uint64) {
			c.set -= bits.OnesCount64(mask & *w)
			*w &^= mask
		})
		b.count -= uint64(before - c.set)
		if c.set == 0 {
			b.drop(i)
		}
		return true
	})
}

func (b *bitmap) drop(i uint64) {
	b.free.put(b.chunks[i])
	b.chunks[i] = nil
}

// reset removes everything.
func (b *bitmap) reset() {
	if b.count == 0 {
		return
	}
	for i := range b.chunks {
		b.drop(uint64(i))
	}
	b.count = 0
}

// setAll adds every block.
func (b *bitmap) setAll() { b.set(0, b.size) }

// has says whether block n is in the set.
func (b *bitmap) has(n uint64) bool {
	c := b.chunks[n/chunkBits]
	return c != nil && c.words[n%chunkBits/64]&(1<<(n%64)) != 0
}

// next finds the first block of the set in [from, end).
func (b *bitmap) next(from, end uint64) (uint64, bool) { return b.find(from, min(end, b.size), 0) }

// nextClear finds the first block not in the set in [from, end), or end.
func (b *bitmap) nextClear(from, end uint64) uint64 {
	end = min(end, b.size)
	if n, ok := b.find(from, end, ^uint64(0)); ok {
		return n
	}
	return end
}

// find is next (flip 0) and nextClear (flip all ones).
func (b *bitmap) find(from, end, flip uint64) (uint64, bool) {
	if flip == 0 && b.count == 0 {
		return 0, false
	}
	for from < end {
		i := from / chunkBits
		c := b.chunks[i]
		if (c == nil && flip == 0) || (c == fullChunk && flip != 0) {
			from = (i + 1) * chunkBits
			continue
		}
		if c == nil {
			return from, true
		}
		w := (c.words[from%chunkBits/64] ^ flip) >> (from % 64)
		if w == 0 {
			from = (from/64 + 1) * 64
			continue
		}
		from += uint64(bits.TrailingZeros64(w))
		return from, from < end
	}
	return 0, false
}

// or adds every block of o, a bitmap of the same size.
func (b *bitmap) or(o *bitmap) {
	if o.count == 0 {
		return
	}
	for i, oc := range o.chunks {
		bc := b.chunks[i]
		switch {
		case oc == nil || bc == fullChunk:
		case oc == fullChunk:
			if bc != nil {
				b.count -= uint64(bc.set)
				b.free.put(bc)
			}
			b.chunks[i] = fullChunk
			b.count += chunkBits
		default:
			b.orChunk(uint64(i), oc)
		}
	}
}

func (b *bitmap) orChunk(i uint64, oc *chunk) {
	c := b.writable(i)
	before := c.set
	for w := range c.words {
		c.set += bits.OnesCount64(oc.words[w] &^ c.words[w])
		c.words[w] |= oc.words[w]
	}
	b.count += uint64(c.set - before)
}

// orInto adds the bits to words, which hold 64 each.
func (b *bitmap) orInto(words []uint64) {
	for i, c := range b.chunks {
		if c == nil {
			continue
		}
		part := words[i*chunkWords : min((i+1)*chunkWords, len(words))]
		for w := range part {
			part[w] |= c.words[w]
		}
	}
}
