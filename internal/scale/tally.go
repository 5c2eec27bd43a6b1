package scale

import (
	"maps"
	"sync"

	"github.com/farside-storage/farside/wire"
)

// count is how many frames there were, and their bytes, headers included.
type count struct{ frames, bytes uint64 }

func (c *count) add(d count) { c.frames, c.bytes = c.frames+d.frames, c.bytes+d.bytes }

// tally counts frames by kind; those that belong to a CG by CG, too.
type tally struct {
	mu   sync.Mutex
	all  map[wire.Type]count
	byCG map[uint64]map[wire.Type]count
}

func newTally() *tally {
	return &tally{all: map[wire.Type]count{}, byCG: map[uint64]map[wire.Type]count{}}
}

// frame takes a frame's type, body and size into account. What cannot be decoded is left to whoever receives it.
func (t *tally) frame(kind wire.Type, body []byte, size uint64) {
	cg, belongs := uint64(0), false
	switch kind {
	case wire.TypeHello, wire.TypePing, wire.TypePong, wire.TypeUpdates, wire.TypeFence, wire.TypeQuery, wire.TypeState:
	default:
		if m, err := wire.Decode(kind, body); err == nil {
			cg, belongs = cgOf(m)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	one := count{1, size}
	sum := t.all[kind]
	sum.add(one)
	t.all[kind] = sum
	if !belongs {
		return
	}
	if t.byCG[cg] == nil {
		t.byCG[cg] = map[wire.Type]count{}
	}
	sum = t.byCG[cg][kind]
	sum.add(one)
	t.byCG[cg][kind] = sum
}

func cgOf(m wire.Message) (cg uint64, belongs bool) {
	switch m := m.(type) {
	case *wire.Manifest:
		return m.CG, true
	case wire.Commanded:
		return m.Head().CG, true
	}
	return 0, false
}

// snapshot returns what was counted so far, by kind.
func (t *tally) snapshot() map[wire.Type]count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.all)
}

// of returns what belongs to one CG.
func (t *tally) of(cg uint64) map[wire.Type]count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.byCG[cg])
}
