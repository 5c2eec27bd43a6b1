package alloc

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

type run struct{ first, n uint64 }

// owners knows, apart from the map, who has which block: it finds a block that is handed out twice.
type owners struct {
	t     *testing.T
	taken []atomic.Bool
}

func (o *owners) take(r run) {
	for b := r.first; b < r.first+r.n; b++ {
		if o.taken[b].Swap(true) {
			o.t.Errorf("block %d was handed out while it is in use", b)
		}
	}
}

func (o *owners) drop(r run) {
	for b := r.first; b < r.first+r.n; b++ {
		if !o.taken[b].Swap(false) {
			o.t.Errorf("block %d was to be released, but nobody has it", b)
		}
	}
}

// fillFor takes blocks in extent after extent and passes them on, until it has taken n.
func fillFor(m *Map, o *owners, out chan<- run, n uint64, rnd *rand.Rand) error {
	var x Extent
	defer m.Return(&x)
	for n > 0 {
		if err := m.Reserve(&x); errors.Is(err, ErrFull) {
			continue // the releasers are at work
		} else if err != nil {
			return err
		}
		for n > 0 && rnd.IntN(50) != 0 {
			first, k := x.Take(1 + rnd.Uint32N(40))
			if k == 0 {
				break
			}
			r := run{first, uint64(k)}
			o.take(r)
			out <- r
			n -= min(n, r.n)
		}
		m.Return(&x)
	}
	return nil
}

// releaseAll releases what arrives, in pieces and late: keep runs stay in use at the end.
func releaseAll(m *Map, o *owners, in <-chan run, keep int, rnd *rand.Rand) error {
	var kept []run
	var list []uint64
	for r := range in {
		kept = append(kept, r)
		if len(kept) <= keep {
			continue
		}
		i := rnd.IntN(len(kept))
		r, kept[i] = kept[i], kept[len(kept)-1]
		kept = kept[:len(kept)-1]
		o.drop(r)
		half := r.n / 2
		if err := m.Release(r.first+half, r.n-half); err != nil {
			return err
		}
		list = list[:0]
		for b := r.first; b < r.first+half; b++ {
			list = append(list, b)
		}
		one := rnd.IntN(len(list) + 1)
		for _, b := range list[:one] {
			if err := m.ReleaseOne(b); err != nil {
				return err
			}
		}
		if err := m.ReleaseEach(list[one:]); err != nil {
			return err
		}
	}
	return nil
}

func together(t *testing.T, wg *sync.WaitGroup, f func() error) {
	wg.Go(func() {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
}

// TestHoldersAndReleasers runs all writers at once on a pool that is nearly full, so that extents change class
// all the time, while blocks of all kinds are being retired.
func TestHoldersAndReleasers(t *testing.T) {
	const blocks, holders, releasers, perHolder = 70*64 + 17, 4, 3, 60_000
	m, err := New(Options{Blocks: blocks, ExtentBlocks: 64, onHeap: true})
	if err != nil {
		t.Fatal(err)
	}
	o := &owners{t: t, taken: make([]atomic.Bool, blocks)}
	runs := make(chan run, 8)
	var writers, others sync.WaitGroup
	for i := range holders {
		together(t, &writers, func() error {
			return fillFor(m, o, runs, perHolder, rand.New(rand.NewPCG(1, uint64(i))))
		})
	}
	for i := range releasers {
		together(t, &others, func() error {
			return releaseAll(m, o, runs, 50, rand.New(rand.NewPCG(2, uint64(i))))
		})
	}
	retired := make([]bool, blocks)
	together(t, &others, func() error {
		rnd := rand.New(rand.NewPCG(3, 0))
		for range 200 {
			first, n := rnd.Uint64N(blocks-5), rnd.Uint64N(5)
			for b := first; b < first+n; b++ {
				retired[b] = true
			}
			if err := m.Retire(first, n); err != nil {
				return err
			}
		}
		return nil
	})
	writers.Wait()
	close(runs)
	others.Wait()
	if err := m.verify(); err != nil {
		t.Fatal(err)
	}
	for b := range uint64(blocks) {
		if want := o.taken[b].Load() && !retired[b]; m.Used(b) != want || m.Retired(b) != retired[b] {
			t.Fatalf("block %d: used %v, retired %v; want %v, %v", b, m.Used(b), m.Retired(b), want, retired[b])
		}
	}
}

// TestReserveNeverMissesAnExtent has as many extents as holders: whoever looks for one holds none, so there is
// always one, and ErrFull would be wrong whatever the others do.
func TestReserveNeverMissesAnExtent(t *testing.T) {
	const holders, rounds = 4, 30_000
	m, err := New(Options{Blocks: holders * 64, ExtentBlocks: 64, onHeap: true})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range holders {
		together(t, &wg, func() error {
			rnd := rand.New(rand.NewPCG(4, uint64(i)))
			var x Extent
			var mine []uint64 // at most 15 per holder: no extent is ever full
			for range rounds {
				if err := m.Reserve(&x); err != nil {
					return err
				}
				for len(mine) < 15 && rnd.IntN(4) != 0 {
					b, _ := x.Take(1)
					mine = append(mine, b)
				}
				early := rnd.IntN(2) == 0
				if early {
					m.Return(&x)
				}
				for len(mine) > 0 && rnd.IntN(4) != 0 {
					if err := m.ReleaseOne(mine[0]); err != nil {
						return err
					}
					mine = mine[1:]
				}
				m.Return(&x)
			}
			return nil
		})
	}
	wg.Wait()
	if err := m.verify(); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseAgainstRetire lets both reach for the same blocks at once: whoever comes first, the block is
// retired, and never handed out.
func TestReleaseAgainstRetire(t *testing.T) {
	const blocks = 64 * 64
	for range 20 {
		m, err := New(Options{Blocks: blocks, ExtentBlocks: 64, onHeap: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.MarkUsed(0, blocks); err != nil {
			t.Fatal(err)
		}
		m.Start()
		var wg sync.WaitGroup
		together(t, &wg, func() error {
			for b := uint64(0); b < blocks; b += 3 {
				if err := m.Retire(b, 1); err != nil {
					return err
				}
			}
			return nil
		})
		together(t, &wg, func() error {
			for b := range uint64(blocks) {
				if err := m.ReleaseOne(b); err != nil {
					return err
				}
			}
			return nil
		})
		together(t, &wg, func() error {
			var x Extent
			for range 500 {
				if err := m.Reserve(&x); err == nil {
					m.Return(&x)
				}
			}
			return nil
		})
		wg.Wait()
		if err := m.verify(); err != nil {
			t.Fatal(err)
		}
		if s := m.Stats(); s.Used != 0 || s.Retired != (blocks+2)/3 {
			t.Fatalf("%+v: want none used, a third retired", s)
		}
	}
}

// TestHintsKeepMembers sets and clears neighbours from several goroutines: a member that its owner left
// set is reachable afterwards, whatever happened to others in the same words.
func TestHintsKeepMembers(t *testing.T) {
	const n, workers = 64 * 64 * 2, 4
	var sizes arena
	newHints(&sizes, n)
	h := newHints(&arena{mem: heapMemory(sizes.off)}, n)
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(5, w))
			for range 100_000 {
				i := rnd.Uint64N(n/2048)*2048 + w // few words, all levels
				h.set(i)
				if !reaches(&h, i) {
					continue // a neighbour is clearing: allowed until it ends
				}
				h.clear(i)
			}
			for i := w; i < n; i += 2048 {
				h.set(i)
			}
		})
	}
	wg.Wait()
	for i := range uint64(n) {
		if want := i%2048 < workers; reaches(&h, i) != want || h.has(i) != want {
			t.Fatalf("%d: reached %v, has %v; want %v", i, reaches(&h, i), h.has(i), want)
		}
	}
}

func reaches(h *hints, i uint64) bool {
	got, ok := h.next(i)
	return ok && got == i
}
