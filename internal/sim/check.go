package sim

import (
	"errors"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/wire"
)

// acks is what a secondary has acknowledged, and what must therefore outlive every crash.
type acks struct {
	epoch    uint64
	final    uint64
	linked   uint64 // 0: none that must still be there
	complete uint64
	through  uint64
	everDone map[uint64]bool          // CGs that were complete
	reverted map[uint64]time.Duration // when REVERTED was last answered, by epoch
}

func (a *acks) completed(cg uint64) {
	if a.everDone == nil {
		a.everDone = map[uint64]bool{}
	}
	a.everDone[cg] = true
	if cg > a.through {
		a.complete = max(a.complete, cg)
	}
}

// asked notes what is under way, whatever comes of it: what it takes back need not be there any more.
func (a *acks) asked(c wire.Commanded) {
	if r, ok := c.(*wire.Revert); ok {
		if a.linked == r.CG {
			a.linked = 0
		}
		if !r.Discard {
			return
		}
		// What becomes complete while it is being discarded is discarded, too.
		a.through = max(a.through, r.Through)
		if a.complete >= r.CG && a.complete <= r.Through {
			a.complete, a.linked = 0, 0
		}
		if a.complete <= r.Through && a.linked == 0 { // it completed CGs that nobody had it link, before it joined
			a.complete = 0
		}
	}
}

func (a *acks) answered(w *world, s *secondaryNode, m wire.Message) {
	c, ok := m.(wire.Commanded)
	if !ok {
		return
	}
	h := c.Head()
	if h.Epoch < a.epoch {
		w.fail("R4", "%s obeyed epoch %d after epoch %d", s.name, h.Epoch, a.epoch)
	}
	switch m := m.(type) {
	case *wire.State:
		a.epoch, a.final = max(a.epoch, h.Epoch), max(a.final, m.Final)
		if m.Linked > m.Final {
			a.linked = max(a.linked, m.Linked)
		}
		if m.Complete > m.Final {
			a.completed(m.Complete)
		}
	case *wire.Reverted:
		if a.reverted == nil {
			a.reverted = map[uint64]time.Duration{}
		}
		a.reverted[h.Epoch] = w.now
	case *wire.Linked:
		a.linked = max(a.linked, h.CG)
	case *wire.Final:
		a.final = max(a.final, h.CG)
	}
}

// checkRecovered compares what a crash left with what was acknowledged.
func (w *world) checkRecovered(s *secondaryNode) {
	w.report.Recoveries++
	st, a := s.pool.Inspect().State(s.group), &s.acks
	switch {
	case st.Epoch < a.epoch:
		w.fail("acknowledged", "%s acknowledged epoch %d and comes back with %d", s.name, a.epoch, st.Epoch)
	case st.Final < a.final:
		w.fail("acknowledged", "%s acknowledged CG %d as final and comes back with %d", s.name, a.final, st.Final)
	case a.linked > st.Final && st.Linked < a.linked:
		w.fail("acknowledged", "%s acknowledged CG %d as linked and comes back with %d (final %d)", s.name, a.linked, st.Linked, st.Final)
	case a.complete > st.Final && st.Complete < a.complete:
		w.fail("acknowledged", "%s acknowledged CG %d as complete and comes back with %d (final %d)", s.name, a.complete, st.Complete, st.Final)
	}
	// Whatever an open pool shows is relied upon: it must be there after the next crash, too.
	a.epoch, a.final = max(a.epoch, st.Epoch), max(a.final, st.Final)
	if st.Linked > st.Final {
		a.linked = max(a.linked, st.Linked)
	}
	if st.Complete > st.Final {
		a.completed(st.Complete)
	}
	s.recoverCopies()
	w.checkSecondary(s)
	if w.judged(s) {
		w.readAll(s)
	}
}

// checkSecondary looks at a secondary after each thing it did.
func (w *world) checkSecondary(s *secondaryNode) {
	w.report.Steps++
	st := s.pool.Inspect().State(s.group)
	changed := st.Final != s.seen.Final || st.Linked != s.seen.Linked || st.Complete != s.seen.Complete || st.Discarded != s.seen.Discarded
	s.seen = st
	if st.Final > 0 && !w.log.decided[st.Final] {
		w.fail("R2", "%s made CG %d final, which was never decided", s.name, st.Final)
	}
	w.checkCopies(s)
	s.noteAwaited(st)
	if !changed && w.rng.IntN(8) > 0 {
		return
	}
	if !w.judged(s) {
		return
	}
	if changed {
		s.countParts()
	}
	if err := s.pool.Inspect().Blocks(s.writers()...); err != nil {
		w.fail("blocks", "%s: %v", s.name, err)
	}
	w.checkAgree(s, st)
	w.checkView(s, engine.FinalView, st.Final)
	w.checkView(s, engine.LinkedView, st.Linked)
	if changed && w.rng.IntN(4) == 0 {
		w.readAll(s)
	}
}

// checkAgree: what the secondaries show is one CG, or that and the one next to it.
func (w *world) checkAgree(s *secondaryNode, st engine.GroupState) {
	for _, o := range w.sec {
		if o == s || !o.up || o.pool == nil || !w.judged(o) {
			continue
		}
		other := o.pool.Inspect().State(o.group)
		switch {
		case st.Final < other.Final:
			w.checkBehind(s, st, o, other.Final)
		case other.Final < st.Final:
			w.checkBehind(o, other, s, st.Final)
		}
	}
}

// checkBehind: a secondary shows the CG before one that is final on another, or it joined later.
func (w *world) checkBehind(s *secondaryNode, st engine.GroupState, o *secondaryNode, n uint64) {
	if st.Final != w.shows(s, n) {
		w.fail("one CG", "%s shows CG %d, %s shows CG %d: decided are %v", s.name, st.Final, o.name, n, tail(w.log.order))
	}
	if st.Linked != n && w.took(s, n) {
		w.fail("one CG", "CG %d is final on %s, and not linked on %s", n, o.name, s.name)
	}
}

func tail(list []uint64) []uint64 { return list[max(0, len(list)-4):] }

// checkView compares pointers with the history, without reading data.
func (w *world) checkView(s *secondaryNode, kind engine.ViewKind, cg uint64) {
	for _, v := range s.volumes {
		ev := s.volume(v)
		if ev == nil || !s.shows(v, ev, cg) {
			continue
		}
		want := w.image(s, v, ev, cg)
		if want == nil {
			w.fail("view", "%s shows CG %d, at whose cut volume %s was not held", s.name, cg, v.name)
		}
		w.compareImage(s, v, ev, kind, cg, want)
	}
}

// compareImage compares a view of a volume with what it has to hold.
func (w *world) compareImage(s *secondaryNode, v *volume, ev *engine.Volume, kind engine.ViewKind, cg uint64, want []uint64) {
	s.pool.Inspect().Look(ev, kind, func(b engine.VBlock, at engine.PBlock, sum engine.PartialSum) {
		if at == 0 && want[b] != zeroSum || at != 0 && !sum.Of(want[b]) {
			w.fail("view", "%s, view %d: CG %d volume %s block %d (physical %d) is not what the primary held at the cut", s.name, kind, cg, v.name, b, at)
		}
	})
}

// readAll reads both views of every volume, and compares every byte with the history by its sum.
func (w *world) readAll(s *secondaryNode) {
	st := s.pool.Inspect().State(s.group)
	w.report.Reads++
	for _, v := range s.volumes {
		w.compare(s, v, st.Final, engine.FinalView, nil)
		if st.Linked != st.Final {
			w.compare(s, v, st.Linked, engine.LinkedView, nil)
		}
	}
}

func (w *world) compare(s *secondaryNode, v *volume, cg uint64, kind engine.ViewKind, of *engine.Snapshot) {
	if s.devs.Crashed() || s.failed != nil {
		return
	}
	ev := s.volume(v)
	if ev == nil || !s.shows(v, ev, cg) {
		return
	}
	want := w.image(s, v, ev, cg)
	r := s.read(&engine.Read{Volume: ev, View: kind, Snapshot: of, Buf: w.memory.reading(int(v.blocks * engine.BlockSize))})
	switch {
	case r == nil:
		return
	case r.Err != nil && s.damaged > 0:
		w.compareDamaged(s, v, cg, want, kind, of)
		return
	case r.Err != nil:
		if s.faulty() || s.devs.Crashed() {
			return
		}
		w.fail("read", "%s: CG %d: %v", s.name, cg, r.Err)
	case r.Snapshot == nil && r.CG != cg:
		return // stepping moved it on
	}
	for b := range want {
		if got := xxhash.Sum64(r.Buf[b*engine.BlockSize : (b+1)*engine.BlockSize]); got != want[b] {
			w.fail("read", "%s: CG %d volume %s block %d does not read as the primary's at the cut", s.name, cg, v.name, b)
		}
	}
}

// read does a read; nil: the devices or the pool ended meanwhile.
func (s *secondaryNode) read(r *engine.Read) *engine.Read {
	done := false
	r.Done = func(*engine.Read) { done = true }
	r.Start()
	for !done {
		if _, err := s.pool.Step(); err != nil {
			s.hear(err)
			return nil
		}
	}
	return r
}

// readBlock gives the sum of a block.
func (s *secondaryNode) readBlock(v *volume, b uint64, kind engine.ViewKind, of *engine.Snapshot) (*engine.Read, error) {
	ev, err := s.group.Volume(v.name)
	if err != nil {
		return nil, err
	}
	r := s.read(&engine.Read{Volume: ev, View: kind, Snapshot: of, Off: b * engine.BlockSize, Buf: s.w.memory.reading(engine.BlockSize)})
	if r == nil {
		return nil, ringtest.ErrCrashed
	}
	return r, r.Err
}

// compareDamaged reads block by block: each is an error that names the damage, or right. Of errors there are no more
// than blocks that were damaged.
func (w *world) compareDamaged(s *secondaryNode, v *volume, cg uint64, want []uint64, kind engine.ViewKind, of *engine.Snapshot) {
	bad := 0
	for b := range v.blocks {
		r, err := s.readBlock(v, b, kind, of)
		if s.devs.Crashed() || s.failed != nil {
			return
		}
		if _, ok := errors.AsType[*engine.CorruptionError](err); ok {
			bad++
			continue
		}
		switch {
		case err != nil && s.faulty():
			return
		case err != nil:
			w.fail("read", "%s: CG %d: %v", s.name, cg, err)
		case r.Snapshot == nil && r.CG != cg:
			return
		case xxhash.Sum64(r.Buf) != want[b]:
			w.fail("rot", "%s: CG %d volume %s block %d does not read as the primary's at the cut: it was damaged, and no error tells", s.name, cg, v.name, b)
		}
	}
	if bad > s.damaged {
		w.fail("rot", "%s: CG %d volume %s: %d blocks are damaged, of which only %d can be", s.name, cg, v.name, bad, s.damaged)
	}
}

// Managers.

// checkSend looks at a command before it leaves.
func (w *world) checkSend(m *managerNode, a manager.Send) {
	c, ok := a.Message.(wire.Commanded)
	if !ok {
		return
	}
	n := c.Head().CG
	if c.Head().Epoch != m.epoch {
		w.fail("R4", "%s sends %v with epoch %d: its own is %d", m.name, c.Type(), c.Head().Epoch, m.epoch)
	}
	w.checkMembers(m, a.To, c)
	switch msg := a.Message.(type) {
	case *wire.Link:
		for _, s := range w.sec {
			if m.requires(s) && !s.acks.everDone[n] {
				w.fail("R1", "%s sends LINK(%d), but %s never had it complete", m.name, n, s.name)
			}
		}
	case *wire.Release:
		if !w.log.decided[n] {
			w.fail("R2", "%s sends RELEASE(%d), which is not decided durably", m.name, n)
		}
	case *wire.Revert:
		w.undecide(n, max(n, msg.Through))
		if w.log.decided[n] {
			w.fail("R3", "%s sends REVERT(%d) after it was decided", m.name, n)
		}
		if !msg.Discard {
			return
		}
		for _, d := range w.log.order {
			if d >= n && d <= msg.Through {
				w.fail("R3", "%s discards CGs %d to %d, of which %d was decided", m.name, n, msg.Through, d)
			}
		}
	case *wire.Hold:
		w.checkHold(m, n)
	}
}

// undecide: the log that held the newest decision is lost, and no secondary has the CG final. The decision table says
// that it is taken back.
func (w *world) undecide(first, last uint64) {
	l := w.log
	n := l.doubtful
	if n == 0 || n < first || n > last {
		return
	}
	for _, s := range w.sec {
		if s.acks.final >= n || s.up && s.pool != nil && s.pool.Inspect().State(s.group).Final >= n {
			return
		}
	}
	w.trace("the decision for CG %d was lost with the log", n)
	delete(l.decided, n)
	l.order = l.order[:len(l.order)-1]
	l.doubtful, w.lastDecided = 0, l.newest()
}

// checkHold: no CG is held while a secondary shows another CG than the one decided last.
func (w *world) checkHold(m *managerNode, n uint64) {
	if !m.leads() {
		return
	}
	for _, s := range w.sec {
		if !s.up || s.pool == nil || !m.requires(s) {
			continue
		}
		if st, want := s.pool.Inspect().State(s.group), w.shows(s, noLimit); st.Linked != st.Final || st.Final != want {
			w.fail("R3", "%s holds CG %d while %s shows CG %d, final %d, and CG %d is decided", m.name, n, s.name, st.Linked, st.Final, want)
		}
	}
}

// checkManager looks at a manager after an event.
func (w *world) checkManager(m *managerNode, ev manager.Event) {
	w.report.Steps++
	switch ev := ev.(type) {
	case manager.Durable:
		w.decidedNew()
		return
	case manager.Received:
		switch ev.Message.(type) {
		case *wire.Final, *wire.State:
		default:
			return
		}
	default:
		return
	}
	p := m.core.Status(w.wall()).RecoveryPoint
	if p == nil || *p == 0 || *p == m.point {
		return
	}
	m.point = *p
	if w.point == 0 {
		w.checkFirstPoint(m, *p)
	}
	w.point = max(w.point, *p)
	for _, s := range w.sec {
		if s.acks.final >= *p || s.up && s.pool != nil && s.pool.Inspect().State(s.group).Final >= *p {
			return
		}
	}
	w.fail("R5", "%s calls CG %d a recovery point, but no secondary has it final", m.name, *p)
}

// decidedNew looks at a CG that was decided just now.
func (w *world) decidedNew() {
	n := w.log.newest()
	if n == w.lastDecided {
		return
	}
	if n < w.lastDecided {
		w.fail("R3", "CG %d was decided after CG %d", n, w.lastDecided)
	}
	w.lastDecided = n
	w.report.CGs++
	w.checkChain(n)
	if len(w.log.order) > 3 {
		w.hist.forget(w.log.order[len(w.log.order)-4])
	}
}

func (w *world) audit(m *managerNode, e manager.Entry) {
	w.trace("%s: %s CG %d %s %s: %s", m.name, e.Kind, e.CG, e.Control, e.Said, e.Did)
	switch e.Kind {
	case manager.EntryReverted:
		w.report.Reverts++
	case manager.EntryRevertBegin, manager.EntryDiscardBegin:
		m.revertAt = w.now
	case manager.EntryRevertEnd, manager.EntryDiscardEnd:
		w.checkRevert(m)
	case manager.EntryMembers:
		if strings.HasPrefix(e.Did, "takes part") {
			w.report.Members++
			m.known[e.Control] = true
		}
	case manager.EntryHalt:
		if m.leads() {
			w.fail("halt", "%s halts: %s", m.name, e.Did)
		}
	}
}

// checkRevert: a revert that ends has had an answer of every secondary.
func (w *world) checkRevert(m *managerNode) {
	for _, s := range w.sec {
		if at, ok := s.acks.reverted[m.epoch]; m.requires(s) && (!ok || at < m.revertAt) {
			w.fail("R3", "%s ends the revert that it began at %v, but %s last answered one of epoch %d at %v", m.name, m.revertAt, s.name, m.epoch, at)
		}
	}
}

// Both ends.

// checkCommand notes a command that reaches a primary.
func (w *world) checkCommand(p *primaryNode, c wire.Commanded) {
	w.report.Steps++
	p.epoch = max(p.epoch, c.Head().Epoch)
}

// checkAnswer looks at what a primary tells a manager.
func (w *world) checkAnswer(p *primaryNode, m wire.Message) {
	c, ok := m.(wire.Commanded)
	if !ok {
		return
	}
	h := c.Head()
	if h.Epoch < p.epoch {
		w.fail("R4", "%s obeyed epoch %d after epoch %d", p.name, h.Epoch, p.epoch)
	}
	p.answered = max(p.answered, h.Epoch)
	if t, ok := m.(*wire.Thawed); ok && t.OK && h.CG > p.cut {
		p.cut = h.CG
		w.hist.cut(h.CG, p)
	}
}
