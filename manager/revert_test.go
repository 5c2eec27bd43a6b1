package manager

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// started returns a world in which a few CGs are final.
func started(t *testing.T, nP, nS int) *world {
	t.Helper()
	w := newWorld(t, nP, nS, fastSettings())
	w.progress()
	return w
}

// lastRevert returns the audit entries of the newest revert.
func (w *world) lastRevert() []Entry {
	for i := len(w.audit) - 1; i >= 0; i-- {
		if w.audit[i].Kind == EntryRevertBegin {
			return w.audit[i:]
		}
	}
	w.t.Fatalf("no revert in the audit log")
	return nil
}

// checkVisits: the newest revert visited every secondary, those already linked included, and each one answered.
func (w *world) checkVisits() {
	w.t.Helper()
	for _, kind := range []EntryKind{EntryVisit, EntryReverted} {
		for _, s := range w.sec {
			if !slices.ContainsFunc(w.lastRevert(), func(e Entry) bool { return e.Kind == kind && e.Control == s.name && e.Did != "" }) {
				w.t.Fatalf("no %q entry for %s in %+v", kind, s.name, w.lastRevert())
			}
		}
	}
}

func (w *world) ended() bool {
	return len(w.audit) > 0 && slices.ContainsFunc(w.lastRevert(), func(e Entry) bool { return e.Kind == EntryRevertEnd })
}

// freeze keeps everything to and from a peer waiting while others go on.
func (w *world) untilLinkedAt(linked int) {
	w.t.Helper()
	w.until("LINK", w.inState(StateLink))
	for _, s := range w.sec[:linked] {
		for s.linked == s.final {
			w.toPeer(s.name)
		}
		for w.toManager(s.name) {
		}
	}
	if w.core.State() != StateLink {
		w.t.Fatalf("state %v after %d links", w.core.State(), linked)
	}
}

// TestReq15_EveryErrorWhileLinkingStartsRevert: each kind of error, at each secondary, with each number of secondaries already linked,
// starts a revert that visits every secondary, and leaves all of them at the CG before.
func TestReq15_EveryErrorWhileLinkingStartsRevert(t *testing.T) {
	errors := map[Cause]func(w *world, i int){
		CauseTimeout: func(w *world, i int) { w.sec[i].mute = 1 },
		CauseRefusal: func(w *world, i int) {
			w.link[w.sec[i].name].down = nil // instead of carrying it out
			w.reply(w.sec[i].name, &wire.Error{Code: wire.CodeState, Group: "g", CG: w.core.round, Text: "cannot link"})
		},
		CauseIO: func(w *world, i int) {
			w.link[w.sec[i].name].down = nil
			w.reply(w.sec[i].name, &wire.Error{Code: wire.CodeIO, Group: "g", CG: w.core.round, Text: "journal: EIO"})
		},
		CauseDisconnect: func(w *world, i int) { w.disconnect(w.sec[i].name, "connection reset") },
		CauseLost: func(w *world, i int) {
			w.reply(w.sec[i].name, &wire.Lost{Command: w.core.command(w.core.round), Reason: "bit rot"})
		},
		"crash": func(w *world, i int) { w.crashSecondary(i) },
	}
	for cause, inject := range errors {
		for linked := range 3 {
			t.Run(fmt.Sprintf("%s/%d linked", cause, linked), func(t *testing.T) {
				w := started(t, 2, 3)
				w.untilLinkedAt(linked)
				n, final := w.core.round, w.sec[0].final
				inject(w, 2)
				w.until("revert ended", func() bool { return w.core.stats.failed == 1 && w.ended() })
				w.checkVisits()
				for i, s := range w.sec {
					if s.linked != final || s.final != final || (i < linked) != (s.linkedBack == 1) && i < 2 && s.linkedBack == 0 && i < linked {
						t.Fatalf("%s links %d, final %d, reverted %d times; want CG %d", s.name, s.linked, s.final, s.linkedBack, final)
					}
				}
				st := w.core.Status(w.now)
				want := cause
				if cause == "crash" {
					want = CauseDisconnect
				}
				if st.Reverts != 1 || st.LastFailure == nil || st.LastFailure.Cause != want || st.LastFailure.CG != n || !strings.Contains(st.LastFailure.Reason, "s3") {
					t.Fatalf("reverts %d, last failure %+v", st.Reverts, st.LastFailure)
				}
				w.progress()
			})
		}
	}
}

// TestReq15_ErrorsBeforeLink: the same before any LINK: the CG is abandoned, everybody is visited, nothing is linked back.
func TestReq15_ErrorsBeforeLink(t *testing.T) {
	type inject func(w *world)
	for _, st := range []State{StateThaw, StateDrain} {
		for name, f := range map[string]inject{
			"secondary disconnects": func(w *world) { w.disconnect("s2", "reset") },
			"primary disconnects":   func(w *world) { w.disconnect("p2", "reset") },
			"secondary crashes":     func(w *world) { w.crashSecondary(1) },
			"primary crashes":       func(w *world) { w.crashPrimary(1) },
			"secondary loses it": func(w *world) {
				w.step(Received{"s2", &wire.Lost{Command: w.core.command(w.core.round), Reason: "x"}})
			},
			"primary loses it": func(w *world) {
				w.step(Received{"p2", &wire.Lost{Command: w.core.command(w.core.round), Reason: "x"}})
			},
			"secondary refuses": func(w *world) {
				w.step(Received{"s2", &wire.Error{Code: wire.CodeChecksum, CG: w.core.round, Text: "x"}})
			},
			"hold expired": func(w *world) {
				w.step(Received{"p2", &wire.Thawed{Command: w.core.command(w.core.round)}})
			},
			"device failed": func(w *world) { w.step(Received{"s2", ptr(failedState(w))}) },
		} {
			if name == "hold expired" && st == StateDrain {
				continue
			}
			t.Run(st.String()+"/"+name, func(t *testing.T) {
				w := started(t, 2, 2)
				w.until(st.String(), w.inState(st))
				if name == "hold expired" {
					w.link["p2"].down, w.link["p2"].upward = nil, nil
				}
				f(w)
				if w.core.State() != StateReverting {
					t.Fatalf("state %v", w.core.State())
				}
				w.until("revert ended", func() bool { return w.core.stats.failed == 1 && w.ended() })
				w.checkVisits()
				if w.sec[0].linkedBack+w.sec[1].linkedBack != 0 || w.core.stats.reverts != 0 {
					t.Fatal("something was linked back although nothing was linked")
				}
				w.progress()
			})
		}
	}
}

func failedState(w *world) wire.State {
	st := w.sec[1].state(w.core.command(0))
	st.Failed = "journal: EIO"
	return st
}

// TestReq06_NoLinkBeforeEveryManifest: one manifest of one primary to one secondary is dropped: no LINK is sent to anybody, and after the drain
// timeout the CG is abandoned.
func TestReq06_NoLinkBeforeEveryManifest(t *testing.T) {
	w := started(t, 2, 2)
	w.until("HOLD", w.inState(StateHold))
	n, dropped := w.core.round, 0
	w.drop = func(p, s int) bool {
		if p == 0 && s == 1 && dropped == 0 {
			dropped++
			return true
		}
		return false
	}
	w.until("abandoned", func() bool { return w.core.stats.failed == 1 })
	if slices.ContainsFunc(w.audit, func(e Entry) bool { return e.Kind == EntryLink && e.CG == n }) {
		t.Fatalf("CG %d was linked without a manifest", n)
	}
	if f := w.core.stats.last; f.Cause != CauseTimeout || !strings.Contains(f.Reason, "s2") {
		t.Fatalf("last failure %+v", f)
	}
	w.progress()
}

// TestReq16_RevertWaitsForUnreachable: REVERTING lasts until the control that cannot be reached was visited too, and no CG is held before that.
func TestReq16_RevertWaitsForUnreachable(t *testing.T) {
	w := started(t, 2, 3)
	w.untilLinkedAt(2)
	w.link["s3"].down = nil
	w.disconnect("s3", "cable")
	for range 300 { // minutes pass
		for _, n := range []string{"p1", "p2", "s1", "s2"} {
			w.toPeer(n)
			w.toManager(n)
		}
		w.tick()
	}
	if w.core.State() != StateReverting || w.sec[0].linkedBack != 1 || w.sec[1].linkedBack != 1 {
		t.Fatalf("state %v, reverted %d and %d", w.core.State(), w.sec[0].linkedBack, w.sec[1].linkedBack)
	}
	if !slices.ContainsFunc(w.lastRevert(), func(e Entry) bool { return e.Kind == EntryUnreachable && e.Control == "s3" }) {
		t.Fatalf("the audit log does not name the control that cannot be reached: %+v", w.lastRevert())
	}
	w.until("revert ended", w.ended)
	w.checkVisits()
	w.progress()
}

// TestReq17_LinksAreAskedFor: a secondary made the link durable and crashed before it could say so: only asking finds it.
func TestReq17_LinksAreAskedFor(t *testing.T) {
	w := started(t, 1, 2)
	w.untilLinkedAt(0)
	for w.sec[1].linked == w.sec[1].final {
		w.toPeer("s2")
	}
	w.crashSecondary(1) // Linked never reached the manager
	w.until("revert ended", func() bool { return w.core.stats.failed == 1 && w.ended() })
	if w.sec[1].linkedBack != 1 {
		t.Fatal("the link nobody knew of was not reverted")
	}
	w.checkVisits()
	w.progress()
}

// TestReq18_RevertOfNothing: where n is not linked a revert links nothing back; a REVERT that arrives again changes nothing.
func TestReq18_RevertOfNothing(t *testing.T) {
	w := started(t, 1, 2)
	w.untilLinkedAt(1)
	w.link["s2"].down = nil
	w.disconnect("s2", "reset")
	w.until("revert of s1 sent", func() bool { return w.core.byName["s1"].visit == visitRevert })
	w.link["s1"].down = append(w.link["s1"].down, w.link["s1"].down...) // twice
	images := len(w.sec[0].image) + len(w.sec[1].image)
	w.until("revert ended", w.ended)
	if w.sec[0].linkedBack != 1 || w.sec[1].linkedBack != 0 {
		t.Fatalf("linked back %d and %d times", w.sec[0].linkedBack, w.sec[1].linkedBack)
	}
	if len(w.sec[0].image)+len(w.sec[1].image) != images {
		t.Fatal("a final image changed")
	}
	w.progress()
}

// TestReq19_RevertAfterLastLinked: every secondary has linked, the last answer is lost: all are still revertible and are reverted.
func TestReq19_RevertAfterLastLinked(t *testing.T) {
	w := started(t, 2, 2)
	w.untilLinkedAt(1)
	for w.sec[1].linked == w.sec[1].final {
		w.toPeer("s2")
	}
	w.disconnect("s2", "reset")
	w.until("revert ended", func() bool { return w.core.stats.failed == 1 && w.ended() })
	if w.sec[0].linkedBack != 1 || w.sec[1].linkedBack != 1 {
		t.Fatal("not reverted everywhere")
	}
	w.progress()
}

// TestReq19_NothingBackAfterDecision: from the moment the decision is handed to the log every error only delays the release.
func TestReq19_NothingBackAfterDecision(t *testing.T) {
	for _, st := range []State{StateDecided, StateRelease} {
		w := started(t, 2, 2)
		w.until(st.String(), w.inState(st))
		n := w.core.round
		w.crashSecondary(0)
		w.disconnect("s2", "reset")
		w.crashPrimary(1)
		w.until("final", func() bool { return w.sec[0].final == n && w.sec[1].final == n })
		if w.core.stats.failed != 0 || w.sec[0].linkedBack+w.sec[1].linkedBack != 0 {
			t.Fatalf("%v: something went back", st)
		}
		w.progress()
	}
}

// TestReq20_RestartAtEveryState restarts the manager at every state, with the log present and lost, the last record written and not.
func TestReq20_RestartAtEveryState(t *testing.T) {
	for st := StateStarting; st < StateHalted; st++ {
		for _, lost := range []bool{false, true} {
			for _, written := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/lost=%v/written=%v", st, lost, written), func(t *testing.T) {
					restartAt(t, st, lost, written)
				})
			}
		}
	}
}

func restartAt(t *testing.T, st State, lost, written bool) {
	w := started(t, 2, 2)
	switch st {
	case StateStarting:
		w.crashManager(0, false)
	case StateReverting:
		w.untilLinkedAt(1)
		w.crashSecondary(1)
	default:
		w.until(st.String(), w.inState(st))
	}
	if w.core.State() != st {
		t.Fatalf("state %v", w.core.State())
	}
	n, before := w.core.round, w.sec[0].final
	keep := 0
	if written {
		keep = len(w.persists)
	}
	released := n > 0 && slices.ContainsFunc(w.sec, func(s *msec) bool { return s.final == n })
	w.crashManager(keep, lost)
	decided := n > 0 && w.rec.Decided.CG == n
	w.until("recovered", func() bool { return w.core.State() == StateIdle })
	want := before
	if decided || released {
		want = n
	}
	for _, s := range w.sec {
		if st != StateReverting && s.final != want || s.final != s.linked {
			t.Fatalf("%s links %d, final %d; want CG %d", s.name, s.linked, s.final, want)
		}
	}
	if rp := w.core.Status(w.now).RecoveryPoint; rp == nil || *rp != w.sec[0].final {
		t.Fatalf("recovery point %v, want %d", rp, w.sec[0].final)
	}
	w.progress()
}

// TestReq20_CutTimeSurvivesRestart: RPO after a restart comes from the log, and is unknown if the log was lost.
func TestReq20_CutTimeSurvivesRestart(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := started(t, 1, 1)
		w.step(Pause{})
		w.until("quiet", func() bool { return w.core.State() == StateIdle && len(w.persists) == 0 })
		cut := *w.core.Status(w.now).RecoveryCut
		w.crashManager(0, lost)
		w.until("recovered", w.inState(StateIdle))
		st := w.core.Status(w.now.Add(time.Minute))
		if lost && (st.RPOMillis != nil || st.RecoveryCut != nil || st.RecoveryPoint == nil) {
			t.Fatalf("log lost: RPO %v of cut %v is a guess", st.RPOMillis, st.RecoveryCut)
		}
		if !lost && (st.RecoveryCut == nil || !st.RecoveryCut.Equal(cut) || *st.RPOMillis < 60000) {
			t.Fatalf("RPO %v, cut %v, want cut %v", st.RPOMillis, st.RecoveryCut, cut)
		}
	}
}

// TestReq20_RefusesWhatItCannotExplain: a control that lost a decided CG, or controls outside of the decision table, halt the group
// with an explanation, and nothing is sent any more.
func TestReq20_RefusesWhatItCannotExplain(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := started(t, 1, 2)
		w.until("IDLE", w.inState(StateIdle))
		s := w.sec[1]
		s.final, s.linked, s.complete, s.image = s.final-1, s.final-1, s.final-1, map[int]bool{}
		w.halts = true
		w.crashManager(0, lost)
		w.until("halted", w.inState(StateHalted))
		st := w.core.Status(w.now)
		if st.LastFailure.Cause != CauseHalt || !strings.Contains(st.LastFailure.Reason, "s2") || len(st.Alerts) == 0 {
			t.Fatalf("%+v", st.LastFailure)
		}
		for _, l := range w.link {
			l.down = nil
		}
		w.connect("s1")
		w.tick()
		for n, l := range w.link {
			if len(l.down) != 0 {
				t.Fatalf("a halted group sent %v to %s", l.down, n)
			}
		}
	}
}

// TestReq20_LogFailureHalts: if it is not known whether a decision is durable the CG goes neither way; a restart reads the truth.
func TestReq20_LogFailureHalts(t *testing.T) {
	w := started(t, 1, 2)
	w.until("DECIDED", w.inState(StateDecided))
	w.halts = true
	id := w.persists[len(w.persists)-1].ID
	w.step(NotDurable{id, fmt.Errorf("no space left on device")})
	if w.core.State() != StateHalted {
		t.Fatalf("state %v", w.core.State())
	}
	w.halts = false
	w.crashManager(len(w.persists), false)
	w.progress()
}

// TestReq16_FencedManagerStops: a control at a higher epoch ends this manager's part.
func TestReq16_FencedManagerStops(t *testing.T) {
	for _, m := range []wire.Message{
		&wire.Error{Code: wire.CodeStaleEpoch, Group: "g", Text: "epoch 9 leads"},
		&wire.State{Command: wire.Command{Group: "g", Epoch: 9}},
	} {
		w := started(t, 1, 1)
		w.halts = true
		w.step(Received{"s1", m})
		if w.core.State() != StateHalted || !strings.Contains(w.core.stats.halted, "nother manager leads") {
			t.Fatalf("%v %q", w.core.State(), w.core.stats.halted)
		}
	}
}

// TestReq17_OnlyTheLastAnswerCounts: a state that was asked for before the revert may be older than a link.
func TestReq17_OnlyTheLastAnswerCounts(t *testing.T) {
	w := started(t, 1, 1)
	w.until("IDLE", w.inState(StateIdle))
	w.step(Pause{})
	for w.core.byName["s1"].queries == 0 {
		w.tick()
	}
	w.step(Received{"s1", &wire.Lost{Command: w.core.command(w.core.open), Reason: "x"}})
	for want := range 2 {
		w.toPeer("s1")
		w.toManager("s1")
		if got := w.core.byName["s1"].visit; (got == visitRevert) != (want == 1) {
			t.Fatalf("after answer %d: visit %d", want+1, got)
		}
	}
}

// TestNumbersAreReservedBeforeUse: no CG is opened before the log holds its number and the next one.
func TestNumbersAreReservedBeforeUse(t *testing.T) {
	w := newWorld(t, 1, 1, fastSettings())
	for range 50 {
		for _, f := range w.turns()[1:] { // all but the log
			f()
		}
	}
	if st := w.core.Status(w.now); st.State != StateReverting || st.OpenCG != 0 || st.Waiting != "waiting for the decision log" {
		t.Fatalf("%v, open CG %d, %q", st.State, st.OpenCG, st.Waiting)
	}
	w.progress()
}

// TestReq20_AbsurdNumberHalts: a damaged report must not use up the numbers.
func TestReq20_AbsurdNumberHalts(t *testing.T) {
	w := newWorld(t, 1, 1, fastSettings())
	w.sec[0].through = 1 << 63
	w.halts = true
	w.until("halted", w.inState(StateHalted))
}

// TestReq21_NextGroupContainsTheRevertedData: the CG after a revert becomes final everywhere, with every write of the CG that was reverted.
func TestReq21_NextGroupContainsTheRevertedData(t *testing.T) {
	w := started(t, 2, 2)
	w.untilLinkedAt(1)
	var lost []int
	for _, s := range w.sec {
		for k := range s.compl[w.core.round] {
			lost = append(lost, k)
		}
	}
	if len(lost) == 0 {
		t.Fatal("the CG to be reverted is empty: nothing would be shown")
	}
	f := w.finals
	w.disconnect("s2", "reset")
	w.until("revert ended", w.ended)
	for _, k := range lost {
		if w.sec[0].image[k] || w.sec[1].image[k] {
			t.Fatalf("write %d of the reverted CG is in a final image", k)
		}
	}
	w.until("the next CG final", func() bool { return w.finals == f+1 })
	for _, k := range lost {
		if !w.sec[0].image[k] && !w.sec[1].image[k] {
			t.Fatalf("write %d of the reverted CG is not in the next one", k)
		}
	}
}
