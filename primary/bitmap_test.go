package primary

import (
	"testing"

	"pgregory.net/rapid"
)

// TestBitmapModel compares with a plain slice, over sizes that end inside a chunk.
func TestBitmapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pool chunkPool
		size := rapid.Uint64Range(1, 3*chunkBits).Draw(t, "size")
		b, other := newBitmap(size, &pool), newBitmap(size, &pool)
		model, otherModel := make([]bool, size), make([]bool, size)
		fill := func(m []bool, first, n uint64, v bool) {
			for i := first; i < first+n; i++ {
				m[i] = v
			}
		}
		span := func(t *rapid.T) (uint64, uint64) {
			first := rapid.Uint64Range(0, size-1).Draw(t, "first")
			return first, rapid.OneOf(rapid.Uint64Range(1, min(130, size-first)), rapid.Uint64Range(1, size-first)).Draw(t, "n")
		}
		t.Repeat(map[string]func(*rapid.T){
			"set":   func(t *rapid.T) { f, n := span(t); b.set(f, n); fill(model, f, n, true) },
			"clear": func(t *rapid.T) { f, n := span(t); b.clear(f, n); fill(model, f, n, false) },
			"all":   func(t *rapid.T) { b.setAll(); fill(model, 0, size, true) },
			"reset": func(t *rapid.T) { b.reset(); fill(model, 0, size, false) },
			"other": func(t *rapid.T) { f, n := span(t); other.set(f, n); fill(otherModel, f, n, true) },
			"or": func(t *rapid.T) {
				b.or(other)
				for i, v := range otherModel {
					model[i] = model[i] || v
				}
			},
			"": func(t *rapid.T) {
				from, n := span(t)
				set, clr := from+n, from+n
				count := uint64(0)
				for i, v := range model {
					if v {
						count++
					}
					if i := uint64(i); i >= from && i < from+n {
						if v {
							set = min(set, i)
						} else {
							clr = min(clr, i)
						}
					}
				}
				if b.count != count {
					t.Fatalf("count %d, want %d", b.count, count)
				}
				if got, ok := b.next(from, from+n); ok != (set < from+n) || (ok && got != set) {
					t.Fatalf("next(%d, %d) = %d %t, want %d", from, from+n, got, ok, set)
				}
				if got := b.nextClear(from, from+n); got != clr {
					t.Fatalf("nextClear(%d, %d) = %d, want %d", from, from+n, got, clr)
				}
				if b.has(from) != model[from] {
					t.Fatalf("has(%d)", from)
				}
			},
		})
	})
}

func TestFullBitmapTakesNoMemory(t *testing.T) {
	var pool chunkPool
	b := newBitmap(64*chunkBits, &pool)
	if n := testing.AllocsPerRun(10, func() { b.setAll(); b.reset() }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
	b.setAll()
	b.clear(5, 1)
	if fullChunk.set != chunkBits || b.has(5) || !b.has(4) {
		t.Fatal("clearing a bit touched the chunk that stands for all full ones")
	}
}
