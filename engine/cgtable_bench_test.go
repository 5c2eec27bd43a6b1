package engine

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkUpdate is the processor's part of an update: checksum, then an entry in the CG pointer table of a
// CG of half a million blocks; with and without asking for the entry's cache line first.
func BenchmarkUpdate(b *testing.B) {
	for _, ahead := range []bool{false, true} {
		name := "plain"
		if ahead {
			name = "prefetch"
		}
		b.Run(name, func(b *testing.B) { benchUpdate(b, ahead) })
	}
}

func benchUpdate(b *testing.B, ahead bool) {
	lone := emptyCGTable(b)
	defer lone.end()
	t := lone.cgTable
	const blocks = 1 << 19
	for v := range VBlock(blocks) {
		if _, _, err := t.put(v, 1, 0); err != nil {
			b.Fatal(err)
		}
	}
	buffers := make([]byte, 8<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	at := 0
	b.ReportAllocs()
	for b.Loop() {
		v := VBlock(rng.Uint64N(blocks))
		if ahead {
			t.prefetch(v)
		}
		sum := Sum(buffers[at : at+BlockSize])
		if _, _, err := t.put(v, 2, sum); err != nil {
			b.Fatal(err)
		}
		at = (at + BlockSize) % len(buffers)
	}
}
