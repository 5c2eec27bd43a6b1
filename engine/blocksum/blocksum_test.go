package blocksum

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

// ways are those in which this processor can compute, by whether eight blocks go side by side.
func ways() map[string]bool {
	w := map[string]bool{"one": false}
	if wide {
		w["eight"] = true
	}
	return w
}

// eachWay runs a test in each way that this processor knows; others have nothing that could be run here.
func eachWay(t *testing.T, f func(t *testing.T)) {
	defer func(was bool) { wide = was }(wide)
	for name, side := range ways() {
		t.Run(name, func(t *testing.T) {
			wide = side
			f(t)
		})
	}
}

func noise(seed byte, blocks int) []byte {
	mem := make([]byte, blocks*BlockSize)
	rand.NewChaCha8([32]byte{seed}).Read(mem)
	return mem
}

func want(mem []byte) (sums []uint64) {
	for b := range slices.Chunk(mem, BlockSize) {
		sums = append(sums, xxhash.Sum64(b))
	}
	return sums
}

func TestRun(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		for n := range 3*lanes + 1 {
			mem, sums := noise(byte(n), n), make([]uint64, n+1)
			sums[n] = 7
			Run(sums[:n], mem)
			if !slices.Equal(sums[:n], want(mem)) || sums[n] != 7 {
				t.Fatalf("%d blocks: %x, want %x and 7", n, sums, want(mem))
			}
		}
	})
}

// TestContents: values at which multiplications and carries end differently from those of noise.
func TestContents(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		for _, x := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			mem := make([]byte, lanes*BlockSize)
			for i := range mem {
				mem[i] = x
			}
			for bit := range 8 * 32 { // one bit of the last stripe of the last block
				mem[len(mem)-32+bit/8] ^= 1 << (bit % 8)
				sums := make([]uint64, lanes)
				Run(sums, mem)
				if !slices.Equal(sums, want(mem)) {
					t.Fatalf("blocks of %#x, bit %d changed: %x, want %x", x, bit, sums, want(mem))
				}
				mem[len(mem)-32+bit/8] ^= 1 << (bit % 8)
			}
		}
	})
}

func TestScattered(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		mem := noise(1, 64)
		for n := range 2*lanes + 2 {
			var blocks [][]byte
			var expect []uint64
			for range n {
				at := rand.N(len(mem) - BlockSize) // not aligned
				blocks = append(blocks, mem[at:at+BlockSize])
				expect = append(expect, xxhash.Sum64(mem[at:at+BlockSize]))
			}
			sums := make([]uint64, n)
			Scattered(sums, blocks)
			if !slices.Equal(sums, expect) {
				t.Fatalf("%d blocks: %x, want %x", n, sums, expect)
			}
		}
	})
}

// TestReadsNoMore: memory that may not be read starts right behind the last block, and ends right before the first.
func TestReadsNoMore(t *testing.T) {
	page := unix.Getpagesize()
	size := (lanes + 1) * BlockSize
	size = (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(all)
	for _, guard := range [][]byte{all[:page], all[page+size:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	mem := all[page : page+size]
	copy(mem, noise(9, size/BlockSize))
	eachWay(t, func(t *testing.T) {
		for n := 1; n <= lanes+1; n++ {
			for _, part := range [][]byte{mem[:n*BlockSize], mem[size-n*BlockSize:]} {
				sums := make([]uint64, n)
				Run(sums, part)
				if !slices.Equal(sums, want(part)) {
					t.Fatalf("%d blocks: %x, want %x", n, sums, want(part))
				}
			}
		}
	})
}

func TestRefusesWhatDoesNotMatch(t *testing.T) {
	for _, f := range []func(){
		func() { Run(make([]uint64, 2), make([]byte, BlockSize)) },
		func() { Run(make([]uint64, 1), make([]byte, BlockSize+1)) },
		func() { Scattered(make([]uint64, 2), make([][]byte, 1)) },
		func() { Scattered(make([]uint64, 1), [][]byte{make([]byte, BlockSize)[:BlockSize-1]}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		}()
	}
}

func TestAllocatesNothing(t *testing.T) {
	mem, sums := noise(2, 20), make([]uint64, 20)
	blocks := slices.Collect(slices.Chunk(mem, BlockSize))
	if n := testing.AllocsPerRun(10, func() { Run(sums, mem); Scattered(sums, blocks) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSum compares the two ways, over memory of the size of a writer's buffer and over more than a second-level cache.
func BenchmarkSum(b *testing.B) {
	for _, size := range []int{256 << 10, 8 << 20} {
		mem, sums := noise(3, size/BlockSize), make([]uint64, size/BlockSize)
		b.Run(fmt.Sprintf("many/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				Run(sums, mem)
			}
		})
		b.Run(fmt.Sprintf("one/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for i := range sums {
					sums[i] = xxhash.Sum64(mem[i*BlockSize : (i+1)*BlockSize])
				}
			}
		})
	}
}
