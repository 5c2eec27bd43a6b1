package manager

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// copying returns a world in which a CG is final, and volumes of the second secondary are not whole.
func copying(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 2, 2, fastSettings())
	w.sec[1].copying(2, 0)
	w.progress()
	w.wantCopy(t, 4, true)
	return w
}

// wantCopy compares what the status tells of the first copy; point: there is no recovery point.
func (w *world) wantCopy(t *testing.T, whole uint64, none bool) {
	t.Helper()
	st := w.core.Status(w.now)
	if d := cmp.Diff(&FirstCopy{Volumes: 6, Whole: whole}, st.FirstCopy); d != "" || (st.RecoveryPoint == nil) != none {
		t.Fatalf("recovery point %v; first copy (-want +got)\n%s", st.RecoveryPoint, d)
	}
	if st.RPOMillis != nil || st.RecoveryCut != nil || st.RPO.Samples > 0 {
		t.Fatalf("an RPO without a recovery point: %+v", st)
	}
}

func (w *world) hasPoint(t *testing.T) uint64 {
	t.Helper()
	st := w.core.Status(w.now)
	if st.RecoveryPoint == nil || st.FirstCopy != nil || w.rec.Decided.FirstCopy {
		t.Fatalf("recovery point %v, first copy %v, decided %+v", st.RecoveryPoint, st.FirstCopy, w.rec.Decided)
	}
	return *st.RecoveryPoint
}

// TestReq07_NoRecoveryPointBeforeAllVolumesAreWhole: the CGs of a first copy are decided and final, over restarts of the manager, and with its log
// lost; the first recovery point is the first CG with which all volumes are whole.
func TestReq07_NoRecoveryPointBeforeAllVolumesAreWhole(t *testing.T) {
	w := copying(t)
	for _, lose := range []bool{false, true, false} {
		w.crashManager(0, lose)
		if st := w.core.Status(w.now); st.FirstCopy != nil || st.RecoveryPoint != nil {
			t.Fatalf("known before any secondary was asked: %+v", st)
		}
		w.progress()
		w.wantCopy(t, 4, true)
		if d := w.rec.Decided; d.CG == 0 || !d.FirstCopy {
			t.Fatalf("%+v", d)
		}
	}
	if said := w.core.Status(w.now).Alerts; !slices.ContainsFunc(said, func(a string) bool { return strings.HasPrefix(a, "first copy, 4 of 6 volumes whole") }) {
		t.Errorf("%q", said)
	}
	w.until("DRAIN", w.inState(StateDrain))
	if !w.core.deadline.IsZero() {
		t.Error("a drain timeout in the first copy, whose last CG may be long")
	}
	w.sec[1].brings = 1
	before := w.sec[1].final
	w.until("a recovery point", func() bool { return w.core.Status(w.now).RecoveryPoint != nil })
	if p := w.hasPoint(t); p <= before || w.sec[1].lackAt[p] != 0 {
		t.Fatalf("CG %d is the first recovery point after CG %d; %v", p, before, w.sec[1].lackAt)
	}
}

// A volume that joins, or has to rejoin, takes nothing from a group that has a recovery point: that is in the log.
func TestGroupKeepsItsRecoveryPoint(t *testing.T) {
	w := started(t, 1, 2)
	first := w.hasPoint(t)
	w.sec[0].copying(1, 0)
	w.progress()
	if p := w.hasPoint(t); p <= first {
		t.Fatalf("recovery point %d after %d", p, first)
	}
	w.crashManager(0, false)
	w.progress()
	second := w.hasPoint(t)
	w.crashManager(0, true) // nobody else knows that there was one
	w.until("recovered", w.inState(StateIdle))
	if st := w.core.Status(w.now); st.RecoveryPoint != nil || st.FirstCopy == nil {
		t.Fatalf("recovery point %v, first copy %v", st.RecoveryPoint, st.FirstCopy)
	}
	w.sec[0].brings = 1
	w.until("a recovery point", func() bool { return w.core.Status(w.now).RecoveryPoint != nil })
	if p := w.hasPoint(t); p <= second {
		t.Fatalf("recovery point %d after %d", p, second)
	}
}

// The volume that is not whole is set aside: the next CG is the first recovery point.
func TestFirstCopyEndsWithoutAVolume(t *testing.T) {
	w := copying(t)
	w.sec[1].copying(0, 0)
	before := w.sec[1].final
	w.until("a recovery point", func() bool { return w.core.Status(w.now).RecoveryPoint != nil })
	if p := w.hasPoint(t); p <= before {
		t.Fatalf("CG %d was final before, and is the recovery point %d now", before, p)
	}
}

func TestExplainFirstCopy(t *testing.T) {
	part, whole := FirstCopy{Volumes: 3, Whole: 1}, FirstCopy{Volumes: 3, Whole: 3}
	for _, x := range []struct {
		name  string
		rec   Recovered
		f     FirstCopy
		parts string // "": nothing is said
	}{
		{"had a recovery point", Recovered{Known: true, Decided: Decision{CG: 7}}, part, ""},
		{"all whole", Recovered{}, whole, ""},
		{"about to end", Recovered{Known: true, Decided: Decision{CG: 7, FirstCopy: true}}, whole, "the next CG"},
		{"first copy", Recovered{Known: true, Decided: Decision{CG: 7, FirstCopy: true}}, part, "goes on where it was"},
		{"nothing decided", Recovered{Known: true}, part, "no recovery point before"},
		{"log lost", Recovered{}, part, "without it, no CG counts"},
	} {
		got := ExplainFirstCopy(x.rec, x.f)
		if (got == "") != (x.parts == "") || !strings.Contains(got, x.parts) || x.parts != "" && !strings.HasPrefix(got, x.f.String()) {
			t.Errorf("%s: %q", x.name, got)
		}
	}
}
