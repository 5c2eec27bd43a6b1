package manager

import (
	"slices"
	"testing"

	"github.com/farside-storage/farside/wire"
)

// TestReq15_EveryErrorAtEveryStep has each kind of error happen at each step of a CG: before the decision is handed to the log the CG goes back (or,
// while it is being held, stays open), from then on it goes forward; and the group goes on by itself.
//
//	           timeout  refusal  disconnect  I/O error  crash
//	Hold         x        x          x           x        x     the CG stays open and is held again, or is given up
//	Thaw         x        x          x           x        x     back
//	Drain        x        x          x           x        x     back
//	Complete     x        x          x           x        x     back
//	Link         x        x          x           x        x     back
//	Linked       x        x          x           x        x     back
//	Decided      x        x          x           x        x     forward
//	Release      x        x          x           x        x     forward
//	Final        x        x          x           x        x     forward
//
// A silence of a secondary in Hold, Thaw, Drain and Complete is none of a command's, for nothing is asked of it: it must only not hold the group up
// for good. Each error by itself, and how often each secondary is visited, is in TestReq15_EveryErrorWhileLinkingStartsRevert and
// TestReq15_ErrorsBeforeLink; kills of real processes are in TestReq20_KillAtEachStep and in internal/e2e.
func TestReq15_EveryErrorAtEveryStep(t *testing.T) {
	some := func(is func(*member) bool) func(*world) bool {
		return func(w *world) bool { return slices.ContainsFunc(w.core.sec, is) }
	}
	steps := []struct {
		name    string
		state   State
		when    func(*world) bool // besides the state; may be nil
		forward bool
	}{
		{"Hold", StateHold, nil, false},
		{"Thaw", StateThaw, nil, false},
		{"Drain", StateDrain, nil, false},
		{"Complete", StateDrain, some(func(m *member) bool { return m.complete }), false},
		{"Link", StateLink, nil, false},
		{"Linked", StateLink, some(func(m *member) bool { return m.linked }), false},
		{"Decided", StateDecided, nil, true},
		{"Release", StateRelease, nil, true},
		{"Final", StateRelease, some(func(m *member) bool { return m.final }), true},
	}
	errors := []struct {
		name   string
		inject func(w *world)
		silent bool // an error only where an answer is due
	}{
		{"timeout", func(w *world) { w.sec[1].mute = 3; w.link["s2"].upward = nil }, true},
		{"refusal", func(w *world) {
			w.step(Received{"s2", &wire.Error{Code: wire.CodeState, Group: "g", CG: w.core.round, Text: "no"}})
		}, false},
		{"disconnect", func(w *world) { w.disconnect("s2", "reset") }, false},
		{"disconnect of a primary", func(w *world) { w.disconnect("p2", "reset") }, false},
		{"I/O error", func(w *world) { w.step(Received{"s2", ptr(failedState(w))}) }, false},
		{"crash", func(w *world) { w.crashSecondary(1) }, false},
		{"crash of a primary", func(w *world) { w.crashPrimary(1) }, false},
	}
	for _, s := range steps {
		for _, e := range errors {
			t.Run(s.name+"/"+e.name, func(t *testing.T) {
				w := started(t, 2, 2)
				w.until(s.name, func() bool { return w.core.State() == s.state && (s.when == nil || s.when(w)) })
				n := w.core.round
				e.inject(w)
				linking := s.state == StateLink
				primary := e.name == "disconnect of a primary" || e.name == "crash of a primary"
				went := w.core.stats.failed + w.core.stats.holdsFailed
				switch {
				case s.forward && w.core.State() == StateReverting:
					t.Fatalf("CG %d goes back after its decision", n)
				case !s.forward && !e.silent && !(linking && primary) && went == 0:
					t.Fatalf("nothing came of it: %v", w.core.State())
				}
				w.progress()
				if has := w.rec.Decided.CG >= n && !slices.ContainsFunc(w.audit, func(x Entry) bool { return x.Kind == EntryRevertBegin && x.CG == n && x.Did != "" }); s.forward && !has {
					t.Errorf("CG %d, decided, was given up", n)
				}
				if !s.forward && s.state != StateHold && !e.silent && !(linking && primary) {
					w.checkVisits()
				}
			})
		}
	}
}
