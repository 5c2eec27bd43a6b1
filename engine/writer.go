package engine

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/ring"
)

// Writer takes updates in. It belongs to the goroutine that called [Pool.NewWriter], which stays locked to its thread
// until Close. A writer has a ring, a set of buffers, an extent that it fills, and the CG pointer tables of the volumes
// bound to it; it shares nothing with other writers.
//
// For each update, receive the payload into [Writer.Space], then call [Writer.Put] (or [Writer.PutAll] for many at
// once). At the end of a CG call [Writer.Seal] for each volume.
//
// Blocks go to the device in the order of their arrival, front to back through the extent, so that hundreds of random
// 4 KiB updates leave as one sequential write. Nothing here allocates once the buffers and tables have grown to the
// size of a CG.
type Writer struct {
	pool    *Pool
	queue   ring.Queue
	arena   *ring.Arena
	buffers []writeBuffer
	free    []*writeBuffer
	current *writeBuffer
	flights []writeFlight // by tag
	freeTag []uint32
	retries []writeFlight // runs whose write failed, placed elsewhere, to be written again
	reaped  []ring.Completion

	extent  alloc.Extent
	held    bool // extent holds a reservation
	run     PBlock
	runLeft uint32 // free blocks at run, taken from the extent

	bound []*binding
	// dead are blocks of this CG that a later update superseded. Each goes back when the buffer that held it, and all
	// before it, have been written.
	dead     []deadBlock
	deadMost int // from so many on the oldest write is waited for
	freeing  freeing
	batch    []placing // blocks of the Put in work
	got      []uint64  // their checksums
	one      [1]Run
	serial   uint64 // of the current buffer
	stats    WriterStats
	reaping  bool  // completions are being taken in
	strikes  []int // by device: writes that failed since the last one that did not
	lastErr  error // why the writer can do nothing more: a write that could not be placed anywhere, for instance
}

// WriterStats counts what a writer did. Read it from the writer's goroutine.
type WriterStats struct {
	Blocks       uint64 // payload blocks put
	Superseded   uint64 // of these, replaced within their CG
	DeviceWrites uint64
	DeviceBlocks uint64
	Retired      uint64 // blocks given up after write errors
}

// binding is a volume bound to the writer, and the table of the CG that it receives.
type binding struct {
	vol   *Volume
	table *cgTable
	last  uint64 // newest CG sealed or received
	usual int    // blocks of the CG sealed last: the next one has perhaps as many, and its index need not grow
}

// NewWriter opens a writer for the calling goroutine. Close it on the same goroutine.
func (p *Pool) NewWriter() (*Writer, error) {
	n, blocks := p.opts.WriterBuffers, p.opts.WriterBufferBlocks
	arena, err := p.opts.Arenas.New(n * blocks * BlockSize)
	if err != nil {
		return nil, err
	}
	// A buffer is split where the free blocks are: in two at least, and with holes about every thirty-two blocks.
	depth := 1 << bits.Len(uint(max(2*n, n*blocks/32)-1))
	queue, err := p.devices.NewQueue(ring.QueueOptions{Depth: depth, Arenas: []*ring.Arena{arena}, Unwoken: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a writer: %w", err), arena.Close())
	}
	w := &Writer{pool: p, queue: queue, arena: arena, buffers: make([]writeBuffer, n),
		flights: make([]writeFlight, depth), reaped: make([]ring.Completion, depth), strikes: make([]int, len(p.info))}
	for i := range w.buffers {
		b := &w.buffers[i]
		b.mem = arena.Bytes()[i*blocks*BlockSize : (i+1)*blocks*BlockSize]
		b.at, b.owner = make([]PBlock, blocks), make([]bufferSlot, blocks)
		w.free = append(w.free, b)
	}
	w.freeing = newFreeing(p.alloc)
	w.deadMost = 8 * n * blocks
	w.dead = make([]deadBlock, 0, w.deadMost+blocks)
	w.batch, w.got = make([]placing, 0, blocks), make([]uint64, blocks)
	for i := range depth {
		w.freeTag = append(w.freeTag, uint32(i))
	}
	p.writers.Add(1)
	return w, nil
}

// Bind makes the writer the only one that takes updates of vol. Whatever an earlier writer received of vol and is not
// part of a complete CG is forgotten: the primary sends it again. If the group does not wait for vol yet, vol joins the
// group; this is refused while a CG without vol is complete and not final (see [Group.Join]).
func (w *Writer) Bind(vol *Volume) error {
	if !vol.writer.CompareAndSwap(nil, w) {
		return fmt.Errorf("volume %s: %w: another writer has it", vol.name, ErrState)
	}
	var newest uint64
	err := vol.group.join(context.Background(), vol, false)
	if err == nil {
		err = w.pool.callWait(func(reply func(error)) {
			vol.group.unseal(vol)
			newest = max(vol.group.state.complete, vol.group.state.through)
			reply(w.pool.failed())
		})
	}
	if err != nil {
		vol.writer.Store(nil)
		return err
	}
	w.bound = append(w.bound, &binding{vol: vol, last: newest})
	return nil
}

// Unbind ends the binding. Updates that are not sealed are forgotten.
func (w *Writer) Unbind(vol *Volume) error {
	for i, b := range w.bound {
		if b.vol == vol {
			err := w.forget(b)
			w.bound = append(w.bound[:i], w.bound[i+1:]...)
			vol.writer.Store(nil)
			return err
		}
	}
	return fmt.Errorf("volume %s: %w: not bound to this writer", vol.name, ErrState)
}

// forget releases what the binding has received of its CG.
func (w *Writer) forget(b *binding) error {
	if b.table == nil {
		return nil
	}
	err := w.settle()
	w.pool.releaseTables([]*cgTable{b.table})
	b.table = nil
	return err
}

// Space returns memory for the payload of 1 to n blocks: aligned, registered with the kernel, and the device writes
// from it without a copy. Receive into it, then Put; a second Space without Put returns the same memory. Space waits
// while all buffers are being written. On ErrPoolFull call [Pool.WaitSpace] and try again.
func (w *Writer) Space(n int) ([]byte, error) {
	if w.lastErr != nil {
		return nil, w.lastErr
	}
	for w.current == nil {
		if err := w.nextBuffer(); err != nil {
			return nil, err
		}
	}
	if w.runLeft == 0 {
		if err := w.refill(); err != nil {
			return nil, err
		}
	}
	b := w.current
	room := min(n, len(b.at)-b.used, int(w.runLeft)+int(w.extent.Free()))
	return b.mem[b.used*BlockSize : (b.used+room)*BlockSize], nil
}

func (w *Writer) binding(vol *Volume) (*binding, error) {
	for _, b := range w.bound {
		if b.vol == vol {
			return b, nil
		}
	}
	return nil, fmt.Errorf("volume %s: %w: not bound to this writer", vol.name, ErrState)
}

// open returns the binding ready for updates of CG cg. ErrDropped: that CG was discarded.
func (w *Writer) open(vol *Volume, cg uint64) (*binding, error) {
	if w.lastErr != nil {
		return nil, w.lastErr
	}
	b, err := w.binding(vol)
	if err != nil {
		return nil, err
	}
	if b.table != nil && b.table.cg == cg && cg > vol.group.discarded.Load() {
		return b, nil
	}
	return b, w.begin(b, cg)
}

// begin starts the table of a CG.
func (w *Writer) begin(b *binding, cg uint64) error {
	g := b.vol.group
	discarded := g.discarded.Load()
	if b.table != nil && b.table.cg <= discarded {
		if err := w.forget(b); err != nil {
			return err
		}
	}
	switch {
	case cg <= discarded:
		return ErrDropped
	case b.table != nil:
		return fmt.Errorf("volume %s: %w: update of CG %d while CG %d is not sealed", b.vol.name, ErrState, cg, b.table.cg)
	case cg <= b.last:
		return fmt.Errorf("volume %s: %w: update of CG %d after CG %d", b.vol.name, ErrState, cg, b.last)
	}
	t, err := newCGTableFor(b.vol, cg, w.pool.memory, b.usual)
	if err != nil {
		return err
	}
	b.table = t
	g.received(cg)
	return nil
}

// Zero records that n blocks of vol, from first on, read as zeros as of CG cg. No data is written.
func (w *Writer) Zero(vol *Volume, cg uint64, first VBlock, n uint64) error {
	b, err := w.open(vol, cg)
	if err != nil {
		return err
	}
	if err := vol.checkRange(first, n); err != nil {
		return err
	}
	return b.table.zero(vrange{first, n}, w.kill)
}

// Kick starts writing what has been put, although the buffer is not full. Call it when the source has nothing more for
// now.
func (w *Writer) Kick() error {
	if w.current != nil {
		if err := w.pushTail(w.current); err != nil {
			return err
		}
	}
	if err := w.queue.Submit(); err != nil {
		return err
	}
	return w.reap(0)
}

// Seal ends CG cg for vols, which are bound to this writer. It writes what was put of the CG and hands it over; the CG
// completes once every volume that the group waits for is sealed. Seal a volume without updates as well. The error is
// ErrDropped if the CG was discarded.
//
// Once the CG is final the volumes are whole: see [Membership].
func (w *Writer) Seal(cg uint64, vols ...*Volume) error { return w.seal(cg, vols, false) }

// SealPartial is Seal while blocks of the first copy of vols are still missing and will come with later CGs. A CG
// with a part of a whole volume is refused: see [Options.OnRefused].
func (w *Writer) SealPartial(cg uint64, vols ...*Volume) error { return w.seal(cg, vols, true) }

func (w *Writer) seal(cg uint64, vols []*Volume, partial bool) error {
	if err := w.drain(); err != nil {
		return err
	}
	for _, vol := range vols {
		b, err := w.binding(vol)
		if err != nil {
			return err
		}
		if b.table == nil || b.table.cg != cg || cg <= vol.group.discarded.Load() {
			if err := w.begin(b, cg); err != nil {
				return err
			}
		}
		t := b.table
		b.table, b.last, b.usual = nil, cg, int(t.n)
		if !w.pool.ctl.post(func() { vol.group.seal(vol, cg, sealedVolume{t, partial}) }) {
			return ErrClosed
		}
	}
	return nil
}

// Stats counts what the writer has done.
func (w *Writer) Stats() WriterStats { return w.stats }

// Close forgets updates that are not sealed, and frees the writer.
func (w *Writer) Close() error {
	err := w.settle()
	for _, b := range w.bound {
		if b.table != nil {
			w.pool.releaseTables([]*cgTable{b.table})
		}
		b.vol.writer.Store(nil)
	}
	w.bound = nil
	if w.held {
		if w.runLeft > 0 {
			err = errors.Join(err, w.pool.alloc.Release(uint64(w.run), uint64(w.runLeft)))
		}
		w.pool.alloc.Return(&w.extent)
		w.held = false
	}
	err = errors.Join(err, w.queue.Close(), w.arena.Close())
	w.pool.writers.Add(-1)
	return err
}
