package engine

import (
	"fmt"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/ring"
)

// checkpointer writes dirty table pages to the older slot of their pair, then a root that names them. It is
// fuzzy: folding goes on meanwhile. A page may already hold entries of a CG that became final after
// the checkpoint began; the journal from the root's tail on holds that CG too, and replaying it changes nothing.
//
// What the previous root names is not overwritten before the new one is durable: pages go to the
// other slot, pairs that were given up are reused one checkpoint later.
type checkpointer struct {
	running  bool
	number   uint64    // of the newest durable root
	newest   rootMark  // what it says
	root     *root     // being made
	pages    []pageRef // still to write, in order of pair
	inFlight int
	err      error
	done     []func(error) // who asked for it

	directory []uint64  // as of the newest root; off heap
	owner     []pageRef // by pair, up to used; vol nil: unused
	dropped   []uint32  // pairs given up since the root being made was begun
	freed     []uint32  // pairs to give back once the root being made is durable
	free      []uint32
	used      uint32   // pairs [0, used) were ever used
	buffers   [][]byte // 256 KiB each
	arena     *ring.Arena
}

// rootMark tells whether a root would say the same as another one.
type rootMark struct {
	tail journalPos
	body uint64 // checksum, with padding
}

func (r *root) mark() rootMark { return rootMark{r.tail, Sum(padBody(r.encodeBody()))} }

type pageRef struct {
	vol  *Volume
	page uint32
	pair uint32
}

const checkpointBuffers = 4

// startCheckpoint begins one unless one is running.
func (c *control) startCheckpoint() {
	k := &c.ckpt
	if k.running || c.failed != nil {
		return
	}
	k.running, k.err = true, nil
	tail := c.journalTail()
	for _, g := range c.pool.groups {
		for _, v := range g.volumes {
			if v == nil {
				continue
			}
			if err := k.take(v, c.pool.sb.zones.tablePairs); err != nil {
				c.fail(err)
				return
			}
		}
	}
	k.root = c.pool.catalog(k.number+1, tail)
	for _, pair := range k.dropped {
		k.root.directory[pair] = 0
	}
	k.freed, k.dropped = k.dropped, nil
	sortPages(k.pages)
}

// needsCheckpoint says whether one would change what the next open finds. It is also asked for when something was found
// damaged: its root takes the place of a damaged one.
func (c *control) needsCheckpoint() bool {
	if len(c.pool.repairs) > 0 {
		return true
	}
	for _, g := range c.pool.groups {
		for _, v := range g.volumes {
			if v != nil && v.table.isDirty() {
				return true
			}
		}
	}
	return len(c.ckpt.dropped) > 0 || c.pool.catalog(c.ckpt.number, c.journalTail()).mark() != c.ckpt.newest
}

// relieveJournal starts a checkpoint if that lets the journal's tail move on; it reports whether it did. Otherwise
// checkpoints would follow each other for as long as a CG holds the tail.
func (c *control) relieveJournal() bool {
	if c.ckpt.running || c.failed != nil || c.journalTail().block <= c.journal.tail {
		return false
	}
	c.startCheckpoint()
	return true
}

// journalTail is where a replay must begin: at the first part of the oldest CG that is not folded, or at the oldest
// record that is being written, which the state does not show yet.
func (c *control) journalTail() journalPos {
	tail := c.journal.next
	older := func(p journalPos) {
		if p.seq != 0 && p.seq < tail.seq && !plant.On(plant.TailEarly) {
			tail = p
		}
	}
	for _, g := range c.pool.groups {
		if g.busy {
			older(g.busyAt)
		}
		for _, l := range g.live {
			older(l.start)
		}
	}
	for _, j := range c.completions {
		older(j.cg.start)
	}
	return tail
}

// take lists the dirty pages of a volume and gives each a pair.
func (k *checkpointer) take(v *Volume, pairs uint64) error {
	for _, page := range v.table.takeDirty() {
		if v.table.pair[page] == 0 {
			pair, ok := k.newPair(pairs)
			if !ok {
				return fmt.Errorf("table area is full: all %d pages are in use; format with more virtual space", pairs)
			}
			if int(pair) == len(k.owner) {
				k.owner = append(k.owner, pageRef{})
			}
			k.owner[pair] = pageRef{vol: v, page: page, pair: pair}
			v.table.pair[page] = pair + 1
		}
		k.pages = append(k.pages, k.owner[v.table.pair[page]-1])
	}
	return nil
}

func (k *checkpointer) newPair(limit uint64) (uint32, bool) {
	if n := len(k.free); n > 0 {
		p := k.free[n-1]
		k.free = k.free[:n-1]
		return p, true
	}
	if uint64(k.used) >= limit {
		return 0, false
	}
	k.used++
	return k.used - 1, true
}

// stepCheckpoint writes as much as there are buffers for; it reports whether it did anything.
func (c *control) stepCheckpoint() bool {
	k := &c.ckpt
	if !k.running {
		return false
	}
	progress := false
	for len(k.pages) > 0 && len(k.buffers) > 0 && k.err == nil {
		c.writePages()
		progress = true
	}
	if k.inFlight == 0 && (len(k.pages) == 0 || k.err != nil) && k.root != nil {
		r := k.root
		k.root = nil
		if k.err != nil {
			c.endCheckpoint(r, k.err)
		} else {
			c.journal.io.flushAll(func(err error) { c.writeRoot(r, err) })
		}
		progress = true
	}
	return progress
}

// writePages writes one run of pages that go to neighbouring slots.
func (c *control) writePages() {
	k := &c.ckpt
	buf := k.buffers[len(k.buffers)-1]
	k.buffers = k.buffers[:len(k.buffers)-1]
	first := k.pages[0]
	slot := k.otherSlot(first.pair)
	n := 0
	for n < len(k.pages) && n < len(buf)/BlockSize {
		ref := k.pages[n]
		if ref.pair != first.pair+uint32(n) || k.otherSlot(ref.pair) != slot {
			break
		}
		page := buf[n*BlockSize : (n+1)*BlockSize]
		encodePageHeader(page, ref.vol.id, ref.page, k.number+1)
		ref.vol.table.putPage(uint64(ref.page), page[tablePageHeader:])
		k.root.directory[ref.pair] = directoryEntry(page, slot)
		n++
	}
	k.pages = k.pages[n:]
	k.inFlight++
	z := &c.pool.sb.zones
	c.io.start(ring.Request{Op: ring.OpWrite, Off: blocksToBytes(z.tableSlot(first.pair, slot)), Buf: buf[:n*BlockSize]}, func(err error) {
		k.buffers = append(k.buffers, buf)
		k.inFlight--
		if k.err == nil {
			k.err = err
		}
	})
}

// otherSlot is the slot that the newest root does not name.
func (k *checkpointer) otherSlot(pair uint32) uint8 {
	if e := k.directory[pair]; e != 0 {
		if plant.On(plant.CheckpointNewerSlot) {
			return uint8(e & 1)
		}
		return uint8(e&1) ^ 1
	}
	return 0
}

// writeRoot writes the root behind durable pages, then makes it durable.
func (c *control) writeRoot(r *root, err error) {
	if err != nil {
		c.endCheckpoint(r, err)
		return
	}
	body := r.encodeBody()
	length := len(body)
	body = padBody(body)
	r.bodySum = Sum(body)
	z := &c.pool.sb.zones
	n := 1 + bytesToBlocks(uint64(len(body)))
	if n > z.rootBlocks {
		c.endCheckpoint(r, fmt.Errorf("catalog and directory need %d blocks, a root slot has %d", n, z.rootBlocks))
		return
	}
	arena, err := ring.NewArena(int(n) * BlockSize)
	if err != nil {
		c.endCheckpoint(r, err)
		return
	}
	buf := arena.Bytes()
	copy(buf, r.encodeHeader(c.pool.sb.pool, body, length))
	copy(buf[BlockSize:], body)
	at := z.rootSlot(r.checkpoint % 2)
	c.io.start(ring.Request{Op: ring.OpWrite, Off: blocksToBytes(at), Buf: buf}, func(err error) {
		if cerr := arena.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			c.endCheckpoint(r, err)
			return
		}
		c.io.flushAll(func(err error) { c.endCheckpoint(r, err) })
	})
}

func (c *control) endCheckpoint(r *root, err error) {
	k := &c.ckpt
	k.running, k.root = false, nil
	if err != nil {
		c.fail(fmt.Errorf("checkpoint %d: %w", r.checkpoint, err))
	} else {
		k.number, k.newest = r.checkpoint, rootMark{r.tail, r.bodySum}
		copy(k.directory, r.directory)
		c.journal.tail = max(c.journal.tail, r.tail.block)
		k.free = append(k.free, k.freed...)
		k.freed = nil
	}
	done := k.done
	k.done = nil
	for _, f := range done {
		f(err)
	}
}

// drop gives the pairs of a deleted volume's pages up. They are reused once a root without them is durable.
func (k *checkpointer) drop(v *Volume) {
	for _, p := range v.table.pair {
		if p != 0 {
			k.owner[p-1] = pageRef{}
			k.dropped = append(k.dropped, p-1)
		}
	}
	keep := k.pages[:0]
	for _, ref := range k.pages {
		if ref.vol != v {
			keep = append(keep, ref)
		}
	}
	k.pages = keep
}

func (k *checkpointer) close() error {
	unmapSlice(k.directory)
	k.directory = nil
	return k.arena.Close()
}
