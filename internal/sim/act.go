package sim

import (
	"encoding/binary"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// do carries out an operation of the list. One that makes no sense as things are does nothing, so that a
// list stays valid when others are taken out of it.
func (w *world) do(o Op) {
	switch o.Kind {
	case "record":
		w.host.record()
	case "write", "part", "zeroes", "trim":
		w.doHost(o)
	case "kill":
		w.trace("%v", o)
		w.kill(o)
	case "power":
		w.trace("%v", o)
		w.power(o)
	case "cut":
		w.doCut(o)
	case "part-net":
		w.trace("%v", o)
		w.part(&partition{a: w.nodeName(o.Node), b: w.nodeName(o.Peer), until: w.now + o.Dur, stall: o.How == "stall"})
	case "hang":
		w.trace("%v", o)
		if n := w.node(o.Node); n != nil {
			n.hung = max(n.hung, w.now+o.Dur)
		}
	case "failover":
		w.trace("%v", o)
		w.failover(o.How)
	case "member":
		w.trace("%v", o)
		w.change(o.Node, o.How)
	case "volume":
		w.trace("%v", o)
		w.order(o)
	default:
		w.doSecondary(o)
	}
}

func (w *world) doHost(o Op) {
	v := w.volume(o.Node)
	if v == nil || o.A >= v.blocks || o.B == 0 || o.B > v.blocks-o.A {
		return
	}
	off, n := o.A*primary.BlockSize, o.B*primary.BlockSize
	op := primary.OpWrite
	switch o.Kind {
	case "part": // blocks written in part
		off, n = off+512, n-512
	case "zeroes":
		op = primary.OpWriteZeroes
	case "trim":
		op = primary.OpTrim
	}
	w.host.other(op, v, off, n, o.How == "fua")
}

// nodeName resolves m0: it is the manager that leads.
func (w *world) nodeName(name string) string {
	if name == "m0" || name == "m1" {
		return w.leader().name
	}
	return name
}

func (w *world) node(name string) *node {
	if name == "m0" || name == "m1" {
		return w.leader().node
	}
	if p := w.primary(name); p != nil {
		return p.node
	}
	if s := w.secondary(name); s != nil {
		return s.node
	}
	return nil
}

// kill ends a process with no chance to do anything; its machine goes on, and it is started again. One that is
// ordered for an event of a secondary's devices may be followed by a power failure, soon after the process has
// started again.
func (w *world) kill(o Op) {
	name := o.Node
	if s := w.secondary(name); s != nil && o.B > 0 {
		s.order(&arm{event: eventOf(o), n: o.B, policy: policyOf(o.How), kill: true, relapse: o.Dur})
		return
	}
	w.report.Kills++
	if s := w.secondary(name); s != nil && s.up {
		s.stop(false, nil)
		s.later()
	}
	if p := w.primary(name); p != nil && p.up {
		p.stop(false, nil)
		p.later()
	}
	if m := w.leader(); name == "m0" {
		m.stop(false)
		m.later()
	}
}

func policyOf(how string) ringtest.Policy {
	switch how {
	case "none":
		return ringtest.None
	case "all":
		return ringtest.All
	case "prefix":
		return ringtest.Prefix
	case "all-but-one":
		return ringtest.AllButOne
	}
	return ringtest.Random
}

// power takes a machine's power, at once or at an event of its devices.
func (w *world) power(o Op) {
	policy := policyOf(o.How)
	s := w.secondary(o.Node)
	if s != nil && o.B > 0 {
		s.order(&arm{event: eventOf(o), n: o.B, policy: policy})
		return
	}
	if p := w.primary(o.Node); p != nil && o.B > 0 {
		if p.up {
			p.policy = policy
			p.devs.CrashAt(eventOf(o), o.B)
		}
		return
	}
	w.report.Crashes++
	if s != nil && s.up {
		s.stop(true, policy)
		s.later()
	}
	if p := w.primary(o.Node); p != nil && p.up {
		p.stop(true, policy)
		p.later()
	}
	if m := w.leader(); o.Node == "m0" {
		m.stop(true)
		m.later()
	}
}

func eventOf(o Op) ringtest.Event { return ringtest.Event((o.A + 2) % 3) }

// order has the machine or the process end at an event of the devices.
func (s *secondaryNode) order(a *arm) {
	s.armed = a
	if s.up {
		s.applyArm()
	}
}

// struck: the moment that was ordered for the end of the machine or the process has come.
func (s *secondaryNode) struck() {
	w, a := s.w, s.armed
	w.report.AtIO++
	if a == nil {
		a = &arm{policy: ringtest.Random}
	}
	if a.kill {
		w.trace("%s is killed at the event that was ordered", s.name)
		w.report.Kills++
		s.stop(false, nil)
		s.relapse = a
	} else {
		w.trace("%s loses power at the event that was ordered", s.name)
		w.report.Crashes++
		s.stop(true, a.policy)
	}
	s.later()
}

// fallBack lets the power fail soon after a start, if that was ordered.
func (s *secondaryNode) fallBack() {
	a := s.relapse
	s.relapse = nil
	if a == nil || a.relapse == 0 {
		return
	}
	s.after(a.relapse, func() {
		s.w.trace("%s loses power soon after it was killed", s.name)
		s.w.report.Crashes++
		s.stop(true, a.policy)
		s.later()
	})
}

func (p *primaryNode) later() {
	run := p.run
	p.w.at(p.w.now+p.between(p.w.cfg.restart/2, p.w.cfg.restart), func() {
		if !p.up && p.run == run && !p.halted {
			p.start()
		}
	})
}

func (m *managerNode) later() {
	run := m.run
	m.w.at(m.w.now+m.between(m.w.cfg.restart/2, m.w.cfg.restart), func() {
		if !m.up && m.run == run && m.w.leader() == m {
			m.start()
		}
	})
}

// failover has the other manager take over, whether the one that led is still there or not.
func (w *world) failover(how string) {
	w.report.Failovers++
	if how == "log-lost" && !w.losable() {
		how = "crash"
	}
	old := w.leader()
	other := w.man[0]
	if old == other {
		other = w.man[1]
	}
	if how != "alive" {
		old.stop(true)
	}
	if how == "log-lost" {
		w.loseLog()
	}
	other.stop(false)
	other.start()
}

// loseLog empties the decision log, as if the manager's machine had burnt down; epochs go on by the clock. A decision
// that is final nowhere is lost with it, and may be taken back from then on: nobody was told of it.
func (w *world) loseLog() {
	w.trace("the decision log is lost")
	w.log.lose()
}

func (w *world) doCut(o Op) {
	a, b := w.node(o.Node), w.node(o.Peer)
	if a == nil || b == nil {
		return
	}
	w.trace("%v", o)
	for _, c := range w.conns {
		x, y := c.ends[0].node, c.ends[1].node
		if x == a && y == b || x == b && y == a {
			c.cut(false)
		}
	}
}

func (w *world) doSecondary(o Op) {
	if o.Kind == "mangle" {
		p, s := w.primary(o.Node), w.secondary(o.Peer)
		if p != nil && p.up {
			for _, l := range p.links {
				l.mangle = l.mangle || l.to == s
			}
		}
		return
	}
	s := w.secondary(o.Node)
	if s == nil || !s.up || s.pool == nil || !w.judged(s) {
		return
	}
	w.trace("%v", o)
	switch o.Kind {
	case "checkpoint":
		s.spawn(func() { s.hear(s.pool.Checkpoint(background)) }, nil)
	case "snapshot":
		s.snapshot(o.Dur)
	case "vanish":
		s.vanish(o)
	case "stray":
		s.stray(o)
	case "flip":
		s.flip(o)
	case "disk":
		s.breakDisk(o)
	case "rot":
		s.decay(o)
	}
}

// snapshot holds a view for a while, then reads it.
func (s *secondaryNode) snapshot(d time.Duration) {
	x := &snapshot{view: s.group.Snapshot(engine.FinalView)}
	x.cg = x.view.CG()
	images := map[*volume][]uint64{}
	for _, v := range s.volumes {
		images[v] = s.w.hist.image(x.cg, v)
	}
	x.moves = s.moves
	s.snaps = append(s.snaps, x)
	s.after(d, func() {
		s.around(func() {
			s.w.hist.restore(x.cg, images)
			for _, v := range s.volumes {
				if x.moves == s.moves { // else there may be another volume of that name by now
					s.w.compare(s, v, x.cg, engine.FinalView, x.view)
				}
			}
			x.view.Close()
			for i, y := range s.snaps {
				if x == y {
					s.snaps = append(s.snaps[:i:i], s.snaps[i+1:]...)
					break
				}
			}
		})
	})
}

// restore brings back an image that was forgotten, for a reader that still holds it.
func (h *history) restore(cg uint64, images map[*volume][]uint64) {
	if cg == 0 {
		return
	}
	if h.images[cg] == nil {
		h.images[cg] = map[*volume][]uint64{}
	}
	for v, i := range images {
		h.images[cg][v] = i
	}
}

// breakDisk makes two requests of one device fail.
func (s *secondaryNode) breakDisk(o Op) {
	f := ringtest.Fault{Kind: ringtest.Fails, Device: int(o.A) % len(s.devs.Info()), Skip: int(o.A), Count: 2}
	switch o.How {
	case "write":
		f.Op = ring.OpWrite
	case "short":
		f.Op, f.Kind = ring.OpWrite, ringtest.Short
	case "flush":
		f.Op = ring.OpFlush
	case "read":
		f.Op = ring.OpRead
	}
	s.devs.Inject(f)
	s.broken = max(s.broken, s.w.now+o.Dur)
	s.w.at(s.w.now+o.Dur, s.mend)
}

// mend ends faults of the devices that are over.
func (s *secondaryNode) mend() {
	if s.broken <= s.w.now && !s.away {
		s.devs.Heal()
	}
}

// vanish takes a device away for a while, and with it what it had not made durable.
func (s *secondaryNode) vanish(o Op) {
	s.devs.Inject(ringtest.Fault{Kind: ringtest.Vanishes, Device: int(o.A) % len(s.devs.Info()), Skip: int(o.B)})
	s.away = true
	s.w.at(s.w.now+o.Dur, func() { s.comeBack(policyOf(o.How)) })
}

// comeBack returns a device that vanished, with a power cycle.
func (s *secondaryNode) comeBack(policy ringtest.Policy) {
	if !s.away {
		return
	}
	s.away = false
	s.w.trace("%s gets its device back", s.name)
	s.w.report.Crashes++
	if s.up {
		s.stop(true, policy)
		s.later()
	} else {
		s.devs = s.devs.Restart(policy)
	}
	s.devs.Heal()
}

// disarm calls off ends that were ordered.
func disarm(d *ringtest.Devices) {
	for _, e := range []ringtest.Event{ringtest.Submission, ringtest.Completion, ringtest.FlushEnd} {
		d.CrashAt(e, 0)
	}
}

func (s *secondaryNode) heal() {
	s.armed, s.relapse = nil, nil
	disarm(s.devs)
	s.broken = min(s.broken, s.w.now)
	s.comeBack(ringtest.Random)
	s.mend()
}

// stray has a write of data go elsewhere. What it should have replaced, and what it hits, is damaged.
func (s *secondaryNode) stray(o Op) {
	device := int(o.A) % len(s.devs.Info())
	off, n := s.pool.Inspect().Extents(device)
	s.devs.Inject(ringtest.Fault{Kind: ringtest.Misdirected, Device: device, Op: ring.OpWrite, Off: off, Len: n,
		Skip: int(o.A), Count: 1, Shift: int64(1+o.B%96) * engine.BlockSize})
	s.damaged += 2 * s.w.cfg.writerBlocks
}

// flip changes a bit of a block that a volume shows: who reads it must be told.
func (s *secondaryNode) flip(o Op) {
	type shown struct {
		v  *volume
		b  engine.VBlock
		at engine.PBlock
	}
	var all []shown
	for _, v := range s.volumes {
		ev := s.volume(v)
		if ev == nil {
			continue
		}
		s.pool.Inspect().Look(ev, engine.FinalView, func(b engine.VBlock, at engine.PBlock, _ engine.PartialSum) {
			if at != 0 {
				all = append(all, shown{v, b, at})
			}
		})
	}
	if len(all) == 0 {
		return
	}
	x := all[o.A%uint64(len(all))]
	device, off := s.pool.Inspect().Place(x.at)
	s.damaged++
	s.w.trace("%s: volume %s block %d: a bit of physical block %d flips", s.name, x.v.name, x.b, x.at)
	s.devs.Rot(device, off, engine.BlockSize, 1)
	if _, err := s.readBlock(x.v, uint64(x.b), engine.FinalView, nil); err == nil {
		s.w.fail("rot", "%s: volume %s block %d reads without an error although a bit of it flipped", s.name, x.v.name, x.b)
	}
}

// rot is damage of a device that stays, and can be undone.
type rot struct {
	off  int64
	kept []byte
}

// decay ends the machine after a checkpoint, and flips a bit of a table page while it is off. The pool must be
// refused: it would show other contents.
func (s *secondaryNode) decay(o Op) {
	if !s.around(func() { s.hear(s.pool.Checkpoint(background)) }) {
		return
	}
	pages := s.pool.Inspect().TablePages()
	s.stop(true, policyOf(o.How))
	s.later()
	if o.B > 0 {
		s.rotSuperblock(o)
		return
	}
	if len(pages) == 0 {
		return
	}
	r := &rot{off: pages[o.A%uint64(len(pages))], kept: make([]byte, engine.BlockSize)}
	s.devs.ReadAt(0, r.kept, r.off)
	damaged := append([]byte(nil), r.kept...)
	at := uint64(pageHeader)
	for k := range uint64(engine.BlockSize-pageHeader) / 8 { // an entry that is in use
		at = pageHeader + (o.A+k)%96*8
		if binary.LittleEndian.Uint64(r.kept[at:]) != 0 {
			break
		}
	}
	damaged[at+o.A/96%8] ^= 1 << (o.A / 768 % 8)
	s.devs.WriteAt(0, damaged, r.off)
	s.rotten = r
}

// rotSuperblock flips a bit in one of the copies: the others serve.
func (s *secondaryNode) rotSuperblock(o Op) {
	device := int(o.A) % len(s.devs.Info())
	s.devs.Rot(device, int64((o.B-1)%4)*64*engine.BlockSize, 256, 1)
}

// pageHeader is the head of a table page in bytes.
const pageHeader = 32

// unrot puts back what was there.
func (s *secondaryNode) unrot() {
	s.devs.WriteAt(0, s.rotten.kept, s.rotten.off)
	s.rotten = nil
}
