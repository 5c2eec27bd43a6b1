package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/wire"
)

// drawVolumes lets the volumes of some seeds change, and has first copies take several CGs where members or volumes
// change, and in half of the other seeds. It draws from a source of its own, so that it does not shift what else is
// drawn.
func (c *config) drawVolumes(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0x70a1))
	c.moves = rng.IntN(4) == 0 && !c.changes
	if !c.moves && !c.changes && rng.IntN(2) == 0 {
		return
	}
	c.core.FirstCopyRest = engine.BlockSize << rng.IntN(4)
	c.core.FirstCopyRate = int64(rng.IntN(4)) * 8 << 20
	if !c.moves {
		return
	}
	for range 1 + rng.IntN(2) {
		c.late = append(c.late, fmt.Sprintf("v%d", len(c.volumes)))
		c.volumes = append(c.volumes, volumeConfig{primary: rng.IntN(c.primaries), blocks: uint64(24 + rng.IntN(73)), to: c.drawCopies(rng)})
	}
}

// moves draws changes of volumes, and crashes soon after.
func (d *drawing) moves(seed uint64) {
	if !d.c.moves {
		return
	}
	d.rng = rand.New(rand.NewPCG(seed, 0x70a2))
	at := func(most time.Duration) time.Duration { return 1 + time.Duration(d.rng.Int64N(int64(most))) }
	for i, v := range d.c.volumes {
		if name := fmt.Sprintf("v%d", i); slices.Contains(d.c.late, name) {
			d.move(Op{At: at(d.c.length / 2), Node: name, How: "add"}, v)
		}
	}
	for range 1 + d.rng.IntN(4) {
		i := d.rng.IntN(len(d.c.volumes))
		v := d.c.volumes[i]
		o := Op{At: at(d.c.length * 3 / 4), Node: fmt.Sprintf("v%d", i), How: []string{"remove", "delete", "remake", "set-aside"}[d.rng.IntN(4)]}
		there := fmt.Sprintf("s%d", v.to[d.rng.IntN(len(v.to))])
		switch o.How {
		case "remove", "delete":
			d.add(Op{At: o.At + d.dur(100*time.Millisecond), Kind: "volume", Node: o.Node, How: "add"})
		case "set-aside": // which is refused while its primary is connected
			away := Op{At: o.At, Kind: "part-net", Node: fmt.Sprintf("p%d", v.primary), Peer: there, Dur: d.dur(60 * time.Millisecond)}
			if d.rng.IntN(2) == 0 {
				away = Op{At: o.At, Kind: "kill", Node: away.Node}
			}
			d.add(away)
			o.Dur = d.dur(60 * time.Millisecond)
			fallthrough
		default:
			o.Peer = there
		}
		d.move(o, v)
	}
}

// move has an operator change a volume, and perhaps somebody crash meanwhile.
func (d *drawing) move(o Op, v volumeConfig) {
	o.Kind = "volume"
	d.add(o)
	crash := Op{At: o.At + d.dur(60*time.Millisecond), Kind: "power", Node: d.anybody(), How: d.policy()}
	switch d.rng.IntN(4) {
	case 0:
		return
	case 1: // where the copy is, at once
		crash.At, crash.Node = o.At+d.dur(6*time.Millisecond), fmt.Sprintf("s%d", v.to[d.rng.IntN(len(v.to))])
	}
	if crash.Node[0] == 's' && d.rng.IntN(3) > 0 {
		crash.A, crash.B = 1+d.rng.Uint64N(3), 1+d.rng.Uint64N(20)
	}
	d.add(crash)
}

// presence is how a volume is on a secondary.
type presence uint8

const (
	unsaid presence = iota
	absent
	here
	aside
)

func (p presence) String() string { return [...]string{"", "absent", "here", "set aside"}[p] }

func presenceOf(in bool) presence {
	if in {
		return here
	}
	return absent
}

// copyOf is what the simulation knows of a volume on a secondary.
type copyOf struct {
	// sure is how it is, as a tool was told; next is how it will be once what is under way has ended, if it ends well.
	sure, next presence
	busy       bool
	refused    error  // why the newest attempt was
	moved      bool   // it was not there from the beginning, or had to rejoin
	parts      bool   // a CG with a part of its first copy is final
	awaited    bool   // at the last look
	without    uint64 // since it is awaited: the newest CG that was complete before
	// images, of a volume that is set aside: what it may show, by CG.
	images map[uint64][]uint64
}

// volume finds a volume in the pool; nil: it is not there.
func (s *secondaryNode) volume(v *volume) *engine.Volume {
	ev, err := s.group.Volume(v.name)
	if err != nil {
		if !s.w.cfg.moves {
			s.w.fail("view", "%s: %v", s.name, err)
		}
		return nil
	}
	return ev
}

func (s *secondaryNode) presence(v *volume) presence {
	switch ev := s.volume(v); {
	case ev == nil:
		return absent
	case ev.Membership().Standing == engine.SetAside:
		return aside
	}
	return here
}

// shows says whether the volume, as of CG cg, has what the primary held: not while its first copy is spread over CGs.
func (s *secondaryNode) shows(v *volume, ev *engine.Volume, cg uint64) bool {
	m := ev.Membership()
	cg = shown(m, cg)
	return cg == 0 || m.Whole() && m.WholeSince <= cg
}

// shown is the CG that a volume shows when its group shows cg.
func shown(m engine.Membership, cg uint64) uint64 {
	if m.Standing == engine.SetAside {
		return min(cg, m.AsideAt)
	}
	return cg
}

// image is what the volume has to hold when its group shows cg.
func (w *world) image(s *secondaryNode, v *volume, ev *engine.Volume, cg uint64) []uint64 {
	cg = shown(ev.Membership(), cg)
	if image := s.copies[v].images[cg]; image != nil {
		return image
	}
	return w.hist.image(cg, v)
}

// whole says whether all volumes that are configured have, as of CG cg, what the primaries held.
func (s *secondaryNode) whole(cg uint64) bool {
	for _, v := range s.volumes {
		if !v.configured {
			continue
		}
		if ev := s.volume(v); ev == nil || ev.Membership().Standing != engine.Awaited || !s.shows(v, ev, cg) {
			return false
		}
	}
	return true
}

// noteAwaited notes from which CG on volumes are awaited.
func (s *secondaryNode) noteAwaited(st engine.GroupState) {
	for _, v := range s.volumes {
		ev := s.volume(v)
		c, is := s.copies[v], ev != nil && ev.Membership().Standing == engine.Awaited
		if is && !c.awaited {
			c.without = st.Complete
		}
		c.awaited = is
	}
}

// checkFirstPoint: the first recovery point that is announced has all volumes, as their primaries held them, on every
// secondary that had part in it.
func (w *world) checkFirstPoint(m *managerNode, n uint64) {
	for _, s := range w.sec {
		if !s.up || s.pool == nil || !w.judged(s) || !w.took(s, n) {
			continue
		}
		st := s.pool.Inspect().State(s.group)
		for _, v := range s.volumes {
			ev, c := s.volume(v), s.copies[v]
			if ev == nil || !c.awaited || c.without >= n || ev.Membership().Whole() {
				continue
			}
			if st.Final >= n {
				w.fail("R5", "%s calls CG %d the first recovery point, but on %s volume %s is not whole", m.name, n, s.name, v.name)
			}
			if want := w.image(s, v, ev, n); st.Linked == n && want != nil {
				w.compareImage(s, v, ev, engine.LinkedView, n, want)
			}
		}
	}
}

// checkCopies: how each volume is, is how it was last said to be, or what is being tried.
func (w *world) checkCopies(s *secondaryNode) {
	if !w.cfg.moves {
		return
	}
	for _, v := range s.volumes {
		c, is := s.copies[v], s.presence(v)
		if is != c.sure && is != c.next {
			w.fail("volumes", "%s: volume %s is %v; it was said to be %v, and is to be %q", s.name, v.name, is, c.sure, c.next)
		}
		if ev := s.volume(v); is == here && ev.Membership().Standing == engine.Unattached && ev.Membership().Whole() {
			w.fail("volumes", "%s: volume %s is called whole, and no primary has attached to it since it was made or had to rejoin", s.name, v.name)
		}
		if is != aside {
			c.images = nil
		} else if c.images == nil {
			s.keepImages(v)
		}
	}
}

// keepImages notes what a volume may show that was set aside just now. The CG at which it was may still be discarded.
func (s *secondaryNode) keepImages(v *volume) {
	c, st := s.copies[v], s.pool.Inspect().State(s.group)
	c.images = map[uint64][]uint64{}
	for _, cg := range []uint64{s.volume(v).Membership().AsideAt, st.Final, st.Linked} {
		if image := s.w.hist.image(cg, v); image != nil {
			c.images[cg] = image
		}
	}
}

// recoverCopies: what a pool shows after a crash is relied upon.
func (s *secondaryNode) recoverCopies() {
	for _, v := range s.volumes {
		c := s.copies[v]
		if is := s.presence(v); is == c.next {
			c.sure = is
			c.moved = true
		}
		c.next, c.busy = unsaid, false
	}
}

// countParts counts parts of first copies, of which a CG became final.
func (s *secondaryNode) countParts() {
	for _, v := range s.volumes {
		ev := s.volume(v)
		if ev == nil {
			continue
		}
		switch c, m := s.copies[v], ev.Membership(); {
		case m.Whole() && c.parts:
			c.parts = false
			s.w.report.Spread++
		case m.Standing == engine.Awaited && !m.Whole() && s.seen.Final > 0:
			c.parts = true
			s.w.report.Parts++
		}
	}
}

// change has a secondary change a copy, and says whether it is as it is to be. What is refused is tried again.
func (s *secondaryNode) change(v *volume, to presence) bool {
	c := s.copies[v]
	if c.sure == to && c.next == unsaid {
		return true
	}
	if !s.up || s.pool == nil || s.hung > s.w.now || c.busy {
		return false
	}
	if to == aside && !s.release(v) {
		return false
	}
	c.next, c.busy, c.refused = to, true, nil
	s.moves++ // a view taken before may lack the volume, although nobody was told yet
	s.w.trace("an operator has %s: volume %s is to be %v", s.name, v.name, to)
	s.spawn(func() {
		err := s.make(v, c.sure, to)
		if s.devs.Crashed() || s.failed != nil {
			return // nobody was told
		}
		if c.next, c.refused = unsaid, err; err != nil {
			s.w.trace("%s refuses that: %v", s.name, err)
			return
		}
		c.sure, c.moved = to, true
		s.moves++
		s.w.report.Volumes++
	}, func() { c.busy = false })
	return false
}

func (s *secondaryNode) make(v *volume, from, to presence) error {
	switch {
	case to == aside:
		return s.group.SetAside(background, v.name)
	case to == absent:
		return s.pool.DeleteVolume(background, groupName, v.name)
	case from == aside:
		return s.group.Rejoin(background, v.name)
	}
	_, err := s.pool.CreateVolume(background, groupName, v.name, v.blocks*engine.BlockSize)
	return err
}

// release forgets the stream of a volume whose primary is away, as package target does; one that is there is not cut
// off.
func (s *secondaryNode) release(v *volume) bool {
	ev := s.volume(v)
	for _, t := range slices.Clone(s.sessions) {
		if !t.rx.Holds([]*engine.Volume{ev}) {
			continue
		}
		if t.end != nil {
			return false
		}
		if !s.around(func() { t.close(nil) }) {
			return false
		}
	}
	return true
}

// unfit says whether it is known that volumes of an Attach are not here, or set aside.
func (s *secondaryNode) unfit(a *wire.Attach) bool {
	return slices.ContainsFunc(a.Volumes, func(ref wire.VolumeRef) bool {
		c := s.copies[s.w.volume(ref.Name)]
		return c == nil || c.sure != here || c.next != unsaid
	})
}

// settingAside says whether a volume of an Attach is being set aside: target has the primary wait for that, and refuses
// it then.
func (s *secondaryNode) settingAside(a *wire.Attach) bool {
	return slices.ContainsFunc(a.Volumes, func(ref wire.VolumeRef) bool {
		c := s.copies[s.w.volume(ref.Name)]
		return c != nil && c.busy && c.next == aside
	})
}

// Primaries.

// assign gives the volumes that are in the primary's file their indexes.
func (p *primaryNode) assign() {
	p.slots = nil
	for _, v := range p.volumes {
		if v.index = -1; v.configured {
			v.index = len(p.slots)
			p.slots = append(p.slots, v)
		}
	}
}

// newLinks connects to secondaries that the core has come to know.
func (p *primaryNode) newLinks() {
	for i, c := range p.core.Connections() {
		if i < len(p.links) {
			continue
		}
		l := &link{p: p, index: i, to: p.w.secondary(c.Secondary)}
		p.links = append(p.links, l)
		l.connect(0)
	}
}

// reattach makes the connection anew, with another list of volumes.
func (l *link) reattach() {
	switch {
	case l.bare:
		l.bare = false
		l.connect(0)
	case l.end != nil:
		l.abort(primary.ErrListChanged)
	}
}

// add has the primary take a volume in, as it is in its file now.
func (p *primaryNode) add(v *volume) {
	w := p.w
	for range 1 + p.rng.IntN(4) { // somebody else had the device meanwhile
		w.host.fill(v.buf)
		p.devs.WriteAt(v.device, v.buf, int64(chainBlocks+p.rng.Uint64N(v.blocks-chainBlocks))*engine.BlockSize)
	}
	v.allDirty()
	v.configured, v.served = true, true
	if !p.up {
		return
	}
	p.visit(func(c *primary.Core) {
		c.SetOverwrite(p.replaced)
		i, err := c.AddVolume(groupName, v.spec())
		if err != nil || i != len(p.slots) {
			w.fail("volumes", "%s: adding volume %s gives %d, %v", p.name, v.name, i, err)
		}
		v.index = i
		p.slots = append(p.slots, v)
		p.newLinks()
	})
}

// Operators.

// job is what an operator does to a volume, step by step, again and again until it is done: as the commands do that may
// be interrupted.
type job struct {
	Op
	v     *volume
	s     *secondaryNode
	step  int
	until time.Duration
}

// operatorPause is between two attempts.
const operatorPause = 2 * time.Millisecond

// order has an operator do something once he has done what he was asked before.
func (w *world) order(o Op) {
	v := w.volume(o.Node)
	if v == nil || !w.cfg.moves {
		return
	}
	w.jobs = append(w.jobs, &job{Op: o, v: v, s: w.secondary(o.Peer)})
	if len(w.jobs) == 1 {
		w.operate()
	}
}

func (w *world) operate() {
	if w.jobs[0].work(w) {
		w.trace("an operator has done: %s %s", w.jobs[0].Node, w.jobs[0].How)
		w.jobs = w.jobs[1:]
	}
	if len(w.jobs) > 0 {
		w.at(w.now+operatorPause, w.operate)
	}
}

// finishJobs ends what operators have begun, and has volumes rejoin that primaries still have.
func (w *world) finishJobs() {
	limit := w.now + settleBound
	for {
		for _, s := range w.sec {
			for _, v := range s.volumes {
				if s.copies[v].sure == aside && v.configured && len(w.jobs) == 0 {
					w.order(Op{Node: v.name, Peer: s.name, How: "set-aside"})
				}
			}
		}
		if len(w.jobs) == 0 {
			return
		}
		if w.now > limit {
			w.fail("progress", "an operator cannot finish: %v, step %d: %s", w.jobs[0].Op, w.jobs[0].step, w.describe())
		}
		w.until(w.now + 5*time.Millisecond)
	}
}

// work goes on; true: it is done, or cannot be.
func (j *job) work(w *world) bool {
	switch j.How {
	case "add":
		return j.add(w)
	case "remove", "delete":
		return j.remove(w)
	case "remake":
		return j.remake(w)
	case "set-aside":
		return j.setAside(w)
	}
	return true
}

// add makes the volume on its secondaries, or has it rejoin there, and has its primary take it in.
func (j *job) add(w *world) bool {
	v, p := j.v, j.v.owner
	if v.configured {
		return true
	}
	ready := v.index < 0
	for _, s := range v.to {
		ready = s.change(v, here) && ready
	}
	if !ready {
		return false
	}
	for _, s := range v.to {
		if !s.up || s.pool == nil || !s.around(func() { p.mayReplace(s, v) }) {
			return false
		}
	}
	p.add(v)
	return true
}

// mayReplace notes an operator's word that what a copy holds is to be overwritten.
func (p *primaryNode) mayReplace(s *secondaryNode, v *volume) {
	there, err := target.Identify(background, s.pool, []*engine.Volume{s.volume(v)})
	if s.hear(err); err == nil && there[0].Holds {
		p.replaced = append(p.replaced, there[0].Identity)
	}
}

// removable: the primary keeps another volume, without which it could not be in the group.
func (v *volume) removable() bool {
	return v.configured && slices.ContainsFunc(v.owner.volumes, func(o *volume) bool { return o != v && o.configured })
}

// remove takes the volume out of its primary, then has its copies set aside, or deleted.
func (j *job) remove(w *world) bool {
	v, p := j.v, j.v.owner
	switch j.step {
	case 0:
		if !v.removable() {
			return true
		}
		v.served = false
		j.step = 1
		return false
	case 1:
		if slices.ContainsFunc(w.host.flying, func(io *hostIO) bool { return io.v == v }) {
			return false
		}
		v.configured = false
		if p.up {
			p.visit(func(c *primary.Core) {
				if err := c.RemoveVolume(v.index); err != nil {
					w.fail("volumes", "%s: %v", p.name, err)
				}
			})
		}
		j.step = 2
		return false
	case 2:
		if !p.up || v.index >= 0 {
			return false
		}
		j.step = 3
	}
	done := true
	for _, s := range v.to {
		if j.step == 3 || s.copies[v].sure != absent {
			done = s.change(v, aside) && done
		}
	}
	if !done || j.How == "remove" {
		return done
	}
	for _, s := range v.to {
		done = s.change(v, absent) && done
	}
	j.step = 4
	return done
}

// remake deletes a copy and makes it again, with the primary stopped meanwhile.
func (j *job) remake(w *world) bool {
	v, p, s := j.v, j.v.owner, j.s
	switch j.step {
	case 0:
		if !v.configured || s == nil || !slices.Contains(v.to, s) {
			return true
		}
		p.halted = true
		p.stop(false, ringtest.None)
		j.step, j.until = 1, w.now+time.Second
	case 1: // without that it can be deleted only while nothing is in progress
		if s.change(v, aside) || s.copies[v].refused != nil {
			j.step = 2
		}
	case 2:
		if s.change(v, absent) {
			j.step = 3
		} else if w.now > j.until && s.copies[v].next == unsaid { // it has to stay
			j.step = 3
		}
	case 3:
		if !s.change(v, here) {
			return false
		}
		p.halted = false
		if !p.up {
			p.start()
		}
		return true
	}
	return false
}

// setAside takes a copy out of its group for a while, although its primary still has the volume: if that is away.
func (j *job) setAside(w *world) bool {
	v, s := j.v, j.s
	switch j.step {
	case 0:
		if !v.configured || s == nil || !slices.Contains(v.to, s) {
			return true
		}
		j.step, j.until = 1, w.now+100*time.Millisecond
	case 1:
		if s.change(v, aside) {
			j.step, j.until = 2, w.now+j.Dur
		} else if w.now > j.until && s.copies[v].next == unsaid {
			return true
		}
	case 2:
		return w.now >= j.until && s.change(v, here)
	}
	return false
}

// stand sees to it that recovery points go on while first copies do.
type stand struct {
	decided uint64
	since   time.Duration
}

// standstill is how long, without faults, no CG need be decided.
const standstill = 15 * time.Second

func (x *stand) check(w *world) {
	if x.decided != w.lastDecided {
		*x = stand{w.lastDecided, w.now}
	}
	if w.cfg.core.FirstCopyRest > 0 && w.now-x.since > standstill {
		w.fail("progress", "no CG was decided for %v: %s", standstill, w.describe())
	}
}
