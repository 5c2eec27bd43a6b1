package primary

import (
	"fmt"
	"time"

	"github.com/farside-storage/farside/wire"
)

// maxFrameBytes of payload go into one Updates frame, and maxFrameRanges ranges into one Zeroes frame.
const (
	maxFrameBytes  = maxRun * BlockSize
	maxFrameRanges = 512
)

// item is an update in a queue: payload, or a range of zeros (s nil).
type item struct {
	handle uint32
	offset uint32 // of the first block in s, blocks
	block  uint64
	count  uint64
	s      *shared
}

func (it *item) bytes() int64 {
	if it.s == nil {
		return 0
	}
	return int64(it.count * BlockSize)
}

// lane is what waits to be sent of one CG on one connection.
type lane struct {
	cg     uint64
	items  fifo[item]
	tally  *tally
	blocks uint64 // of payload sent
	bytes  int64  // of payload in items
	copied int64  // bytes that were read for first copies while it was open
	begun  bool   // a frame of it was made
}

// tally sums up what was sent of one CG on one connection, for its manifest. It belongs to the goroutine that seals the
// connection's frames: one at a time, frames in their order.
type tally struct {
	digests []wire.Digest
	// partial, by handle: blocks of the volume's first copy are missing after this CG. Guarded as the core is, and
	// settled when the manifest's frame is made.
	partial []bool
}

// conn is the stream to one secondary for one group, over however many connections it takes.
type conn struct {
	index     int
	group     *group
	secondary string
	replicas  []*replica // by handle
	joining   []*replica // to be in the next list, see membership.go
	changing  bool       // the list is not the one that is wanted
	regroupBy time.Duration
	listing   int // counts the lists of volumes; asked: that of the newest Attach
	asked     int
	next      int // replica whose catch-up is tried next

	attached  bool
	lacks     uint64 // newest CG that the secondary lost before it was final; 0 none
	unnoted   bool   // nothing is sent before the log says durably which volumes it goes to
	stream    wire.UUID
	resumable bool   // the secondary has seen stream
	seq       uint64 // number of the newest frame
	acked     uint64 // newest frame acknowledged
	window    int64  // bytes that may be unacknowledged
	unacked   int64  // bytes transmitted on this connection and not acknowledged

	sent      fifo[*Frame] // numbered and not acknowledged
	resend    int          // how many of sent were transmitted on this connection
	cut, open *lane
	queued    int64 // bytes in sent, cut, open
	recording bool  // the queue was full: changes are recorded until it has drained by half
	asleep    bool  // the sender waits for Actions.Ready
	reads     int   // catch-up reads in flight
	readBytes int64

	sentBytes, catchupBytes uint64 // payload, ever
	lastErr                 string
	rate                    rateMeter
}

// Frame is an update frame on its way. The driver transmits it between TakeFrame and ReturnFrame.
type Frame struct {
	Seq uint64 // Header.Sequence
	CG  uint64
	// Kind is TypeUpdates, TypeZeroes or TypeManifest.
	Kind wire.Type
	// Manifest is the message of a manifest, valid after Seal.
	Manifest wire.Manifest

	items  []item
	bytes  int64
	tally  *tally
	sealed bool
	held   bool // the driver has it
	gone   bool // forgotten by the core meanwhile
}

// Bytes is the length of the payload.
func (f *Frame) Bytes() int64 { return f.bytes }

// Seal computes checksums and digests. The driver calls it after TakeFrame and before anything else, outside
// of the lock that guards the core; frames of a connection in the order in which they were taken.
func (f *Frame) Seal() {
	if f.sealed {
		return
	}
	f.sealed = true
	for i := range f.items {
		it := &f.items[i]
		d := &f.tally.digests[it.handle]
		if it.s == nil {
			d.AddZeroes(wire.Zeroes{Volume: it.handle, Block: it.block, Count: it.count})
		} else {
			u, sums, _ := f.update(it)
			d.AddUpdate(u, sums)
		}
	}
	if f.Kind == wire.TypeManifest {
		f.Manifest.CG = f.CG
		f.Manifest.Volumes = f.Manifest.Volumes[:0]
		for h := range f.tally.digests {
			f.Manifest.Volumes = append(f.Manifest.Volumes, f.tally.digests[h].Manifest(uint32(h)))
			f.Manifest.Volumes[h].Partial = f.tally.partial[h]
		}
	}
}

func (f *Frame) update(it *item) (wire.Update, []uint64, []byte) {
	from, to := uint64(it.offset), uint64(it.offset)+it.count
	return wire.Update{Volume: it.handle, Block: it.block, Count: uint32(it.count)},
		it.s.blockSums()[from:to], it.s.data[from*BlockSize : to*BlockSize]
}

// Len is the number of updates (TypeUpdates) or ranges (TypeZeroes).
func (f *Frame) Len() int { return len(f.items) }

// Update gives the i-th update of a TypeUpdates frame, with checksums and payload.
func (f *Frame) Update(i int) (wire.Update, []uint64, []byte) { return f.update(&f.items[i]) }

// ZeroRange gives the i-th range of a TypeZeroes frame.
func (f *Frame) ZeroRange(i int) wire.Zeroes {
	it := &f.items[i]
	return wire.Zeroes{Volume: it.handle, Block: it.block, Count: it.count}
}

func (cn *conn) newLane(cg uint64) *lane {
	return &lane{cg: cg, tally: &tally{digests: make([]wire.Digest, len(cn.replicas)), partial: make([]bool, len(cn.replicas))}}
}

// front is the lane that may be sent from: that of the cut CG until its manifest is sent.
func (cn *conn) front() *lane {
	switch {
	case cn.group.lost != 0 || cn.unnoted:
		return nil
	case cn.cut != nil:
		return cn.cut
	case cn.heldBack():
		return nil
	}
	return cn.open
}

// streams says whether an update of the open CG may be queued; if not, it is recorded.
func (c *Core) streams(cn *conn, bytes int64) bool {
	if !cn.attached || cn.open == nil || cn.group.lost != 0 {
		return false
	}
	if !cn.recording && cn.queued+bytes > c.opt.QueueBytes {
		cn.recording = true
	}
	return !cn.recording
}

// queue appends an update: count blocks from block on; s from its offset-th block on, or zeros.
func (c *Core) queue(r *replica, l *lane, block, count uint64, s *shared, offset uint64) {
	for count > 0 {
		it := item{handle: r.handle, block: block, count: count}
		if s != nil {
			it.count = min(count, maxRun)
			it.s, it.offset = s, uint32(offset)
			s.refs++
		}
		l.items.push(it)
		l.bytes += it.bytes()
		r.conn.queued += it.bytes()
		block, count, offset = block+it.count, count-it.count, offset+it.count
	}
}

// queueRuns queues those of [first, first+count) in lane l whose bits are set, and clears the
// bits. s holds all of the range; zero, if not nil, says which blocks of it are zeros.
func (c *Core) queueRuns(r *replica, l *lane, bits *bitmap, first, count uint64, s *shared, zero *[4]uint64) {
	end := first + count
	isZero := func(b uint64) bool { i := b - first; return zero != nil && zero[i/64]>>(i%64)&1 != 0 }
	for at, ok := bits.next(first, end); ok; at, ok = bits.next(at, end) {
		to := bits.nextClear(at, end)
		for at < to {
			z, from := isZero(at), at
			for at < to && isZero(at) == z {
				at++
			}
			if z {
				c.queue(r, l, from, at-from, nil, 0)
			} else {
				c.queue(r, l, from, at-from, s, from-first)
			}
		}
	}
	bits.clear(first, count)
}

// TakeFrame gives the connection's next frame to transmit, or nil: Actions.Ready will tell. The
// driver gives each frame back.
func (c *Core) TakeFrame(index int) *Frame {
	cn := c.conns[index]
	f := c.nextFrame(cn)
	cn.asleep = f == nil
	if f != nil {
		f.held = true
		cn.resend++
		cn.unacked += f.bytes
	}
	return f
}

func (c *Core) nextFrame(cn *conn) *Frame {
	if !cn.attached {
		return nil
	}
	if cn.resend < cn.sent.len() {
		f := *cn.sent.at(cn.resend)
		if f.held || !cn.room(f.bytes) {
			return nil
		}
		return f
	}
	l := cn.front()
	if l == nil {
		return nil
	}
	if l.items.len() > 0 {
		if !cn.room(l.items.at(0).bytes()) {
			return nil
		}
		return c.fill(cn, l)
	}
	if c.exhausted(cn, l) {
		return c.manifest(cn)
	}
	return nil
}

// room says whether the secondary's window has room. A lone frame always passes.
func (cn *conn) room(bytes int64) bool {
	return cn.unacked == 0 || cn.unacked+bytes <= cn.window
}

// exhausted says that l is cut and nothing of it is left but the manifest.
func (c *Core) exhausted(cn *conn, l *lane) bool {
	if l != cn.cut || l.items.len() > 0 {
		return false
	}
	for _, r := range cn.replicas {
		if !r.cut.empty() {
			return false
		}
	}
	return true
}

// fill makes the next frame from the lane's updates, all with payload or all zeros.
func (c *Core) fill(cn *conn, l *lane) *Frame {
	f := c.newFrame(cn, l)
	zeros := l.items.at(0).s == nil
	f.Kind = wire.TypeUpdates
	if zeros {
		f.Kind = wire.TypeZeroes
	}
	for l.items.len() > 0 && len(f.items) < maxFrameRanges {
		it := l.items.at(0)
		if (it.s == nil) != zeros {
			break
		}
		if n := f.bytes + it.bytes(); len(f.items) > 0 && (n > maxFrameBytes || cn.unacked+n > cn.window) {
			break
		}
		f.bytes += it.bytes()
		l.bytes -= it.bytes()
		f.items = append(f.items, l.items.pop())
	}
	cn.sentBytes += uint64(f.bytes)
	l.blocks += uint64(f.bytes / BlockSize)
	cn.rate.add(c.now, f.bytes)
	return f
}

func (c *Core) newFrame(cn *conn, l *lane) *Frame {
	var f *Frame
	if n := len(c.frames); n > 0 {
		f = c.frames[n-1]
		c.frames = c.frames[:n-1]
		*f = Frame{items: f.items[:0], Manifest: wire.Manifest{Volumes: f.Manifest.Volumes[:0]}}
	} else {
		f = new(Frame)
	}
	cn.seq++
	f.Seq, f.CG, f.tally = cn.seq, l.cg, l.tally
	l.begun = true
	cn.sent.push(f)
	return f
}

// manifest ends the cut CG on this connection.
func (c *Core) manifest(cn *conn) *Frame {
	f := c.newFrame(cn, cn.cut)
	f.Kind = wire.TypeManifest
	cn.group.blocks += cn.cut.blocks
	cn.cut = nil
	c.checkDrained(cn.group)
	c.kick(cn)
	return f
}

// ReturnFrame ends the driver's use of a frame, transmitted or not.
func (c *Core) ReturnFrame(f *Frame) {
	f.held = false
	if f.gone {
		c.recycle(f)
	}
}

// forget drops the core's interest in a frame.
func (c *Core) forget(f *Frame) {
	f.gone = true
	if !f.held {
		c.recycle(f)
	}
}

func (c *Core) recycle(f *Frame) {
	for i := range f.items {
		c.payload.release(f.items[i].s)
		f.items[i].s = nil
	}
	f.tally = nil
	c.frames = append(c.frames, f)
}

// dropLane forgets what waits in a lane.
func (c *Core) dropLane(cn *conn, l *lane) {
	if l == nil {
		return
	}
	for l.items.len() > 0 {
		it := l.items.pop()
		l.bytes -= it.bytes()
		cn.queued -= it.bytes()
		c.payload.release(it.s)
	}
}

// ack forgets frames up to applied.
func (c *Core) ack(cn *conn, applied uint64) {
	for cn.sent.len() > 0 && (*cn.sent.at(0)).Seq <= applied {
		f := cn.sent.pop()
		cn.queued -= f.bytes
		if cn.resend > 0 {
			cn.resend--
			cn.unacked -= f.bytes
		}
		c.forget(f)
	}
	cn.acked = applied
}

// Credit takes an acknowledgement. An error means that the secondary is mistaken: end the connection.
func (c *Core) Credit(index int, applied uint64) error {
	cn := c.conns[index]
	if cn.asked != cn.listing {
		return ErrListChanged
	}
	if !cn.attached {
		return fmt.Errorf("credit from %q before it is attached: %w", cn.secondary, wire.ErrProtocol)
	}
	if applied < cn.acked || applied > cn.acked+uint64(cn.resend) {
		return fmt.Errorf("credit for frame %d from %q: frames %d to %d are outstanding: %w",
			applied, cn.secondary, cn.acked+1, cn.acked+uint64(cn.resend), wire.ErrProtocol)
	}
	c.ack(cn, applied)
	c.kick(cn)
	return nil
}

// Attach makes the message that opens a connection; fresh is used if a new stream is needed. Nil: there is no volume
// to attach; Actions.Reattach tells of one.
func (c *Core) Attach(index int, fresh wire.UUID) *wire.Attach {
	cn := c.conns[index]
	if !cn.resumable {
		cn.stream = fresh
	}
	cn.asked = cn.listing
	if len(cn.replicas) == 0 {
		return nil
	}
	m := &wire.Attach{Group: cn.group.name, Stream: cn.stream}
	for _, r := range cn.replicas {
		m.Volumes = append(m.Volumes, wire.VolumeRef{Name: r.volume.spec.Name, Size: r.volume.spec.Size})
	}
	return m
}

// Attached begins transmission on a new connection. An error means: close it, and attach again.
func (c *Core) Attached(index int, m wire.Attached) error {
	cn := c.conns[index]
	if cn.asked != cn.listing {
		return ErrListChanged
	}
	if err := c.examine(cn, &m); err != nil {
		return err
	}
	if m.Resumed && (!cn.resumable || m.Applied < cn.acked || m.Applied > cn.seq) {
		was := cn.resumable
		cn.resumable = false
		return fmt.Errorf("secondary %q resumes at frame %d of a stream (known: %t) with frames %d to %d: %w",
			cn.secondary, m.Applied, was, cn.acked, cn.seq, wire.ErrProtocol)
	}
	cn.attached, cn.asleep = true, true
	cn.resend, cn.unacked = 0, 0
	cn.window = int64(min(m.Window, 1<<40))
	if m.Resumed {
		c.ack(cn, m.Applied)
	} else {
		c.restartStream(cn, m.Complete)
	}
	cn.resumable = true
	for i, r := range cn.replicas {
		r.hole = !m.Volumes[i].Whole
	}
	c.meet(cn, &m)
	c.checkCopy(cn, &m)
	for _, r := range cn.replicas {
		c.arrange(r, m.Complete)
	}
	c.kick(cn)
	return nil
}

// restartStream starts from frame 1 with a secondary that holds nothing of the stream: what it was sent of
// CGs after complete is gone. What was queued and not sent is not.
func (c *Core) restartStream(cn *conn, complete uint64) {
	c.forgetSent(cn)
	g := cn.group
	if cn.open != nil && cn.open.begun {
		for _, r := range cn.replicas {
			r.lackAll(r.volume.changed())
		}
		c.dropLane(cn, cn.open)
		cn.open = cn.newLane(g.open)
	}
	// A cut CG of which nothing was sent is as good as before.
	if sent := cn.cut == nil || cn.cut.begun; sent && g.lastCut > max(complete, g.final) {
		cn.lacks = g.lastCut
		c.lose(g, fmt.Sprintf("secondary %q no longer has what it was sent of it", cn.secondary))
	}
	cn.recording = false
}

// forgetSent begins a stream.
func (c *Core) forgetSent(cn *conn) {
	for cn.sent.len() > 0 {
		f := cn.sent.pop()
		cn.queued -= f.bytes
		c.forget(f)
	}
	cn.seq, cn.acked, cn.resend, cn.unacked = 0, 0, 0, 0
}

// Down reports that a connection has ended, or could not be made.
func (c *Core) Down(index int, cause error) {
	cn := c.conns[index]
	cn.attached, cn.asleep = false, false
	if cause != nil {
		cn.lastErr = cause.Error()
	}
}

// kick starts what can go on for a connection.
func (c *Core) kick(cn *conn) {
	if !cn.attached {
		return
	}
	if cn.recording && cn.queued <= c.opt.QueueBytes/2 {
		cn.recording = false
	}
	c.pumpCatchup(cn)
	if cn.asleep && c.sendable(cn) {
		cn.asleep = false
		c.out.Ready = append(c.out.Ready, cn.index)
	}
}

// sendable says whether TakeFrame would give a frame.
func (c *Core) sendable(cn *conn) bool {
	if cn.resend < cn.sent.len() {
		f := *cn.sent.at(cn.resend)
		return !f.held && cn.room(f.bytes)
	}
	l := cn.front()
	switch {
	case l == nil:
		return false
	case l.items.len() > 0:
		return cn.room(l.items.at(0).bytes())
	}
	return c.exhausted(cn, l)
}

func (c *Core) kickVolume(v *volume) {
	for _, r := range v.replicas {
		c.kick(r.conn)
	}
}

func (c *Core) kickGroup(g *group) {
	for _, cn := range g.conns {
		c.kick(cn)
	}
}
