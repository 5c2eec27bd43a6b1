package ring

import (
	"math/rand/v2"
	"testing"

	"github.com/farside-storage/farside/internal/loopdev"
)

// BenchmarkRandomWrite4K writes 4 KiB blocks at random places of a loop device in memory.
func BenchmarkRandomWrite4K(b *testing.B) {
	for _, c := range []struct {
		name  string
		kind  Kind
		depth int
		fixed bool
	}{
		{"uring/depth=32", Uring, 32, true},
		{"uring/depth=128", Uring, 128, true},
		{"uring/depth=128/unregistered", Uring, 128, false},
		{"plain/depth=32", Plain, 32, false},
	} {
		b.Run(c.name, func(b *testing.B) { benchWrites(b, c.kind, c.depth, 4096, c.fixed, true) })
	}
}

// BenchmarkSequentialWrite256K writes 256 KiB pieces one after the other.
func BenchmarkSequentialWrite256K(b *testing.B) {
	benchWrites(b, Uring, 16, 256<<10, true, false)
}

func benchWrites(b *testing.B, kind Kind, depth, size int, fixed, random bool) {
	const device = 1 << 30
	loop := loopdev.ForTest(b, loopdev.Memory, device, loopdev.Options{})
	devs, err := Open([]string{loop.Path}, OpenOptions{Kind: kind})
	if err != nil {
		b.Fatal(err)
	}
	defer devs.Close()
	arena, err := NewArena(depth * size)
	if err != nil {
		b.Fatal(err)
	}
	defer arena.Close()
	o := QueueOptions{Depth: depth}
	if fixed {
		o.Arenas = []*Arena{arena}
	}
	q, err := devs.NewQueue(o)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	free := make([]uint64, depth)
	for i := range free {
		free[i] = uint64(i)
	}
	out := make([]Completion, depth)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	pushed, done := 0, 0
	for b.Loop() {
		// One turn of the loop is one request, pushed as soon as there is room.
		for len(free) == 0 {
			done += reapInto(b, q, out, &free)
		}
		i := free[len(free)-1]
		free = free[:len(free)-1]
		block := int64(pushed)
		if random {
			block = rng.Int64N(device / int64(size))
		}
		q.Push(Request{Op: OpWrite, Off: block % (device / int64(size)) * int64(size), Buf: arena.Bytes()[int(i)*size:][:size], Tag: i})
		pushed++
	}
	for done < pushed {
		done += reapInto(b, q, out, &free)
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "writes/s")
}

func reapInto(b *testing.B, q Queue, out []Completion, free *[]uint64) int {
	n, err := q.Reap(out, 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range out[:n] {
		if c.Err != nil {
			b.Fatal(c.Err)
		}
		*free = append(*free, c.Tag)
	}
	return n
}
