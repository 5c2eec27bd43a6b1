package primary

// rangeLocks serialises requests that overlap on virtual blocks of one volume, in the
// order of insertion. A request counts the earlier ones it has to wait for; it holds its range once
// that is 0. Requests in progress are few (a queue depth), so they are kept in one flat slice and
// scanned: for 128 of them that is a few cache lines.
type rangeLocks struct {
	held []lockEntry
	seq  uint64
	woke []*IO
}

type lockEntry struct {
	first, last uint64 // blocks, inclusive
	seq         uint64
	io          *IO
}

// insert queues io for its range; it holds the range if io.blockers is 0 afterwards.
func (l *rangeLocks) insert(io *IO) {
	io.blockers, io.waited = 0, false
	for i := range l.held {
		if e := &l.held[i]; e.first <= io.last && io.first <= e.last {
			e.io.waited = true
			io.blockers++
		}
	}
	l.seq++
	io.lockSlot = len(l.held)
	l.held = append(l.held, lockEntry{io.first, io.last, l.seq, io})
}

// remove ends io's hold and returns the requests that hold their range from now on. The
// slice is valid until the next call.
func (l *rangeLocks) remove(io *IO) []*IO {
	slot := io.lockSlot
	gone := l.held[slot]
	tail := len(l.held) - 1
	l.held[slot] = l.held[tail]
	l.held[slot].io.lockSlot = slot
	l.held[tail] = lockEntry{}
	l.held = l.held[:tail]
	l.woke = l.woke[:0]
	if !io.waited {
		return nil
	}
	for i := range l.held {
		e := &l.held[i]
		if e.seq > gone.seq && e.first <= gone.last && gone.first <= e.last {
			if e.io.blockers--; e.io.blockers == 0 {
				l.woke = append(l.woke, e.io)
			}
		}
	}
	return l.woke
}

// free finds the first part of [first, last] that no request in progress overlaps.
func (l *rangeLocks) free(first, last uint64) (lo, hi uint64, ok bool) {
	for again := true; again; {
		again = false
		for i := range l.held {
			switch e := &l.held[i]; {
			case e.last < first || last < e.first:
			case e.first <= first:
				if e.last >= last {
					return 0, 0, false
				}
				first, again = e.last+1, true
			default:
				last, again = e.first-1, true
			}
		}
	}
	return first, last, true
}
