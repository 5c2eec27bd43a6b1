package manager

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/wire"
)

func TestSettingsSurviveJSONAndAreChecked(t *testing.T) {
	in := DefaultSettings()
	in.CoordinationTimeout = 75 * time.Millisecond
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out Settings
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, out); d != "" {
		t.Fatal(d)
	}
	if err := json.Unmarshal([]byte(`{"interval":"1s"}`), &out); err == nil {
		t.Fatal("missing settings became zero silently")
	}
	for name, change := range map[string]func(*Settings){
		"interval":             func(s *Settings) { s.Interval = -1 },
		"coordination_timeout": func(s *Settings) { s.CoordinationTimeout = 0 },
		"drain_timeout":        func(s *Settings) { s.DrainTimeout = time.Millisecond },
		"command_timeout":      func(s *Settings) { s.CommandTimeout = 0 },
		"rpo_alert":            func(s *Settings) { s.RPOAlert = -1 },
	} {
		s := DefaultSettings()
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPauseEndsTheRoundAndSurvivesRestart: the CG in progress becomes final, no other is begun; resume goes on.
func TestPauseEndsTheRoundAndSurvivesRestart(t *testing.T) {
	w := started(t, 2, 2)
	w.until("HOLD", w.inState(StateHold))
	n := w.core.round
	w.step(Pause{})
	w.until("final", func() bool { return w.sec[0].final == n && w.sec[1].final == n && w.core.State() == StateIdle })
	for range 100 {
		w.pump()
		w.tick()
	}
	if st := w.core.Status(w.now); st.State != StateIdle || !st.Paused || st.Waiting != "paused" || *st.RecoveryPoint != n {
		t.Fatalf("%+v", st)
	}
	changed := w.core.Settings()
	changed.Interval = 33 * time.Millisecond
	w.step(SetSettings{changed})
	w.pump()
	w.crashManager(len(w.persists), false)
	w.until("recovered", w.inState(StateIdle))
	if st := w.core.Status(w.now); !st.Paused || st.Settings.Interval != changed.Interval {
		t.Fatalf("after restart: paused %v, interval %v", st.Paused, st.Settings.Interval)
	}
	w.step(Resume{})
	w.progress()
}

// TestHoldIsRetriedWithTheSameCG: a primary that is not held in time costs one attempt; no THAW is sent for it, the CG stays open.
func TestHoldIsRetriedWithTheSameCG(t *testing.T) {
	w := started(t, 2, 1)
	w.until("HOLD", w.inState(StateHold))
	n := w.core.round
	w.toPeer("p1")
	w.primHeld(0)
	w.toManager("p1")
	w.now = w.now.Add(w.set.CoordinationTimeout)
	w.toPeer("p2")
	w.primHeld(1)
	w.toManager("p2") // in time for the primary, too late for the manager, which no timer has told
	if w.core.State() != StateIdle || w.core.open != n || w.highest != n {
		t.Fatalf("state %v, open %d, highest number %d; want IDLE with %d", w.core.State(), w.core.open, w.highest, n)
	}
	st := w.core.Status(w.now)
	if st.HoldsFailed != 1 || st.CGsFailed != 0 || !strings.Contains(st.LastFailure.Reason, "p2") {
		t.Fatalf("holds failed %d, %+v", st.HoldsFailed, st.LastFailure)
	}
	w.until("final", func() bool { return w.sec[0].final == n })
	w.until("IDLE", w.inState(StateIdle))
	if w.core.failStreak != 0 {
		t.Fatal("the back-off outlives the failure")
	}
}

// TestLateHeldIsNotTakenForTheNextAttempt: p2's HELD of a given-up attempt arrives when n is held again, while p2 lets writes go on.
func TestLateHeldIsNotTakenForTheNextAttempt(t *testing.T) {
	w := started(t, 2, 1)
	w.until("HOLD", w.inState(StateHold))
	w.toPeer("p2")
	w.primHeld(1) // its HELD stays under way
	w.now = w.now.Add(w.set.CoordinationTimeout)
	w.step(Tick{})
	for range 200 {
		w.toPeer("p1")
		w.primHeld(0)
		w.toManager("p1")
		w.now = w.now.Add(5 * time.Millisecond)
		w.step(Tick{})
		if w.core.State() != StateIdle {
			t.Fatalf("state %v although p2 has not answered OPEN", w.core.State())
		}
	}
	w.progress()
}

// TestDrainTimeoutIsLiftedAfterFiveFailures, and applied again once a CG succeeded.
func TestDrainTimeoutIsLiftedAfterFiveFailures(t *testing.T) {
	w := started(t, 1, 2)
	w.drop = func(p, s int) bool { return s == 1 }
	w.until("five failures", func() bool { return w.core.stats.failed == drainFailLimit })
	w.until("DRAIN without a deadline", func() bool { return w.core.State() == StateDrain && w.core.deadline.IsZero() })
	if !slices.ContainsFunc(w.core.Status(w.now).Alerts, func(a string) bool { return strings.Contains(a, "5 CGs in a row") }) {
		t.Fatalf("alerts %v", w.core.Status(w.now).Alerts)
	}
	w.now = w.now.Add(time.Hour)
	w.step(Tick{})
	if w.core.State() != StateDrain {
		t.Fatalf("state %v after an hour without drain timeout", w.core.State())
	}
	w.drop = nil
	w.disconnect("s2", "so that the dropped manifest is sent again")
	w.progress()
	w.until("DRAIN with a deadline", func() bool { return w.core.State() == StateDrain && !w.core.deadline.IsZero() })
}

// TestFirstCopyHasNoDrainTimeout: neither that of the group nor that of a control added later.
func TestFirstCopyHasNoDrainTimeout(t *testing.T) {
	w := newWorld(t, 1, 1, fastSettings())
	w.until("first DRAIN", w.inState(StateDrain))
	if !w.core.deadline.IsZero() {
		t.Fatal("the first copy has a drain timeout")
	}
	w.progress()
	w.until("DRAIN", w.inState(StateDrain))
	if w.core.deadline.IsZero() {
		t.Fatal("a later CG has no drain timeout")
	}
	w.core.decided.Primaries = []string{"another"}
	if !w.core.firstCopy() {
		t.Fatal("a primary that had no part in the last CG brings a first copy")
	}
}

// TestCompleteCGIsNotWaitedForWithoutEnd: a primary may wait to attach to a secondary that has the CG, until that is
// final or given up. So also the first copy has a drain timeout, once all secondaries have the CG.
func TestCompleteCGIsNotWaitedForWithoutEnd(t *testing.T) {
	w := newWorld(t, 2, 2, fastSettings())
	w.prim[1].stuck = 1
	w.until("a CG that is given up", func() bool { return w.core.stats.failed == 1 })
	if f := w.core.Status(w.now).LastFailure; f == nil || f.Cause != CauseTimeout || !strings.Contains(f.Reason, "not drained: [p2], not complete: []") {
		t.Errorf("%+v", f)
	}
	w.progress()
}

func TestRPOAlert(t *testing.T) {
	set := fastSettings()
	set.RPOAlert = 5 * time.Second
	w := newWorld(t, 1, 1, set)
	w.progress()
	w.disconnect("p1", "cable")
	w.now = w.now.Add(10 * time.Second)
	w.step(Tick{})
	alerted := func() bool {
		return slices.ContainsFunc(w.core.Status(w.now).Alerts, func(a string) bool { return strings.HasPrefix(a, "RPO") })
	}
	if !alerted() || w.audit[len(w.audit)-1].Kind != EntryAlert {
		t.Fatal("no alert")
	}
	w.progress()
	if alerted() {
		t.Fatal("the alert stays")
	}
	if max := *w.core.Status(w.now).RPO.Max; max < 10000 {
		t.Fatalf("worst RPO %v ms, was at least 10 s", max)
	}
}

// TestUnansweredQuestionsEndTheConnection: a peer that answers pings but not commands is dialled again.
func TestUnansweredQuestionsEndTheConnection(t *testing.T) {
	w := started(t, 1, 1)
	w.until("IDLE", w.inState(StateIdle))
	w.sec[0].mute = 1000
	inst := 0
	w.until("reconnected", func() bool {
		if !w.link["s1"].up {
			inst++
			w.sec[0].mute = 0
		}
		return inst > 0
	})
	w.progress()
}

func TestPercentiles(t *testing.T) {
	var s samples
	for i := range 3000 {
		s.add(time.Duration(i) * time.Millisecond)
	}
	p := s.percentiles()
	if p.Samples != sampleKeep || *p.Max != 2999 || *p.P50 != 1976+511 || *p.P99 != 2989 {
		t.Fatalf("%d samples, p50 %v p99 %v max %v", p.Samples, *p.P50, *p.P99, *p.Max)
	}
	if (&samples{}).percentiles() != (Percentiles{}) {
		t.Fatal("no sample must give unknown")
	}
}

// The summary of a primary's holds is that of the newest ones, and close to what sorting them gives.
func TestHoldTimes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h holdTimes
		if h.percentiles() != (Percentiles{}) {
			rt.Fatal("no hold must give unknown")
		}
		list := make([]time.Duration, rapid.IntRange(1, 5*holdWindow).Draw(rt, "holds"))
		unit := rapid.SampledFrom([]time.Duration{time.Microsecond, time.Millisecond, time.Second}).Draw(rt, "unit")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		for i := range list {
			list[i] = 4*time.Microsecond + time.Duration(rng.Float64()*100*float64(unit))
			h.add(list[i])
		}
		p := h.percentiles()
		if least := min(len(list), holdWindow); p.Samples < least || p.Samples > 2*holdWindow {
			rt.Fatalf("%d of %d holds are summed up", p.Samples, len(list))
		}
		newest := slices.Sorted(slices.Values(list[len(list)-p.Samples:]))
		check := func(what string, got float64, want time.Duration) {
			if w := float64(want) / 1e6; got < w-0.001 || got > max(1.25*w+0.001, *p.Max) {
				rt.Fatalf("%s of %d holds: %v ms, sorted %v", what, p.Samples, got, want)
			}
		}
		check("p50", *p.P50, newest[(len(newest)+1)/2-1])
		check("p99", *p.P99, newest[(len(newest)*99+99)/100-1])
		if *p.Max != *millis(newest[len(newest)-1]) || *p.P99 > *p.Max {
			rt.Fatalf("%d holds: max %v, p99 %v; sorted %v", p.Samples, *p.Max, *p.P99, newest[len(newest)-1])
		}
	})
}

// BenchmarkStatus is one status of a group whose primaries were held often. The loop of the node waits for it.
func BenchmarkStatus(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("primaries=%d", n), func(b *testing.B) {
			g := Group{Name: "g", Secondaries: []string{"s"}}
			for i := range n {
				g.Primaries = append(g.Primaries, fmt.Sprintf("p%d", i))
			}
			c, err := NewCore(g, DefaultSettings(), Recovered{Epoch: 1, Known: true}, time.Unix(1000, 0))
			if err != nil {
				b.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for _, m := range c.prim {
				for range 3000 {
					m.heldTimes.add(time.Duration(rng.IntN(2e6)))
					m.holdTimes.add(time.Duration(rng.IntN(5e6)))
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				c.Status(time.Unix(2000, 0))
			}
		})
	}
}

func TestGroupValidate(t *testing.T) {
	for _, g := range []Group{
		{}, {Name: "g"}, {Name: "g", Primaries: []string{"a"}}, {Name: "g", Primaries: []string{"a"}, Secondaries: []string{"a"}},
		{Name: "g", Primaries: []string{"a", ""}, Secondaries: []string{"b"}},
	} {
		if g.Validate() == nil {
			t.Errorf("%+v accepted", g)
		}
	}
}

// TestReq08_MessagesOfNobodyChangeNothing: strangers, other groups, other epochs and other roles are not listened to.
func TestReq08_MessagesOfNobodyChangeNothing(t *testing.T) {
	w := started(t, 1, 1)
	w.untilLinkedAt(0)
	w.link["s1"].down, w.link["s1"].upward = nil, nil
	linked := w.core.command(w.core.round)
	other, old, next := linked, linked, linked
	other.Group, old.Epoch, next.CG = "h", linked.Epoch-1, linked.CG+1
	for from, h := range map[string]wire.Command{"s1": other, "p1": linked, "x": linked} {
		w.step(Received{from, &wire.Linked{Command: h}})
	}
	w.step(Received{"s1", &wire.Linked{Command: old}})
	w.step(Received{"s1", &wire.Linked{Command: next}})
	if w.core.State() != StateLink {
		t.Fatalf("state %v", w.core.State())
	}
	w.step(Received{"s1", &wire.Linked{Command: linked}})
	if w.core.State() != StateDecided {
		t.Fatalf("state %v", w.core.State())
	}
}

// TestHoldTimesOfEachControl: the one that is slow to end its writes shows in its own status, not in that of the others.
func TestHoldTimesOfEachControl(t *testing.T) {
	w := started(t, 2, 1)
	before := w.core.Status(w.now).Controls[0].Hold.Samples
	w.until("HOLD", w.inState(StateHold))
	for i, p := range []string{"p1", "p2"} {
		w.now = w.now.Add(time.Duration(i+1) * time.Millisecond)
		w.toPeer(p)
		w.primHeld(i)
		w.toManager(p)
	}
	for i, p := range []string{"p2", "p1"} {
		w.now = w.now.Add(time.Duration(i+1) * 3 * time.Millisecond)
		for w.toPeer(p) || w.toManager(p) {
		}
	}
	st := w.core.Status(w.now)
	for i, want := range []struct{ held, hold float64 }{{1, 12}, {3, 6}} {
		c := st.Controls[i]
		if c.Held.Samples != before+1 || c.Hold.Samples != before+1 || *c.Held.Max < want.held || *c.Hold.Max < want.hold {
			t.Errorf("%s: held %d times, at most %v ms, thawed %d times, at most %v ms; want %+v", c.Name, c.Held.Samples, *c.Held.Max, c.Hold.Samples, *c.Hold.Max, want)
		}
	}
	if *st.Controls[0].Held.Max >= *st.Controls[1].Held.Max || *st.Hold.Max != *st.Controls[0].Hold.Max {
		t.Errorf("p1 %v, p2 %v ms until held; the group's hold %v ms, that of p1 %v", *st.Controls[0].Held.Max, *st.Controls[1].Held.Max, *st.Hold.Max, *st.Controls[0].Hold.Max)
	}
	if s := st.Controls[2]; s.Role != "secondary" || s.Hold != nil {
		t.Errorf("%+v", s)
	}
}

// TestContinuousDoesNotSpinOnAnIdleGroup: empty CGs come ever more slowly, up to a limit; a write ends the pauses; another interval has none.
func TestContinuousDoesNotSpinOnAnIdleGroup(t *testing.T) {
	w := started(t, 1, 1)
	set := w.core.Settings()
	set.Interval = 0
	w.step(SetSettings{set})
	pause := func() time.Duration {
		t.Helper()
		n := w.core.stats.formed
		w.until("another CG", func() bool { return w.core.stats.formed > n })
		return w.core.nextRound.Sub(w.now)
	}
	var got []time.Duration
	for range 12 {
		got = append(got, pause().Round(time.Millisecond))
	}
	ms := time.Millisecond
	want := []time.Duration{ms, 2 * ms, 4 * ms, 8 * ms, 16 * ms, 32 * ms, 64 * ms, 128 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("pauses (-want +got):\n%s", d)
	}
	w.payload = 1
	if got := pause(); got > 0 {
		t.Errorf("a pause of %v after a CG that brought something", got)
	}
	w.payload = 0
	if got := pause().Round(ms); got != ms {
		t.Errorf("a pause of %v after the first empty CG, want 1 ms", got)
	}
	set.Interval = time.Second
	w.step(SetSettings{set})
	pause()
	if got, want := w.core.nextRound, w.core.cutTime.Add(time.Second); !got.Equal(want) {
		t.Errorf("with an interval the next cut is at %v, want %v", got, want)
	}
}
