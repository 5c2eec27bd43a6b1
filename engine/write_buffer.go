package engine

import (
	"errors"
	"fmt"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/ring"
)

// writeBuffer is a piece of the arena on its way: filled from the front, written in runs of
// consecutive physical blocks.
type writeBuffer struct {
	mem     []byte
	serial  uint64
	used    int // blocks filled
	written int // blocks of which the write was pushed
	flights int
	full    bool         // nothing more will be put
	at      []PBlock     // where block i goes
	owner   []bufferSlot // whose block i is
}

// bufferSlot finds a block's entry again, in case its write fails.
type bufferSlot struct {
	table *cgTable
	pos   uint32
}

type writeFlight struct {
	buf      *writeBuffer
	from, to int // blocks of the buffer
}

type deadBlock struct {
	block  PBlock
	serial uint64
}

// nextBuffer makes a free buffer the current one.
func (w *Writer) nextBuffer() error {
	if err := w.reap(0); err != nil {
		return err
	}
	for len(w.free) == 0 || len(w.dead) > w.deadMost && w.queue.InFlight() > 0 {
		if err := w.reap(w.several()); err != nil {
			return err
		}
	}
	b := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.serial++
	b.serial, b.used, b.written, b.full = w.serial, 0, 0, false
	w.current = b
	return nil
}

// refill takes the next run of free blocks from the extent, or from a new one.
func (w *Writer) refill() error {
	for {
		if w.held {
			first, n := w.extent.Take(uint32(w.pool.opts.WriterBufferBlocks))
			if n > 0 {
				w.run, w.runLeft = PBlock(first), n
				return nil
			}
			w.pool.alloc.Return(&w.extent)
			w.held = false
		}
		switch err := w.pool.alloc.Reserve(&w.extent); {
		case errors.Is(err, alloc.ErrFull):
			// What is superseded and written may be all that is missing.
			if err := w.reclaim(); err != nil {
				return err
			}
			if w.pool.alloc.Reserve(&w.extent) != nil {
				return ErrPoolFull
			}
		case err != nil:
			return err
		}
		w.held = true
	}
}

// reclaim writes out what is pending and gives superseded blocks back.
func (w *Writer) reclaim() error {
	if len(w.dead) == 0 || w.reaping {
		return nil
	}
	return w.drain()
}

// kill gives a block back once all that was put so far is written.
func (w *Writer) kill(p PBlock) { w.dead = append(w.dead, deadBlock{p, w.serial}) }

// pushTail pushes the write of the blocks of buf that were put since the last push. The caller submits: where the
// extent has holes a buffer leaves as several writes, and one system call takes them all.
func (w *Writer) pushTail(buf *writeBuffer) error {
	from, to := buf.written, buf.used
	if from == to {
		return w.retireBuffer(buf)
	}
	buf.written = to
	buf.flights++
	for len(w.freeTag) == 0 || !w.push(writeFlight{buf, from, to}) {
		if err := w.reap(w.several()); err != nil {
			return err
		}
	}
	return nil
}

// several is how many writes to wait for when all buffers, or all tags, are on their way: a part of them, so that the
// device has enough to do meanwhile, and the writer is not woken for each.
func (w *Writer) several() int { return max(1, w.queue.InFlight()/8) }

// reap takes completions in, waiting for at least least. An error is the writer's end.
func (w *Writer) reap(least int) error {
	n, err := w.queue.Reap(w.reaped, least)
	if err != nil {
		w.lastErr = errors.Join(w.lastErr, fmt.Errorf("writer: %w", err))
	}
	w.reaping = true
	defer func() { w.reaping = false }()
	for _, c := range w.reaped[:n] {
		f := w.flights[c.Tag]
		w.freeTag = append(w.freeTag, uint32(c.Tag))
		f.buf.flights--
		if c.Err != nil {
			w.writeFailed(f, c.Err)
		} else {
			w.written(f)
		}
		if err := w.retireBuffer(f.buf); err != nil {
			w.lastErr = errors.Join(w.lastErr, err)
		}
	}
	w.pushAgain()
	return w.lastErr
}

// retireBuffer makes a buffer free that is full and written.
func (w *Writer) retireBuffer(buf *writeBuffer) error {
	if !buf.full || buf.flights > 0 || buf.written < buf.used || buf == w.current {
		return nil
	}
	buf.full = false
	w.free = append(w.free, buf)
	return w.releaseDead()
}

// releaseDead gives back superseded blocks that no write on its way can touch any more.
func (w *Writer) releaseDead() error {
	if len(w.dead) == 0 {
		return nil
	}
	oldest := w.serial + 1 // serial of the oldest buffer that is not written
	for i := range w.buffers {
		if b := &w.buffers[i]; b.flights > 0 || b.written < b.used {
			oldest = min(oldest, b.serial)
		}
	}
	n := 0
	for n < len(w.dead) && w.dead[n].serial < oldest {
		if err := w.freeing.add(w.dead[n].block); err != nil {
			return err
		}
		n++
	}
	w.dead = append(w.dead[:0], w.dead[n:]...)
	return w.freeing.flush()
}

// push pushes one write, if there is room.
func (w *Writer) push(f writeFlight) bool {
	tag := w.freeTag[len(w.freeTag)-1]
	device, block := w.pool.locate(f.buf.at[f.from])
	r := ring.Request{Op: ring.OpWrite, Device: device, Off: blocksToBytes(block),
		Buf: f.buf.mem[f.from*BlockSize : f.to*BlockSize], Tag: uint64(tag)}
	if !w.queue.Push(r) {
		return false
	}
	w.freeTag = w.freeTag[:len(w.freeTag)-1]
	w.flights[tag] = f
	w.stats.DeviceWrites++
	w.stats.DeviceBlocks += uint64(f.to - f.from)
	return true
}

// drain writes everything out and waits for it. The current buffer stays the current one: the caller may
// stand between Space and Put.
func (w *Writer) drain() error {
	if w.lastErr != nil {
		return w.lastErr
	}
	if w.current != nil {
		if err := w.pushTail(w.current); err != nil {
			return err
		}
	}
	for w.queue.InFlight() > 0 || len(w.retries) > 0 {
		if err := w.reap(1); err != nil {
			return err
		}
	}
	return w.releaseDead()
}
