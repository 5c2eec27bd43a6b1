package primary

import (
	"sync"

	"github.com/cespare/xxhash/v2"
)

// BlockSize is the size of a virtual block in bytes.
const BlockSize = 4096

// Payload is memory that the host write and the connections share: it is not copied on its way.
// Bytes starts at an address aligned to 4096. Retain and Release may be called from any goroutine; the
// memory is reused once every Retain, and the one its maker holds, was released.
type Payload interface {
	Bytes() []byte
	Retain()
	Release()
}

// shared is a payload in the queues of one or more connections, with its checksums. The
// core counts refs under its own lock; sums are computed once, by the first sender that needs
// them, outside of that lock.
type shared struct {
	payload Payload
	data    []byte // whole blocks, part of payload.Bytes()
	refs    int

	mu     sync.Mutex
	summed bool     // guarded by mu
	sums   []uint64 // guarded by mu until summed, constant afterwards
}

// blockSums returns the XXH64 of each block of the payload.
func (s *shared) blockSums() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.summed {
		s.sums = s.sums[:0]
		for d := s.data; len(d) > 0; d = d[BlockSize:] {
			s.sums = append(s.sums, xxhash.Sum64(d[:BlockSize]))
		}
		s.summed = true
	}
	return s.sums
}

// sharedPool reuses shared values and the memory of their sums.
type sharedPool struct{ free []*shared }

// get wraps data, part of p. The first reference is the caller's.
func (sp *sharedPool) get(p Payload, data []byte) *shared {
	p.Retain()
	if n := len(sp.free); n > 0 {
		s := sp.free[n-1]
		sp.free = sp.free[:n-1]
		s.payload, s.data, s.refs, s.summed = p, data, 1, false
		return s
	}
	return &shared{payload: p, data: data, refs: 1}
}

func (sp *sharedPool) release(s *shared) {
	if s == nil {
		return
	}
	if s.refs--; s.refs > 0 {
		return
	}
	s.payload.Release()
	s.payload, s.data = nil, nil
	if len(sp.free) < 1<<14 && cap(s.sums) <= 256 {
		sp.free = append(sp.free, s)
	}
}

// zeroBlocks sets bit i of the result for every block i of data (at most 256) that is all zeros.
func zeroBlocks(data []byte) (z [4]uint64) {
	for i := 0; i*BlockSize < len(data); i++ {
		if allZero(data[i*BlockSize : (i+1)*BlockSize]) {
			z[i/64] |= 1 << (i % 64)
		}
	}
	return z
}

var zeroPage [BlockSize]byte

func allZero(b []byte) bool {
	// The first bytes tell for almost every block that holds data.
	return b[0] == 0 && b[len(b)-1] == 0 && string(b) == string(zeroPage[:len(b)])
}
