package ringtest

import (
	"fmt"
	"slices"

	"github.com/farside-storage/farside/ring"
	"golang.org/x/sys/unix"
)

// queue implements [ring.Queue]. Its fields are guarded by the devices' mutex, but for wakeup.
type queue struct {
	d     *Devices
	slots []request
	free  []int32
	// pushed are not submitted; flying are with the device; refused failed their check.
	pushed, flying, refused []int32
	wakeup                  chan struct{}
	closed                  bool
}

// request is one in flight.
type request struct {
	ring.Request
	// seq is the devices' sequence number at submission: a flush covers what is not above it, and a
	// read need not look again if nothing is.
	seq   uint64
	fault *Fault
	err   error
}

func newQueue(d *Devices, depth int) *queue {
	q := &queue{
		d: d, slots: make([]request, depth), wakeup: make(chan struct{}, 1),
		free: make([]int32, depth), pushed: make([]int32, 0, depth),
		flying: make([]int32, 0, depth), refused: make([]int32, 0, depth),
	}
	for i := range q.free {
		q.free[i] = int32(depth - 1 - i)
	}
	return q
}

func (q *queue) Depth() int { return len(q.slots) }

func (q *queue) InFlight() int { return len(q.slots) - len(q.free) }

// Wake implements [ring.Queue].
func (q *queue) Wake() {
	select {
	case q.wakeup <- struct{}{}:
	default:
	}
}

func (q *queue) Push(r ring.Request) bool {
	if len(q.free) == 0 || q.closed {
		return false
	}
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.slots[i] = request{Request: r, err: r.Check(q.d.infos)}
	if q.slots[i].err != nil {
		q.refused = append(q.refused, i)
	} else {
		q.pushed = append(q.pushed, i)
	}
	return true
}

func (q *queue) Submit() error {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	return q.submit()
}

func (q *queue) submit() error {
	for n, i := range q.pushed {
		if q.d.crashed {
			return ErrCrashed
		}
		r := &q.slots[i]
		r.seq = q.d.seq
		r.fault = q.d.match(&r.Request)
		if r.Op == ring.OpRead {
			q.d.readNow(r)
		}
		q.flying = append(q.flying, i)
		if q.d.happened(Submission) {
			q.pushed = slices.Delete(q.pushed, 0, n+1)
			q.d.crash()
			return ErrCrashed
		}
	}
	q.pushed = q.pushed[:0]
	if q.d.crashed {
		return ErrCrashed
	}
	return nil
}

// Reap implements [ring.Queue]; see the package comment on when it lets requests end.
func (q *queue) Reap(out []ring.Completion, min int) (int, error) {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	if err := q.checkReap(len(out), min); err != nil {
		return 0, err
	}
	if err := q.submit(); err != nil {
		return 0, err
	}
	if min > 0 && q.woken(q.d.opts.Blocking && q.InFlight() == 0) {
		min = 0
		if q.d.crashed {
			return 0, ErrCrashed
		}
	}
	n := 0
	for n < len(out) && len(q.refused) > 0 {
		n = q.deliver(out, n, &q.refused, len(q.refused)-1)
	}
	for goal := q.goal(n, min, len(out)); n < goal; {
		at := q.d.rng.IntN(len(q.flying))
		r := &q.slots[q.flying[at]]
		r.err = q.d.perform(r)
		n = q.deliver(out, n, &q.flying, at)
		if q.d.happened(Completion) || r.Op == ring.OpFlush && r.err == nil && q.d.happened(FlushEnd) {
			q.d.crash()
			return 0, ErrCrashed
		}
	}
	return n, nil
}

func (q *queue) checkReap(room, min int) error {
	switch {
	case q.closed:
		return ring.ErrClosed
	case q.d.crashed:
		return ErrCrashed
	case min > room:
		return fmt.Errorf("reap at least %d completions into room for %d", min, room)
	case min > q.InFlight() && min != 1:
		return fmt.Errorf("reap at least %d completions with %d requests in flight", min, q.InFlight())
	}
	return nil
}

// woken takes a wake-up, if there is one; with block it waits for it.
func (q *queue) woken(block bool) bool {
	if block {
		q.d.mu.Unlock()
		<-q.wakeup
		q.d.mu.Lock()
		return true
	}
	select {
	case <-q.wakeup:
		return true
	default:
		return false
	}
}

// goal is how many completions this Reap gives, n being there already.
func (q *queue) goal(n, least, room int) int {
	most := min(n+len(q.flying), room)
	least = min(max(least, n), most)
	return least + q.d.rng.IntN(most-least+1)
}

// deliver moves the request at list[at] to out[n] and returns n+1.
func (q *queue) deliver(out []ring.Completion, n int, list *[]int32, at int) int {
	l := *list
	i := l[at]
	l[at] = l[len(l)-1]
	*list = l[:len(l)-1]
	r := &q.slots[i]
	out[n] = ring.Completion{Tag: r.Tag, Err: r.err}
	r.Buf = nil
	q.free = append(q.free, i)
	return n + 1
}

// Close lets everything in flight end.
func (q *queue) Close() error {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	if q.closed {
		return ring.ErrClosed
	}
	q.closed = true
	q.d.queues = slices.DeleteFunc(q.d.queues, func(o *queue) bool { return o == q })
	if q.d.crashed || q.submit() != nil {
		return nil
	}
	q.d.rng.Shuffle(len(q.flying), func(i, j int) { q.flying[i], q.flying[j] = q.flying[j], q.flying[i] })
	for _, i := range q.flying {
		q.d.perform(&q.slots[i])
	}
	return nil
}

// perform carries out r, which thereby completes.
func (d *Devices) perform(r *request) error {
	k := d.disks[r.Device]
	if k.gone {
		return r.Fail(d.infos, unix.ENXIO)
	}
	if f := r.fault; f != nil {
		return d.performFaulty(k, r, f)
	}
	switch r.Op {
	case ring.OpRead:
		d.readAgain(k, r)
		k.stats.Reads++
		k.stats.ReadBytes += uint64(len(r.Buf))
	case ring.OpWrite:
		d.write(k, r.Off, r.Buf, r.FUA)
		k.stats.Writes++
		k.stats.WriteBytes += uint64(len(r.Buf))
	case ring.OpFlush:
		k.flush(r.seq)
		k.stats.Flushes++
	case ring.OpDiscard:
		d.discard(k, r.Off, r.Len)
		k.stats.Discards++
	case ring.OpWriteZeroes:
		d.zero(k, r.Off, r.Len)
		k.stats.Zeroes++
	}
	return nil
}

func (d *Devices) write(k *disk, off int64, p []byte, fua bool) {
	d.seq++
	size := int64(k.size)
	for i := off / size; len(p) > 0; i++ {
		k.store(i, p[:size], d.seq)
		if fua {
			k.settle(k.touch(i), d.seq)
		}
		p = p[size:]
	}
}

// zero appends zeros to the chains of the sectors in the range; those never touched are zeros already.
func (d *Devices) zero(k *disk, off, n int64) {
	d.seq++
	size := int64(k.size)
	for _, i := range k.touched(off/size, (off+n)/size) {
		k.store(i, nil, d.seq)
	}
}

// discard leaves in each sector what it held, zeros or rubbish. Sectors that were never
// touched, and are not neighbours of such, stay zeros.
func (d *Devices) discard(k *disk, off, n int64) {
	d.seq++
	size := int64(k.size)
	rubbish := make([]byte, size)
	for _, i := range k.touched(off/size, (off+n)/size) {
		switch d.rng.IntN(3) {
		case 0:
		case 1:
			k.store(i, nil, d.seq)
		case 2:
			for j := range rubbish {
				rubbish[j] = byte(d.rng.Uint32())
			}
			k.store(i, rubbish, d.seq)
		}
	}
}

// readNow fills the read's memory with what the device holds at submission.
func (d *Devices) readNow(r *request) {
	k := d.disks[r.Device]
	size := int64(k.size)
	for n := int64(0); n < int64(len(r.Buf)); n += size {
		k.load(r.Buf[n:n+size], (r.Off+n)/size)
	}
}

// readAgain lets each sector of a completing read be, at random, what the device holds
// now, if that changed meanwhile, or what writes in flight are making of it.
func (d *Devices) readAgain(k *disk, r *request) {
	size := int64(k.size)
	if r.seq != d.seq {
		for n := int64(0); n < int64(len(r.Buf)); n += size {
			if d.rng.Uint32()&1 == 0 {
				k.load(r.Buf[n:n+size], (r.Off+n)/size)
			}
		}
	}
	for _, q := range d.queues {
		for _, i := range q.flying {
			if w := &q.slots[i]; w.Op == ring.OpWrite && w.Device == r.Device {
				d.mix(r, w, size)
			}
		}
	}
}

// mix copies sectors that the write w in flight has in common with the read r, each or not.
func (d *Devices) mix(r, w *request, size int64) {
	first := max(r.Off, w.Off)
	end := min(r.Off+int64(len(r.Buf)), w.Off+int64(len(w.Buf)))
	for off := first; off < end; off += size {
		if d.rng.Uint32()&1 == 0 {
			copy(r.Buf[off-r.Off:][:size], w.Buf[off-w.Off:])
		}
	}
}
