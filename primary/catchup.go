package primary

import (
	"fmt"
	"log/slog"
	"time"
)

const (
	// maxGap blocks without a bit are read along rather than splitting a read in two. They stay in
	// memory with the rest of the read, so it bounds memory to 4 times what the queue counts.
	maxGap = 3
	// readRetry is how long a volume rests after a catch-up read failed.
	readRetry = time.Second
)

// pumpCatchup starts reads of the local device for what the connection's next CG lacks.
func (c *Core) pumpCatchup(cn *conn) {
	l := cn.front()
	if l == nil {
		return
	}
	for idle := 0; idle < len(cn.replicas) && c.mayRead(cn, l); {
		r := cn.replicas[cn.next%len(cn.replicas)]
		cn.next++
		if c.readNext(r, r.bits(l)) {
			idle = 0
		} else {
			idle++
		}
	}
	c.pumpFirstCopies(cn)
}

// readLimit is how many reads may be in flight for a CG: host I/O goes first.
func (c *Core) readLimit(cn *conn, l *lane) int {
	if l == cn.open && cn.group.writing > 0 {
		return 1
	}
	return c.opt.CatchupReads
}

// mayRead bounds what catch-up takes of memory and of the device.
func (c *Core) mayRead(cn *conn, l *lane) bool {
	ahead := cn.queued
	if l == cn.cut && cn.open != nil {
		ahead -= cn.open.bytes // leaves after l, so that it must not keep l from leaving
	}
	return cn.reads < c.readLimit(cn, l) && ahead+cn.readBytes+c.opt.CatchupBytes <= max(c.opt.QueueBytes/2, c.opt.CatchupBytes)
}

// readNext starts the next read for a copy, of blocks in a set. Only ranges that no request holds are read, so that
// hosts are not kept waiting: of a block that a request holds, either the request will supersede
// the bit, or its end brings us back here.
func (c *Core) readNext(r *replica, bits *bitmap) bool {
	v := r.volume
	if bits.empty() || v.retryAt != 0 {
		return false
	}
	run := uint64(c.opt.CatchupBytes / BlockSize)
	first, count, ok := freeRun(bits, &v.locks, r.cursor, v.blocks, run)
	if !ok {
		first, count, ok = freeRun(bits, &v.locks, 0, min(r.cursor, v.blocks), run)
	}
	if !ok {
		return false
	}
	r.cursor = first + count
	io := c.newRead()
	io.Op, io.Volume, io.replica = opCatchup, v.index, r
	io.first, io.last = first, first+count-1
	v.locks.insert(io)
	r.conn.reads++
	r.conn.readBytes += int64(count * BlockSize)
	c.readBlocks(io, stageCatchup, first, count)
	return true
}

// freeRun finds the next run of set bits in [from, end) that no request holds: at most run blocks, small
// gaps included, beginning and ending with a set bit.
func freeRun(bits *bitmap, locks *rangeLocks, from, end, run uint64) (first, count uint64, ok bool) {
	for {
		if first, ok = bits.next(from, end); !ok {
			return 0, 0, false
		}
		last := runEnd(bits, first, min(first+run, end)) - 1
		lo, hi, free := locks.free(first, last)
		if !free {
			from = last + 1
			continue
		}
		if lo != first { // the front is held: look again behind it
			from = lo
			continue
		}
		return first, runEnd(bits, first, hi+1) - first, true
	}
}

// runEnd is the block after the last set bit of the run that begins at first, gaps up to maxGap
// included.
func runEnd(bits *bitmap, first, limit uint64) uint64 {
	end := bits.nextClear(first, limit)
	for end < limit {
		at, ok := bits.next(end, min(limit, end+maxGap+1))
		if !ok {
			break
		}
		end = bits.nextClear(at, limit)
	}
	return end
}

func (c *Core) newRead() *IO {
	if n := len(c.reads); n > 0 {
		io := c.reads[n-1]
		c.reads = c.reads[:n-1]
		io.Err, io.inspected = nil, false
		return io
	}
	return new(IO)
}

// catchupRead queues what a read has brought. What it holds is the state of the blocks from its beginning
// to now, because it held their range: it is good for whichever CG comes next on the connection, even
// if that one was cut, or another one opened, meanwhile.
func (c *Core) catchupRead(io *IO, v *volume) {
	r := io.replica
	cn := r.conn
	cn.reads--
	cn.readBytes -= int64(io.readCount * BlockSize)
	if io.Err != nil {
		c.catchupFailed(io, v, r)
	} else if l := cn.front(); l != nil && !r.apart {
		io.parts[0].Inspect()
		data := io.bounce.Bytes()[:io.readCount*BlockSize]
		s := c.payload.get(io.bounce, data)
		before := cn.queued
		c.queueRuns(r, l, r.bits(l), io.readAt, io.readCount, s, &io.zero)
		c.bring(r, io, s)
		cn.catchupBytes += uint64(cn.queued - before)
		c.payload.release(s)
	}
	io.dropBounce()
	c.unlock(io, v)
	io.replica = nil
	c.reads = append(c.reads, io)
	c.kickVolume(v)
	c.checkGone(v)
}

func (c *Core) catchupFailed(io *IO, v *volume, r *replica) {
	cn := r.conn
	v.retryAt = c.now + readRetry
	c.dueAt(v.retryAt)
	v.lastErr = fmt.Sprintf("reading blocks %d to %d for the copy on %q: %v", io.first, io.last, cn.secondary, io.Err)
	c.notice(slog.LevelError, "cannot read what the copy lacks: it is tried again",
		"group", cn.group.name, "volume", v.spec.Name, "secondary", cn.secondary,
		"first block", io.first, "blocks", io.readCount, "error", io.Err)
	if cn.cut != nil && !r.spread {
		c.lose(v.group, v.lastErr)
	}
}
