package sim

import (
	"io"
	"math/bits"
	"sync"
	"unsafe"

	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// memory is what a run uses up and the next one uses again: without it a campaign spends most of its time on
// allocation. What a run has read from it is never left over from another one.
type memory struct {
	sectors  ringtest.Memory
	arenas   ring.Arenas
	volume   []byte                  // for reads of whole volumes
	payloads [classes]stock[payload] // by size
	frames   stock[frame]
}

// stock hands things out, and has all of them back when a run ends: those too that were lost with a process.
type stock[T any] struct {
	all  []*T
	free []*T
}

// get gives one that somebody used before, or nil.
func (s *stock[T]) get() *T {
	if len(s.free) == 0 {
		return nil
	}
	x := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return x
}

func (s *stock[T]) add(x *T) *T {
	s.all = append(s.all, x)
	return x
}

func (s *stock[T]) put(x *T) { s.free = append(s.free, x) }

func (s *stock[T]) recall() { s.free = append(s.free[:0], s.all...) }

// classes of payloads: powers of two of blocks.
const classes = 8

var memories = sync.Pool{New: func() any { return new(memory) }}

// release hands the memory to another run. Nothing may use it any more.
func (m *memory) release() {
	m.sectors.Reset()
	m.frames.recall()
	for i := range m.payloads {
		m.payloads[i].recall()
	}
	memories.Put(m)
}

// reading gives memory for n bytes, until the next call.
func (m *memory) reading(n int) []byte {
	if len(m.volume) < n {
		m.volume = aligned(n)
	}
	return m.volume[:n]
}

// payload is memory of a host's write, or of the primary's core.
type payload struct {
	m     *memory
	all   []byte
	b     []byte // what was asked for
	refs  int
	class int
}

// payload gives n bytes, a multiple of the block size, of arbitrary contents.
func (m *memory) payload(n int) *payload {
	blocks := n / primary.BlockSize
	class := bits.Len(uint(blocks - 1))
	if class >= classes {
		b := aligned(n)
		return &payload{b: b, refs: 1}
	}
	p := m.payloads[class].get()
	if p == nil {
		p = m.payloads[class].add(&payload{m: m, all: aligned(primary.BlockSize << class), class: class})
	}
	p.refs, p.b = 1, p.all[:n]
	return p
}

func (p *payload) Bytes() []byte { return p.b }
func (p *payload) Retain()       { p.refs++ }

// Release spoils what nobody may look at any more, so that somebody who does is noticed.
func (p *payload) Release() {
	p.refs--
	switch {
	case p.refs < 0:
		panic("a payload was released too often")
	case p.refs > 0 || p.m == nil:
		return
	}
	for at := 0; at < len(p.b); at += primary.BlockSize {
		copy(p.b[at:], "this memory was released")
	}
	p.m.payloads[p.class].put(p)
}

// frame gives an empty one.
func (m *memory) frame() *frame {
	f := m.frames.get()
	if f == nil {
		f = m.frames.add(&frame{})
	}
	f.bytes, f.whole = f.bytes[:0], true
	return f
}

// outbox collects what a wire.Writer writes.
type outbox struct{ f *frame }

func (o *outbox) Write(p []byte) (int, error) {
	o.f.bytes = append(o.f.bytes, p...)
	return len(p), nil
}

// feed is a stream of bytes that ends where it has none.
type feed struct{ b []byte }

func (f *feed) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// aligned gives memory that begins on a multiple of the block size.
func aligned(n int) []byte {
	b := make([]byte, n+primary.BlockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (primary.BlockSize - 1)
	return b[skip : skip+n : skip+n]
}
