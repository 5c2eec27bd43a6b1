package sim

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/wire"
)

// primaryNode drives a primary's core: local devices, the files of the write-intent log, connections.
type primaryNode struct {
	*node
	index   int
	volumes []*volume
	core    *primary.Core
	acts    primary.Actions
	devs    *ringtest.Devices
	queue   ring.Queue
	flights map[uint64]*primary.DeviceIO
	backlog []*primary.DeviceIO
	tag     uint64
	reaping bool
	reaped  []ring.Completion

	files    [2][]byte
	intent   *primary.IntentWrite // being made durable
	alarm    time.Duration
	links    []*link
	sessions map[int]*end
	session  int
	epoch    uint64 // highest that was obeyed in this run, and at its start, that was answered ever
	answered uint64
	cut      uint64          // newest CG cut in this run
	slots    []*volume       // by the core's index
	halted   bool            // an operator stopped it
	replaced []wire.UUID     // copies that may be overwritten, as an operator said
	policy   ringtest.Policy // of the power failure that is ordered
}

// link is the stream to one secondary.
type link struct {
	p       *primaryNode
	index   int
	to      *secondaryNode
	end     *end
	bound   bool // attached
	sending bool
	held    *primary.Frame
	writer  *wire.Writer
	out     outbox
	batch   wire.Batch
	zeroes  wire.ZeroRanges
	mangle  bool // change the next update on its way
	bare    bool // there is nothing to attach
}

func (w *world) coreOptions() primary.CoreOptions {
	o := w.cfg.core
	o.Alloc = func(n int) primary.Payload { return w.memory.payload(n) }
	return o
}

func (p *primaryNode) start() {
	w := p.w
	p.begin()
	p.assign()
	o := w.coreOptions()
	o.Overwrite = p.replaced
	core, err := primary.NewCore(o, w.cfg.groupSpec(p), primary.LoadIntent(p.files))
	if err != nil {
		w.fail("start", "primary %s: %v", p.name, err)
	}
	p.core, p.acts = core, primary.Actions{}
	p.flights, p.backlog, p.intent, p.reaping = map[uint64]*primary.DeviceIO{}, nil, nil, false
	p.alarm, p.sessions, p.cut, p.epoch = 0, map[int]*end{}, 0, p.answered
	p.queue, err = p.devs.NewQueue(ring.QueueOptions{Depth: 32})
	if err != nil {
		w.fail("start", "primary %s: %v", p.name, err)
	}
	p.reaped = make([]ring.Completion, 32)
	p.links = nil
	p.newLinks()
	for _, v := range p.volumes {
		v.allDirty()
	}
	w.trace("%s starts", p.name)
	p.visit(nil)
}

// stop ends the process, by itself or with its machine.
func (p *primaryNode) stop(power bool, policy ringtest.Policy) {
	if !p.up {
		return
	}
	for _, io := range p.w.hostsOf(p) {
		io.host.lost(io)
	}
	p.loseIntent()
	p.end(power)
	if power {
		p.devs = p.devs.Restart(policy)
	} else {
		p.devs.Uncertain() // what is with the kernel is done
		p.devs = p.devs.Reopen()
	}
	for _, v := range p.volumes {
		v.allDirty()
	}
	p.core = nil
}

// loseIntent leaves a write of the write-intent log that was in progress in any state: each sector of it was
// written or not.
func (p *primaryNode) loseIntent() {
	iw := p.intent
	p.intent = nil
	if iw == nil || p.rng.IntN(4) == 0 {
		return
	}
	old := p.files[iw.File]
	if iw.Truncate {
		old = nil
	}
	end := int(iw.Off) + len(iw.Data)
	file := make([]byte, max(end, len(old)))
	copy(file, old)
	const sector = 512
	whole := p.rng.IntN(3) > 0
	for at := 0; at < len(iw.Data); at += sector {
		if whole || p.rng.IntN(2) == 0 {
			copy(file[int(iw.Off)+at:], iw.Data[at:min(at+sector, len(iw.Data))])
		}
	}
	if !whole && p.rng.IntN(2) == 0 {
		file = file[:max(len(old), int(iw.Off)+p.rng.IntN(len(iw.Data)+1))]
	}
	p.files[iw.File] = file
	if whole && iw.Truncate && p.rng.IntN(2) == 0 {
		p.files[1-iw.File] = nil
	}
}

// visit lets f talk to the core, then does what the core wants done.
func (p *primaryNode) visit(f func(c *primary.Core)) {
	p.core.Tick(p.w.now)
	if f != nil {
		f(p.core)
	}
	p.pump()
}

func (p *primaryNode) pump() {
	c := p.core
	c.Take(&p.acts)
	a := &p.acts
	for _, m := range a.Manager {
		p.w.checkAnswer(p, m.Message)
		if e := p.sessions[m.Session]; e != nil {
			e.send(m.Message)
		}
	}
	for _, d := range a.Device {
		v := p.slots[d.Device]
		v.touch(d)
		d.Device = v.device
		p.backlog = append(p.backlog, d)
	}
	if a.Intent != nil {
		iw := *a.Intent
		iw.Data = bytes.Clone(iw.Data)
		p.intent = &iw
		p.after(p.between(10*time.Microsecond, time.Millisecond), p.intentDone)
	}
	ready := append([]int(nil), a.Ready...) // pump is entered again before it ends
	done := append([]*primary.IO(nil), a.Done...)
	again := append([]int(nil), a.Reattach...)
	for _, i := range a.Gone {
		p.slots[i].index = -1
	}
	if d := c.Deadline(); p.alarm == 0 || d < p.alarm {
		p.alarm = d
		p.after(max(d-p.w.now, 0), func() {
			if p.alarm == d {
				p.alarm = 0
				p.visit(nil)
			}
		})
	}
	p.push()
	for _, i := range ready {
		p.links[i].wake()
	}
	for _, i := range again {
		p.links[i].reattach()
	}
	for _, io := range done {
		h := io.Owner.(*hostIO)
		h.host.done(h, io.Err)
	}
}

func (p *primaryNode) intentDone() {
	iw := p.intent
	p.intent = nil
	file := p.files[iw.File]
	if iw.Truncate {
		file = nil
	}
	if end := int(iw.Off) + len(iw.Data); len(file) < end {
		file = append(bytes.Clone(file), make([]byte, end-len(file))...)
	} else {
		file = bytes.Clone(file)
	}
	copy(file[iw.Off:], iw.Data)
	p.files[iw.File] = file
	if iw.Truncate {
		p.files[1-iw.File] = nil
	}
	p.visit(func(c *primary.Core) { c.IntentDone(nil) })
}

// push gives the devices what they have room for, and sees that completions are taken.
func (p *primaryNode) push() {
	for len(p.backlog) > 0 {
		d := p.backlog[0]
		p.tag++
		d.Request.Tag = p.tag
		if !p.queue.Push(d.Request) {
			break
		}
		p.flights[p.tag] = d
		p.backlog = p.backlog[1:]
		p.w.report.IOs++
	}
	if err := p.queue.Submit(); err != nil {
		p.crashed(err)
		return
	}
	if len(p.flights) > 0 && !p.reaping {
		p.reaping = true
		p.after(p.between(p.w.cfg.device/4, p.w.cfg.device), p.reap)
	}
}

func (p *primaryNode) reap() {
	p.reaping = false
	n, err := p.queue.Reap(p.reaped, 1)
	if err != nil {
		p.crashed(err)
		return
	}
	for _, c := range p.reaped[:n] {
		d := p.flights[c.Tag]
		delete(p.flights, c.Tag)
		d.Err = c.Err
		d.Inspect()
		p.core.Tick(p.w.now)
		p.core.DeviceDone(d)
	}
	p.pump()
}

// crashed: the moment that was ordered for the machine's crash has come.
func (p *primaryNode) crashed(err error) {
	if !errors.Is(err, ringtest.ErrCrashed) {
		p.w.fail("device", "primary %s: %v", p.name, err)
	}
	p.w.trace("%s loses power at the event that was ordered", p.name)
	p.w.report.Crashes++
	p.w.report.AtIO++
	p.stop(true, p.policy)
	p.later()
}

// Managers.

func (p *primaryNode) serveManager(e *end) {
	p.session++
	id := p.session
	p.sessions[id] = e
	e.onItem = func(v any) {
		m := v.(wire.Commanded)
		p.w.checkCommand(p, m)
		p.visit(func(c *primary.Core) { c.Manage(id, m) })
	}
	e.onEnd = func(error) { delete(p.sessions, id) }
}

// Connections to secondaries.

func (l *link) connect(pause time.Duration) {
	p := l.p
	p.after(pause, func() {
		l.out.f = nil
		l.writer = wire.NewWriter(&l.out)
		l.bound = false
		p.w.dial(p.node, l.to.node, l.to.servePrimary, func(e *end) {
			if e == nil {
				l.ended(errors.New("cannot be reached"))
				return
			}
			l.end = e
			e.onItem = l.receive
			e.onEnd = l.ended
			var fresh wire.UUID
			for i := range fresh {
				fresh[i] = byte(p.rng.Uint32())
			}
			p.visit(func(c *primary.Core) {
				if m := c.Attach(l.index, fresh); m != nil {
					e.send(m)
				} else {
					l.bare = true
				}
			})
			if l.bare && l.end == e {
				e.close()
				l.end = nil
			}
		})
	})
}

func (l *link) ended(err error) {
	l.bound = false
	l.end = nil
	p := l.p
	p.visit(func(c *primary.Core) { c.Down(l.index, err) })
	l.connect(p.between(2*time.Millisecond, p.w.cfg.backoff))
}

// abort ends the connection from this side.
func (l *link) abort(err error) {
	if l.end != nil {
		l.end.close()
		l.ended(err)
	}
}

func (l *link) receive(v any) {
	switch m := v.(type) {
	case *wire.Attached:
		var err error
		l.p.visit(func(c *primary.Core) {
			if err = c.Attached(l.index, *m); err == nil {
				l.bound = true
			}
		})
		if err != nil {
			l.abort(err)
		}
	case *wire.Credit:
		var err error
		l.p.visit(func(c *primary.Core) { err = c.Credit(l.index, m.Applied) })
		if err != nil {
			l.abort(err)
		}
	case *wire.Error:
		l.p.w.trace("%s is told by %s: %s", l.p.name, l.to.name, m.Text)
		l.abort(errors.New(m.Text))
	default:
		l.p.w.fail("protocol", "%s sent %T to a primary", l.to.name, v)
	}
}

func (l *link) wake() {
	if l.sending || !l.bound {
		return
	}
	l.sending = true
	l.p.after(l.p.between(0, l.p.w.cfg.latency/8), l.transmit)
}

// transmit sends one frame, and comes back for the next when that has left.
func (l *link) transmit() {
	l.sending = false
	p := l.p
	if l.held != nil {
		p.core.ReturnFrame(l.held)
		l.held = nil
	}
	if !l.bound {
		p.pump()
		return
	}
	p.core.Tick(p.w.now)
	f := p.core.TakeFrame(l.index)
	if f == nil {
		p.pump()
		return
	}
	f.Seal()
	l.held = f
	l.out.f = p.w.memory.frame()
	if err := l.encode(f); err != nil {
		p.w.fail("encode", "primary %s, frame %d: %v", p.name, f.Seq, err)
	}
	l.end.send(l.out.f)
	l.out.f = nil
	p.w.report.Frames++
	p.pump()
	l.sending = true
	p.after(p.between(time.Microsecond, p.w.cfg.latency/8), l.transmit)
}

// encode does what the driver in production does.
func (l *link) encode(f *primary.Frame) error {
	switch f.Kind {
	case wire.TypeManifest:
		return l.writer.WriteStream(&f.Manifest, f.Seq)
	case wire.TypeZeroes:
		l.zeroes.CG, l.zeroes.Ranges = f.CG, l.zeroes.Ranges[:0]
		for i := range f.Len() {
			l.zeroes.Ranges = append(l.zeroes.Ranges, f.ZeroRange(i))
		}
		return l.writer.WriteStream(&l.zeroes, f.Seq)
	}
	l.batch.Reset(f.CG)
	for i := range f.Len() {
		u, sums, data := f.Update(i)
		if l.mangle {
			l.mangle = false
			l.p.w.trace("%s -> %s: frame %d of CG %d: block %d is changed on its way", l.p.name, l.to.name, f.Seq, f.CG, u.Block)
			data = bytes.Clone(data)
			data[l.p.rng.IntN(len(data))] ^= 1 << l.p.rng.IntN(8)
			fresh := make([]uint64, len(sums))
			for j := range fresh {
				fresh[j] = xxhash.Sum64(data[j*primary.BlockSize : (j+1)*primary.BlockSize])
			}
			sums = fresh
		}
		if err := l.batch.Add(u, sums, data); err != nil {
			return fmt.Errorf("CG %d: %w", f.CG, err)
		}
	}
	return l.writer.WriteUpdates(&l.batch, f.Seq)
}

// volume is a volume of a primary.
type volume struct {
	name   string
	owner  *primaryNode
	device int
	blocks uint64
	to     []*secondaryNode

	configured bool // in the primary's file
	served     bool // hosts may write to it
	index      int  // of the running core, -1: it does not have it

	dirty []bool   // blocks whose sum is not known
	sums  []uint64 // XXH64 of each block of the device
	buf   []byte
}

func (v *volume) allDirty() {
	for i := range v.dirty {
		v.dirty[i] = true
	}
}

// touch notes what a request may change.
func (v *volume) touch(d *primary.DeviceIO) {
	n := int64(len(d.Buf))
	switch d.Op {
	case ring.OpWrite:
	case ring.OpWriteZeroes:
		n = d.Len
	default:
		return
	}
	for b := d.Off / primary.BlockSize; b*primary.BlockSize < d.Off+n; b++ {
		v.dirty[b] = true
	}
}

// image gives the sums of all blocks as the device holds them.
func (v *volume) image() []uint64 {
	for b := range v.dirty {
		if v.dirty[b] {
			v.owner.devs.ReadAt(v.device, v.buf, int64(b)*primary.BlockSize)
			v.sums[b] = xxhash.Sum64(v.buf)
			v.dirty[b] = false
		}
	}
	return append([]uint64(nil), v.sums...)
}
