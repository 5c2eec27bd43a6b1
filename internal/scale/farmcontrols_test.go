package scale

import (
	"time"

	"github.com/farside-storage/farside/wire"
)

// farmPrimary is a primary as the protocol has it.
type farmPrimary struct {
	farm  *farm
	name  string
	epoch uint64

	open, final, base uint64 // the open CG holds what changed after base
	heldUntil         time.Duration
	cut               uint64   // newest CG cut and not final
	sent              []uint64 // by secondary: the newest CG whose manifest it was sent
	lost              uint64
	late              bool // the next hold expires before its THAW
}

func (p *farmPrimary) incarnation() byte { return 1 }

func (p *farmPrimary) obey(m wire.Message, c wire.Command, session int) {
	f := p.farm
	if c.Epoch < p.epoch {
		f.answer(p.name, session, &wire.Error{Code: wire.CodeStaleEpoch, Group: c.Group, Text: "stale"})
		return
	}
	p.epoch = c.Epoch
	switch m := m.(type) {
	case *wire.Open:
		p.obeyOpen(m, session)
	case *wire.Hold:
		if c.CG != p.open {
			f.answer(p.name, session, &wire.Error{Code: wire.CodeState, Group: c.Group, CG: p.open, Text: "not open"})
			return
		}
		p.heldUntil = f.now + time.Duration(m.TimeoutMicros)*time.Microsecond
		if p.late {
			p.heldUntil, p.late = f.now, false
		}
		f.answer(p.name, session, &wire.Held{Command: c})
	case *wire.Thaw:
		p.thaw(c, session)
	case *wire.FinalNote:
		p.forget(c.CG)
	}
}

func (p *farmPrimary) obeyOpen(m *wire.Open, session int) {
	f := p.farm
	if m.CG < p.open {
		f.answer(p.name, session, &wire.Error{Code: wire.CodeState, Group: m.Group, CG: p.open, Text: "a newer one is open"})
		return
	}
	p.forget(m.Final)
	p.heldUntil = 0
	if m.CG > p.open {
		p.open, p.base, p.cut, p.lost = m.CG, p.final, 0, 0
	}
	f.answer(p.name, session, &wire.Opened{Command: m.Command})
	switch {
	case p.lost != 0:
		f.answer(p.name, session, &wire.Lost{Command: wire.Command{Group: groupName, Epoch: p.epoch, CG: p.lost}})
	case p.cut != 0:
		f.answer(p.name, session, &wire.Drained{Command: wire.Command{Group: groupName, Epoch: p.epoch, CG: p.cut}, Blocks: 1})
	}
}

func (p *farmPrimary) forget(final uint64) {
	p.final = max(p.final, final)
	if p.cut != 0 && p.cut <= p.final {
		p.cut, p.lost = 0, 0
	}
}

// thaw cuts, sends a manifest to every secondary, and is drained.
func (p *farmPrimary) thaw(c wire.Command, session int) {
	f := p.farm
	if c.CG != p.open || f.now >= p.heldUntil {
		f.answer(p.name, session, &wire.Thawed{Command: c})
		return
	}
	f.cutOf(c.CG).base[p.name] = p.base
	p.cut, p.base, p.open, p.heldUntil = p.open, p.open, p.open+1, 0
	f.answer(p.name, session, &wire.Thawed{Command: c, OK: true})
	for i, s := range f.sec {
		p.sent[i] = c.CG
		f.count(wire.TypeManifest, c.CG)
		s.manifest(c.CG, f.now+f.soon())
	}
	f.answer(p.name, session, &wire.Drained{Command: c, Blocks: 1})
}

// attached is told that a secondary has restarted: what it was sent and did not complete is gone.
func (p *farmPrimary) attached(i int, complete uint64) {
	if p.cut != 0 && p.sent[i] == p.cut && complete < p.cut {
		p.lost = p.cut
		p.farm.answer(p.name, p.farm.peers[p.name].session, &wire.Lost{Command: wire.Command{Group: groupName, Epoch: p.epoch, CG: p.cut}, Reason: "the secondary restarted"})
	}
}

// farmReceived is what a secondary has of a CG that is not complete.
type farmReceived struct {
	manifests int
	ready     time.Duration // when the last one that is on its way arrives
}

// farmSecondary is a secondary as the protocol has it; all but received is durable.
type farmSecondary struct {
	farm     *farm
	index    int
	name     string
	restarts byte
	epoch    uint64

	final, linked, complete, through uint64
	received                         map[uint64]*farmReceived
	refuse                           bool // the next LINK
}

func (s *farmSecondary) incarnation() byte { return s.restarts }

// manifest notes that one arrives at a time; with the last of them the CG is complete.
func (s *farmSecondary) manifest(n uint64, at time.Duration) {
	if n <= s.through || n <= s.complete {
		return
	}
	r := s.received[n]
	if r == nil {
		r = &farmReceived{}
		s.received[n] = r
	}
	r.manifests++
	if r.ready = max(r.ready, at); r.manifests < len(s.farm.prim) {
		return
	}
	s.farm.at(r.ready, func() {
		if s.received[n] == r { // not discarded, nor forgotten in a crash
			s.completed(n)
		}
	})
}

func (s *farmSecondary) completed(n uint64) {
	delete(s.received, n)
	s.complete = n
	s.farm.cutOf(n).complete[s.name] = true
	s.farm.answer(s.name, s.farm.peers[s.name].session, &wire.Complete{Command: wire.Command{Group: groupName, Epoch: s.epoch, CG: n}})
}

func (s *farmSecondary) obey(m wire.Message, c wire.Command, session int) {
	f := s.farm
	refuse := func(code wire.ErrorCode, why string) {
		f.answer(s.name, session, &wire.Error{Code: code, Group: c.Group, CG: c.CG, Text: why})
	}
	if c.Epoch < s.epoch {
		refuse(wire.CodeStaleEpoch, "stale")
		return
	}
	s.epoch = c.Epoch
	switch m := m.(type) {
	case *wire.Fence, *wire.Query:
		f.answer(s.name, session, s.state(c))
	case *wire.Link:
		if s.refuse || c.CG != s.linked && (c.CG != s.complete || s.linked != s.final) {
			s.refuse = false
			refuse(wire.CodeState, "cannot link")
			return
		}
		s.link(c.CG)
		f.answer(s.name, session, &wire.Linked{Command: c})
	case *wire.Release:
		if c.CG != s.linked {
			refuse(wire.CodeState, "not linked")
			return
		}
		s.release(c.CG)
		f.answer(s.name, session, &wire.Final{Command: c})
	case *wire.Revert:
		s.revert(m)
		f.answer(s.name, session, &wire.Reverted{Command: c})
	}
}

func (s *farmSecondary) state(c wire.Command) *wire.State {
	receiving := s.complete
	for n := range s.received {
		receiving = max(receiving, n)
	}
	c.CG = s.linked
	return &wire.State{Command: c, Final: s.final, Linked: s.linked, Complete: s.complete, Receiving: receiving, Awaited: 1}
}

func (s *farmSecondary) link(n uint64) {
	if got := len(s.farm.cutOf(n).complete); got != len(s.farm.sec) {
		s.farm.t.Fatalf("R1: %s links CG %d, which was complete on %d of %d", s.name, n, got, len(s.farm.sec))
	}
	s.linked = n
}

func (s *farmSecondary) release(n uint64) {
	f := s.farm
	if f.decided < n {
		f.t.Fatalf("R2: %s releases what CG %d displaced; the newest durable decision is %d", s.name, n, f.decided)
	}
	if f.abandoned[n] {
		f.t.Fatalf("R3: CG %d becomes final on %s after it was given up", n, s.name)
	}
	if n != s.final {
		for p, base := range f.cutOf(n).base {
			if base > s.final {
				f.t.Fatalf("CG %d has the changes of %s after CG %d, but %s shows CG %d", n, p, base, s.name, s.final)
			}
		}
	}
	s.final = n
}

func (s *farmSecondary) revert(m *wire.Revert) {
	if m.CG <= s.farm.decided {
		s.farm.t.Fatalf("R3: REVERT(%d) at %s after DECIDED(%d)", m.CG, s.name, s.farm.decided)
	}
	if s.linked >= m.CG {
		s.linked = s.final
	}
	if !m.Discard {
		return
	}
	s.through = max(s.through, m.Through)
	s.complete = min(s.complete, max(s.linked, s.final))
	for n := range s.received {
		if n <= s.through {
			delete(s.received, n)
		}
	}
}

// crash forgets what is not complete; the control is there again after some time.
func (s *farmSecondary) crash(away time.Duration) {
	f := s.farm
	s.restarts++
	clear(s.received)
	f.disconnect(s.name)
	f.at(f.now+away, func() {
		f.connect(s.name)
		for _, p := range f.prim {
			p.attached(s.index, s.complete)
		}
	})
}
