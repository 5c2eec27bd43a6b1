package engine

import (
	"fmt"
	"slices"
)

// foldStep is how many entries are folded before the control loop looks at other work.
const foldStep = 8192

// fold moves the entries of a final CG into the pointer tables, in table order, and releases what they
// displace.
//
// It may start when no reader holds a view older than the CG: every view in use masks the
// entries it changes. Then also nobody can read what is displaced, and the FINAL record
// is durable, so that a displaced block is free at once.
type fold struct {
	g      *Group
	cg     *liveCG
	table  int      // index into cg.tables
	keys   []uint64 // of the table in work, sorted
	next   int      // next key
	zrange int      // next zeroed range; they are folded before the points
	zblock VBlock
	opened bool
	at     leafCursor
	freed  freeing // what was displaced since the step began
}

// startFold arranges that the group's oldest final CG is folded once no reader can see the base without it.
func (c *control) startFold(g *Group) {
	if g.folding || len(g.live) == 0 || g.live[0].cg > g.state.final {
		return
	}
	g.folding = true
	c.whenUnread(func() { c.folds = append(c.folds, &fold{g: g, cg: g.live[0], freed: newFreeing(c.pool.alloc)}) })
}

// foldInWork says that a CG of the group is being folded, which nothing can hold up. Whoever wants to know what a
// block of the group is waits for that: each look into a CG pointer table that is not folded is a miss, which costs
// more than folding the entry.
func (c *control) foldInWork(g *Group) bool {
	return slices.ContainsFunc(c.folds, func(f *fold) bool { return f.g == g })
}

// stepFolds does a bounded piece of folding; it reports whether work is left.
func (c *control) stepFolds() bool {
	if len(c.folds) == 0 {
		return false
	}
	f := c.folds[0]
	done, err := f.step(foldStep)
	if err != nil {
		c.fail(err)
		return false
	}
	if done {
		c.folds = c.folds[1:]
		c.folded(f)
	}
	return true
}

// folded takes the CG's layers out of the views; its tables go when no reader uses them.
func (c *control) folded(f *fold) {
	g := f.g
	g.folding, g.folded = false, f.cg.cg
	g.live = g.live[1:]
	same := g.linked.Load() == g.final.Load()
	final := g.final.Load().without(f.cg.cg)
	g.final.Store(final)
	if same {
		g.linked.Store(final)
	} else {
		g.linked.Store(g.linked.Load().without(f.cg.cg))
	}
	tables := f.cg.tables
	c.whenUnread(func() {
		for _, t := range tables {
			t.free()
		}
	})
	c.startFold(g)
	c.spaceFreed()
}

// step folds up to n entries. What they displace is free when it returns.
func (f *fold) step(n int) (done bool, err error) {
	defer func() {
		if rerr := f.freed.flush(); rerr != nil && err == nil {
			done, err = false, f.released(rerr)
		}
	}()
	for n > 0 && f.table < len(f.cg.tables) {
		t := f.cg.tables[f.table]
		if !f.opened {
			if f.keys, err = t.sorted(); err != nil {
				return false, err
			}
			f.next, f.zrange, f.opened = 0, 0, true
			if len(t.zeroed) > 0 {
				f.zblock = t.zeroed[0].first
			}
		}
		if n, err = f.stepRanges(t, n); err == nil {
			n, err = f.stepPoints(t, n)
		}
		if err != nil {
			return false, err
		}
		if f.zrange == len(t.zeroed) && f.next == len(f.keys) {
			f.keys, f.opened = nil, false
			f.table++
		}
	}
	return f.table == len(f.cg.tables), nil
}

func (f *fold) stepRanges(t *cgTable, n int) (int, error) {
	base := t.vol.table
	for n > 0 && f.zrange < len(t.zeroed) {
		r := t.zeroed[f.zrange]
		for ; n > 0 && f.zblock < r.end(); n-- {
			if next := base.skipUnused(f.zblock); next != f.zblock {
				f.zblock = min(next, r.end())
				continue
			}
			if err := f.set(base, f.zblock, 0); err != nil {
				return n, err
			}
			f.zblock++
		}
		if f.zblock == r.end() {
			if f.zrange++; f.zrange < len(t.zeroed) {
				f.zblock = t.zeroed[f.zrange].first
			}
		}
	}
	return n, nil
}

func (f *fold) stepPoints(t *cgTable, n int) (int, error) {
	if f.zrange < len(t.zeroed) {
		return n, nil
	}
	for ; n > 0 && f.next < len(f.keys); n-- {
		k := f.keys[f.next]
		f.next++
		t.prefetchKey(f.keys, f.next)
		f.at.prefetch(t.vol.table, f.keys, f.next)
		if err := f.set(t.vol.table, VBlock(k>>posBits), t.at(uint32(k&posMask)-1).entry()); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *fold) set(base *table, b VBlock, e entry) error {
	old := f.at.load(base, b)
	if old == e {
		return nil
	}
	f.at.set(b, e)
	if old.block() == 0 || old.block() == e.block() {
		return nil
	}
	return f.released(f.freed.add(old.block()))
}

func (f *fold) released(err error) error {
	if err != nil {
		return fmt.Errorf("fold CG %d: a displaced block: %w", f.cg.cg, err)
	}
	return nil
}
