package engine

import (
	"context"
	"testing"
)

// TestFoldBeforeTheNextCompletion: what a CG displaces is looked up once the CG before is folded, not while it is.
func TestFoldBeforeTheNextCompletion(t *testing.T) {
	const blocks = 3 * foldStep
	r, v := oneVolume(t, 1, blocks)
	defer r.close()
	for b := range VBlock(blocks) {
		if err := r.w.Zero(v, 1, b, 1); err != nil { // one by one they are points, and no payload is needed
			t.Fatal(err)
		}
	}
	r.seal(1, v)
	r.do(v.group.Link, 1)
	r.write(v, 2, 0, 10)
	if err := v.group.Release(context.Background(), Command{Epoch: 1, CG: 1}); err != nil {
		t.Fatal(err)
	}
	if err := r.w.Seal(2, v); err != nil {
		t.Fatal(err)
	}
	c, together := r.pool.ctl, 0
	for more := true; more; {
		var err error
		if more, err = r.pool.Step(); err != nil {
			t.Fatal(err)
		}
		if !c.foldInWork(v.group) {
			continue
		}
		together++
		if c.completing(v.group) {
			t.Fatal("CG 2 is journaled while CG 1 is being folded")
		}
	}
	if together == 0 {
		t.Fatal("CG 1 was folded before CG 2 was sealed: nothing was tested")
	}
	r.commit(v.group, 2)
	r.want(v, 3, 2)
	r.want(v, 11, 0)
}

// TestIndexOfTheUsualSize: the index of a CG's table is as large from the start as the one before was at its end.
func TestIndexOfTheUsualSize(t *testing.T) {
	const blocks = 2000
	r, v := oneVolume(t, 1, blocks)
	defer r.close()
	var slots []int
	put := func(cg uint64, n VBlock) {
		for b := range n {
			if err := r.w.Zero(v, cg, b, 1); err != nil {
				t.Fatal(err)
			}
			slots = append(slots, len(r.w.bound[0].table.index))
		}
		r.seal(cg, v)
		r.commit(v.group, cg)
	}
	put(1, blocks)
	first, last := slots[0], slots[blocks-1]
	if first != 1<<minIndexBits || last <= first {
		t.Fatalf("%d slots at the start of the first CG, %d at its end", first, last)
	}
	slots = nil
	put(2, blocks)
	if slots[0] != last || slots[blocks-1] != last {
		t.Errorf("%d slots at the start of the second CG, %d at its end, want %d", slots[0], slots[blocks-1], last)
	}
	put(3, 10)
	slots = nil
	put(4, 10)
	if slots[0] != 1<<minIndexBits {
		t.Errorf("%d slots after a small CG", slots[0])
	}
}
