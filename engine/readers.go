package engine

import "sync/atomic"

// readers tells when no reader can use an old view any more.
//
// It is epoch-based reclamation with two counters per lane, in the manner of the kernel's sleepable RCU: a
// reader counts itself in under the parity of the current epoch; the epoch moves on when
// nobody of the one before is left. What was unreachable in epoch e is unused in epoch e+2.
//
// enter and leave take no lock; lanes keep readers of different threads off each other's cache lines.
type readers struct {
	epoch  atomic.Uint64
	wanted atomic.Bool // somebody waits for the epoch to move: the last to leave calls wake
	wake   func()
	lanes  [16]readerLane
}

type readerLane struct {
	in [2]atomic.Int64 // readers in, by parity of the epoch they entered in
	_  [112]byte
}

// ticket is what a reader holds between enter and leave.
type ticket struct {
	lane   *readerLane
	parity uint64
}

// enter must precede the load of the view pointer. lane is any number; readers that use different ones do not
// disturb each other.
func (r *readers) enter(lane uint) ticket {
	l := &r.lanes[lane%uint(len(r.lanes))]
	for {
		e := r.epoch.Load()
		l.in[e&1].Add(1)
		// The epoch may have moved between the load and the count; then the
		// one who moved it has not seen us.
		if r.epoch.Load() == e {
			return ticket{l, e & 1}
		}
		r.leave(ticket{l, e & 1})
	}
}

func (r *readers) leave(t ticket) {
	if t.lane.in[t.parity].Add(-1) == 0 && r.wanted.Load() {
		r.wake()
	}
}

// advance moves the epoch on if nobody of the one before is left, and returns the current epoch. Control
// loop only.
func (r *readers) advance() uint64 {
	e := r.epoch.Load()
	old := (e + 1) & 1 // parity of e-1
	for i := range r.lanes {
		if r.lanes[i].in[old].Load() != 0 {
			return e
		}
	}
	r.epoch.Store(e + 1)
	return e + 1
}
