package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/farside-storage/farside/engine/blocksum"
	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/ring"
)

// submitter takes device requests from any goroutine: a ring.Worker, or the control loop of a
// manual pool.
type submitter interface {
	Go(calls ...*ring.Call)
	Close() error
}

// controlSubmitter serves a manual pool's reads from its control loop.
type controlSubmitter struct{ c *control }

func (s controlSubmitter) Go(calls ...*ring.Call) {
	for _, call := range calls {
		s.c.io.start(call.Request, func(err error) {
			call.Err = err
			call.Done(call)
		})
	}
}

func (s controlSubmitter) Close() error { return nil }

// ViewKind chooses what a read sees.
type ViewKind uint8

const (
	// FinalView shows the newest final CG: what exports and tests read.
	FinalView ViewKind = iota
	// LinkedView shows the newest linked CG, which may still be reverted.
	LinkedView
)

// Read is one read of a volume. Set the fields up to Done, call [Read.Start], and wait for Done. Reuse a Read to read
// without allocation.
type Read struct {
	Volume *Volume
	View   ViewKind
	// Snapshot, if set, is read instead of View.
	Snapshot *Snapshot
	// Off and len(Buf) are multiples of BlockSize; Buf is aligned to 4096 in memory.
	Off uint64
	Buf []byte
	// Done is called once, on an I/O goroutine or inside Start: it must not block.
	Done func(*Read)
	// Err is the outcome. Unless it is nil, the contents of Buf are undefined.
	Err error
	// CG is the consistency group that was read.
	CG uint64

	ticket  ticket
	pinned  bool
	entries []entry
	calls   []*readCall
	starts  []*ring.Call // those of calls that are in use; kept so that nothing is allocated
	left    atomic.Int32
	failure atomic.Pointer[error]
}

// readCall is one device read of a Read: blocks [from, from+n).
type readCall struct {
	ring.Call // its Owner is the readCall
	read      *Read
	from, n   int
}

func newReadCall() *readCall {
	c := &readCall{}
	c.Owner = c
	c.Call.Done = func(*ring.Call) { new(verifier).endAll([]*ring.Call{&c.Call}) }
	return c
}

// Start begins the read. Every block is checked against its checksum; damage is an error, never
// wrong data.
func (r *Read) Start() {
	v := r.Volume
	p := v.pool
	r.Err, r.CG = nil, 0
	r.failure.Store(nil)
	if len(r.Buf)%BlockSize != 0 || r.Off%BlockSize != 0 {
		r.finish(fmt.Errorf("read volume %s at %d: %d bytes: not whole blocks of %d", v.name, r.Off, len(r.Buf), BlockSize))
		return
	}
	first, n := VBlock(r.Off/BlockSize), len(r.Buf)/BlockSize
	if err := v.checkRange(first, uint64(n)); err != nil {
		r.finish(err)
		return
	}
	view := r.enter(uint(p.lane.Add(1)))
	vv := view.of(v)
	if vv == nil {
		r.finish(fmt.Errorf("volume %s: %w: it was deleted, or is newer than CG %d", v.name, ErrUnknown, view.cg))
		return
	}
	r.CG = view.cg
	r.entries = r.entries[:0]
	for i := range n {
		r.entries = append(r.entries, vv.lookup(first+VBlock(i)))
	}
	r.submit(p.reads[int(first/256)%len(p.reads)])
}

// enter pins the view and returns it.
func (r *Read) enter(lane uint) *View {
	if r.Snapshot != nil {
		r.pinned = false
		return r.Snapshot.view
	}
	g := r.Volume.group
	r.ticket, r.pinned = g.pool.readers.enter(lane), true
	if r.View == LinkedView {
		return g.linked.Load()
	}
	return g.final.Load()
}

// submit reads runs of consecutive physical blocks, and fills holes with zeros.
func (r *Read) submit(to submitter) {
	used := 0
	r.starts = r.starts[:0]
	for i := 0; i < len(r.entries); {
		run := 1
		if r.entries[i] == 0 {
			for i+run < len(r.entries) && r.entries[i+run] == 0 {
				run++
			}
			clear(r.Buf[i*BlockSize : (i+run)*BlockSize])
			i += run
			continue
		}
		start := r.entries[i].block()
		device, block := r.Volume.pool.locate(start)
		for i+run < len(r.entries) && r.entries[i+run].block() == start+PBlock(run) {
			run++
		}
		if used == len(r.calls) {
			r.calls = append(r.calls, newReadCall())
		}
		c := r.calls[used]
		c.read, c.from, c.n = r, i, run
		c.Request = ring.Request{Op: ring.OpRead, Device: device, Off: blocksToBytes(block), Buf: r.Buf[i*BlockSize : (i+run)*BlockSize]}
		r.starts = append(r.starts, &c.Call)
		used++
		i += run
	}
	if used == 0 {
		r.finish(nil)
		return
	}
	r.left.Store(int32(used))
	to.Go(r.starts...) // r may be in use again before this returns
}

// verifier checks what device reads brought: of all those that ended together at once. It belongs to one goroutine.
type verifier struct {
	blocks [][]byte // of the calls, in their order; none of a call that failed
	sums   []uint64
}

// endAll ends device reads. Their callers may start them again before it returns, but not before every block was
// summed up.
func (v *verifier) endAll(calls []*ring.Call) {
	v.blocks = v.blocks[:0]
	for _, call := range calls {
		if c := call.Owner.(*readCall); c.Err == nil {
			for i := c.from; i < c.from+c.n; i++ {
				v.blocks = append(v.blocks, c.read.Buf[i*BlockSize:(i+1)*BlockSize])
			}
		}
	}
	v.sums = append(v.sums[:0], make([]uint64, len(v.blocks))...)
	blocksum.Scattered(v.sums, v.blocks)
	clear(v.blocks) // holds nobody's memory longer than needed
	sums := v.sums
	for _, call := range calls {
		c := call.Owner.(*readCall)
		own := sums[:0]
		if c.Err == nil {
			own, sums = sums[:c.n], sums[c.n:]
		}
		c.ended(own)
	}
}

// ended ends one device read, whose blocks have these checksums; the last one of a Read ends that.
func (c *readCall) ended(sums []uint64) {
	r := c.read
	if err := c.check(sums); err != nil {
		first := err // escapes, while err does not
		r.failure.CompareAndSwap(nil, &first)
	}
	if r.left.Add(-1) > 0 {
		return
	}
	if e := r.failure.Load(); e != nil {
		clear(r.Buf)
		r.finish(*e)
		return
	}
	r.finish(nil)
}

func (c *readCall) check(sums []uint64) error {
	r := c.read
	if c.Err != nil {
		return fmt.Errorf("read volume %s block %d: %w", r.Volume.name, r.Off/BlockSize+uint64(c.from), c.Err)
	}
	for k, got := range sums {
		i := c.from + k
		if e := r.entries[i]; !e.matches(got) && !plant.On(plant.BlockUnchecked) {
			device, block := r.Volume.pool.locate(e.block())
			return &CorruptionError{Device: r.Volume.pool.info[device].Path, Offset: blocksToBytes(block), Structure: "data block",
				Reason: "not what was stored", Err: &ChecksumError{Volume: r.Volume.name, Block: VBlock(r.Off/BlockSize) + VBlock(i),
					At: e.block(), Want: uint64(e), Got: got}}
		}
	}
	return nil
}

func (r *Read) finish(err error) {
	if r.pinned {
		r.Volume.pool.readers.leave(r.ticket)
		r.pinned = false
	}
	r.Err = err
	r.Done(r)
}

// Snapshot pins one view of a group, so that many reads see the same CG. While it is open no block is released, and no
// memory of later CGs is freed: keep it for seconds, not days.
type Snapshot struct {
	view   *View
	ticket ticket
}

// Snapshot pins a view of the group.
func (g *Group) Snapshot(kind ViewKind) *Snapshot {
	s := &Snapshot{ticket: g.pool.readers.enter(uint(g.pool.lane.Add(1)))}
	if s.view = g.final.Load(); kind == LinkedView {
		s.view = g.linked.Load()
	}
	return s
}

// CG that the snapshot shows.
func (s *Snapshot) CG() uint64 { return s.view.cg }

// Close releases the view. No read of the snapshot may be in flight.
func (s *Snapshot) Close() { s.view.group.pool.readers.leave(s.ticket) }

// ReadAt reads from the final view, any offset and length. Each call sees one CG.
func (v *Volume) ReadAt(buf []byte, off int64) (int, error) { return v.read(buf, off, FinalView, nil) }

// ReadLinkedAt is ReadAt of the linked view.
func (v *Volume) ReadLinkedAt(buf []byte, off int64) (int, error) {
	return v.read(buf, off, LinkedView, nil)
}

// ReadAt reads a volume as of the snapshot.
func (s *Snapshot) ReadAt(v *Volume, buf []byte, off int64) (int, error) {
	return v.read(buf, off, FinalView, s)
}

func (v *Volume) read(buf []byte, off int64, kind ViewKind, s *Snapshot) (int, error) {
	if off < 0 || uint64(off) > v.size || uint64(len(buf)) > v.size-uint64(off) {
		return 0, fmt.Errorf("volume %s: read of %d bytes at %d: %w", v.name, len(buf), off, ErrPastEnd)
	}
	if len(buf) == 0 {
		return 0, nil
	}
	lo := uint64(off) / BlockSize * BlockSize
	hi := roundUp(uint64(off)+uint64(len(buf)), BlockSize)
	arena, err := ring.NewArena(int(hi - lo))
	if err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	r := &Read{Volume: v, View: kind, Snapshot: s, Off: lo, Buf: arena.Bytes(), Done: func(r *Read) { done <- r.Err }}
	r.Start()
	if v.pool.opts.Manual {
		err = v.pool.stepUntil(done)
	} else {
		err = <-done
	}
	n := 0
	if err == nil {
		n = copy(buf, arena.Bytes()[uint64(off)-lo:])
	}
	return n, errors.Join(err, arena.Close())
}

// Extent of a volume: a run that is mapped or reads as zeros.
type Extent struct {
	Off, Len uint64 // bytes
	Mapped   bool
}

// Extents lists the runs of [off, off+length) in the final view, at most limit of them. off and length are multiples of
// [BlockSize].
func (v *Volume) Extents(ctx context.Context, off, length uint64, limit int) ([]Extent, error) {
	first, n := VBlock(off/BlockSize), length/BlockSize
	if err := v.checkRange(first, n); err != nil {
		return nil, err
	}
	t := v.pool.readers.enter(uint(v.pool.lane.Add(1)))
	defer v.pool.readers.leave(t)
	vv := v.group.final.Load().of(v)
	if vv == nil {
		return nil, fmt.Errorf("volume %s: %w: it was deleted", v.name, ErrUnknown)
	}
	var out []Extent
	for b := first; b < first+VBlock(n); b++ {
		if b%65536 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		mapped := vv.lookup(b) != 0
		if k := len(out) - 1; k >= 0 && out[k].Mapped == mapped {
			out[k].Len += BlockSize
			continue
		}
		if len(out) == limit {
			break
		}
		out = append(out, Extent{uint64(b) * BlockSize, BlockSize, mapped})
	}
	return out, nil
}
