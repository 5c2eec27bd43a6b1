package engine

import "fmt"

// completion makes a sealed CG complete: its tables are journaled in table order, data and journal
// flushed, then COMPLETE is recorded.
//
// The flush that makes the parts durable also covers the CG's data: writers seal only when their writes have
// completed, and COMPLETE is written after that flush.
type completion struct {
	g       *Group
	cg      *liveCG
	entries uint64

	whole  int // marks of volumes that were journaled
	table  int
	keys   []uint64 // of the table in work
	next   int
	zrange int
	opened bool
	at     leafCursor
	done   bool // everything is appended; the rest happens in continuations
}

// startCompletions takes up every group's next CG that is sealed on all volumes.
func (c *control) startCompletions() {
	for _, g := range c.pool.groups {
		if g.takeGaps(); g.busy || c.completing(g) || c.foldInWork(g) {
			continue
		}
		s := g.ready()
		if s == nil {
			continue
		}
		l, err := s.gather(g)
		if err == nil {
			err = c.fits(l)
		}
		if err != nil {
			c.refuse(g, l, err)
			continue
		}
		c.completions = append(c.completions, &completion{g: g, cg: l})
	}
}

// gather puts a CG together that is sealed on every volume. An error: a volume that is whole must not become less.
func (s *sealedCG) gather(g *Group) (*liveCG, error) {
	l := &liveCG{cg: s.cg}
	var err error
	for _, v := range g.volumes {
		x, ok := s.volumes[v]
		if !ok {
			continue
		}
		if x.table != nil {
			l.tables = append(l.tables, x.table)
		}
		switch m := v.Membership(); {
		case !x.partial && !m.Whole():
			l.whole = append(l.whole, wholeMark{v, m.turn})
		case x.partial && m.Whole():
			err = fmt.Errorf("CG %d: volume %s: %w: it is whole since CG %d, and the CG has a part of it only", s.cg, v.name, ErrState, m.WholeSince)
		}
	}
	return l, err
}

// fits says whether the tables of a CG can be journaled at all: however empty the journal is, its own first part would
// hold the tail. Waiting for room that cannot come would hold the group up for ever.
func (c *control) fits(l *liveCG) error {
	need := uint64(1) + bytesToBlocks(uint64(len(l.whole))*wholeSize)
	for _, t := range l.tables {
		need += bytesToBlocks(uint64(t.n)*partEntrySize+uint64(len(t.zeroed))*rangeSize) + 2
	}
	need += need / (pieceMaxBlocks - 1) // headers, and what is lost between pieces
	if most := c.journal.capacity(); need > most {
		return fmt.Errorf("CG %d: %w: its tables need %d bytes of journal, which has room for %d; format with a larger journal",
			l.cg, ErrCGTooLarge, blocksToBytes(need), blocksToBytes(most))
	}
	return nil
}

// refuse forgets a CG that can never become complete, and says so.
func (c *control) refuse(g *Group, l *liveCG, err error) {
	err = fmt.Errorf("group %s: %w", g.name, err)
	c.pool.opts.Logger.Error("CG refused", "error", err)
	c.pool.releaseTables(l.tables)
	if f := c.pool.opts.OnRefused; f != nil {
		f(g.name, l.cg, err)
	}
}

func (c *control) completing(g *Group) bool {
	for _, j := range c.completions {
		if j.g == g {
			return true
		}
	}
	return false
}

// stepCompletions appends what the journal has room and buffers for; it reports whether it can go on at once.
func (c *control) stepCompletions() bool {
	c.startCompletions()
	progress := false
	for _, j := range c.completions {
		for !j.done && c.journal.err == nil {
			if j.cg.cg <= j.g.state.through {
				j.drop(c)
				break
			}
			if !c.journal.room(pieceMaxBlocks) {
				c.relieveJournal()
				break
			}
			buf := c.journal.buffer()
			if buf == nil {
				break
			}
			out := buf[:pieceHeader]
			if j.cg.start.seq == 0 {
				j.cg.start = c.journal.next
				out = appendRecord(out, record{kind: recBegin, group: j.g.id, cg: j.cg.cg})
			}
			out, err := j.fill(out)
			if err != nil {
				c.fail(err)
				return false
			}
			if n := len(out) - pieceHeader; n > 0 {
				c.journal.append(buf, n, 0)
			} else {
				c.journal.buffers = append(c.journal.buffers, buf)
			}
			progress = true
			if j.done {
				j.finish(c)
			}
		}
	}
	return progress
}

// fill appends records to b up to the size of a piece.
func (j *completion) fill(b []byte) ([]byte, error) {
	for j.whole < len(j.cg.whole) && pieceBytes-len(b) >= wholeSize {
		w := j.cg.whole[j.whole]
		b = appendRecord(b, record{kind: recWhole, group: j.g.id, volume: w.vol.id, cg: j.cg.cg, turn: w.turn})
		j.whole++
		j.entries++
	}
	if j.whole < len(j.cg.whole) {
		return b, nil // full
	}
	for j.table < len(j.cg.tables) {
		t := j.cg.tables[j.table]
		if !j.opened {
			var err error
			if j.keys, err = t.sorted(); err != nil {
				return nil, err
			}
			j.next, j.zrange, j.opened = 0, 0, true
		}
		b = j.fillRanges(b, t)
		b = j.fillPoints(b, t)
		if j.zrange < len(t.zeroed) || j.next < len(j.keys) {
			return b, nil // full
		}
		j.keys, j.opened = nil, false
		j.table++
	}
	j.done = true
	return b, nil
}

const pieceBytes = pieceMaxBlocks * BlockSize

func (j *completion) fillRanges(b []byte, t *cgTable) []byte {
	n := min((pieceBytes-len(b)-zeroesOverhead)/rangeSize, len(t.zeroed)-j.zrange)
	if n <= 0 {
		return b
	}
	var body []byte
	for _, r := range t.zeroed[j.zrange : j.zrange+n] {
		body = appendRange(body, r)
	}
	j.zrange += n
	j.entries += uint64(n)
	return appendRecord(b, record{kind: recZeroes, group: j.g.id, volume: t.vol.id, cg: t.cg, body: body})
}

// fillPoints appends parts straight into b: they are most of the journal.
func (j *completion) fillPoints(b []byte, t *cgTable) []byte {
	if j.zrange < len(t.zeroed) {
		return b
	}
	shown := &j.g.final.Load().vols[t.vol.slot]
	for j.next < len(j.keys) && pieceBytes-len(b) >= partOverhead+partEntrySize {
		base := VBlock(j.keys[j.next] >> posBits)
		start := len(b)
		b = appendRecord(b, record{kind: recPart, group: j.g.id, volume: t.vol.id, cg: t.cg, base: base})
		for j.next < len(j.keys) && pieceBytes-len(b) >= partEntrySize {
			k := j.keys[j.next]
			v := VBlock(k >> posBits)
			t.prefetchKey(j.keys, j.next)
			j.at.prefetch(t.vol.table, j.keys, j.next)
			if v-base >= maxPartSpan {
				break
			}
			b = appendPartEntry(b, uint64(v-base), *t.at(uint32(k&posMask) - 1), shown.lookupAt(&j.at, v))
			j.next++
			j.entries++
		}
		le.PutUint32(b[start+4:], uint32(len(b)-start-recordHeader))
	}
	return b
}

// finish waits for data and parts to be durable, then records COMPLETE.
func (j *completion) finish(c *control) {
	c.journal.commit(func(err error) {
		if err != nil {
			c.remove(j)
			return // the journal has failed; the pool says so to everybody
		}
		j.g.do(groupOp{
			decide: func() (*record, error) { return j.g.state.completed(j.cg.cg, j.entries) },
			applied: func(r *record) {
				j.g.live = append(j.g.live, j.cg)
				j.g.apply(r)
			},
			reply: func(err error) { j.ended(c, err) },
		})
	})
}

func (j *completion) ended(c *control, err error) {
	if err != nil {
		j.drop(c)
		return
	}
	c.remove(j)
	if f := c.pool.opts.OnComplete; f != nil {
		f(j.g.name, j.cg.cg)
	}
}

// drop gives up: the CG was discarded. No record names its blocks as part of a complete CG.
func (j *completion) drop(c *control) {
	j.keys, j.done = nil, true
	c.pool.releaseTables(j.cg.tables)
	c.remove(j)
}

func (c *control) remove(j *completion) {
	for i, x := range c.completions {
		if x == j {
			c.completions = append(c.completions[:i:i], c.completions[i+1:]...)
			return
		}
	}
	panic(fmt.Sprintf("engine: CG %d of group %s completed twice", j.cg.cg, j.g.name))
}
