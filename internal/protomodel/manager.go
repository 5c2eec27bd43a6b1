package protomodel

// The manager of the model, written from the rules of the protocol. It does what one start of a manager does for one
// group; k is its index in State.m.

const (
	reserveStep = 2 // CG numbers made usable by one durable record
	lostLogGap  = 2 // numbers left out behind the newest one seen, when the log is lost
)

func (w *world) send(k, control int, m msg) {
	if c := &w.port[control].conn[k]; c.up {
		w.push(&c.down, m)
	}
}

func (w *world) isUp(k, control int) bool { return w.port[control].conn[k].up }

// startManager gives the group to a manager with a higher epoch.
func (w *world) startManager() {
	w.log.epoch++
	m := manager{epoch: w.log.epoch, start: true, logKnown: w.log.known, decided: w.log.decided,
		high: w.log.reserved, reserved: w.log.reserved}
	w.m[0] = m
}

// writable says whether the decision log takes a record of manager k: only the newest one may write.
func (w *world) writable(k int) bool {
	m := &w.m[k]
	return m.apart || m.epoch == w.log.epoch || w.Without.has(LogFenced)
}

// reserve makes numbers up to n usable.
func (w *world) reserve(k int, n uint8) bool {
	m := &w.m[k]
	if n <= m.reserved {
		return true
	}
	if !w.writable(k) {
		w.halt(k, fencedOff)
		return false
	}
	m.reserved = n + reserveStep
	if !m.apart {
		w.log.known, w.log.reserved = true, max(w.log.reserved, m.reserved)
	}
	return true
}

func (w *world) halt(k int, why haltReason) {
	m := &w.m[k]
	if k == 1 { // the old manager ends; what it sent is still on its way
		w.removeManager(k)
		return
	}
	*m = manager{epoch: m.epoch, st: halted, why: why, final: m.final}
}

func (w *world) onConnected(k, control int) {
	m := &w.m[k]
	w.send(k, control, msg{kind: fence})
	if control < 2 {
		if m.open != 0 && m.st != starting && m.st != reverting && m.st != halted {
			w.sendOpen(k, control)
		}
		return
	}
	s := &m.s[control-2]
	s.fresh, s.queries = false, 1 // a fence is answered with the state
	if m.st == reverting && s.visit != visitDone {
		s.visit = visitAsked
	}
}

func (w *world) onDisconnected(k, control int) {
	m := &w.m[k]
	if control < 2 {
		m.p[control].opens = 0
	} else {
		s := &m.s[control-2]
		s.fresh, s.queries = false, 0
		if m.st == reverting && s.visit != visitDone {
			s.visit = visitPending
		}
	}
	switch {
	case m.st == holding:
		w.failHold(k)
	case m.st == thawing, m.st == draining, m.st == linking && control >= 2:
		w.abandon(k)
	}
}

func (w *world) onTimeout(k int) {
	switch w.m[k].st {
	case holding:
		w.failHold(k)
	case thawing, draining, linking:
		w.abandon(k)
	}
}

func (w *world) sendOpen(k, control int) {
	m := &w.m[k]
	if w.isUp(k, control) {
		m.p[control].opens++
		w.send(k, control, msg{kind: open, cg: m.open, arg: m.final})
	}
}

func (w *world) onMessage(k, control int, x msg) {
	m := &w.m[k]
	switch {
	case m.st == halted:
		return
	case x.kind == stale:
		w.halt(k, fencedOff)
		return
	case control < 2:
		w.fromPrimary(k, control, x)
	default:
		w.fromSecondary(k, control-2, x)
	}
	if w.m[k].epoch != 0 {
		w.advance(k)
	}
}

func (w *world) fromPrimary(k, i int, x msg) {
	m := &w.m[k]
	p := &m.p[i]
	current := x.cg == m.round
	switch {
	case x.kind == opened:
		p.opens--
	case x.kind == held && m.st == holding && current:
		p.held = true
	case x.kind == thawed && m.st == thawing && current:
		if x.arg == 0 {
			w.abandon(k)
			return
		}
		p.thawed = true
	case x.kind == drained && (m.st == thawing || m.st == draining) && current:
		p.drained = true
	case x.kind == lost && (m.st == thawing || m.st == draining) && current:
		w.abandon(k)
	case x.kind == refusedOpen: // it knows a higher number
		p.opens--
		m.high = max(m.high, x.arg)
		if m.st == idle {
			w.abandon(k)
		}
	case x.kind == refused && (m.st == holding || m.st == thawing || m.st == draining):
		w.abandon(k)
	}
}

func (w *world) fromSecondary(k, j int, x msg) {
	m := &w.m[k]
	s := &m.s[j]
	current := x.cg == m.round
	switch {
	case x.kind == stateOf:
		s.queries--
		s.fresh, s.showsLinked, s.showsFinal, s.seen = true, x.cg, x.arg, x.id
		w.onState(k, j)
	case x.kind == complete && (m.st == thawing || m.st == draining) && current:
		s.complete = true
	case x.kind == linked && m.st == linking && current:
		s.linked = true
	case x.kind == refused && m.st == linking && current:
		w.abandon(k)
	case x.kind == final && m.st == releasing && current:
		w.reportPoint(x.cg)
		s.final = true
	case x.kind == reverted && m.st == reverting && s.visit == visitRevert && x.cg == s.revertCG:
		s.visit = visitDone
	case x.kind == refused && m.st == reverting && s.visit == visitRevert:
		s.visit = visitAsked
		s.queries++
		w.send(k, j+2, msg{kind: query})
	}
}

func (w *world) onState(k, j int) {
	m := &w.m[k]
	s := &m.s[j]
	switch m.st {
	case starting:
		w.plan(k)
	case idle:
		switch {
		case s.showsLinked > s.showsFinal:
			m.round, m.high = s.showsLinked, max(m.high, s.showsLinked)
			w.abandon(k)
		case s.showsFinal != m.final:
			w.halt(k, contradicts)
		}
	case releasing:
		switch {
		case s.final:
		case s.showsFinal == m.round:
			w.reportPoint(m.round)
			s.final = true
		case s.showsLinked == m.round:
			w.send(k, j+2, msg{kind: release, cg: m.round})
		default:
			w.halt(k, contradicts)
		}
	case reverting:
		w.visitState(k, j)
	}
}

// advance takes the steps that need several answers.
func (w *world) advance(k int) {
	m := &w.m[k]
	p, s := &m.p, &m.s
	switch {
	case m.st == idle:
		w.tryHold(k)
	case m.st == holding && (p[0].held && p[1].held || w.Without.has(AllHeldBeforeThaw) && (p[0].held || p[1].held)):
		w.cut(k)
	case m.st == thawing && p[0].thawed && p[1].thawed:
		m.st = draining
		w.tryLink(k)
	case m.st == draining:
		w.tryLink(k)
	case m.st == linking && (s[0].linked && s[1].linked || w.Without.has(AllLinkedBeforeDecided) && (s[0].linked || s[1].linked)):
		w.decide(k)
	case m.st == releasing && s[0].final && s[1].final:
		w.finish(k)
	case m.st == reverting && s[0].visit == visitDone && s[1].visit == visitDone:
		w.endRevert(k)
	}
}

func (w *world) tryHold(k int) {
	m := &w.m[k]
	for c := range w.port {
		if !w.isUp(k, c) || c >= 2 && !m.s[c-2].fresh || c < 2 && m.p[c].opens > 0 && !w.Without.has(OpenedBeforeNextHold) {
			return
		}
	}
	if w.g.done >= w.CGs || !w.reserve(k, m.open+1) {
		return
	}
	m.round, m.st, m.linkSent = m.open, holding, false
	for i := range m.p {
		m.p[i].held, m.p[i].thawed, m.p[i].drained = false, false, false
		w.send(k, i, msg{kind: hold, cg: m.round})
	}
	for i := range m.s {
		s := &m.s[i]
		*s = secondaryView{fresh: true, queries: s.queries}
	}
}

func (w *world) failHold(k int) {
	w.m[k].st = idle
	w.sendOpen(k, 0)
	w.sendOpen(k, 1)
	w.tryHold(k)
}

func (w *world) cut(k int) {
	m := &w.m[k]
	w.g.nextID++
	m.st, m.open = thawing, m.round+1
	m.high = max(m.high, m.open)
	for i := range m.p {
		m.p[i].held = false
		w.send(k, i, msg{kind: thaw, cg: m.round, id: w.g.nextID})
	}
}

func (w *world) tryLink(k int) {
	m := &w.m[k]
	isComplete := m.s[0].complete && m.s[1].complete
	if w.Without.has(AllCompleteBeforeLink) {
		isComplete = m.s[0].complete || m.s[1].complete
	}
	if !isComplete || !m.p[0].drained || !m.p[1].drained {
		return
	}
	m.p = [2]primaryView{{opens: m.p[0].opens}, {opens: m.p[1].opens}}
	m.st, m.linkSent = linking, true
	for i := range m.s {
		m.s[i].complete = false
		w.send(k, i+2, msg{kind: link, cg: m.round})
	}
}

func (w *world) decide(k int) {
	m := &w.m[k]
	m.st = deciding
	if w.Without.has(DecidedDurableBeforeRelease) {
		m.decided = m.round
		w.startRelease(k)
	}
}

// durable: the decision is in the log; or the log refuses it.
func (w *world) durable(k int) {
	m := &w.m[k]
	if !w.writable(k) {
		w.halt(k, fencedOff)
		return
	}
	m.decided = m.round
	w.g.ever.add(m.round)
	if !m.apart && !w.Without.has(DecisionKept) {
		w.log.known, w.log.decided = true, max(w.log.decided, m.round)
	}
	if w.Without.has(ReportedAfterFinal) {
		w.reportPoint(m.round)
	}
	w.startRelease(k)
}

func (w *world) startRelease(k int) {
	m := &w.m[k]
	m.st, m.round = releasing, m.decided
	for i := range m.s {
		m.s[i].linked = false
		if !m.s[i].final {
			w.send(k, i+2, msg{kind: release, cg: m.round})
		}
	}
	w.advance(k)
}

func (w *world) reportPoint(n uint8) { w.g.reported = max(w.g.reported, n) }

func (w *world) finish(k int) {
	m := &w.m[k]
	m.final = m.round
	for i := range m.s {
		m.s[i].final = false
	}
	if m.start {
		w.abandon(k)
		return
	}
	for i := range m.p {
		w.send(k, i, msg{kind: finalNote, cg: m.round})
	}
	m.st = idle
	w.tryHold(k)
}

// abandon gives up everything that is not decided and visits every secondary.
func (w *world) abandon(k int) {
	m := &w.m[k]
	m.st, m.through = reverting, m.high
	if m.round <= m.final {
		m.round = max(m.open, m.final+1)
	}
	if k == 0 {
		for n := m.final + 1; n <= m.through; n++ {
			w.g.abandoned.add(n)
		}
	}
	m.p = [2]primaryView{{opens: m.p[0].opens}, {opens: m.p[1].opens}}
	for j := range m.s {
		s := &m.s[j]
		*s = secondaryView{fresh: s.fresh, queries: s.queries}
		switch {
		case w.isUp(k, j+2):
			s.visit = visitAsked
			s.queries++
			w.send(k, j+2, msg{kind: query})
		case w.Without.has(UnreachableVisited):
			s.visit = visitDone
		}
	}
}

func (w *world) visitState(k, j int) {
	m := &w.m[k]
	s := &m.s[j]
	if s.visit != visitAsked || s.queries > 0 {
		return // an older answer may tell of before a LINK
	}
	if s.showsFinal != m.final {
		w.halt(k, contradicts)
		return
	}
	s.revertCG = m.final + 1
	switch {
	case s.showsLinked > s.showsFinal:
		s.revertCG = s.showsLinked
	case w.Without.has(NotLinkedDiscardedToo) && m.linkSent:
		s.visit = visitDone
		return
	case m.linkSent:
		s.revertCG = m.round // a LINK may still be on its way
	case m.through < s.revertCG && !w.Without.has(NoRevertBeforeFirstNumber):
		s.visit = visitDone
		return
	}
	s.visit = visitRevert
	r := msg{kind: revert, cg: s.revertCG}
	if m.through >= s.revertCG && !w.Without.has(RevertDiscards) {
		r.arg = m.through
	}
	w.send(k, j+2, r)
}

func (w *world) endRevert(k int) {
	m := &w.m[k]
	next := max(m.through, m.high) + 1
	if w.Without.has(NumbersNeverReused) {
		next = m.final + 1
	}
	if !w.reserve(k, next+1) {
		return
	}
	*m = manager{epoch: m.epoch, st: idle, open: next, high: next, round: next, final: m.final, decided: m.decided,
		reserved: m.reserved, logKnown: true, apart: m.apart,
		p: m.p, s: [2]secondaryView{{fresh: m.s[0].fresh, queries: m.s[0].queries}, {fresh: m.s[1].fresh, queries: m.s[1].queries}}}
	w.sendOpen(k, 0)
	w.sendOpen(k, 1)
}
