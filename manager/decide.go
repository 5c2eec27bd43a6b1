package manager

import (
	"fmt"
	"strings"
)

// ControlState is what one secondary control reported, for [Decide].
type ControlState struct {
	Name      string `json:"name"`
	Reachable bool   `json:"reachable"`
	Linked    uint64 `json:"linked"` // the CG its links show
	Final     uint64 `json:"final"`  // its newest final CG
}

// Revertible says whether the newest linked CG can be taken back.
func (c ControlState) Revertible() bool { return c.Linked > c.Final }

// PlanAction is what [Decide] found right.
type PlanAction string

const (
	PlanNothing PlanAction = "nothing" // committed everywhere
	PlanRevert  PlanAction = "revert"  // take the newest CG back where it is revertible
	PlanCommit  PlanAction = "commit"  // release it where it is revertible
	PlanRefuse  PlanAction = "refuse"  // change nothing
)

// PlanRow says how a plan was found: by the decision log, or by a row of the decision table, named by its condition.
type PlanRow string

const (
	RowLog       PlanRow = "decision log"                                                              // the log has the decision
	RowCommitted PlanRow = "none revertible, all equal"                                                // nothing to do
	RowSome      PlanRow = "some revertible; they are equal, the others are equal, and the two differ" // revert
	RowAll       PlanRow = "all revertible, all equal"                                                 // revert
	RowReleased  PlanRow = "some revertible, all equal"                                                // commit
	RowElse      PlanRow = "anything else"                                                             // refuse
	RowMissing   PlanRow = "a control was not reached"                                                 // refuse
)

// Plan is the outcome of [Decide] and [Assess].
type Plan struct {
	Row    PlanRow    `json:"row"`
	Action PlanAction `json:"action"`
	// CG is what every control shows once the plan is carried out; 0 with PlanRefuse.
	CG uint64 `json:"cg"`
	// Controls are those to revert or release.
	Controls []string `json:"controls,omitempty"`
	// Why explains the plan to a person.
	Why string `json:"why"`
}

// Step says what the plan does with one of the controls that it was made from. Whatever is not final on any control is
// discarded besides.
func (p Plan) Step(c ControlState) string {
	switch {
	case p.Action == PlanRefuse:
		return "nothing is changed"
	case p.Action == PlanCommit && contains(p.Controls, c.Name):
		return fmt.Sprintf("release CG %d", p.CG)
	case c.Revertible():
		return fmt.Sprintf("revert CG %d, back to CG %d", c.Linked, c.Final)
	}
	return "stays"
}

// Assess tells what a manager does with a group when it starts: what its decision log holds counts, and where
// that is lost, or older than what a control has final, what the secondary controls report.
func Assess(rec Recovered, controls []ControlState) Plan {
	if !rec.Known || aboveLog(rec.Decided.CG, controls) {
		return Decide(controls)
	}
	if p, bad := unfit(controls); bad {
		return p
	}
	return assessLog(rec.Decided, controls)
}

// aboveLog says whether a control knows of a decision that the log does not: an old copy of the log.
func aboveLog(decided uint64, controls []ControlState) bool {
	for _, c := range controls {
		if c.Reachable && c.Final > decided {
			return true
		}
	}
	return false
}

// assessLog: decided goes forward, everything else goes back.
func assessLog(d Decision, controls []ControlState) Plan {
	var release, revert []ControlState
	for _, c := range controls {
		switch {
		case c.Revertible() && (c.Final == d.CG || isNew(d, c)):
			revert = append(revert, c)
		case c.Final == d.CG, isNew(d, c):
		case c.Linked == d.CG:
			release = append(release, c)
		default:
			return Plan{Row: RowElse, Action: PlanRefuse, Why: fmt.Sprintf("CG %d was decided, but %s shows CG %d, final %d: it lost a decided CG. "+
				"Find out why before anything is changed; if its pool was replaced, take it out of the group and add it under a new name",
				d.CG, c.Name, c.Linked, c.Final)}
		}
	}
	switch {
	case len(release) > 0:
		return Plan{RowLog, PlanCommit, d.CG, names(release), fmt.Sprintf("the log has the decision for CG %d, which %s did not release yet", d.CG, join(release))}
	case len(revert) > 0:
		return Plan{RowLog, PlanRevert, d.CG, names(revert), fmt.Sprintf("the log's newest decision is CG %d: what %s shows above it was never decided", d.CG, join(revert))}
	}
	return Plan{Row: RowLog, Action: PlanNothing, CG: d.CG, Why: fmt.Sprintf("the log's newest decision is CG %d, and every control has it final", d.CG)}
}

// isNew says whether a control joined the group after the decision: its first CG will bring a whole copy. That CG it
// may link.
func isNew(d Decision, c ControlState) bool {
	return c.Final == 0 && !contains(d.Secondaries, c.Name)
}

// Decide tells what to do with a group when the decision log is lost, from what the secondary controls
// report alone: the decision table of the architecture. It decides nothing while a control
// was not reached.
func Decide(controls []ControlState) Plan {
	if p, bad := unfit(controls); bad {
		return p
	}
	var revertible, others []ControlState
	for _, c := range controls {
		if c.Revertible() {
			revertible = append(revertible, c)
		} else {
			others = append(others, c)
		}
	}
	switch {
	case len(revertible) == 0:
		return decideNone(others)
	case !sameLinked(revertible) || !sameFinal(revertible):
		return refuse(controls, "the revertible controls are not at the same CG")
	case len(others) == 0:
		return revertPlan(RowAll, revertible, "every control links CG %d and none released it: whether it was decided cannot be known, "+
			"nothing was released, so all go back to CG %d")
	case !sameLinked(others):
		return refuse(controls, "the controls with nothing to revert show different CGs")
	case others[0].Linked == revertible[0].Linked:
		n := revertible[0].Linked
		return Plan{RowReleased, PlanCommit, n, names(revertible), fmt.Sprintf("%s already released CG %d, so it was decided: "+
			"released on %s too", join(others), n, join(revertible))}
	case others[0].Linked == revertible[0].Final:
		return revertPlan(RowSome, revertible, "CG %d was not linked everywhere, so it was never decided: the controls that link it "+
			"go back to CG %d, which the others show")
	}
	return refuse(controls, "reverting would not make the controls equal")
}

func unfit(controls []ControlState) (Plan, bool) {
	if len(controls) == 0 {
		return Plan{Row: RowMissing, Action: PlanRefuse, Why: "no secondary control is known: nothing to decide from"}, true
	}
	var missing []ControlState
	for _, c := range controls {
		if !c.Reachable {
			missing = append(missing, c)
		}
		if c.Reachable && c.Linked < c.Final {
			return refuse(controls, c.Name+" reports a final CG newer than its linked one"), true
		}
	}
	if len(missing) > 0 {
		return Plan{Row: RowMissing, Action: PlanRefuse, Why: fmt.Sprintf("%s could not be reached, and may hold the answer: "+
			"make it reachable; going on without it needs an operator's explicit override", join(missing))}, true
	}
	return Plan{}, false
}

func decideNone(all []ControlState) Plan {
	if !sameLinked(all) {
		return refuse(all, "nothing is revertible and the controls show different CGs")
	}
	return Plan{Row: RowCommitted, Action: PlanNothing, CG: all[0].Linked,
		Why: fmt.Sprintf("every control shows CG %d as final: committed", all[0].Linked)}
}

func revertPlan(row PlanRow, revertible []ControlState, why string) Plan {
	r := revertible[0]
	return Plan{row, PlanRevert, r.Final, names(revertible), fmt.Sprintf(why, r.Linked, r.Final)}
}

func refuse(controls []ControlState, why string) Plan {
	parts := make([]string, len(controls))
	for i, c := range controls {
		parts[i] = fmt.Sprintf("%s links %d, final %d", c.Name, c.Linked, c.Final)
	}
	next := newcomers(controls)
	if next == "" {
		next = "Find out which control is the odd one before anything is released"
	}
	return Plan{Row: RowElse, Action: PlanRefuse, Why: fmt.Sprintf("%s (%s): no case of the decision table, so nothing is changed. %s",
		why, strings.Join(parts, "; "), next)}
}

// newcomers says what there is to choose between if some controls never had a final CG and others have; "" if that is
// not so.
func newcomers(controls []ControlState) string {
	var fresh, others []ControlState
	for _, c := range controls {
		if c.Final == 0 {
			fresh = append(fresh, c)
		} else {
			others = append(others, c)
		}
	}
	if len(fresh) == 0 || len(others) == 0 {
		return ""
	}
	alone := Decide(others)
	outcome := "they do not agree either"
	if alone.Action != PlanRefuse {
		outcome = fmt.Sprintf("all of them would show CG %d: %s", alone.CG, alone.Why)
	}
	who := join(fresh)
	return fmt.Sprintf("No CG was ever final on %s, and the controls cannot say why; you can. Either it had just joined the group when the log was lost. Then its first CG "+
		"is no recovery point: take %s out of the manager's file and do this again, so that the others decide alone (%s); then format its pool anew, and let it join "+
		"once more (farside group add-control). No recovery point is lost by that. Or its pool was replaced by an empty one, or is that of another group. Then a part of the copy is "+
		"missing here: find the right pool first, and change nothing; without it, only what the others hold can be recovered", who, who, outcome)
}

func sameLinked(cs []ControlState) bool {
	for _, c := range cs {
		if c.Linked != cs[0].Linked {
			return false
		}
	}
	return true
}

func sameFinal(cs []ControlState) bool {
	for _, c := range cs {
		if c.Final != cs[0].Final {
			return false
		}
	}
	return true
}

func names(cs []ControlState) []string {
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = c.Name
	}
	return out
}

func join(cs []ControlState) string { return strings.Join(names(cs), ", ") }
