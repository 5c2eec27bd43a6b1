package alloc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

const benchBlocks = 1 << 28 // 1 TiB

// atFill runs f on maps whose blocks are used with the given probability, each on its own, so that holes are as
// small as random updates make them.
func atFill(b *testing.B, f func(*testing.B, *Map)) {
	for _, percent := range []uint64{1, 50, 95} {
		b.Run(fmt.Sprintf("used=%d%%", percent), func(b *testing.B) {
			m := mustNew(b, Options{Blocks: benchBlocks})
			rnd := rand.New(rand.NewPCG(6, percent))
			for w := range m.used {
				m.touch(uint64(w))
				m.used[w].Store(randomWord(rnd, percent))
			}
			m.Start()
			f(b, m)
			if err := m.verify(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// randomWord sets each bit with the given probability, to 1/2048.
func randomWord(rnd *rand.Rand, percent uint64) (word uint64) {
	p := percent * 2048 / 100
	for i := range 11 { // from the lowest binary digit of p to the highest
		if p>>i&1 == 1 {
			word |= rnd.Uint64()
		} else {
			word &= rnd.Uint64()
		}
	}
	return word
}

// BenchmarkReserve reserves and returns without taking anything.
func BenchmarkReserve(b *testing.B) {
	atFill(b, func(b *testing.B, m *Map) {
		var x Extent
		b.ReportAllocs()
		for b.Loop() {
			if err := m.Reserve(&x); err != nil {
				b.Fatal(err)
			}
			m.Return(&x)
		}
	})
}

// BenchmarkTake reserves an extent, takes all there is in runs of at most 64 blocks, and returns it.
func BenchmarkTake(b *testing.B) {
	atFill(b, func(b *testing.B, m *Map) {
		var x Extent
		var blocks, runs int
		taken := make([]run, 0, 1<<20)
		giveBack := func() {
			for _, r := range taken {
				if err := m.Release(r.first, r.n); err != nil {
					b.Fatal(err)
				}
			}
			taken = taken[:0]
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := m.Reserve(&x); err != nil {
				b.Fatal(err)
			}
			for first, n := x.Take(64); n != 0; first, n = x.Take(64) {
				taken = append(taken, run{first, uint64(n)})
				blocks, runs = blocks+int(n), runs+1
			}
			m.Return(&x)
			if len(taken)+1024 > cap(taken) {
				b.StopTimer()
				giveBack()
				b.StartTimer()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(blocks), "ns/block")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs), "ns/run")
		b.ReportMetric(float64(blocks)/float64(b.N), "blocks/op")
		giveBack()
	})
}

// BenchmarkRelease releases single blocks from all over the pool, as a fold does: in pieces of 256, and one by one.
func BenchmarkRelease(b *testing.B) {
	for name, release := range map[string]func(*Map, []uint64) error{
		"each": (*Map).ReleaseEach,
		"one by one": func(m *Map, blocks []uint64) error {
			var errs []error
			for _, blk := range blocks {
				if err := m.ReleaseOne(blk); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
	} {
		b.Run(name, func(b *testing.B) { atFill(b, func(b *testing.B, m *Map) { benchRelease(b, m, release) }) })
	}
}

func benchRelease(b *testing.B, m *Map, release func(*Map, []uint64) error) {
	const piece = 256
	list := someUsed(m, 1<<20)
	next := 0
	takeBack := func() {
		for _, blk := range list[:next] {
			m.used[blk>>6].Or(1 << (blk & 63))
			m.count(blk>>m.extentShift, 1)
		}
		next = 0
	}
	b.ReportAllocs()
	for b.Loop() {
		if next == len(list) {
			b.StopTimer()
			takeBack()
			b.StartTimer()
		}
		if err := release(m, list[next:next+piece]); err != nil {
			b.Fatal(err)
		}
		next += piece
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/piece, "ns/block")
	takeBack()
}

// someUsed returns n different used blocks in random order.
func someUsed(m *Map, n int) []uint64 {
	rnd := rand.New(rand.NewPCG(7, 0))
	seen := make(map[uint64]bool, n)
	list := make([]uint64, 0, n)
	for len(list) < n {
		if blk := rnd.Uint64N(benchBlocks); m.Used(blk) && !seen[blk] {
			seen[blk] = true
			list = append(list, blk)
		}
	}
	return list
}

// BenchmarkOpen is what the map costs when a pool is opened: making it, marking blocks in random order, counting.
func BenchmarkOpen(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			m, err := New(Options{Blocks: benchBlocks})
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mark", func(b *testing.B) {
		const odd = 0x9E3779B97F4A7C15 // visits every block once per round
		m := mustNew(b, Options{Blocks: benchBlocks})
		i := uint64(0)
		for b.Loop() {
			if err := m.MarkUsedOne(i * odd % benchBlocks); err != nil {
				b.Fatal(err)
			}
			if i++; i == benchBlocks {
				b.StopTimer()
				clear(m.mem)
				i = 0
				b.StartTimer()
			}
		}
	})
	b.Run("start/used=50%", func(b *testing.B) {
		m := mustNew(b, Options{Blocks: benchBlocks})
		rnd := rand.New(rand.NewPCG(8, 0))
		for w := range m.used {
			m.touch(uint64(w))
			m.used[w].Store(rnd.Uint64())
		}
		for b.Loop() {
			for e := range m.words {
				m.words[e].Store(0)
			}
			m.countWords()
		}
	})
}
