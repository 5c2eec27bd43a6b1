package primary

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// buffers hands out aligned memory with a reference count, by powers of two from one block to maxPooled.
// What is larger is left to the collector.
type buffers struct {
	classes [maxPooledLog - blockLog + 1]sync.Pool
}

const (
	blockLog     = 12
	maxPooledLog = 20 // 1 MiB, one catch-up read
)

type buffer struct {
	b     []byte
	refs  atomic.Int32
	class *sync.Pool
}

func (p *buffers) get(n int) Payload {
	log := max(bits.Len(uint(n-1)), blockLog)
	if log > maxPooledLog {
		return allocHeap(n)
	}
	class := &p.classes[log-blockLog]
	b, _ := class.Get().(*buffer)
	if b == nil {
		b = &buffer{b: allocHeap(1 << log).Bytes(), class: class}
	}
	b.refs.Store(1)
	return b
}

// Bytes may be longer than what was asked for.
func (b *buffer) Bytes() []byte { return b.b }
func (b *buffer) Retain()       { b.refs.Add(1) }

func (b *buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n == 0:
		b.class.Put(b)
	case n < 0:
		panic("primary: a payload was released too often")
	}
}
