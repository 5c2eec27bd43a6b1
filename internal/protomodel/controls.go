package protomodel

import "fmt"

// world is a State being changed by one step.
type world struct {
	*Config
	State
	violation string
}

func (w *world) violate(format string, args ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf(format, args...)
	}
}

// answer sends to the manager over c, if c is a connection and not what was left of one.
func (w *world) answer(c *conn, m msg) {
	if c != nil && c.up {
		w.push(&c.upwards, m)
	}
}

// report sends something unasked to the manager of the highest epoch that the control knows.
func (w *world) report(control int, epoch uint8, m msg) {
	for i := range w.port[control].conn {
		if c := &w.port[control].conn[i]; c.up && c.epoch == epoch {
			w.answer(c, m)
		}
	}
}

// obey lets a control take a command of the manager of an epoch; c is nil if nobody waits for the answer.
func (w *world) obey(control int, epoch uint8, c *conn, m msg) {
	knows := w.epochOf(control)
	if *knows > epoch && !w.Without.has(LowerEpochRefused) {
		w.answer(c, msg{kind: stale, arg: *knows})
		return
	}
	if m.kind == fence && c != nil && !w.Without.has(NewConnectionSupersedes) {
		for i := range w.port[control].orphans {
			if o := &w.port[control].orphans[i]; o.epoch == epoch {
				*o = orphan{}
			}
		}
	}
	was, p, s := *knows, w.p, w.s
	*knows = max(*knows, epoch)
	if control < 2 {
		w.obeyPrimary(control, c, m)
	} else {
		was = max(was, w.s[control-2].fenced)
		w.s[control-2].fenced = max(was, epoch)
		w.obeySecondary(control-2, c, m)
	}
	if was > epoch && (p != w.p || s != w.s) {
		w.violate("R4: %s, at epoch %d, changed at the word of epoch %d", controlName(control), was, epoch)
	}
}

func (w *world) epochOf(control int) *uint8 {
	if control < 2 {
		return &w.p[control].epoch
	}
	return &w.s[control-2].epoch
}

func (w *world) obeyPrimary(i int, c *conn, m msg) {
	p := &w.p[i]
	switch m.kind {
	case open:
		w.openCG(i, c, m)
	case hold:
		if !p.known || m.cg != p.open || p.lostCG != 0 || p.cut != 0 && !p.drain {
			w.answer(c, msg{kind: refused, cg: m.cg})
			return
		}
		p.held = true
		w.answer(c, msg{kind: held, cg: m.cg})
	case thaw:
		w.thaw(i, c, m)
	case finalNote:
		w.forgetChanges(p, m.cg)
	}
}

func (w *world) openCG(i int, c *conn, m msg) {
	p := &w.p[i]
	if p.known && m.cg < p.open {
		r := msg{kind: refusedOpen, cg: m.cg, arg: p.open}
		if w.Without.has(RefusalNamesOpenCG) {
			r.arg = m.cg
		}
		w.answer(c, r)
		return
	}
	w.forgetChanges(p, m.arg)
	same := p.known && m.cg == p.open
	p.held = false
	if !p.known { // a restart: what it wrote under numbers from this one on belongs to this one now
		w.g.broken.keep(m.cg - 1)
	}
	if !same { // all that is not final goes into the new one
		p.known, p.open, p.base = true, m.cg, p.final
		p.cut, p.cutID, p.cutOn, p.sent, p.drain, p.lostCG = 0, 0, 0, [2]bool{}, false, 0
	}
	w.answer(c, msg{kind: opened, cg: m.cg})
	switch {
	case !same:
	case p.lostCG != 0:
		w.answer(c, msg{kind: lost, cg: p.lostCG})
	case p.cut != 0 && p.drain:
		w.answer(c, msg{kind: drained, cg: p.cut})
	}
}

// forgetChanges: what is final everywhere need never be sent again.
func (w *world) forgetChanges(p *primary, n uint8) {
	p.final = max(p.final, n)
	if p.cut != 0 && p.cut <= n {
		p.cut, p.cutID, p.cutOn, p.sent, p.drain, p.lostCG = 0, 0, 0, [2]bool{}, false, 0
	}
}

func (w *world) thaw(i int, c *conn, m msg) {
	p := &w.p[i]
	isHeld := p.held || w.Without.has(ExpiredHoldFailsTheCut)
	switch {
	case p.known && m.cg == p.open && isHeld:
		p.cut, p.cutID, p.cutOn, p.sent, p.drain = p.open, m.id, p.base, [2]bool{}, false
		p.base, p.open, p.held = p.open, p.open+1, false
	case m.cg == p.cut && m.cg != 0: // a repetition
	default:
		if m.cg == p.open {
			p.held = false
		}
		w.answer(c, msg{kind: thawed, cg: m.cg})
		return
	}
	w.answer(c, msg{kind: thawed, cg: m.cg, arg: 1})
	w.drainTo(i)
}

// drainTo sends the cut CG wherever it was not sent, and reports when it was sent everywhere.
func (w *world) drainTo(i int) {
	p := &w.p[i]
	if p.cut == 0 || p.lostCG != 0 || p.drain {
		return
	}
	for j := range p.sent {
		if d := &w.data[i][j]; d.up && !p.sent[j] {
			d.q[d.n] = manifest{p.cut, p.cutID, p.cutOn}
			d.n++
			p.sent[j] = true
		}
	}
	if p.sent == [2]bool{true, true} {
		p.drain = true
		w.report(i, p.epoch, msg{kind: drained, cg: p.cut})
	}
}

// attach connects a primary and a secondary of which one has restarted.
func (w *world) attach(i, j int) {
	p, s, d := &w.p[i], &w.s[j], &w.data[i][j]
	*d = stream{up: true}
	for k := range s.received {
		if r := &s.received[k]; r.cg > s.complete {
			r.have[i], r.id[i], r.base[i] = false, 0, 0
		}
	}
	s.dropEmpty()
	if p.cut != 0 && p.lostCG == 0 && p.sent[j] && s.complete < p.cut {
		p.lostCG = p.cut
		w.report(i, p.epoch, msg{kind: lost, cg: p.cut})
		return
	}
	w.drainTo(i)
}

func (s *secondary) dropEmpty() {
	for k := range s.received {
		if r := &s.received[k]; r.have == [2]bool{} {
			*r = received{}
		}
	}
	if s.received[0].cg == 0 || s.received[1].cg != 0 && s.received[1].cg < s.received[0].cg {
		swap(&s.received)
	}
}

// take lets a secondary receive what a primary sent of a CG; with the last of it the CG is complete, durably.
func (w *world) take(i, j int) {
	s, d := &w.s[j], &w.data[i][j]
	m := d.q[0]
	copy(d.q[:], d.q[1:])
	d.n--
	d.q[d.n] = manifest{}
	if m.cg <= s.through || m.cg <= s.complete {
		return
	}
	r := s.record(m.cg)
	if r == nil {
		w.violate("%s receives CG %d while it has two unfinished ones", controlName(j+2), m.cg)
		return
	}
	r.cg, r.have[i], r.id[i], r.base[i] = m.cg, true, m.id, m.base
	if r.have == [2]bool{true, true} || w.Without.has(EveryManifestAwaited) {
		s.complete = r.cg
		s.ever.add(r.cg)
		w.report(j+2, s.epoch, msg{kind: complete, cg: r.cg})
	}
	s.dropEmpty()
}

// record finds what was received of a CG, or room for it; nil if there is none.
func (s *secondary) record(cg uint8) *received {
	for _, want := range []uint8{cg, 0} {
		for k := range s.received {
			if s.received[k].cg == want {
				return &s.received[k]
			}
		}
	}
	return nil
}

func (w *world) obeySecondary(j int, c *conn, m msg) {
	s := &w.s[j]
	refuse := msg{kind: refused, cg: m.cg}
	switch m.kind {
	case fence, query:
		state := msg{kind: stateOf, cg: s.linked, arg: s.final}
		if m.kind == fence { // only who starts looks at it
			state.id = max(s.complete, s.through, s.received[0].cg, s.received[1].cg)
		}
		w.answer(c, state)
	case link:
		switch {
		case m.cg == s.linked, m.cg == s.final:
		case m.cg == s.complete && s.linked == s.final:
			w.link(j, m.cg)
		default:
			w.answer(c, refuse)
			return
		}
		w.answer(c, msg{kind: linked, cg: m.cg})
	case release:
		switch m.cg {
		case s.final:
		case s.linked:
			w.release(j, m.cg)
		default:
			w.answer(c, refuse)
			return
		}
		w.answer(c, msg{kind: final, cg: m.cg})
	case revert:
		if m.cg <= s.final {
			w.answer(c, refuse)
			return
		}
		if s.linked == m.cg || m.arg > s.through { // else it was done before
			w.revert(j, m)
		}
		w.answer(c, msg{kind: reverted, cg: m.cg})
	}
}

func (w *world) link(j int, n uint8) {
	s := &w.s[j]
	r := s.record(n)
	for k := range w.s {
		if !w.s[k].ever.has(n) {
			w.violate("R1: %s links CG %d, which was never complete on %s", controlName(j+2), n, controlName(k+2))
		}
	}
	if w.g.broken.has(n) {
		w.violate("cut: %s links CG %d, of which a write was admitted after a write of a newer CG", controlName(j+2), n)
	}
	if r.cg != n || r.id[0] != r.id[1] {
		w.violate("mix: %s links CG %d, which was put together from different cuts", controlName(j+2), n)
	}
	s.linked = n
}

func (w *world) release(j int, n uint8) {
	s, other := &w.s[j], &w.s[1-j]
	r := s.record(n)
	if !w.g.ever.has(n) {
		w.violate("R2: %s releases what CG %d displaced before DECIDED(%d) was durable", controlName(j+2), n, n)
	}
	if w.g.abandoned.has(n) {
		w.violate("R3: CG %d becomes final on %s after it was given up", n, controlName(j+2))
	}
	for i, base := range r.base {
		if base > s.final {
			w.violate("gap: CG %d has P%d's changes after CG %d, but %s shows CG %d", n, i+1, base, controlName(j+2), s.final)
		}
	}
	s.final, s.image = n, r.id
	*r = received{}
	s.dropEmpty()
	if other.final == n {
		if other.image != s.image {
			w.violate("mix: CG %d is not the same on both secondaries", n)
		}
		if n != w.g.lastDone {
			w.g.done++
			w.g.lastDone = n
		}
	}
}

func (w *world) revert(j int, m msg) {
	s := &w.s[j]
	if s.linked >= m.cg {
		if w.log.known && w.log.decided >= s.linked || w.g.ever.has(s.linked) && !w.g.logLost {
			w.violate("R3: %s goes back from CG %d after DECIDED(%d)", controlName(j+2), s.linked, s.linked)
		}
		if w.s[1-j].final >= s.linked {
			w.violate("R3: %s goes back from CG %d, which is final on %s", controlName(j+2), s.linked, controlName(3-j))
		}
		s.linked = s.final
	}
	if m.arg == 0 {
		return
	}
	s.through = max(s.through, m.arg)
	if s.complete <= m.arg {
		s.complete = s.linked
	}
	for k := range s.received {
		if r := &s.received[k]; r.cg > s.linked && r.cg <= m.arg {
			*r = received{}
		}
	}
	s.dropEmpty()
}

func controlName(i int) string { return [...]string{"P1", "P2", "S1", "S2"}[i] }
