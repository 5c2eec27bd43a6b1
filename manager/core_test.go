package manager

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func fastSettings() Settings {
	s := DefaultSettings()
	s.Interval = 20 * time.Millisecond
	s.DrainTimeout = 2 * time.Second
	s.CommandTimeout = 500 * time.Millisecond
	return s
}

func TestReq14_ManyControlsFormGroups(t *testing.T) {
	for _, n := range [][2]int{{1, 1}, {2, 2}, {3, 4}} {
		w := newWorld(t, n[0], n[1], fastSettings())
		w.progress()
		w.progress()
		st := w.core.Status(w.now)
		if st.CGsFormed < 3 || st.CGsFailed != 0 || st.Reverts != 0 {
			t.Fatalf("formed %d, failed %d, reverts %d", st.CGsFormed, st.CGsFailed, st.Reverts)
		}
		if st.Hold.Samples == 0 || st.RPO.Samples == 0 || st.RecoveryPoint == nil || st.RPOMillis == nil {
			t.Fatalf("status lacks samples: %+v", st)
		}
	}
}

// TestReq06_Req08_RandomFaults runs random schedules with faults at every step; the model checks R1 to R5, that no
// CG number is used twice, and that what is final is always a prefix of a chain of dependent writes.
func TestReq06_Req08_RandomFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, rapid.IntRange(1, 3).Draw(rt, "primaries"), rapid.IntRange(1, 3).Draw(rt, "secondaries"), fastSettings())
		for _, s := range w.sec {
			s.copying(rapid.Uint64Range(0, 2).Draw(rt, "volumes not whole"), 1)
		}
		f := &faults{w: w, rt: rt, lose: rapid.Bool().Draw(rt, "lose")}
		steps := rapid.IntRange(50, 600).Draw(rt, "steps")
		for range steps {
			f.step()
		}
		f.heal()
		w.progress()
		w.until("a recovery point", func() bool { return w.core.Status(w.now).RecoveryPoint != nil })
	})
}

// faults drives a world by drawn choices.
type faults struct {
	w    *world
	rt   *rapid.T
	lose bool
}

func (f *faults) pick(n int) int { return rapid.IntRange(0, n-1).Draw(f.rt, "i") }

func (f *faults) peer() string {
	i := f.pick(len(f.w.prim) + len(f.w.sec))
	if i < len(f.w.prim) {
		return f.w.prim[i].name
	}
	return f.w.sec[i-len(f.w.prim)].name
}

func (f *faults) step() {
	w := f.w
	switch k := f.pick(1000); {
	case k < 330: // a fair turn, else deep states are hardly ever reached
		w.beginWrite(f.pick(w.baseP), f.pick(w.baseS))
		if !w.pump() {
			w.tick()
		}
	case k < 480:
		w.toPeer(f.peer())
	case k < 630:
		w.toManager(f.peer())
	case k < 700:
		w.toSecondary(f.pick(len(w.prim)), f.pick(len(w.sec)))
	case k < 750:
		w.primHeld(f.pick(len(w.prim)))
	case k < 800:
		w.beginWrite(f.pick(w.baseP), f.pick(w.baseS))
	case k < 850:
		w.endWrite()
	case k < 880:
		w.persistOne()
	case k < 920:
		w.tick()
	case k < 940:
		w.now = w.now.Add(time.Duration(f.pick(60)) * time.Millisecond)
		w.step(Tick{})
	case k < 955:
		w.connect(f.peer())
	default:
		f.fault(k)
	}
}

func (f *faults) fault(k int) {
	w := f.w
	switch {
	case k < 965:
		w.disconnect(f.peer(), "fault")
	case k < 972:
		w.crashSecondary(f.pick(len(w.sec)))
	case k < 978:
		w.crashPrimary(f.pick(len(w.prim)))
	case k < 982:
		w.sec[f.pick(len(w.sec))].mute = 1 + f.pick(2)
	case k < 985:
		w.prim[f.pick(len(w.prim))].mute = 1 + f.pick(2)
	case k < 989:
		w.sec[f.pick(len(w.sec))].refuse = 1 + f.pick(2)
	case k < 991:
		w.prim[f.pick(len(w.prim))].refuse = 1
	case k < 993:
		w.sec[f.pick(len(w.sec))].failed = []string{"", "EIO"}[f.pick(2)]
	default:
		w.crashManager(f.pick(len(w.persists)+1), f.lose && f.pick(3) == 0)
	}
}

func (f *faults) heal() {
	for _, s := range f.w.sec {
		s.mute, s.refuse, s.failed = 0, 0, ""
	}
	for _, p := range f.w.prim {
		p.mute, p.refuse = 0, 0
	}
}
