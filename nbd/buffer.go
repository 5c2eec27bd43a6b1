package nbd

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Buffers live outside Go's heap, in anonymous mappings carved into pieces of one power of
// two. Facts that hold between calls:
//
//   - a piece is either in its slab's free list (references 0) or held (references >= 1);
//   - a slab is in its class's list exactly if it has a free piece;
//   - a slab without a held piece is unmapped when more than maxIdle bytes lie idle.

const (
	// BufferAlign is the alignment of every Buffer in memory, in bytes: enough for O_DIRECT.
	BufferAlign = 4096

	slabBytes  = 2 << 20  // one mapping, unless a single piece is larger
	maxIdle    = 64 << 20 // bytes kept mapped though nobody uses them
	minClass   = 12       // log2 of the smallest piece
	maxClass   = 32       // log2 of the largest piece
	classCount = maxClass - minClass + 1
)

// Buffer is a piece of page-aligned memory with a count of references. It starts with one.
type Buffer struct {
	mem  []byte // the whole piece
	n    int    // bytes in use; written by newBuffer only
	refs atomic.Int32
	slab *slab
}

// Bytes is the buffer's memory, of the length it was made with. It must not be used after
// the caller's reference was released.
func (b *Buffer) Bytes() []byte { return b.mem[:b.n:b.n] }

// Retain adds a reference. The caller must hold one.
func (b *Buffer) Retain() {
	if b.refs.Add(1) <= 1 {
		panic("nbd: Retain of a released buffer")
	}
}

// Release gives one reference back; the last one returns the memory to the pool.
func (b *Buffer) Release() {
	switch refs := b.refs.Add(-1); {
	case refs == 0:
		b.slab.class.put(b)
	case refs < 0:
		panic("nbd: Release of a released buffer")
	}
}

// slab is one mapping, carved into pieces of its class.
type slab struct {
	class *bufferClass
	mem   []byte
	free  []*Buffer // guarded by class.mu
	total int       // pieces
	index int       // place in class.partial, -1 if absent; guarded by class.mu
}

// bufferClass hands out pieces of one size.
type bufferClass struct {
	pool    *bufferPool
	piece   int // bytes
	mu      sync.Mutex
	partial []*slab // those with a free piece
}

// bufferPool is the process's buffers.
type bufferPool struct {
	classes [classCount]bufferClass
	inUse   atomic.Int64 // bytes held by users, in whole pieces
	mapped  atomic.Int64 // bytes mapped
}

var buffers = newBufferPool()

func newBufferPool() *bufferPool {
	p := &bufferPool{}
	for i := range p.classes {
		p.classes[i].pool = p
		p.classes[i].piece = 1 << (minClass + i)
	}
	return p
}

// NewBuffer returns a buffer of n bytes (at most 4 GiB) with one reference. Its contents
// are undefined. It panics if the system has no memory left, as make does.
func NewBuffer(n int) *Buffer { return buffers.get(n) }

func (p *bufferPool) get(n int) *Buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minClass) - minClass
	if class >= classCount {
		panic(fmt.Sprintf("nbd: a buffer of %d bytes is larger than %d", n, int64(1)<<maxClass))
	}
	b := p.classes[class].get()
	b.n = n
	b.refs.Store(1)
	return b
}

func (c *bufferClass) get() *Buffer {
	c.mu.Lock()
	if len(c.partial) == 0 {
		c.addSlab()
	}
	s := c.partial[len(c.partial)-1]
	b := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	if len(s.free) == 0 {
		c.drop(s)
	}
	c.mu.Unlock()
	c.pool.inUse.Add(int64(c.piece))
	return b
}

func (c *bufferClass) put(b *Buffer) {
	inUse := c.pool.inUse.Add(-int64(c.piece))
	s := b.slab
	c.mu.Lock()
	s.free = append(s.free, b)
	if s.index < 0 {
		s.index = len(c.partial)
		c.partial = append(c.partial, s)
	}
	idle := len(s.free) == s.total && c.pool.mapped.Load()-inUse > maxIdle
	if idle {
		c.drop(s)
		c.pool.mapped.Add(-int64(len(s.mem)))
	}
	c.mu.Unlock()
	if idle {
		if err := unmap(s.mem); err != nil {
			panic(fmt.Sprintf("nbd: munmap of a buffer slab: %v", err)) // only a wrong address can fail
		}
	}
}

// drop takes s out of the list of slabs with free pieces. c.mu is held.
func (c *bufferClass) drop(s *slab) {
	last := c.partial[len(c.partial)-1]
	c.partial[s.index], last.index = last, s.index
	c.partial = c.partial[:len(c.partial)-1]
	s.index = -1
}

// addSlab maps memory and carves it. c.mu is held.
func (c *bufferClass) addSlab() {
	size := max(slabBytes, c.piece)
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(fmt.Sprintf("nbd: no memory for %d bytes of buffers: %v", size, err))
	}
	c.pool.mapped.Add(int64(size))
	s := &slab{class: c, mem: mem, total: size / c.piece, index: len(c.partial)}
	s.free = make([]*Buffer, s.total)
	for i := range s.free {
		s.free[i] = &Buffer{mem: mem[i*c.piece : (i+1)*c.piece : (i+1)*c.piece], slab: s}
	}
	c.partial = append(c.partial, s)
}

func unmap(mem []byte) error { return unix.Munmap(mem) }
