package primary

import (
	"time"

	"github.com/farside-storage/farside/internal/plant"
)

// A first copy is spread over CGs: its blocks are pending, and each CG brings some of them, while all other volumes go
// on as always. See the invariants in the package comment.

// maySpread says whether the first copy may take more than one CG. The secondary does not show the volume before it
// is whole, so that nobody sees a part of it.
func (r *replica) maySpread() bool { return r.hole }

// lack notes blocks that are still to be sent.
func (r *replica) lack(first, count uint64) {
	if r.spread {
		r.pending.set(first, count)
	} else {
		r.open.set(first, count)
	}
}

// lackAll notes all blocks of a set.
func (r *replica) lackAll(blocks *bitmap) {
	if r.spread {
		r.pending.or(blocks)
	} else {
		r.open.or(blocks)
	}
}

// queued: the newest contents of these blocks are in the queue.
func (r *replica) queued(first, count uint64) {
	r.open.clear(first, count)
	r.pending.clear(first, count)
}

// left counts the blocks that are still to be read.
func (r *replica) left() uint64 { return r.open.count + r.cut.count + r.pending.count }

// copyWhole has every block of a copy sent: in the CGs to come, or in the open one.
func (c *Core) copyWhole(r *replica) {
	r.lacking.setAll()
	c.intent.snapshotDue = true
	if r.maySpread() {
		r.spreadOut()
		r.pending.setAll()
		return
	}
	r.pending.reset()
	r.open.setAll()
	c.inOne(r)
}

// arrange spreads a first copy over CGs, or gathers it in the open one, as what is known by now demands.
func (c *Core) arrange(r *replica, complete uint64) {
	g, may := r.volume.group, r.maySpread()
	switch {
	case r.synced || may == r.spread:
	case !may:
		c.loseCut(r, complete) // Partial, and refused
		r.open.or(r.pending)
		r.pending.reset()
		c.inOne(r)
	case r.rest || r.fullCG != 0 && r.fullCG != g.open && r.conn.cut == nil:
		// A CG that has all of it was sent.
	default:
		r.spreadOut()
	}
}

// spreadOut begins to spread. A CG that is cut does not wait for it any more.
func (r *replica) spreadOut() {
	r.pending.or(r.open)
	r.pending.or(r.cut)
	r.open.reset()
	r.cut.reset()
	r.spread, r.rest, r.fullCG = true, false, 0
	if l := r.conn.cut; l != nil {
		l.tally.partial[r.handle] = true
	}
}

// inOne makes the open CG the one that has all of what the copy lacks.
func (c *Core) inOne(r *replica) {
	v := r.volume
	v.changed().or(r.open)
	r.spread, r.rest = false, false
	r.fullCG, r.fullEpoch = v.group.open, v.gens[len(v.gens)-1].epoch
}

// reopen decides how a copy that is not whole goes on when CG cg is opened with all that was given up; that is in
// r.open.
func (c *Core) reopen(r *replica, cg uint64) {
	r.rest = false
	if r.maySpread() {
		r.open, r.pending = r.pending, r.open
		r.spread, r.fullCG = true, 0
		return
	}
	r.spread, r.fullCG, r.fullEpoch = false, cg, r.volume.group.epoch
}

// cutCopy ends the open CG for one copy. v.gens has the next one already.
func (c *Core) cutCopy(r *replica) {
	v := r.volume
	ended := v.gens[len(v.gens)-2]
	switch {
	case r.apart: // no part of any CG
	case !r.spread:
		r.cut, r.open = r.open, r.cut // cut was empty: the one before is drained
	case r.pending.count <= uint64(c.opt.FirstCopyRest)/BlockSize:
		r.cut, r.pending = r.pending, r.cut // it is empty
		ended.changed.or(r.cut)
		r.spread, r.rest, r.fullCG, r.fullEpoch = false, true, ended.cg, ended.epoch
	default:
		r.conn.open.tally.partial[r.handle] = true
	}
}

// pumpFirstCopies reads some of what first copies lack into the open CG. Little of it waits in the queue: what does
// belongs to the CG when that is cut, and makes it wait.
func (c *Core) pumpFirstCopies(cn *conn) {
	if cn.front() != cn.open {
		return
	}
	for idle := 0; idle < len(cn.replicas) && c.mayReadFirst(cn); {
		r := cn.replicas[cn.next%len(cn.replicas)]
		cn.next++
		before := cn.readBytes
		if c.readNext(r, r.pending) {
			c.pace.spend(c, cn.readBytes-before)
			cn.open.copied += cn.readBytes - before
			idle = 0
		} else {
			idle++
		}
	}
}

// pace limits the rate of first copies: a read may begin when those before it are paid for.
type pace struct {
	paidAt    time.Duration // when what was read so far is paid for
	waitUntil time.Duration // somebody waits for that; 0 nobody
}

// allows says whether a read may begin now; if not, tick comes back when one may.
func (p *pace) allows(c *Core) bool {
	if c.opt.FirstCopyRate == 0 || c.now >= p.paidAt {
		return true
	}
	p.waitUntil = p.paidAt
	c.dueAt(p.waitUntil)
	return false
}

func (p *pace) spend(c *Core, bytes int64) {
	if rate := c.opt.FirstCopyRate; rate > 0 {
		p.paidAt = max(p.paidAt, c.now) + time.Duration(float64(bytes)/float64(rate)*float64(time.Second))
	}
}

func (p *pace) tick(c *Core) {
	if p.waitUntil == 0 || c.now < p.waitUntil {
		return
	}
	p.waitUntil = 0
	for _, g := range c.groups {
		c.kickGroup(g)
	}
}

// SetFirstCopyRate changes CoreOptions.FirstCopyRate.
func (c *Core) SetFirstCopyRate(rate int64) {
	if rate == c.opt.FirstCopyRate {
		return
	}
	c.opt.FirstCopyRate, c.pace.paidAt, c.pace.waitUntil = rate, c.now, c.now
	c.pace.tick(c)
}

// mayReadFirst: the open CG has not taken its share, and little waits. A quarter of a second's worth of transmission
// may, an eighth of the queue at most, and two reads at least.
func (c *Core) mayReadFirst(cn *conn) bool {
	if c.shareTaken(cn) || !c.pace.allows(c) {
		return false
	}
	worth := int64(cn.rate.value(c.now) / 4)
	most := max(min(worth, c.opt.QueueBytes/8), 2*c.opt.CatchupBytes)
	return cn.reads < c.readLimit(cn, cn.open) && cn.queued+cn.readBytes+c.opt.CatchupBytes <= min(most, c.opt.QueueBytes)
}

// shareTaken says whether the open CG takes no more of first copies. The last share of them is not held up: while hosts
// write more than is queued, some blocks are read again and again, and a copy that had to leave them to the next CG would
// never end.
func (c *Core) shareTaken(cn *conn) bool {
	left := uint64(0)
	for _, r := range cn.replicas {
		left += r.pending.count
	}
	share := c.opt.FirstCopyShare
	return cn.open.copied >= share && left*BlockSize > uint64(share)
}

// bring queues what a read has brought of a first copy in the open CG, even if another one was cut meanwhile.
func (c *Core) bring(r *replica, io *IO, s *shared) {
	cn, v := r.conn, r.volume
	if !r.spread || cn.open == nil || cn.unnoted || v.group.lost != 0 {
		return
	}
	end := io.readAt + io.readCount
	for at, ok := r.pending.next(io.readAt, end); ok; at, ok = r.pending.next(at, end) {
		to := r.pending.nextClear(at, end)
		if !plant.On(plant.PartForgotten) {
			v.changed().set(at, to-at)
		}
		at = to
	}
	c.queueRuns(r, cn.open, r.pending, io.readAt, io.readCount, s, &io.zero)
}
