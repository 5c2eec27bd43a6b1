package engine

import (
	"errors"
	"testing"
)

// batch is what a test gives to PutAll.
type batch struct {
	runs []Run
	sums []uint64
	mem  []byte
}

func (r *rig) space(n int) *batch {
	r.t.Helper()
	mem, err := r.w.Space(n)
	if err != nil || len(mem) < n*BlockSize {
		r.t.Fatalf("space for %d blocks: %d bytes, %v", n, len(mem), err)
	}
	return &batch{mem: mem}
}

// add appends an update of n blocks.
func (b *batch) add(v *Volume, first VBlock, n int, version uint64) {
	for i := range n {
		data := pattern(v.name, first+VBlock(i), version)
		copy(b.mem[len(b.sums)*BlockSize:], data)
		b.sums = append(b.sums, Sum(data))
	}
	b.runs = append(b.runs, Run{v, first, n})
}

// TestPutAll: updates of several volumes at once, one of which another one in the same call replaces.
func TestPutAll(t *testing.T) {
	r := newRig(t, 71)
	a, b := r.volume("g", "a", 1000), r.volume("g", "b", 1000)
	x := r.space(8)
	x.add(a, 999, 1, 1)
	x.add(b, 10, 3, 1)
	x.add(a, 5, 2, 1)
	x.add(b, 11, 1, 2)
	x.runs = append(x.runs, Run{a, 7, 0})
	x.add(a, 6, 1, 3)
	if err := r.w.PutAll(1, x.runs, x.sums); err != nil {
		t.Fatal(err)
	}
	if s := r.w.Stats(); s.Blocks != 8 || s.Superseded != 2 {
		t.Fatalf("%+v", s)
	}
	r.seal(1, a, b)
	r.commit(a.Group(), 1)
	for _, w := range []struct {
		v       *Volume
		b       VBlock
		version uint64
	}{{a, 999, 1}, {a, 5, 1}, {a, 6, 3}, {a, 7, 0}, {b, 9, 0}, {b, 10, 1}, {b, 11, 2}, {b, 12, 1}} {
		r.want(w.v, w.b, w.version)
	}
	if r.used() != 6 {
		t.Errorf("%d blocks are used, want 6", r.used())
	}
	r.close()
}

// TestPutAllRecordsNothing of a call that has one fault, whatever comes before it in the same call, and goes on with the same space.
func TestPutAllRecordsNothing(t *testing.T) {
	r := newRig(t, 72)
	v, other := r.volume("g", "a", 100), r.volume("g", "b", 100)
	if err := r.w.Unbind(other); err != nil {
		t.Fatal(err)
	}
	x := r.space(8)
	x.add(v, 1, 3, 1)
	x.add(v, 50, 5, 1)
	wrong := append([]uint64(nil), x.sums...)
	wrong[6]++
	var bad *ChecksumError
	if err := r.w.PutAll(1, x.runs, wrong); !errors.As(err, &bad) {
		t.Fatalf("a wrong checksum: %v", err)
	} else if bad.Volume != "a" || bad.Block != 53 || bad.Want != wrong[6] || bad.Got != x.sums[6] {
		t.Errorf("the seventh block, 53, is wrong: %+v", bad)
	}
	for name, runs := range map[string][]Run{
		"more blocks than checksums":   {{v, 1, 3}, {v, 50, 6}},
		"more checksums than blocks":   {{v, 1, 3}, {v, 50, 4}},
		"more than Space gave":         {{v, 1, 8}, {v, 50, 1}},
		"past the end":                 {{v, 1, 3}, {v, 96, 5}},
		"a volume of no writer":        {{v, 1, 3}, {other, 50, 5}},
		"a run of less than no blocks": {{v, 1, 9}, {v, 50, -1}},
	} {
		if err := r.w.PutAll(1, runs, x.sums); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if s := r.w.Stats(); s.Blocks != 0 {
		t.Fatalf("%d blocks were recorded", s.Blocks)
	}
	if err := r.w.PutAll(1, x.runs, x.sums); err != nil {
		t.Fatal(err)
	}
	if err := r.w.Bind(other); err != nil {
		t.Fatal(err)
	}
	r.seal(1, v, other)
	r.commit(v.Group(), 1)
	r.want(v, 3, 1)
	r.want(v, 54, 1)
	r.close()
}
