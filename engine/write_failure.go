package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// strikesOut is how many writes to a device may fail in a row, none to it succeeding between them, until that is
// taken for the failure of a device and no longer for bad places on it. Each bad place is given up for ever: a device
// that only lost its cable must not lose all its blocks. Kernels tell of a lost device by ENXIO or ENODEV, but some
// by EIO, as of a bad place.
const strikesOut = 256

// writeFailed handles a failed write: a bad place is gone round, a device that is gone ends the pool's work.
func (w *Writer) writeFailed(f writeFlight, cause error) {
	device, _ := w.pool.locate(f.buf.at[f.from])
	if w.strikes[device]++; w.lastErr == nil && w.strikes[device] < strikesOut && !deviceGone(cause) {
		w.placeAgain(f, cause)
		return
	}
	if w.lastErr == nil {
		w.lastErr = fmt.Errorf("%w: the device fails, not a place on it (%d failed writes in a row, the last: %w). See to the device, "+
			"then open the pool again: nothing on it is given up", ErrFailed, w.strikes[device], cause)
		err := w.lastErr
		w.pool.ctl.post(func() { w.pool.ctl.fail(err) })
	}
}

// written takes note of a write that ended well: its device lives. Others may still fail every write.
func (w *Writer) written(f writeFlight) {
	device, _ := w.pool.locate(f.buf.at[f.from])
	w.strikes[device] = 0
}

// deviceGone says whether the kernel no longer has the device.
func deviceGone(err error) bool {
	return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESHUTDOWN)
}

// unmap takes blocks that were retired out of their tables, which will be forgotten.
func (buf *writeBuffer) unmap(from, to int) {
	for i := from; i < to; i++ {
		if e := buf.owner[i].table.at(buf.owner[i].pos); e.block == buf.at[i] {
			e.block = 0
		}
	}
}

// settle waits for what is in flight, also after a failure: until then no block of it may be given back.
func (w *Writer) settle() error {
	err := w.drain()
	w.retries = nil
	for w.queue.InFlight() > 0 {
		before := w.queue.InFlight()
		if rerr := w.reap(1); rerr != nil && w.queue.InFlight() == before {
			return errors.Join(err, rerr) // the ring itself has failed: closing it waits
		}
	}
	return err
}

// placeAgain retires the range of a failed write and puts its blocks elsewhere.
func (w *Writer) placeAgain(f writeFlight, cause error) {
	buf := f.buf
	w.pool.retire(prange{buf.at[f.from], uint64(f.to - f.from)}, cause)
	w.stats.Retired += uint64(f.to - f.from)
	run := writeFlight{buf: buf, from: f.from, to: f.from}
	for i := f.from; i < f.to; i++ {
		bad, o := buf.at[i], buf.owner[i]
		w.dead = deleteDead(w.dead, bad)
		if e := o.table.at(o.pos); e.block != bad {
			w.again(run) // superseded meanwhile
			run.from, run.to = i+1, i+1
			continue
		}
		if w.runLeft == 0 {
			if err := w.refill(); err != nil {
				// Not ErrPoolFull: the caller would wait for room and go on, without these blocks.
				w.lastErr = fmt.Errorf("after a write error (%w) there is no other place: %v", cause, err)
				buf.unmap(i, f.to)
				return
			}
		}
		p := w.run
		w.run++
		w.runLeft--
		if run.to > run.from && buf.at[i-1]+1 != p {
			w.again(run)
			run.from = i
		}
		o.table.at(o.pos).block = p
		buf.at[i] = p
		run.to = i + 1
	}
	w.again(run)
}

// again queues a run for another write, to its new place.
func (w *Writer) again(f writeFlight) {
	if f.from < f.to {
		f.buf.flights++
		w.retries = append(w.retries, f)
	}
}

// pushAgain pushes as many of the queued runs as there is room for.
func (w *Writer) pushAgain() {
	for len(w.retries) > 0 && len(w.freeTag) > 0 && w.push(w.retries[0]) {
		w.retries = w.retries[1:]
	}
}

func deleteDead(dead []deadBlock, p PBlock) []deadBlock {
	for i, d := range dead {
		if d.block == p {
			return append(dead[:i], dead[i+1:]...)
		}
	}
	return dead
}
