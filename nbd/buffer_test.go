package nbd

import (
	"fmt"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// bufferBytes is how many bytes of buffers are held by somebody.
func bufferBytes() int64 { return buffers.inUse.Load() }

func TestBufferAlignment(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 65536, 2 << 20, 2<<20 + 1, 32 << 20} {
		b := NewBuffer(n)
		if len(b.Bytes()) != n || cap(b.Bytes()) != n {
			t.Errorf("%d bytes wanted, got %d of %d", n, len(b.Bytes()), cap(b.Bytes()))
		}
		if at := uintptr(unsafe.Pointer(unsafe.SliceData(b.mem))); at%BufferAlign != 0 {
			t.Errorf("%d bytes are at %#x", n, at)
		}
		b.Release()
	}
}

func TestBufferMisusePanics(t *testing.T) {
	for name, misuse := range map[string]func(*Buffer){
		"release": (*Buffer).Release,
		"retain":  (*Buffer).Retain,
	} {
		b := NewBuffer(1)
		b.Release()
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of a released buffer went unnoticed", name)
				}
			}()
			misuse(b)
		}()
		b.refs.Store(0)
	}
}

// Buffers that are held never overlap, the statistics are true, and idle memory is bounded.
func TestBufferPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newBufferPool()
		held := map[*Buffer]byte{}
		var inUse int64
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				n := rapid.IntRange(1, 1<<rapid.IntRange(0, 22).Draw(t, "bits")).Draw(t, "n")
				b := p.get(n)
				next++
				b.Bytes()[0], b.Bytes()[n-1] = next, next
				held[b] = next
				inUse += int64(len(b.mem))
			},
			"put": func(t *rapid.T) {
				for b := range held {
					delete(held, b)
					inUse -= int64(len(b.mem))
					b.Release()
					return
				}
			},
			"": func(t *rapid.T) {
				for b, v := range held {
					if got := b.Bytes(); got[0] != v || got[len(got)-1] != v {
						t.Fatalf("buffer of %d bytes was overwritten", len(got))
					}
				}
				if got := p.inUse.Load(); got != inUse {
					t.Fatalf("%d bytes in use, want %d", got, inUse)
				}
				if p.mapped.Load() < inUse {
					t.Fatalf("%d bytes mapped for %d in use", p.mapped.Load(), inUse)
				}
			},
		})
		for b := range held {
			b.Release()
		}
		if err := p.drain(); err != nil {
			t.Fatal(err)
		}
	})
}

// drain unmaps everything and checks that all of it was free.
func (p *bufferPool) drain() error {
	for i := range p.classes {
		c := &p.classes[i]
		for len(c.partial) > 0 {
			s := c.partial[0]
			if len(s.free) != s.total {
				return fmt.Errorf("%d of %d pieces of %d bytes are free", len(s.free), s.total, c.piece)
			}
			c.drop(s)
			p.mapped.Add(-int64(len(s.mem)))
			if err := unmap(s.mem); err != nil {
				return err
			}
		}
	}
	if n := p.mapped.Load(); n != 0 {
		return fmt.Errorf("%d bytes are still mapped", n)
	}
	return nil
}

func TestIdleBuffersAreUnmapped(t *testing.T) {
	p := newBufferPool()
	var held []*Buffer
	for range 3 * maxIdle / (1 << 20) {
		held = append(held, p.get(1<<20))
	}
	for _, b := range held {
		b.Release()
	}
	if n := p.mapped.Load(); n > maxIdle+slabBytes {
		t.Errorf("%d bytes stay mapped idle, limit %d", n, maxIdle)
	}
	if err := p.drain(); err != nil {
		t.Error(err)
	}
}
