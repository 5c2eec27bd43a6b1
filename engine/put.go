package engine

import (
	"fmt"

	"github.com/farside-storage/farside/engine/blocksum"
)

// sumsAtOnce is how many checksums are computed side by side.
const sumsAtOnce = 8

// Run is the range of one update for [Writer.PutAll]: Blocks virtual blocks of Volume, from First on.
type Run struct {
	Volume *Volume
	First  VBlock
	Blocks int
}

// placing is one block that waits for its place.
type placing struct {
	table *cgTable
	block VBlock
	slot  uint64 // of the table's index, from which on the block is to be looked for; verify finds it
}

// Put records an update of CG cg: len(sums) blocks of vol, from block first on, have the contents at the front of the
// memory that Space returned. If the XXH64 of a block is not the one in sums, nothing is recorded and the error is a
// [ChecksumError]. If the CG was discarded, the update is ignored and the error is ErrDropped.
func (w *Writer) Put(vol *Volume, cg uint64, first VBlock, sums []uint64) error {
	w.one[0] = Run{vol, first, len(sums)}
	return w.PutAll(cg, w.one[:], sums)
}

// PutAll is Put of several updates of CG cg. Their contents follow each other at the front of the memory that Space
// returned; sums has the checksums of all their blocks. If one checksum is wrong, nothing of any update is recorded.
// PutAll costs less per block than Put: checksums are computed side by side, while the table entries of the following
// blocks are being fetched from memory.
func (w *Writer) PutAll(cg uint64, runs []Run, sums []uint64) error {
	if err := w.collect(cg, runs, len(sums)); err != nil {
		return err
	}
	if err := w.verify(sums); err != nil {
		return err
	}
	for i := range w.batch {
		if err := w.place(&w.batch[i], sums[i]); err != nil {
			return err
		}
	}
	return w.pushFull()
}

// collect checks what is to be put and lists its blocks.
func (w *Writer) collect(cg uint64, runs []Run, blocks int) error {
	w.batch = w.batch[:0]
	var b *binding
	for i := range runs {
		r := &runs[i]
		if b == nil || b.vol != r.Volume { // else nothing has changed since the run before
			var err error
			if b, err = w.open(r.Volume, cg); err != nil {
				return err
			}
		}
		if err := r.Volume.checkRange(r.First, uint64(r.Blocks)); err != nil {
			return err
		}
		if buf := w.current; r.Blocks < 0 || buf == nil || r.Blocks > len(buf.at)-buf.used-len(w.batch) {
			return fmt.Errorf("volume %s: put of %d blocks: %w: more than Space gave", r.Volume.name, r.Blocks, ErrState)
		}
		for k := range r.Blocks {
			w.batch = append(w.batch, placing{table: b.table, block: r.First + VBlock(k)})
		}
		if err := b.table.reserve(len(w.batch)); err != nil {
			return err
		}
	}
	if len(w.batch) != blocks {
		return fmt.Errorf("put of %d blocks with %d checksums: %w", len(w.batch), blocks, ErrState)
	}
	return nil
}

// verify compares the checksums of the batch, whose contents are at the front of the current buffer's space.
// Meanwhile it prefetches the CG pointer tables: the index of each block some blocks ahead of its checksum, and the
// entry that the index names some blocks behind. Each is a cache miss of its own otherwise.
func (w *Writer) verify(sums []uint64) error {
	if len(sums) == 0 {
		return nil
	}
	mem := w.current.mem[w.current.used*BlockSize:]
	w.prefetch(0, sumsAtOnce)
	for at := 0; at < len(sums); at += sumsAtOnce {
		n := min(sumsAtOnce, len(sums)-at)
		w.prefetch(at+n, sumsAtOnce)
		got := w.got[:n]
		blocksum.Run(got, mem[at*BlockSize:(at+n)*BlockSize])
		for i, sum := range got {
			if p := &w.batch[at+i]; sum != sums[at+i] {
				return &ChecksumError{Volume: p.table.vol.name, Block: p.block, Want: sums[at+i], Got: sum}
			}
		}
		for i := at; i < at+n; i++ {
			p := &w.batch[i]
			p.slot = p.table.find(p.block)
		}
	}
	return nil
}

// prefetch fetches the index of n blocks of the batch, from block at on.
func (w *Writer) prefetch(at, n int) {
	for i := at; i < min(at+n, len(w.batch)); i++ {
		w.batch[i].table.prefetch(w.batch[i].block)
	}
}

// pushFull has the current buffer written once nothing more fits.
func (w *Writer) pushFull() error {
	buf := w.current
	if buf == nil || buf.used < len(buf.at) {
		return nil
	}
	w.current = nil
	buf.full = true
	if err := w.pushTail(buf); err != nil {
		return err
	}
	return w.queue.Submit()
}

// place gives the next block of the current buffer its physical block.
func (w *Writer) place(x *placing, sum uint64) error {
	buf := w.current
	if w.runLeft == 0 {
		if err := w.refill(); err != nil {
			return err
		}
	}
	p := w.run
	w.run++
	w.runLeft--
	pos, superseded, err := x.table.putFrom(x.slot, x.block, p, sum)
	if err != nil {
		w.kill(p)
		return err
	}
	if superseded != 0 {
		w.stats.Superseded++
		w.kill(superseded)
	}
	if buf.used > buf.written && buf.at[buf.used-1]+1 != p {
		if err := w.pushTail(buf); err != nil {
			return err
		}
	}
	buf.at[buf.used] = p
	buf.owner[buf.used] = bufferSlot{x.table, pos}
	buf.used++
	w.stats.Blocks++
	return nil
}
