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

// Plan is the outcome of [Decide].
type Plan struct {
	Action PlanAction `json:"action"`
	// CG is what every control shows once the plan is carried out; 0 with PlanRefuse.
	CG uint64 `json:"cg"`
	// Controls are those to revert or release.
	Controls []string `json:"controls,omitempty"`
	// Why explains the plan to a person.
	Why string `json:"why"`
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
		return revertPlan(revertible, "every control links CG %d and none released it: whether it was decided cannot be known, "+
			"nothing was released, so all go back to CG %d")
	case !sameLinked(others):
		return refuse(controls, "the controls with nothing to revert show different CGs")
	case others[0].Linked == revertible[0].Linked:
		n := revertible[0].Linked
		return Plan{PlanCommit, n, names(revertible), fmt.Sprintf("%s already released CG %d, so it was decided: "+
			"released on %s too", join(others), n, join(revertible))}
	case others[0].Linked == revertible[0].Final:
		return revertPlan(revertible, "CG %d was not linked everywhere, so it was never decided: the controls that link it "+
			"go back to CG %d, which the others show")
	}
	return refuse(controls, "reverting would not make the controls equal")
}

func unfit(controls []ControlState) (Plan, bool) {
	if len(controls) == 0 {
		return Plan{Action: PlanRefuse, Why: "no secondary control is known: nothing to decide from"}, true
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
		return Plan{Action: PlanRefuse, Why: fmt.Sprintf("%s could not be reached, and may hold the answer: "+
			"make it reachable; going on without it needs an operator's explicit override", join(missing))}, true
	}
	return Plan{}, false
}

func decideNone(all []ControlState) Plan {
	if !sameLinked(all) {
		return refuse(all, "nothing is revertible and the controls show different CGs")
	}
	return Plan{Action: PlanNothing, CG: all[0].Linked,
		Why: fmt.Sprintf("every control shows CG %d as final: committed", all[0].Linked)}
}

func revertPlan(revertible []ControlState, why string) Plan {
	r := revertible[0]
	return Plan{PlanRevert, r.Final, names(revertible), fmt.Sprintf(why, r.Linked, r.Final)}
}

func refuse(controls []ControlState, why string) Plan {
	parts := make([]string, len(controls))
	for i, c := range controls {
		parts[i] = fmt.Sprintf("%s links %d, final %d", c.Name, c.Linked, c.Final)
	}
	return Plan{Action: PlanRefuse, Why: fmt.Sprintf("%s (%s): no case of the decision table, so nothing is changed; "+
		"find out which control is the odd one before anything is released", why, strings.Join(parts, "; "))}
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
