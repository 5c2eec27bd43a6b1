package protomodel

// What is called a reduction here: where no fault is left to happen, some steps need not be interleaved with others,
// because they come to the same in every order. [world.only] finds one such step; then it alone is taken, and the
// states in which it waits while others go on are never built.
//
// A step may be taken alone if, whatever else happens before it, (1) it stays possible and comes to the same state in
// either order, and (2) no property can tell the orders apart in which it comes later. Both are argued for each kind
// below, from what the steps read and write. Steps that are taken alone never form a circle: each one consumes a
// message, and what a manager sends when it has got all the answers that it waits for raises a CG number or its own
// state.
//
// Common to all: no fault is left, so no connection is lost, nothing expires and nobody restarts; there is one
// manager; nothing is left of lost connections to the control in question; and its data connections are attached. So
// nothing happens at a control but what its one connection and its data connections bring, in order.

// only returns a step that may be taken alone.
func (w *world) only() (step, bool) {
	if !w.Reduce || w.faults < w.Faults {
		return step{}, false
	}
	for c := range w.port {
		for k := range w.m {
			if x := &w.port[c].conn[k].upwards; x.n > 0 && w.m[k].ignores(c, x.q[0]) {
				return step{kind: replyTo, a: uint8(c), b: uint8(k)}, true
			}
		}
		// What a manager does while it starts does not depend on who is connected, but on who has answered FENCE,
		// which may still take as long as it likes.
		if w.m[0].st == starting && !w.port[c].conn[0].up {
			return step{kind: connect, a: uint8(c)}, true
		}
	}
	for j := range w.s {
		if w.port[j+2].conn[0].down.n > 0 && w.alone(j+2) && w.orderAlone(j) {
			return step{kind: deliver, a: uint8(j + 2)}, true
		}
		if w.stateAlone(j) {
			return step{kind: replyTo, a: uint8(j + 2)}, true
		}
	}
	if w.m[1].epoch != 0 && !(w.fencedOff(0) && w.fencedOff(1)) {
		return step{}, false
	}
	for c := range w.port {
		if w.port[c].conn[0].down.n > 0 && w.alone(c) && (c < 2 && w.primaryAlone(c) || c >= 2 && w.secondaryAlone(c-2)) {
			return step{kind: deliver, a: uint8(c)}, true
		}
	}
	for i := range w.data {
		for j := range w.data[i] {
			if w.data[i][j].n > 0 && w.alone(j+2) && w.receiveAlone(i, j) {
				return step{kind: receive, a: uint8(i), b: uint8(j)}, true
			}
		}
	}
	return w.replyAlone()
}

// fencedOff says whether a control obeys no other manager than the one that leads.
func (w *world) fencedOff(c int) bool { return *w.epochOf(c) >= w.m[0].epoch }

// ignores says whether a manager does nothing with an answer, whether it comes now or later: it belongs to a CG that
// is past holding, and the next one has a number of its own.
func (m *manager) ignores(c int, x msg) bool {
	switch m.st {
	case linking, deciding, releasing:
		if x.cg >= m.open {
			return false
		}
	case starting, reverting:
	default:
		return false
	}
	if c < 2 {
		return x.kind == held || x.kind == thawed || x.kind == drained || x.kind == lost
	}
	return x.kind == complete || (x.kind == linked || x.kind == final) && m.st == reverting
}

// alone is what all kinds have in common.
func (w *world) alone(c int) bool {
	if w.m[1].epoch != 0 && !w.fencedOff(c) {
		return false
	}
	for i := range w.port[c].orphans {
		if w.port[c].orphans[i].q.n > 0 {
			return false
		}
	}
	if c < 2 {
		return w.data[c][0].up && w.data[c][1].up
	}
	return w.data[0][c-2].up && w.data[1][c-2].up
}

// holds says whether a message of a kind waits.
func (q *queue) holds(k kind) bool {
	for i := range q.n {
		if q.q[i].kind == k {
			return true
		}
	}
	return false
}

// primaryAlone: a primary's state is read by the property "cut" only, which looks at what both have open and whether
// they are held. Sooner is more likely a violation, except for HOLD: taken sooner, it could hide that the other is
// cut meanwhile. That takes a THAW, which the other has not got yet, and which is sent only after this HOLD was
// answered.
func (w *world) primaryAlone(i int) bool {
	if w.port[i].conn[0].down.q[0].kind != hold {
		return true
	}
	return !w.port[1-i].conn[0].down.holds(thaw) && !w.port[i].conn[0].upwards.holds(held) && !(w.m[0].st == holding && w.m[0].p[i].held)
}

// orderAlone: the manager waits for the answer of this secondary to RELEASE, or to QUERY or REVERT, in a state that
// it does not leave without. That CGs come in meanwhile makes no difference: what is released is complete, and what
// is reverted is discarded, whether it comes in before or is dropped after. (Before, it could be complete for a
// moment, which R1 would take for good.)
func (w *world) orderAlone(j int) bool {
	c, m := &w.port[j+2].conn[0], &w.m[0]
	s := &m.s[j]
	switch kind := c.down.q[0].kind; {
	case c.upwards.n > 0:
		return false
	case m.st == releasing:
		return kind == release && !s.final
	case m.st == reverting:
		return (kind == query || kind == revert) && s.visit != visitDone && !w.port[3-j].conn[0].down.holds(release)
	}
	return false
}

// stateAlone: a manager that starts or reverts takes what the secondaries answer in any order. What a primary refuses
// meanwhile would make a difference to the next number.
func (w *world) stateAlone(j int) bool {
	x, m := &w.port[j+2].conn[0].upwards, &w.m[0]
	if x.n == 0 || m.st != starting && m.st != reverting || !m.welcomes(j+2, x.q[0]) {
		return false
	}
	for i := range w.p {
		if c := &w.port[i].conn[0]; c.down.holds(open) || c.upwards.holds(refusedOpen) {
			return false
		}
	}
	return true
}

// secondaryAlone: the manager is in a state that it does not leave without an answer of this secondary, which has not
// given it; so it cuts nothing, and no CG comes in that is not here.
func (w *world) secondaryAlone(j int) bool {
	c, m := &w.port[j+2].conn[0], &w.m[0]
	if c.upwards.n > 0 || w.data[0][j].n > 0 || w.data[1][j].n > 0 {
		return false
	}
	for i := range w.p {
		for k := range w.m {
			if w.port[i].conn[k].down.holds(thaw) {
				return false
			}
		}
	}
	kind := c.down.q[0].kind
	return m.st == starting && !m.s[j].fresh || m.st == linking && !m.s[j].linked && kind != release && kind != revert
}

// receiveAlone: nothing waits to be told to any control, and no answer that is on its way makes the manager give the
// CG up; so it sends nothing to this secondary before the CG is complete there.
func (w *world) receiveAlone(i, j int) bool {
	m := &w.m[0]
	d := &w.data[i][j]
	if m.st != thawing && m.st != draining || d.q[0].cg != m.round {
		return false
	}
	for c := range w.port {
		x := &w.port[c].conn[0]
		if !x.up || x.down.n > 0 {
			return false
		}
		for n := range x.upwards.n {
			if !m.welcomes(c, x.upwards.q[n]) {
				return false
			}
		}
	}
	return true
}

// replyAlone: nothing waits anywhere but answers, the manager needs each of them before it says anything to anybody,
// and none makes it give up. So it takes them in any order.
func (w *world) replyAlone() (st step, ok bool) {
	m := &w.m[0]
	if w.m[1].epoch != 0 {
		return st, false
	}
	for c := range w.port {
		x := &w.port[c].conn[0]
		if !x.up || x.down.n > 0 || !w.alone(c) {
			return st, false
		}
		if x.upwards.n > 1 && m.st != thawing && m.st != draining {
			return st, false
		}
		for n := range x.upwards.n {
			if !m.welcomes(c, x.upwards.q[n]) {
				return st, false
			}
			st, ok = step{kind: replyTo, a: uint8(c)}, true
		}
	}
	for i := range w.data {
		if w.data[i][0].n > 0 || w.data[i][1].n > 0 {
			return st, false
		}
	}
	return st, ok
}

// welcomes says whether a manager waits for this answer of a control, can send nothing before it has it, and goes on
// with it.
func (m *manager) welcomes(c int, x msg) bool {
	current := x.cg == m.round
	if c < 2 {
		p := &m.p[c]
		switch m.st {
		case holding:
			return x.kind == held && current && !p.held
		case thawing, draining:
			return current && (x.kind == thawed && x.arg == 1 && m.st == thawing && !p.thawed || x.kind == drained && !p.drained)
		case idle:
			return x.kind == opened && p.opens == 1
		}
		return false
	}
	s := &m.s[c-2]
	switch m.st {
	case thawing, draining:
		return x.kind == complete && current && !s.complete
	case linking:
		return x.kind == linked && current && !s.linked
	case releasing:
		return x.kind == final && current && !s.final
	case reverting:
		return x.kind == reverted && s.visit == visitRevert && x.cg == s.revertCG ||
			x.kind == stateOf && s.visit == visitAsked && s.queries == 1 && x.arg == m.final
	case starting:
		return x.kind == stateOf && !s.fresh
	}
	return false
}

// silence takes away what an old manager and its connections still have, where it can do nothing any more: whatever
// it says to a control that obeys another is answered with STALE, which ends it.
func (w *world) silence() {
	if !w.Reduce || w.m[1].epoch == 0 || w.Without.has(LowerEpochRefused) {
		return
	}
	everywhere := true
	for c := range w.port {
		if *w.epochOf(c) <= w.m[1].epoch {
			everywhere = false
			continue
		}
		x := &w.port[c].conn[1]
		if x.down.n > 0 {
			x.down = queue{}
			if n := x.upwards.n; n == 0 || x.upwards.q[n-1].kind != stale {
				w.push(&x.upwards, msg{kind: stale})
			}
		}
	}
	if everywhere {
		w.m[1] = manager{}
		for c := range w.port {
			w.port[c].conn[1] = conn{}
		}
	}
}
