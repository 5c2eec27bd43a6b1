package sim

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/wire"
)

const groupName = "g"

// secondaryNode drives a pool, the receivers of streams and the answers to managers.
type secondaryNode struct {
	*node
	index    int
	volumes  []*volume
	devs     *ringtest.Devices
	pool     *engine.Pool
	group    *engine.Group
	sessions []*stream
	managers []*charge
	chain    *target.Chain
	orders   []*order // of managers, that wait for the one before
	obeying  bool
	tasks    []*task
	current  *task  // that runs just now
	connects uint64 // managers' connections, ever
	stepping bool
	fresh    []uint64 // CGs that became complete and were not told of
	failed   error
	snaps    []*snapshot
	armed    *arm // a crash that is ordered
	rotten   *rot
	acks     acks
	seen     engine.GroupState // at the last look
	copies   map[*volume]*copyOf
	moves    int // counts volumes that were made, deleted, set aside or had to rejoin
	relapse  *arm
	broken   time.Duration // I/O errors until then
	away     bool          // a device vanished, or is about to
	damaged  int           // blocks of data at most that may have been damaged
	// pools counts new pools. born is the newest CG that was decided, and bornEpoch the newest epoch, when this one
	// was made.
	pools           byte
	born, bornEpoch uint64
}

// arm orders a power failure at an event of the devices.
type arm struct {
	event  ringtest.Event
	n      uint64
	policy ringtest.Policy
	// kill: only the process ends. If relapse is not 0, the power fails that long after its next start.
	kill    bool
	relapse time.Duration
}

// stream is a primary's stream: a receiver, over however many connections.
type stream struct {
	s        *secondaryNode
	id       wire.UUID
	rx       *target.Receiver
	end      *end
	reader   *wire.Reader
	feed     feed
	inbox    []*frame
	current  *taken // nil, or &taking
	taking   taken
	payload  *frame // memory for what is taken
	resumed  bool
	credited uint64
	pending  uint64
	busy     bool
	full     bool
	closed   bool
	expiry   int
}

// taken is a frame that was read and not applied yet.
type taken struct {
	header  wire.Header
	body    []byte
	payload []byte // what arrived of it
	whole   bool
	at      int
}

// Payload and SkipPayload make taken a target.Source.
func (t *taken) Payload(mem []byte) error {
	n := copy(mem, t.payload[t.at:])
	t.at += n
	if n < len(mem) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (t *taken) SkipPayload() error {
	if !t.whole {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// charge is a manager's connection.
type charge struct {
	end      *end
	number   uint64 // of the connection
	known    bool
	epoch    uint64
	complete uint64
}

// snapshot is a reader that holds a view for a while.
type snapshot struct {
	view  *engine.Snapshot
	cg    uint64
	moves int
}

var background = context.Background()

// start opens the pool; on a device that crashes meanwhile, or is damaged, it fails.
func (s *secondaryNode) start() {
	w := s.w
	s.begin()
	s.sessions, s.managers, s.stepping, s.fresh, s.failed, s.snaps = nil, nil, false, nil, nil, nil
	s.applyArm()
	s.chain, s.orders, s.obeying, s.tasks = &target.Chain{}, nil, false, nil
	pool, err := engine.Open(s.devs, s.options())
	switch {
	case s.devs.Crashed():
		s.pool = pool
		s.struck()
		return
	case err != nil && s.rotten != nil:
		w.trace("%s refuses its pool: %v", s.name, err)
		s.unrot()
		s.stop(false, nil)
		s.later()
		return
	case err != nil && s.faulty():
		w.trace("%s cannot open its pool: %v", s.name, err)
		s.stop(false, nil)
		s.later()
		return
	case err != nil:
		w.fail("recovery", "secondary %s cannot open its pool: %v", s.name, err)
	}
	s.pool = pool
	if s.group, err = pool.Group(groupName); err != nil {
		w.fail("recovery", "secondary %s: %v", s.name, err)
	}
	w.trace("%s starts: %s", s.name, s.describe())
	w.checkRecovered(s)
	s.keepStepping()
	s.fallBack()
}

func (s *secondaryNode) options() engine.Options {
	c := s.w.cfg
	return engine.Options{Manual: true, Arenas: &s.w.memory.arenas, WriterBuffers: c.writerBuffers, WriterBufferBlocks: c.writerBlocks, Pause: s.pause,
		OnComplete: func(_ string, cg uint64) { s.completed(cg) },
		OnFailure:  func(err error) { s.failed = err }}
}

// format makes the pool and its volumes, before time begins.
func (s *secondaryNode) format() error {
	c := s.w.cfg
	next := byte(0)
	o := engine.FormatOptions{Name: s.name, ExtentBlocks: 64, JournalBytes: c.journal, VirtualBytes: c.virtual(),
		NewUUID: func() (u engine.UUID) { next++; u[0], u[1], u[2] = next, byte(s.index+1), s.pools; return u }}
	if _, err := engine.Format(s.devs, o); err != nil {
		return err
	}
	pool, err := engine.Open(s.devs, engine.Options{Manual: true, Arenas: &s.w.memory.arenas})
	if err != nil {
		return err
	}
	for _, v := range s.volumes {
		if s.copies[v].sure == absent {
			continue
		}
		if _, err := pool.CreateVolume(background, groupName, v.name, v.blocks*engine.BlockSize); err != nil {
			return err
		}
	}
	if err := pool.Close(); err != nil {
		return err
	}
	s.devs = s.devs.Reopen()
	return nil
}

func (s *secondaryNode) applyArm() {
	if s.armed != nil {
		s.devs.CrashAt(s.armed.event, s.armed.n)
	}
}

// stop ends the process, by itself or with its machine.
func (s *secondaryNode) stop(power bool, policy ringtest.Policy) {
	if !s.up {
		return
	}
	s.end(power)
	s.w.report.count(s.devs)
	s.devs.Uncertain() // what is with the kernel is done, unless the power fails
	s.free()
	if power {
		s.devs = s.devs.Restart(policy)
	} else {
		s.devs = s.devs.Kill()
	}
	s.armed = nil
}

// free gives memory back. The devices have crashed: nothing that it does can reach them.
func (s *secondaryNode) free() {
	s.dropTasks()
	for _, x := range s.snaps {
		x.view.Close()
	}
	for _, t := range s.sessions {
		_ = t.rx.Close()
	}
	if s.pool != nil {
		_ = s.pool.Close()
	}
	s.pool, s.group, s.sessions, s.managers, s.snaps = nil, nil, nil, nil, nil
}

// later starts the process again.
func (s *secondaryNode) later() {
	w := s.w
	run := s.run
	w.at(w.now+s.between(w.cfg.restart/2, w.cfg.restart), func() {
		if !s.up && s.run == run {
			s.start()
		}
	})
}

// around runs something that uses the pool, and looks at what came of it. False: the process is no more.
func (s *secondaryNode) around(f func()) bool {
	run := s.run
	f()
	if s.run != run {
		return false
	}
	if s.devs.Crashed() {
		s.struck()
		return false
	}
	if s.failed != nil {
		s.poolFailed()
		return false
	}
	s.w.checkSecondary(s)
	s.announce()
	s.keepStepping()
	return true
}

// poolFailed: the pool stopped acknowledging, after a fault of a device. Managers are told, and the process starts
// again.
func (s *secondaryNode) poolFailed() {
	if !s.faulty() {
		s.w.fail("pool", "secondary %s stopped acknowledging: %v", s.name, s.failed)
	}
	s.w.trace("%s failed: %v", s.name, s.failed)
	s.stop(false, nil)
	s.later()
}

// faulty says whether faults of devices are being injected, or have been lately.
func (s *secondaryNode) faulty() bool {
	return s.away || s.broken > 0 && s.w.now < s.broken+faultsLinger
}

// faultsLinger is how long after the end of a fault a request that it hit may end: a process may hang meanwhile.
const faultsLinger = 150 * time.Millisecond

func (s *secondaryNode) keepStepping() {
	if s.stepping {
		return
	}
	s.stepping = true
	s.after(s.between(s.w.cfg.device/4, s.w.cfg.device), func() {
		s.stepping = false
		progress := false
		s.around(func() {
			var err error
			progress, err = s.pool.Step()
			s.hear(err)
			s.stepping = !progress // around must not wake what sleeps
		})
		s.stepping = s.stepping && progress
	})
}

// hear takes an error of the pool that is no answer to anybody.
func (s *secondaryNode) hear(err error) {
	if err != nil && !errors.Is(err, ringtest.ErrCrashed) && s.failed == nil {
		s.failed = err
	}
}

func (s *secondaryNode) completed(cg uint64) {
	s.fresh = append(s.fresh, cg)
	s.acks.completed(cg)
}

// announce tells managers of complete CGs.
func (s *secondaryNode) announce() {
	st := s.pool.Inspect().State(s.group)
	for _, cg := range s.fresh {
		s.w.trace("%s completed CG %d", s.name, cg)
		if cg != st.Complete {
			continue // it has been given up meanwhile
		}
		for _, m := range s.managers {
			if m.known && cg > m.complete {
				m.complete = cg
				m.end.send(target.Completed(st, m.epoch))
			}
		}
	}
	s.fresh = s.fresh[:0]
}

// Managers.

func (s *secondaryNode) serveManager(e *end) {
	s.connects++
	m := &charge{end: e, number: s.connects}
	s.managers = append(s.managers, m)
	e.onItem = func(v any) { s.obey(m, v.(wire.Commanded)) }
	e.onEnd = func(error) {
		s.managers = slices.DeleteFunc(s.managers, func(x *charge) bool { return x == m })
	}
}

// order is a command of a manager, waiting or being carried out.
type order struct {
	by      *charge
	command wire.Commanded
}

// obey carries commands out one after the other, as target.Chain does, each step by step: anything can happen in
// between.
func (s *secondaryNode) obey(m *charge, c wire.Commanded) {
	s.orders = append(s.orders, &order{m, c})
	s.nextOrder()
}

func (s *secondaryNode) nextOrder() {
	if s.obeying || len(s.orders) == 0 {
		return
	}
	s.obeying = true
	o := s.orders[0]
	s.orders = s.orders[1:]
	s.spawn(func() { s.carryOut(o.by, o.command) }, func() {
		s.obeying = false
		s.nextOrder()
	})
}

func (s *secondaryNode) carryOut(m *charge, c wire.Commanded) {
	m.known = true
	s.w.report.Steps++
	s.acks.asked(c)
	answer, err := s.chain.Obey(background, m.number, s.pool, s.group, c, func() target.Report {
		return target.Report{Instance: s.instance, PoolFull: s.poolFull()}
	})
	if s.devs.Crashed() || s.failed != nil {
		return
	}
	h := c.Head()
	if err != nil {
		e := wire.Refusal(err, 0, h.Group, h.CG)
		s.w.trace("%s refuses %v(%d, epoch %d): %s", s.name, c.Type(), h.CG, h.Epoch, e.Text)
		m.end.send(e)
		return
	}
	if r, ok := c.(*wire.Revert); ok {
		s.joined(r)
	}
	m.epoch = max(m.epoch, h.Epoch)
	s.acks.answered(s.w, s, answer)
	m.end.send(answer)
}

func (s *secondaryNode) poolFull() bool {
	return slices.ContainsFunc(s.sessions, func(t *stream) bool { return t.full })
}

// Primaries.

func (s *secondaryNode) servePrimary(e *end) {
	e.onItem = func(v any) {
		a, ok := v.(*wire.Attach)
		if !ok {
			s.w.fail("protocol", "%s got %T before Attach", s.name, v)
		}
		s.around(func() { s.attach(e, a) })
	}
}

// attach hands the connection to the session of its stream, or makes one, as target's desk does.
func (s *secondaryNode) attach(e *end, a *wire.Attach) {
	vols, err := target.Match(s.group, a)
	if err != nil {
		if !s.unfit(a) {
			s.w.fail("attach", "%s: %v", s.name, err)
		}
		e.send(wire.Refusal(err, 0, groupName, 0))
		e.close()
		return
	}
	if s.settingAside(a) {
		e.send(&wire.Error{Code: wire.CodeSetAside, Group: groupName, Text: "a volume is being set aside"})
		e.close()
		return
	}
	for _, t := range s.sessions {
		if t.id == a.Stream && t.rx.Binds(vols) {
			if t.end != nil {
				t.end.close()
			}
			t.serve(e)
			return
		}
	}
	for _, t := range slices.Clone(s.sessions) {
		if t.rx.Holds(vols) {
			t.close(nil)
		}
	}
	t := &stream{s: s, id: a.Stream}
	t.rx, err = target.NewReceiver(s.pool, s.group, vols)
	s.sessions = append(s.sessions, t)
	if err != nil {
		t.refuse(e, err)
		return
	}
	t.serve(e)
}

// serve takes frames from a connection.
func (t *stream) serve(e *end) {
	s := t.s
	t.end, t.inbox, t.current, t.busy, t.full = e, nil, nil, false, false
	t.feed.b = nil
	t.reader = wire.NewReader(&t.feed)
	t.expiry++
	st, err := s.group.State(background)
	if err != nil {
		t.refuse(e, err)
		return
	}
	e.onItem = t.arrived
	e.onEnd = func(error) { t.parted(e) }
	volumes, err := target.Identify(background, s.pool, t.rx.Bound())
	if err != nil {
		t.refuse(e, err)
		return
	}
	e.send(&wire.Attached{Applied: t.rx.Applied(), Resumed: t.resumed, Complete: st.Complete, Window: s.w.cfg.window, Volumes: volumes})
	t.resumed, t.credited, t.pending = true, t.rx.Applied(), 0
	t.reader.ExpectSequence(t.rx.Applied() + 1)
}

// parted: the connection broke; the stream is kept for a while.
func (t *stream) parted(e *end) {
	if t.end != e {
		return
	}
	t.end, t.inbox, t.current = nil, nil, nil
	t.expiry++
	mine := t.expiry
	t.s.after(t.s.w.cfg.resume, func() {
		if t.expiry == mine && !t.closed {
			t.s.around(func() { t.close(nil) })
		}
	})
}

// close forgets the stream.
func (t *stream) close(last *wire.Error) {
	s := t.s
	t.closed = true
	t.expiry++
	if t.end != nil {
		if last != nil {
			t.end.send(last)
		}
		t.end.close()
		t.end = nil
	}
	s.hear(t.rx.Close())
	s.sessions = slices.DeleteFunc(s.sessions, func(x *stream) bool { return x == t })
}

func (t *stream) refuse(e *end, err error) {
	t.s.w.trace("%s ends a stream: %v", t.s.name, err)
	t.end = e
	t.close(wire.Refusal(err, 0, groupName, 0))
}

func (t *stream) arrived(v any) {
	f, ok := v.(*frame)
	if !ok {
		t.s.w.fail("protocol", "%s got %T on a data connection", t.s.name, v)
	}
	t.inbox = append(t.inbox, f)
	t.work(0)
}

// work takes the next frame after a while.
func (t *stream) work(d time.Duration) {
	if t.busy {
		return
	}
	t.busy = true
	e := t.end
	t.s.after(d+t.s.between(0, t.s.w.cfg.device/4), func() {
		if t.end != e || t.closed {
			return
		}
		t.busy = false
		t.s.around(t.take)
	})
}

func (t *stream) take() {
	if t.current == nil && !t.next() {
		return
	}
	c := t.current
	c.at = 0
	err := t.rx.Take(background, c.header, c.body, c, func(uint64) error { return engine.ErrPoolFull })
	switch {
	case t.s.devs.Crashed():
		return
	case errors.Is(err, engine.ErrPoolFull):
		t.waitRoom()
		return
	case errors.Is(err, io.ErrUnexpectedEOF):
		t.current = nil
		return // the end of the connection comes next
	case err != nil:
		t.refuse(t.end, err)
		return
	}
	t.full, t.current = false, nil
	t.pending += uint64(c.header.Payload)
	if len(t.inbox) == 0 || t.pending >= t.s.w.cfg.window/4 {
		t.flush()
	}
	if len(t.inbox) > 0 {
		t.work(0)
	}
}

// next reads a frame.
func (t *stream) next() bool {
	if len(t.inbox) == 0 {
		return false
	}
	f := t.inbox[0]
	t.inbox = t.inbox[1:]
	t.feed.b = f.bytes
	h, body, err := t.reader.Next()
	if err != nil {
		if f.whole {
			t.refuse(t.end, err)
		}
		return false
	}
	c := &t.taking
	c.header, c.whole = h, f.whole
	c.body = append(c.body[:0], body...)
	if t.payload == nil {
		t.payload = t.s.w.memory.frame()
	}
	n := min(int(h.Payload), len(f.bytes)-wire.HeaderSize-int(h.Body))
	t.payload.bytes = slices.Grow(t.payload.bytes[:0], n)[:n]
	c.payload = t.payload.bytes
	if err := t.reader.Payload(c.payload); err != nil {
		t.s.w.fail("protocol", "%s: %v", t.s.name, err)
	}
	t.current = c
	t.s.w.memory.frames.put(f)
	return true
}

// waitRoom leaves the frame for later: not reading is the back-pressure.
func (t *stream) waitRoom() {
	if !t.full {
		t.full = true
		t.s.w.report.PoolFull++
		t.s.w.trace("%s: the pool is full", t.s.name)
	}
	t.flush()
	if t.end != nil {
		t.end.send(&wire.Credit{Applied: t.rx.Applied()})
		t.work(t.s.w.cfg.recheck)
	}
}

// flush has what was placed written, and acknowledges it.
func (t *stream) flush() {
	if err := t.rx.Writer().Kick(); err != nil {
		t.s.hear(err)
		return
	}
	t.pending = 0
	if t.credited < t.rx.Applied() {
		t.credited = t.rx.Applied()
		t.end.send(&wire.Credit{Applied: t.credited})
	}
}

func (s *secondaryNode) writers() []*engine.Writer {
	var out []*engine.Writer
	for _, t := range s.sessions {
		if w := t.rx.Writer(); w != nil {
			out = append(out, w)
		}
	}
	return out
}
