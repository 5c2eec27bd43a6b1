package scale

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// next goes on until a CG more is final everywhere.
func (f *farm) next() {
	f.t.Helper()
	n := f.finals
	f.until("a CG more is final", func() bool { return f.finals > n })
}

// TestManyControls: 256 primaries and 256 secondaries, hundreds of CGs, and failures. What a CG costs is what the formula says, what a failed
// one costs grows with controls alone, too, and after each failure it goes on.
func TestManyControls(t *testing.T) {
	n, cgs := 256, 150
	if raceEnabled {
		n = 24
	}
	f := newFarm(t, n, n)
	f.next()
	f.next() // the first one was opened everywhere
	faults := []struct {
		name   string
		happen func(*farm)
	}{
		{"a secondary refuses LINK", refusedLink}, {"a secondary is lost in LINK", lostInLink}, {"a secondary is lost in DRAIN", lostInDrain},
		{"a hold expires", expiredHold}, {"a secondary is lost in RELEASE", lostInRelease},
		{"the manager is lost before the decision is durable", func(f *farm) { managerLost(f, false) }},
		{"the manager is lost when the decision is durable", func(f *farm) { managerLost(f, true) }},
	}
	for _, fault := range faults {
		for range cgs / len(faults) {
			f.next()
			f.checkCost(f.finals-1, nil) // of the newest one FINALNOTE is still under way
		}
		t.Logf("at CG %d: %s", f.finals, fault.name)
		fault.happen(f)
		f.next()
		f.next()
		f.next()
	}
	t.Logf("%d x %d controls: %d CGs decided, %d events, %v in the manager's core", n, n, f.rec.Decided.CG, f.steps, f.inCore)
}

// checkCost holds what a CG cost against the formula, with more or fewer messages of some kinds. What is asked for by time is left out.
func (f *farm) checkCost(n uint64, more map[wire.Type]int) {
	f.t.Helper()
	want := PerCG(len(f.prim), len(f.sec), len(f.prim)*len(f.sec))
	for kind, count := range more {
		if want[kind] += count; want[kind] == 0 {
			delete(want, kind)
		}
	}
	got := map[wire.Type]int{}
	for kind, count := range f.sent[n] {
		if kind := wire.Type(kind); count > 0 && kind != wire.TypeQuery && kind != wire.TypeState {
			got[kind] = count
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		f.t.Errorf("CG %d costs (-formula +counted):\n%s", n, d)
	}
}

// when calls do once, as soon as the manager wants a message of that kind sent.
func (f *farm) when(kind wire.Type, do func(n uint64)) {
	f.strike = func(a manager.Action) bool {
		if s, ok := a.(manager.Send); ok && s.Message.Type() == kind {
			f.strike = nil
			do(s.Message.(wire.Commanded).Head().CG)
		}
		return false
	}
}

// failed goes on until CG n is given up, and the one that took its place is final.
func (f *farm) failed(n uint64) {
	f.t.Helper()
	f.until("a CG after the failed one is final", func() bool { return f.finals > n })
	if !f.abandoned[n] || f.cutOf(n).complete == nil {
		f.t.Errorf("CG %d was not given up", n)
	}
	f.next()
}

// refusedLink: every secondary is asked and told to go back, and every primary to open the next.
func refusedLink(f *farm) {
	f.sec[len(f.sec)/2].refuse = true
	var n uint64
	f.when(wire.TypeLink, func(cg uint64) { n = cg })
	f.until("LINK is sent", func() bool { return n != 0 })
	f.failed(n)
	s, p := len(f.sec), len(f.prim)
	f.checkCost(n, map[wire.Type]int{wire.TypeLinked: -1, wire.TypeRelease: -s, wire.TypeFinal: -s, wire.TypeFinalNote: -p,
		wire.TypeRevert: s, wire.TypeReverted: s})
	f.checkCost(f.finals-1, map[wire.Type]int{wire.TypeOpen: p, wire.TypeOpened: p})
}

const away = 2 * time.Second

// lostInLink: nothing is held before the lost one was visited, too.
func lostInLink(f *farm) {
	var n uint64
	f.when(wire.TypeLink, func(cg uint64) {
		n = cg
		f.at(f.now, func() { f.sec[0].crash(away) })
	})
	f.until("LINK is sent", func() bool { return n != 0 })
	back := f.now + away
	f.until("it is nearly back", func() bool {
		if st := f.core.State(); st != manager.StateReverting && st != manager.StateLink {
			f.t.Fatalf("%v while a secondary is away that LINK was sent to", st)
		}
		return f.now > back-50*time.Millisecond
	})
	f.failed(n)
}

func lostInDrain(f *farm) {
	var n uint64
	f.when(wire.TypeThaw, func(cg uint64) {
		n = cg
		f.at(f.now+50*time.Microsecond, func() { f.sec[len(f.sec)-1].crash(away) })
	})
	f.until("THAW is sent", func() bool { return n != 0 })
	f.failed(n)
}

func expiredHold(f *farm) {
	p := f.prim[len(f.prim)/2]
	p.late = true
	var n uint64
	f.when(wire.TypeThaw, func(cg uint64) { n = cg })
	f.until("THAW is sent", func() bool { return n != 0 && !p.late })
	f.failed(n)
}

// lostInRelease: what is decided becomes final everywhere, also where the control was away.
func lostInRelease(f *farm) {
	var n uint64
	f.when(wire.TypeRelease, func(cg uint64) {
		n = cg
		f.at(f.now, func() { f.sec[1].crash(away) })
	})
	f.until("RELEASE is sent", func() bool { return n != 0 })
	f.next()
	if f.finals != n || f.sec[1].final != n {
		f.t.Errorf("CG %d was decided, CG %d became final, CG %d on the one that was away", n, f.finals, f.sec[1].final)
	}
}

// managerLost: another start of a manager goes forward if the decision is durable, and back if it is not.
func managerLost(f *farm, durable bool) {
	var n uint64
	f.strike = func(a manager.Action) bool {
		p, ok := a.(manager.Persist)
		if !ok || p.Record.Decided == nil {
			return false
		}
		f.strike, n = nil, p.Record.Decided.CG
		if durable {
			f.rec.Decided, f.decided = *p.Record.Decided, p.Record.Decided.CG
		}
		f.at(f.now, f.startManager)
		return true
	}
	f.until("the decision is handed to the log", func() bool { return n != 0 })
	f.next()
	if wentOn := f.finals == n; wentOn != durable || f.abandoned[n] == durable {
		f.t.Errorf("the decision for CG %d was durable: %t; CG %d became final, given up: %t", n, durable, f.finals, f.abandoned[n])
	}
}
