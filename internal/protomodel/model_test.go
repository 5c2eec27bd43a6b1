package protomodel

import (
	"flag"
	"strings"
	"testing"
	"unsafe"

	product "github.com/farside-storage/farside/manager"
)

var (
	flagFaults    = flag.Uint("model.faults", 0, "explore with this many faults, instead of the usual configurations")
	flagCGs       = flag.Uint("model.cgs", 2, "with -model.faults: CGs to become final")
	flagTakeovers = flag.Uint("model.takeovers", 1, "with -model.faults: how many faults may be takeovers")
	flagLogLoss   = flag.Bool("model.logloss", true, "with -model.faults: a manager may find the decision log empty")
	flagSettled   = flag.Bool("model.settled", false, "with -model.faults: begin at the first HOLD")
	flagReduce    = flag.Bool("model.reduce", false, "with -model.faults: leave out orders that come to the same")
	flagDeep      = flag.Bool("model.deep", false, "explore two faults of any kind and two CGs to the end: some minutes, some GiB of memory")
	flagMax       = flag.Int("model.max", 0, "with -model.faults: stop after this many states; 0 never")
)

// Nothing that can be reached breaks a rule, and from everywhere there is a way on.
func TestExplore(t *testing.T) {
	configs := map[string]Config{
		"one fault of any kind, two CGs": {CGs: 2, Faults: 1, Takeovers: 1, LogLoss: true},
		"lost connections and expired holds, two of them": {CGs: 1, Faults: 2, Settled: true,
			Only: []stepKind{loseConn, expire}},
	}
	if raceEnabled { // one goroutine: the race detector has nothing to find, and takes its time for it
		configs = map[string]Config{"one crash": {CGs: 1, Faults: 1, Settled: true, Only: []stepKind{crash}}}
	}
	if *flagDeep {
		configs = map[string]Config{"two faults of any kind, two CGs": {CGs: 2, Faults: 2, Takeovers: 1, LogLoss: true, Reduce: true, Progress: tell(t)}}
	}
	if *flagFaults > 0 {
		configs = map[string]Config{"as the flags say": {CGs: uint8(*flagCGs), Faults: uint8(*flagFaults), Takeovers: uint8(*flagTakeovers),
			LogLoss: *flagLogLoss, Settled: *flagSettled, MaxStates: *flagMax, Reduce: *flagReduce,
			Progress: tell(t)}}
	}
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			r := Explore(cfg)
			t.Logf("%d primaries, %d secondaries, %d CGs, at most %d faults, %d of them takeovers, log loss %t: %v",
				2, 2, cfg.CGs, cfg.Faults, cfg.Takeovers, cfg.LogLoss, r)
			if r.Violation != "" {
				t.Fatal(r)
			}
			if !r.Complete && cfg.MaxStates == 0 || r.Complete && r.Reached == 0 {
				t.Errorf("the exploration ended early: %v", r)
			}
		})
	}
}

// tell says how far a long exploration is.
func tell(t *testing.T) func(states, waiting int) {
	return func(states, waiting int) {
		if states > 100_000 {
			t.Logf("%d states, %d to be expanded", states, waiting)
		}
	}
}

// What is reduced comes to the same verdict, and leaves states out.
func TestReduce(t *testing.T) {
	if raceEnabled {
		t.Skip("takes long with the race detector, which has nothing to find in one goroutine")
	}
	cfg := Config{CGs: 1, Faults: 1, Takeovers: 1, LogLoss: true, Settled: true}
	whole := Explore(cfg)
	cfg.Reduce = true
	reduced := Explore(cfg)
	t.Logf("whole: %v", whole)
	t.Logf("reduced: %v", reduced)
	if whole.Violation != reduced.Violation || !whole.Complete || !reduced.Complete || reduced.States >= whole.States || reduced.Reached == 0 {
		t.Error("they differ in more than the number of states")
	}
}

// Each rule is needed: without it a state is reached that must not be.
func TestRulesAreNeeded(t *testing.T) {
	network := []stepKind{loseConn, expire, timeout}
	tests := []struct {
		cfg  Config
		want string // how the violation begins
	}{
		{Config{Without: AllHeldBeforeThaw}, "cut:"},
		{Config{Without: ExpiredHoldFailsTheCut, Faults: 1}, "cut:"},
		{Config{Without: OpenedBeforeNextHold, Faults: 1}, "cut:"},
		{Config{Without: NewConnectionSupersedes, Faults: 2, Only: []stepKind{loseConn, expire}}, "cut:"},
		{Config{Without: EveryManifestAwaited}, "mix:"},
		{Config{Without: AllCompleteBeforeLink}, "R1:"},
		{Config{Without: AllLinkedBeforeDecided, Faults: 1}, "refusal:"},
		{Config{Without: DecidedDurableBeforeRelease}, "R2:"},
		{Config{Without: DecidedGoesForward, Faults: 1}, "refusal:"},
		{Config{Without: LowerEpochRefused, Faults: 1}, "R4:"},
		{Config{Without: EpochDurable, Faults: 2, Takeovers: 1, Only: []stepKind{takeover, crash}}, "R4:"},
		{Config{Without: LogFenced, Faults: 1, Takeovers: 1}, "R3:"},
		{Config{Without: ReportedAfterFinal}, "R5:"},
		{Config{Without: UnreachableVisited, Faults: 1}, "settled:"},
		{Config{Without: NotLinkedDiscardedToo | NewConnectionSupersedes, Faults: 1, Only: network}, "settled:"},
		{Config{Without: RevertDiscards | NewConnectionSupersedes, Faults: 1, Only: network}, "settled:"},
		{Config{Without: NumbersNeverReused | UnknownNumbersDiscarded, Faults: 1}, "bound:"},
		{Config{Without: RefusalNamesOpenCG | UnknownNumbersDiscarded, Faults: 1, LogLoss: true}, "gap:"},
		{Config{Without: UnknownNumbersDiscarded, Faults: 2, LogLoss: true, Only: []stepKind{crash, restartLogLost}, Reduce: true}, "mix:"},
		{Config{Without: DecisionKept, Faults: 1}, "R3:"},
		{Config{Without: UnreachableMeansNoDecision, Faults: 1, LogLoss: true}, "refusal:"},
		{Config{Without: TableRow2, Faults: 1, LogLoss: true}, "progress:"},
		{Config{Without: TableRow4, Faults: 1, LogLoss: true}, "R3:"},
	}
	for _, test := range tests {
		test.cfg.CGs, test.cfg.Settled = 1, true
		t.Run(test.cfg.Without.String(), func(t *testing.T) { noticed(t, test.cfg, test.want) })
	}
	fromStart := Config{CGs: 1, Faults: 1, Only: network, Without: NoRevertBeforeFirstNumber | NewConnectionSupersedes | UnknownNumbersDiscarded}
	t.Run(fromStart.Without.String(), func(t *testing.T) { noticed(t, fromStart, "R3:") })
}

func noticed(t *testing.T, cfg Config, want string) {
	if raceEnabled && cfg.Faults > 0 {
		t.Skip("takes long with the race detector, which has nothing to find in one goroutine")
	}
	r := Explore(cfg)
	t.Logf("%v", r)
	if !strings.HasPrefix(r.Violation, want) {
		t.Errorf("want a violation that begins with %q", want)
	}
	for _, line := range r.Trace {
		if strings.HasPrefix(line, "(lost") {
			t.Error("the trace does not lead to the violation")
		}
	}
}

// The model's table, the product's, and the words of the architecture are the same.
func TestDecisionTable(t *testing.T) {
	rows := map[tableRow]int{}
	for i := range 3 * 3 * 3 * 3 {
		final := [2]uint8{uint8(i % 3), uint8(i / 3 % 3)}
		linked := [2]uint8{final[0] + uint8(i/9%3), final[1] + uint8(i/27)}
		var controls []product.ControlState
		for j := range 2 {
			controls = append(controls, product.ControlState{Name: controlName(j + 2), Reachable: true,
				Linked: uint64(linked[j]), Final: uint64(final[j])})
		}
		row := decisionTable(linked, final)
		rows[row]++
		want := map[tableRow]product.PlanAction{1: product.PlanNothing, 2: product.PlanRevert, 3: product.PlanRevert,
			4: product.PlanCommit, 5: product.PlanRefuse}[row]
		if got := product.Decide(controls); got.Action != want {
			t.Errorf("%+v: the manager says %v (%s), row %d says %v", controls, got.Action, got.Why, row, want)
		}
	}
	if len(rows) != 5 {
		t.Errorf("not every row occurs: %v", rows)
	}
}

// A State is hashed as memory, so no byte of it may be padding, and the names of controls must not matter.
func TestCanonical(t *testing.T) {
	if got, want := unsafe.Alignof(State{}), uintptr(1); got != want {
		t.Fatalf("a State is aligned to %d bytes: some field is not made of single bytes", got)
	}
	cfg := Config{CGs: 1, Faults: 3, Takeovers: 1, LogLoss: true}
	w := world{Config: &cfg, State: cfg.initial()}
	for i := range 200 {
		steps := w.steps(nil)
		if len(steps) == 0 {
			break
		}
		w.apply(steps[i*7%len(steps)])
		want := w.State.canonical()
		for j := range 4 {
			s := w.State
			if j&1 != 0 {
				s.swapPrimaries()
			}
			if j&2 != 0 {
				s.swapSecondaries()
			}
			if s.canonical() != want {
				t.Fatalf("step %d: renamed (%d), the state has another canonical form", i, j)
			}
		}
	}
}
