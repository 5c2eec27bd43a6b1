package protomodel

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is a set of rules of the protocol that can be taken out, to see that the exploration notices.
type Rule uint32

// The rules that can be taken out.
const (
	AllHeldBeforeThaw Rule = 1 << iota
	ExpiredHoldFailsTheCut
	OpenedBeforeNextHold
	EveryManifestAwaited
	AllCompleteBeforeLink
	AllLinkedBeforeDecided
	DecidedDurableBeforeRelease
	DecidedGoesForward
	LowerEpochRefused
	EpochDurable
	LogFenced
	ReportedAfterFinal
	UnreachableVisited
	NotLinkedDiscardedToo
	RevertDiscards
	NoRevertBeforeFirstNumber
	RefusalNamesOpenCG
	NewConnectionSupersedes
	NumbersNeverReused
	UnreachableMeansNoDecision
	TableRow2
	TableRow4
	UnknownNumbersDiscarded
	DecisionKept
)

var ruleNames = [...]string{
	"THAW only after all are held",
	"a hold that expired fails the cut",
	"a hold is tried again only after OPEN was answered",
	"complete only with the manifests of all primaries",
	"R1: LINK only after all are complete",
	"DECIDED only after all are linked",
	"R2: RELEASE only after DECIDED is durable",
	"R3: a restart carries on with what was decided",
	"R4: a lower epoch is refused",
	"R4: a secondary keeps the epoch over a crash",
	"R4: the decision log refuses an old manager",
	"R5: reported only after the first FINAL",
	"a revert waits for controls that it cannot reach",
	"a revert discards n where it is not linked, too",
	"a revert discards what was received",
	"no REVERT where no number was ever given out",
	"a primary that refuses OPEN says which CG is open",
	"a manager's new connection ends what its old one left",
	"an abandoned number is never used again",
	"no decision from the table without every control",
	"decision table: some revertible, others at the CG before: back",
	"decision table: some revertible, others have it final: forward",
	"without a log, 1 and 2 are not used: they may be on their way",
	"R3: the log still has the decision after a crash",
}

func (r Rule) has(x Rule) bool { return r&x != 0 }

func (r Rule) String() string {
	var out []string
	for i, name := range ruleNames {
		if r.has(1 << i) {
			out = append(out, name)
		}
	}
	return strings.Join(out, " + ")
}

// Config bounds an exploration.
type Config struct {
	CGs       uint8      // to become final everywhere
	Faults    uint8      // crashes, losses and timeouts, all together
	Takeovers uint8      // how many of them may be a second manager that takes over from a living one
	LogLoss   bool       // one restart or takeover finds the decision log empty
	Only      []stepKind // the faults that happen; nil means all
	Without   Rule       // taken out
	// Settled begins where all are connected and the first HOLD has been sent, instead of with the first manager's
	// start.
	Settled   bool
	MaxStates int // stop there; 0 means explore everything
	// Reduce leaves out orders that come to the same, once no fault is left to happen: see reduce.go.
	Reduce bool
	// Progress, if set, is told from time to time how far it is.
	Progress func(states, waiting int)
}

// Result is what an exploration found.
type Result struct {
	States, Transitions int
	Depth               int // steps of the longest shortest way to a state
	Complete            bool
	Refused             int      // states in which the manager has refused
	Reached             int      // states in which every CG is final everywhere
	Violation           string   // "" if none
	Trace               []string // shortest way to it
}

func (r Result) String() string {
	if r.Violation == "" {
		return fmt.Sprintf("%d states, %d transitions, depth %d, complete %t; all final in %d, refused in %d",
			r.States, r.Transitions, r.Depth, r.Complete, r.Reached, r.Refused)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n(after %d states, %d transitions)\n", r.Violation, r.States, r.Transitions)
	for i, line := range r.Trace {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, line)
	}
	return b.String()
}

type explorer struct {
	cfg Config
	seen
	parent []uint32
	goal   []bool
	// Steps that are no fault, as pairs, for the question whether a goal can be reached.
	from, to []uint32
	res      Result
}

func (cfg *Config) initial() State {
	w := world{Config: cfg}
	for i := range w.data {
		w.data[i] = [2]stream{{up: true}, {up: true}}
	}
	w.startManager()
	for cfg.Settled && w.m[0].st != holding {
		w.apply(w.steps(nil)[0]) // faults are listed behind what goes on without
	}
	return w.State.canonical()
}

// Explore looks at every state that can be reached, breadth first (apart from what a reduction takes alone), until
// one violates a property.
func Explore(cfg Config) Result {
	e := &explorer{cfg: cfg}
	e.res.Complete = true
	first := e.cfg.initial()
	id, _ := e.visit(&first, 0)
	var now, next frontier
	now.push(id, &first)
	for ; len(now.ids) > 0 && e.res.Violation == "" && e.res.Complete; e.res.Depth++ {
		for e.res.Violation == "" && e.res.Complete {
			id, s, ok := now.pop()
			if !ok {
				break
			}
			e.expand(&s, id, &next)
			e.res.Complete = cfg.MaxStates == 0 || len(e.keys) <= cfg.MaxStates
		}
		if cfg.Progress != nil {
			cfg.Progress(len(e.keys), len(next.ids))
		}
		now, next = next, frontier{}
	}
	e.res.Depth--
	e.res.States = len(e.keys)
	if e.res.Violation == "" && e.res.Complete {
		e.checkProgress()
	}
	return e.res
}

// visit numbers a state; it says whether it is new.
func (e *explorer) visit(s *State, parent uint32) (uint32, bool) {
	id, isNew := e.number(s.fingerprint())
	if !isNew {
		return id, false
	}
	e.parent = append(e.parent, parent)
	goal := s.reached(&e.cfg)
	e.goal = append(e.goal, goal)
	if goal {
		if s.m[0].st == halted {
			e.res.Refused++
		} else {
			e.res.Reached++
		}
	}
	return id, true
}

// expand takes every step from a state.
func (e *explorer) expand(s *State, id uint32, next *frontier) {
	var buf [64]step
	at := world{Config: &e.cfg, State: *s}
	for _, st := range at.steps(buf[:0]) {
		at.State = *s
		if !e.take(&at, st, id, next) {
			return
		}
	}
}

// take takes a step, and those after it that are taken alone, up to a state that is known or has to be expanded.
func (e *explorer) take(w *world, st step, id uint32, next *frontier) bool {
	for {
		w.apply(st)
		e.res.Transitions++
		if w.violation != "" {
			e.res.Violation = w.violation
			e.res.Trace = e.trace(id, func(w *world) bool { return w.violation != "" })
			return false
		}
		w.State = w.State.canonical()
		to, isNew := e.visit(&w.State, id)
		if !st.fault() && to != id {
			e.from, e.to = append(e.from, id), append(e.to, to)
		}
		if !isNew {
			return true
		}
		alone, ok := w.only()
		if !ok {
			next.push(to, &w.State)
			return true
		}
		id, st = to, alone
	}
}

// trace tells the way to a state and, if last is not nil, one more step for which it holds. Names stay the same on the
// way, so it is found again among the states that differ in names only.
func (e *explorer) trace(id uint32, last func(*world) bool) []string {
	var path []uint32
	for ; id != 0; id = e.parent[id] {
		path = append(path, id)
	}
	slices.Reverse(path)
	w := world{Config: &e.cfg, State: e.cfg.initial()}
	var out []string
	follow := func(fits func(*world) bool) {
		for _, st := range w.steps(nil) {
			x := world{Config: &e.cfg, State: w.State}
			x.apply(st)
			if fits(&x) {
				out = append(out, w.describe(st))
				w.State = x.State
				return
			}
		}
		out = append(out, "(lost the way: canonical states do not behave alike)")
	}
	for _, p := range path {
		follow(func(x *world) bool {
			c := x.State.canonical()
			return x.violation == "" && c.fingerprint() == e.keys[p]
		})
	}
	if last != nil {
		follow(last)
	}
	return out
}

// checkProgress finds a state from which no goal can be reached without a fault.
func (e *explorer) checkProgress() {
	n := len(e.keys)
	start := make([]uint32, n+1) // of the predecessors of a state in back
	for _, t := range e.to {
		start[t+1]++
	}
	for i := range n {
		start[i+1] += start[i]
	}
	back := make([]uint32, len(e.to))
	fill := slices.Clone(start)
	for i, t := range e.to {
		back[fill[t]] = e.from[i]
		fill[t]++
	}
	can := slices.Clone(e.goal)
	var work []uint32
	for i, g := range can {
		if g {
			work = append(work, uint32(i))
		}
	}
	for len(work) > 0 {
		s := work[len(work)-1]
		work = work[:len(work)-1]
		for _, p := range back[start[s]:start[s+1]] {
			if !can[p] {
				can[p] = true
				work = append(work, p)
			}
		}
	}
	if i := slices.Index(can, false); i >= 0 {
		e.res.Violation = "progress: from here, without a further fault, no CG can become final everywhere and nothing is refused"
		e.res.Trace = e.trace(uint32(i), nil)
	}
}
