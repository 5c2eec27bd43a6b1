package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
)

// fakePlan knows a group for each way in which a plan can end.
func fakePlan(_ context.Context, _ *config.File, o node.RecoveryOptions) ([]node.GroupRecovery, error) {
	if len(o.Absent) > 0 && o.Group == "shop" {
		return nil, fmt.Errorf("%s %w: it answers, and shows CG 41", o.Absent[0], node.ErrOverride)
	}
	n := func(n uint64) *uint64 { return &n }
	control := func(port int, linked, final uint64, step string) node.ControlRecovery {
		return node.ControlRecovery{Control: fmt.Sprintf("127.0.0.1:%d", port), Node: fmt.Sprintf("b%d", port), Reachable: true, Linked: n(linked), Final: n(final),
			Complete: n(linked), Epoch: n(7), Revertible: linked > final, Step: step}
	}
	gone := node.ControlRecovery{Control: "127.0.0.1:7410", Error: "connection refused", Absent: len(o.Absent) > 0, Step: "nothing is changed"}
	g := node.GroupRecovery{Group: o.Group, Log: "/var/lib/farside/decisions.db", LogState: node.LogLost}
	switch o.Group {
	case "odd":
		g.Controls = []node.ControlRecovery{control(7400, 43, 41, "nothing is changed"), control(7410, 42, 42, "nothing is changed")}
		g.Plan = manager.Plan{Row: manager.RowElse, Action: manager.PlanRefuse, Why: "reverting would not make the controls equal"}
	case "gone":
		g.Controls = []node.ControlRecovery{control(7400, 42, 41, "nothing is changed"), gone}
		g.Plan = manager.Plan{Row: manager.RowMissing, Action: manager.PlanRefuse, Why: "127.0.0.1:7410 could not be reached, and may hold the answer"}
	case "busy":
		g.LogState = node.LogInUse
		g.Controls = []node.ControlRecovery{control(7400, 42, 42, "nothing: a manager runs")}
		g.Plan = manager.Plan{Row: manager.RowCommitted, Action: manager.PlanNothing, CG: 42, Why: "every control shows CG 42 as final: committed"}
	default:
		g.LogState, g.Decided = node.LogPresent, n(42)
		g.Controls = []node.ControlRecovery{control(7400, 42, 41, "release CG 42"), control(7410, 42, 42, "stays")}
		g.Plan = manager.Plan{Row: manager.RowLog, Action: manager.PlanCommit, CG: 42, Controls: []string{"127.0.0.1:7400"}, Why: "the log has the decision for CG 42"}
	}
	return []node.GroupRecovery{g}, nil
}

func fakeRecover(_ context.Context, _ *config.File, planned []node.GroupRecovery, _ *slog.Logger) (out []manager.Status, err error) {
	if planned[0].LogState == node.LogInUse {
		return nil, fmt.Errorf("decisions.db: %w", manager.ErrLogInUse)
	}
	for _, g := range planned {
		out = append(out, manager.Status{Group: g.Group, State: manager.StateIdle, RecoveryPoint: &g.Plan.CG})
	}
	return out, nil
}

// recoverKeys are the JSON keys of a report, besides those that only some have.
func recoverKeys(more ...string) []string {
	keys := []string{"groups"}
	for _, k := range []string{"group", "log", "log_state", "decided_cg", "applied", "recovery_point", "controls", "plan", "plan.row", "plan.action", "plan.cg", "plan.why"} {
		keys = append(keys, "groups[]."+k)
	}
	for _, k := range []string{"control", "node", "reachable", "absent", "linked", "final", "complete", "epoch", "revertible", "step"} {
		keys = append(keys, "groups[].controls[]."+k)
	}
	for _, k := range more {
		keys = append(keys, "groups[]."+k)
	}
	return keys
}
