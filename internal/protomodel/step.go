package protomodel

import (
	"fmt"
	"slices"
)

type stepKind uint8

const (
	deliver    stepKind = iota // a: control, b: manager
	deliverOld                 // a: control, b: orphan
	replyTo                    // a: control, b: manager
	connect                    // a: control, b: manager
	writeLog                   // b: manager
	receive                    // a: primary, b: secondary
	attach                     // a: primary, b: secondary
	firstFault
	loseConn        // a: control, b: manager
	crash           // a: control
	expire          // a: primary
	timeout         // b: manager
	restart         // of the manager
	restartLogLost  //
	takeover        // while the old manager goes on
	takeoverLogLost //
)

type step struct {
	kind stepKind
	a, b uint8
}

func (s step) fault() bool { return s.kind > firstFault }

// steps lists what can happen next.
func (w *world) steps(out []step) []step {
	add := func(k stepKind, a, b int) { out = append(out, step{k, uint8(a), uint8(b)}) }
	for c := range w.port {
		for k := range w.port[c].conn {
			x := &w.port[c].conn[k]
			if x.down.n > 0 {
				add(deliver, c, k)
			}
			if x.upwards.n > 0 {
				add(replyTo, c, k)
			}
			if !x.up && w.m[k].epoch != 0 && w.m[k].st != halted {
				add(connect, c, k)
			}
		}
		for k := range w.port[c].orphans {
			if w.port[c].orphans[k].q.n > 0 {
				add(deliverOld, c, k)
			}
		}
	}
	for i := range w.data {
		for j := range w.data[i] {
			d := &w.data[i][j]
			if d.n > 0 {
				add(receive, i, j)
			}
			if !d.up {
				add(attach, i, j)
			}
		}
	}
	for k := range w.m {
		if w.m[k].epoch != 0 && w.m[k].st == deciding {
			add(writeLog, 0, k)
		}
	}
	if w.faults < w.Faults {
		out = w.faultSteps(out)
	}
	return out
}

func (w *world) faultSteps(out []step) []step {
	before := len(out)
	add := func(k stepKind, a, b int) { out = append(out, step{k, uint8(a), uint8(b)}) }
	for c := range w.port {
		for k := range w.port[c].conn {
			if w.port[c].conn[k].up {
				add(loseConn, c, k)
			}
		}
		add(crash, c, 0)
		if c < 2 && w.p[c].held {
			add(expire, c, 0)
		}
	}
	for k := range w.m {
		if st := w.m[k].st; w.m[k].epoch != 0 && (st == holding || st == thawing || st == draining || st == linking) {
			add(timeout, 0, k)
		}
	}
	add(restart, 0, 0)
	if w.takeovers < w.Takeovers {
		add(takeover, 0, 0)
	}
	if w.LogLoss && !w.g.logLost {
		add(restartLogLost, 0, 0)
		if w.takeovers < w.Takeovers {
			add(takeoverLogLost, 0, 0)
		}
	}
	if w.Only == nil {
		return out
	}
	wanted := slices.DeleteFunc(out[before:], func(s step) bool { return !slices.Contains(w.Only, s.kind) })
	return out[:before+len(wanted)]
}

// apply carries a step out and looks at the properties.
func (w *world) apply(s step) {
	before := w.g
	finals := [2]uint8{w.s[0].final, w.s[1].final}
	if s.fault() {
		w.faults++
	}
	a, b := int(s.a), int(s.b)
	switch s.kind {
	case deliver:
		c := &w.port[a].conn[b]
		w.obey(a, c.epoch, c, c.down.pop())
	case deliverOld:
		o := &w.port[a].orphans[b]
		w.obey(a, o.epoch, nil, o.q.pop())
	case replyTo:
		w.onMessage(b, a, w.port[a].conn[b].upwards.pop())
	case connect:
		w.port[a].conn[b] = conn{epoch: w.m[b].epoch, up: true}
		w.onConnected(b, a)
	case writeLog:
		w.durable(b)
	case receive:
		w.take(a, b)
	case attach:
		w.attach(a, b)
	case loseConn:
		w.lose(a, b, true)
	case crash:
		w.crash(a)
	case expire:
		w.p[a].held = false
	case timeout:
		w.onTimeout(b)
	default:
		w.replaceManager(s.kind)
	}
	w.checkState(before.reported, finals)
	w.tidy()
}

// lose ends a connection. What was on its way to the control may still arrive.
func (w *world) lose(control, k int, keep bool) {
	port := &w.port[control]
	c := port.conn[k]
	port.conn[k] = conn{}
	if keep && c.down.n > 0 {
		swap(&port.orphans)
		if port.orphans[0].q.n > 0 { // two are enough: the oldest is lost for good
			port.orphans[1], port.orphans[0] = port.orphans[0], orphan{}
		}
		port.orphans[0] = orphan{c.epoch, c.down}
	}
	if c.up && w.m[k].epoch != 0 {
		w.onDisconnected(k, control)
	}
}

func (w *world) crash(control int) {
	w.port[control].orphans = [orphanLen]orphan{}
	if control < 2 {
		p := &w.p[control]
		*p = primary{open: p.open, final: p.final}
		for j := range w.data[control] {
			w.data[control][j].up = false // what was sent is still on its way
		}
	} else {
		s := &w.s[control-2]
		for k := range s.received {
			if s.received[k].cg > s.complete {
				s.received[k] = received{}
			}
		}
		s.dropEmpty()
		if w.Without.has(EpochDurable) {
			s.epoch = 0
		}
		for i := range w.data {
			w.data[i][control-2] = stream{}
		}
	}
	for k := range w.m {
		w.lose(control, k, false)
	}
}

// removeManager ends manager k; its messages stay on their way.
func (w *world) removeManager(k int) {
	w.m[k] = manager{}
	for c := range w.port {
		w.lose(c, k, true)
	}
}

func (w *world) replaceManager(kind stepKind) {
	old := w.m[0]
	if kind == restart || kind == restartLogLost {
		w.removeManager(0)
	} else {
		w.takeovers++
		w.removeManager(1)
		for c := range w.port {
			swap(&w.port[c].conn)
		}
		w.m[1] = old
		if old.st == halted {
			w.removeManager(1)
		}
	}
	if kind == restartLogLost || kind == takeoverLogLost {
		w.g.logLost = true
		w.g.abandoned.keep(max(w.s[0].through, w.s[1].through)) // that others were given up, nobody knows any more
		w.m[1].apart = w.m[1].epoch != 0
		w.log = decisionLog{epoch: w.log.epoch} // epochs come from a clock then
	}
	w.startManager()
}

// checkState looks at what must hold in every state.
func (w *world) checkState(reported uint8, finals [2]uint8) {
	for i := range w.p { // a primary that is not held may admit a write at any moment
		a, b := &w.p[i], &w.p[1-i]
		if !a.held && !b.held && a.open != 0 && a.open < b.open {
			w.g.broken.add(a.open)
		}
	}
	if w.g.reported > max(w.s[0].final, w.s[1].final) && w.g.reported > reported {
		w.violate("R5: CG %d is reported as recovery point and final nowhere", w.g.reported)
	}
	for j := range w.s {
		if w.s[j].final < finals[j] {
			w.violate("R3: %s shows CG %d after CG %d", controlName(j+2), w.s[j].final, finals[j])
		}
	}
	lead := &w.m[0]
	switch lead.st {
	case idle, holding, thawing, draining:
		for j := range w.s {
			if s := &w.s[j]; s.final != lead.final || s.linked != s.final || s.image != w.s[0].image {
				w.violate("settled: the manager leads on from CG %d in %v, but %s has CG %d final, CG %d linked",
					lead.final, lead.st, controlName(j+2), s.final, s.linked)
			}
		}
	case halted:
		if lead.why == fencedOff || !w.g.logLost {
			w.violate("refusal: the leading manager halted, and its log was never lost")
		}
	}
}

// reached says whether all that the model is to do was done, or refused with a reason.
func (s *State) reached(cfg *Config) bool {
	lead := &s.m[0]
	return lead.st == halted || s.g.done >= cfg.CGs && lead.st == idle
}

// describe says in words what a step does in the state before it.
func (w *world) describe(s step) string {
	name := func(k uint8) string { return fmt.Sprintf("M%d", w.m[k].epoch) }
	control := controlName(int(s.a))
	text := func(m msg) string {
		t := m.kind.String()
		switch m.kind {
		case stateOf:
			return fmt.Sprintf("%s(linked %d, final %d)", t, m.cg, m.arg)
		case open:
			return fmt.Sprintf("%s(%d, final %d)", t, m.cg, m.arg)
		case revert:
			return fmt.Sprintf("%s(%d, through %d)", t, m.cg, m.arg)
		case thawed:
			return fmt.Sprintf("%s(%d, ok %t)", t, m.cg, m.arg == 1)
		case fence, query, stale:
			return t
		}
		return fmt.Sprintf("%s(%d)", t, m.cg)
	}
	switch s.kind {
	case deliver:
		c := &w.port[s.a].conn[s.b]
		return fmt.Sprintf("M%d -> %s  %s", c.epoch, control, text(c.down.q[0]))
	case deliverOld:
		o := &w.port[s.a].orphans[s.b]
		return fmt.Sprintf("M%d -> %s  %s, sent over a connection lost since", o.epoch, control, text(o.q.q[0]))
	case replyTo:
		c := &w.port[s.a].conn[s.b]
		return fmt.Sprintf("%s -> M%d  %s", control, c.epoch, text(c.upwards.q[0]))
	case connect:
		return fmt.Sprintf("%s connects to %s", name(s.b), control)
	case writeLog:
		return fmt.Sprintf("%s: the log has answered to DECIDED(%d)", name(s.b), w.m[s.b].round)
	case receive:
		return fmt.Sprintf("%s -> %s  all of CG %d", control, controlName(int(s.b)+2), w.data[s.a][s.b].q[0].cg)
	case attach:
		return fmt.Sprintf("%s attaches to %s", control, controlName(int(s.b)+2))
	case loseConn:
		return fmt.Sprintf("FAULT: connection of %s and %s lost", name(s.b), control)
	case crash:
		return fmt.Sprintf("FAULT: %s crashes and restarts", control)
	case expire:
		return fmt.Sprintf("FAULT: the hold of %s expires", control)
	case timeout:
		return fmt.Sprintf("FAULT: %s gives up waiting in %v", name(s.b), w.m[s.b].st)
	}
	what := [...]string{"the manager crashes and restarts", "the manager crashes and restarts with its log lost",
		"another manager takes over", "another manager takes over with an empty log"}[s.kind-restart]
	return fmt.Sprintf("FAULT: %s, epoch %d", what, w.log.epoch+1)
}
