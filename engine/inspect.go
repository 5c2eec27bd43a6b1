package engine

import (
	"fmt"
	"slices"
)

// Inspection looks into a manual pool without stepping it. It is for checkers, such as that of a simulator: it walks
// over every table. Only the goroutine that steps the pool may use it.
type Inspection struct{ p *Pool }

// Inspect gives the pool's inner state to a checker.
func (p *Pool) Inspect() Inspection { return Inspection{p} }

// State is [Group.State], as it stands.
func (Inspection) State(g *Group) GroupState {
	return g.stateNow()
}

// Look calls f for each virtual block of v in the view of this kind, with its place (0: unmapped, zeros) and the part
// of its checksum that is kept.
func (Inspection) Look(v *Volume, kind ViewKind, f func(b VBlock, at PBlock, sum PartialSum)) {
	view := v.group.final.Load()
	if kind == LinkedView {
		view = v.group.linked.Load()
	}
	vv := &view.vols[v.slot]
	for b := VBlock(0); uint64(b) < v.table.blocks(); b++ {
		e := vv.lookup(b)
		f(b, e.block(), PartialSum{e})
	}
}

// PartialSum is the part of a block's checksum that a pointer table keeps.
type PartialSum struct{ e entry }

// Of reports whether a block with this checksum could be the one that the table means.
func (p PartialSum) Of(sum uint64) bool { return p.e.matches(sum) }

// Blocks compares the allocator with the tables: every block that a table names is used, and none is named twice. Every
// used block is named, reserved by one of the writers, or waits for a reader to leave.
func (i Inspection) Blocks(writers ...*Writer) error {
	var bad PBlock
	named := uint64(0)
	seen := make([]uint64, i.p.alloc.Blocks()/64+1)
	i.walk(writers, func(b PBlock, _ namer) {
		if seen[b/64]>>(b%64)&1 != 0 || !i.p.alloc.Used(uint64(b)) {
			bad = b
		}
		seen[b/64] |= 1 << (b % 64)
		named++
	})
	if bad != 0 {
		return i.explain(writers, bad)
	}
	return i.balance(writers, named)
}

// namer is somebody who names a physical block.
type namer struct {
	what   string
	cg     uint64
	volume string
	block  VBlock
}

func (n namer) String() string {
	return fmt.Sprintf("%s (CG %d, volume %s, block %d)", n.what, n.cg, n.volume, n.block)
}

// explain says who names a block that is named twice, or is free.
func (i Inspection) explain(writers []*Writer, bad PBlock) error {
	var who []namer
	i.walk(writers, func(b PBlock, n namer) {
		if b == bad {
			who = append(who, n)
		}
	})
	return fmt.Errorf("physical block %d (used: %t) is named by %v", bad, i.p.alloc.Used(uint64(bad)), who)
}

// walk calls f for everything that names a block.
func (i Inspection) walk(writers []*Writer, f func(PBlock, namer)) {
	for _, g := range i.p.groups {
		for _, v := range g.volumes {
			if v != nil {
				walkBase(v, f)
			}
		}
		for k, l := range g.live {
			for _, t := range l.tables {
				t.walk("CG that is not folded", k == 0 && g.folding, f)
			}
		}
		for _, s := range g.sealed {
			for _, x := range s.volumes {
				if x.table != nil {
					x.table.walk("sealed CG", false, f)
				}
			}
		}
	}
	for _, c := range i.p.ctl.completions {
		if !c.g.holds(c.cg) {
			for _, t := range c.cg.tables {
				t.walk("CG being completed", false, f)
			}
		}
	}
	for _, w := range writers {
		for _, b := range w.bound {
			if b.table != nil {
				b.table.walk("CG being received", false, f)
			}
		}
		for _, d := range w.dead {
			f(d.block, namer{what: "superseded"})
		}
	}
}

func (g *Group) holds(l *liveCG) bool { return slices.Contains(g.live, l) }

func walkBase(v *Volume, f func(PBlock, namer)) {
	for b := VBlock(0); uint64(b) < v.table.blocks(); b++ {
		if p := v.table.load(b).block(); p != 0 {
			f(p, namer{"pointer table", v.group.folded, v.name, b})
		}
	}
}

// walk calls f for each block that the table names; while it is folded, not for those in the pointer table already.
func (t *cgTable) walk(what string, folding bool, f func(PBlock, namer)) {
	for _, s := range t.index {
		if s == 0 {
			continue
		}
		b, p := VBlock(s>>posBits), t.at(uint32(s&posMask)-1).block
		if p != 0 && (!folding || t.vol.table.load(b).block() != p) {
			f(p, namer{what, t.cg, t.vol.name, b})
		}
	}
}

// balance compares counts; not while tables wait for a reader to leave, or for the control loop to take them.
func (i Inspection) balance(writers []*Writer, named uint64) error {
	c := i.p.ctl
	if len(c.graces) > 0 || len(c.inbox) > 0 {
		return nil
	}
	reserved := uint64(0)
	for _, w := range writers {
		if w.held {
			reserved += uint64(w.runLeft) + uint64(w.extent.Free())
		}
	}
	if s := i.p.alloc.Stats(); s.Used != named+reserved {
		return fmt.Errorf("%d blocks are used, but %d are named and %d reserved", s.Used, named, reserved)
	}
	return nil
}

// Place says where a physical block is: the device by its place in what was opened, and a byte offset.
func (i Inspection) Place(b PBlock) (device int, off int64) {
	device, block := i.p.locate(b)
	return device, blocksToBytes(block)
}

// Extents gives the bytes of a device that hold data, and nothing but data.
func (i Inspection) Extents(device int) (off, n int64) {
	first := uint64(headerBlocks)
	if i.p.order[0] == device {
		first = i.p.sb.zones.data
	}
	return blocksToBytes(first), i.p.info[device].Size - blocksToBytes(first)
}

// TablePages are the byte offsets on device 0 of the table pages that the newest root names.
func (i Inspection) TablePages() []int64 {
	var at []int64
	k := &i.p.ctl.ckpt
	for pair, e := range k.directory[:k.used] {
		if e != 0 {
			at = append(at, blocksToBytes(i.p.sb.zones.tableSlot(uint32(pair), uint8(e&1))))
		}
	}
	return at
}
