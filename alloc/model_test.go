package alloc

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is the map as one would write it without a thought for speed: one byte per block, searched from end to
// end. It predicts every answer, the order of reservations included.
type model struct {
	extent  uint64
	used    []bool
	retired []bool
	held    map[uint64]*modelHold
	cursor  uint64
}

type modelHold struct{ free []uint64 } // ascending, still to take

func newModel(blocks, extent uint64) *model {
	return &model{extent: extent, used: make([]bool, blocks), retired: make([]bool, blocks), held: map[uint64]*modelHold{}}
}

func (o *model) isFree(b uint64) bool { return !o.used[b] && !o.retired[b] }

func (o *model) extents() uint64 { return (uint64(len(o.used)) + o.extent - 1) / o.extent }

func (o *model) freeOf(e uint64) (free []uint64) {
	for b := e * o.extent; b < min((e+1)*o.extent, uint64(len(o.used))); b++ {
		if o.isFree(b) {
			free = append(free, b)
		}
	}
	return free
}

// worthIt is what a reservation has of an extent's free blocks: those in runs of three and more, unless these are too few.
func (o *model) worthIt(free []uint64) []uint64 {
	var long []uint64
	for i := 0; i < len(free); {
		n := 1
		for i+n < len(free) && free[i+n] == free[i]+uint64(n) {
			n++
		}
		if n >= 3 {
			long = append(long, free[i:i+n]...)
		}
		i += n
	}
	if 8*len(long) >= len(free) {
		return long
	}
	return free
}

func (o *model) class(e uint64) int {
	used := o.extent - uint64(len(o.freeOf(e)))
	if used == 0 {
		return 0
	}
	return 1 + int(used*partClasses/o.extent)
}

func (o *model) reserve() (uint64, bool) {
	best, found := uint64(0), false
	rank := func(e uint64) (int, uint64) {
		round := uint64(0)
		if e < o.cursor {
			round = 1
		}
		return o.class(e), round<<32 + e
	}
	for e := range o.extents() {
		if o.held[e] != nil || len(o.freeOf(e)) == 0 {
			continue
		}
		c, r := rank(e)
		if bc, br := rank(best); !found || c < bc || c == bc && r < br {
			best, found = e, true
		}
	}
	if found {
		o.held[best] = &modelHold{free: o.worthIt(o.freeOf(best))}
		o.cursor = best + 1
	}
	return best, found
}

func (o *model) take(e uint64, limit uint32) (first uint64, n uint32) {
	h := o.held[e]
	h.free = slices.DeleteFunc(h.free, func(b uint64) bool { return o.retired[b] })
	for n < limit && len(h.free) > 0 && (n == 0 || h.free[0] == first+uint64(n)) {
		if n == 0 {
			first = h.free[0]
		}
		o.used[h.free[0]] = true
		h.free = h.free[1:]
		n++
	}
	return first, n
}

func (o *model) release(first, n uint64) (bad uint64, ok bool) {
	for b := first; b < first+n; b++ {
		if o.isFree(b) {
			return b, false
		}
		o.used[b] = o.used[b] && o.retired[b]
	}
	return 0, true
}

func (o *model) stats() Stats {
	s := Stats{Blocks: uint64(len(o.used)), ExtentBlocks: uint32(o.extent), Extents: o.extents(), ExtentsHeld: uint64(len(o.held))}
	for b := range o.used {
		switch {
		case o.retired[b]:
			s.Retired++
		case o.used[b]:
			s.Used++
		default:
			s.Free++
		}
	}
	for e := range o.extents() {
		if h := o.held[e]; h != nil {
			continue
		}
		n := uint64(len(o.freeOf(e)))
		s.ExtentsEmpty += uint64(is(n == o.extent))
		s.ExtentsFull += uint64(is(n == 0))
	}
	return s
}

func (o *model) runs(in func(b uint64) bool) (runs [][2]uint64) {
	for b := range uint64(len(o.used)) {
		if !in(b) {
			continue
		}
		if k := len(runs); k > 0 && runs[k-1][0]+runs[k-1][1] == b {
			runs[k-1][1]++
		} else {
			runs = append(runs, [2]uint64{b, 1})
		}
	}
	return runs
}

// pair runs the same operations on a map and its model.
type pair struct {
	m    *Map
	o    *model
	held []*Extent
	idle []*Extent
}

func newPair(t *rapid.T) *pair {
	extent := rapid.SampledFrom([]uint32{64, 128}).Draw(t, "extent")
	blocks := rapid.Uint64Range(1, 80*64).Draw(t, "blocks")
	m, err := New(Options{Blocks: blocks, ExtentBlocks: extent, onHeap: true})
	if err != nil {
		t.Fatal(err)
	}
	return &pair{m: m, o: newModel(blocks, uint64(extent)), idle: []*Extent{{}, {}, {}}}
}

func (p *pair) drawRun(t *rapid.T) (first, n uint64) {
	blocks := uint64(len(p.o.used))
	first = rapid.Uint64Range(0, blocks-1).Draw(t, "first")
	longest := rapid.SampledFrom([]uint64{1, 8, 200, 4000}).Draw(t, "longest")
	return first, rapid.Uint64Range(0, min(longest, blocks-first)).Draw(t, "n")
}

// wantBlock checks that err names the block and the cause.
func wantBlock(t interface{ Fatalf(string, ...any) }, err error, block uint64, cause error) {
	var be *BlockError
	if !errors.As(err, &be) || be.Block != block || !errors.Is(err, cause) {
		t.Fatalf("error %v, want one of block %d: %v", err, block, cause)
	}
}

func (p *pair) mark(t *rapid.T) {
	first, n := p.drawRun(t)
	var err error
	if n == 1 {
		err = p.m.MarkUsedOne(first)
	} else {
		err = p.m.MarkUsed(first, n)
	}
	for b := first; b < first+n; b++ {
		if !p.o.isFree(b) {
			cause := ErrUsed
			if p.o.retired[b] {
				cause = ErrRetired
			}
			wantBlock(t, err, b, cause)
			return
		}
		p.o.used[b] = true
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *pair) retire(t *rapid.T) {
	first, n := p.drawRun(t)
	if err := p.m.Retire(first, n); err != nil {
		t.Fatal(err)
	}
	for b := first; b < first+n; b++ {
		p.o.retired[b] = true
	}
}

func (p *pair) reserve(t *rapid.T) {
	if len(p.idle) == 0 {
		t.Skip("all held")
	}
	x := p.idle[0]
	err := p.m.Reserve(x)
	e, ok := p.o.reserve()
	if !ok {
		if !errors.Is(err, ErrFull) || x.Held() {
			t.Fatalf("error %v, held %v; want ErrFull", err, x.Held())
		}
		return
	}
	if err != nil || x.First() != e*p.o.extent || x.Free() != uint32(len(p.o.held[e].free)) {
		t.Fatalf("reserved %d with %d free, %v; want extent %d with %d", x.index, x.Free(), err, e, len(p.o.held[e].free))
	}
	p.idle, p.held = p.idle[1:], append(p.held, x)
}

func (p *pair) drawHeld(t *rapid.T) int {
	if len(p.held) == 0 {
		t.Skip("none held")
	}
	return rapid.IntRange(0, len(p.held)-1).Draw(t, "holder")
}

func (p *pair) take(t *rapid.T) {
	x := p.held[p.drawHeld(t)]
	limit := rapid.Uint32Range(0, 150).Draw(t, "limit")
	first, n := x.Take(limit)
	if wantFirst, wantN := p.o.take(x.index, limit); n != wantN || n > 0 && first != wantFirst {
		t.Fatalf("take %d: %d+%d, want %d+%d", limit, first, n, wantFirst, wantN)
	}
}

func (p *pair) giveBack(t *rapid.T) {
	i := p.drawHeld(t)
	x := p.held[i]
	delete(p.o.held, x.index)
	p.m.Return(x)
	p.held, p.idle = slices.Delete(p.held, i, i+1), append(p.idle, x)
}

func (p *pair) release(t *rapid.T) {
	first, n := p.drawRun(t)
	if rapid.Bool().Draw(t, "fits") { // what a caller without a bug would do
		for n = 0; first+n < uint64(len(p.o.used)) && !p.o.isFree(first+n); n++ {
		}
	}
	var err error
	if n == 1 {
		err = p.m.ReleaseOne(first)
	} else {
		err = p.m.Release(first, n)
	}
	if bad, ok := p.o.release(first, n); !ok {
		wantBlock(t, err, bad, ErrFree)
	} else if err != nil {
		t.Fatal(err)
	}
}

// releaseEach releases blocks in any order, some of them perhaps twice, or free, or past the end.
func (p *pair) releaseEach(t *rapid.T) {
	blocks := uint64(len(p.o.used))
	list := rapid.SliceOfN(rapid.Uint64Range(0, blocks+blocks/64), 0, 60).Draw(t, "blocks")
	if rapid.Bool().Draw(t, "used") { // what a caller without a bug would do
		seen := map[uint64]bool{}
		list = slices.DeleteFunc(list, func(b uint64) bool {
			out := b >= blocks || p.o.isFree(b) || seen[b]
			seen[b] = true
			return out
		})
	}
	err := p.m.ReleaseEach(list)
	for _, b := range list {
		if b >= blocks {
			wantBlock(t, err, b, ErrRange)
			return
		}
		if bad, ok := p.o.release(b, 1); !ok {
			wantBlock(t, err, bad, ErrFree)
			return
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// check compares everything that can be asked.
func (p *pair) check(t *rapid.T) {
	if err := p.m.verify(); err != nil {
		t.Fatal(err)
	}
	collect := func(seq func(func(a, b uint64) bool)) (runs [][2]uint64) {
		for first, n := range seq {
			runs = append(runs, [2]uint64{first, n})
		}
		return runs
	}
	inUse := func(b uint64) bool { return p.o.used[b] && !p.o.retired[b] }
	if d := cmp.Diff(p.o.runs(inUse), collect(p.m.UsedRuns())); d != "" {
		t.Fatalf("used runs (-want +got):\n%s", d)
	}
	if d := cmp.Diff(p.o.runs(func(b uint64) bool { return p.o.retired[b] }), collect(p.m.RetiredRuns())); d != "" {
		t.Fatalf("retired runs (-want +got):\n%s", d)
	}
	if len(p.held) == 0 {
		if d := cmp.Diff(p.o.stats(), p.m.Stats()); d != "" {
			t.Fatalf("stats (-want +got):\n%s", d)
		}
	}
}

func TestMapEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t)
		for range rapid.IntRange(0, 20).Draw(t, "marks") {
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				p.retire(t)
			} else {
				p.mark(t)
			}
		}
		p.m.Start()
		t.Repeat(map[string]func(*rapid.T){
			"reserve": p.reserve, "take": p.take, "take again": p.take, "return": p.giveBack,
			"release": p.release, "release again": p.release, "release each": p.releaseEach, "retire": p.retire,
			"": p.check,
		})
		for len(p.held) > 0 {
			delete(p.o.held, p.held[0].index)
			p.m.Return(p.held[0])
			p.held = p.held[1:]
		}
		p.check(t)
	})
}
