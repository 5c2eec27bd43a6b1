package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
)

// recoverReport is what a recovery would do, or did.
type recoverReport struct {
	Groups []groupRecovered `json:"groups"`
}

// groupRecovered is one group.
type groupRecovered struct {
	node.GroupRecovery
	// Applied: the plan was carried out. RecoveryPoint is the CG that every control shows then; null if there is none
	// yet, as during the first copy of a group, or it is not known.
	Applied       bool    `json:"applied"`
	RecoveryPoint *uint64 `json:"recovery_point"`
	// Refused says why a recovery that was begun changed nothing.
	Refused string `json:"refused,omitempty"`
}

func (r recoverReport) writeText(w io.Writer) error {
	for _, g := range r.Groups {
		if err := g.writeText(w); err != nil {
			return err
		}
	}
	return nil
}

func (g groupRecovered) writeText(w io.Writer) error {
	log := g.LogState
	if g.Decided != nil {
		log = fmt.Sprintf("newest decision is CG %d", *g.Decided)
	}
	if _, err := fmt.Fprintf(w, "group %s\n  decision log %s: %s\n", printable(g.Group), printable(g.Log), log); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  CONTROL\tLINKED\tFINAL\tCOMPLETE\tREVERTIBLE\tSTEP")
	for _, c := range g.Controls {
		if !c.Reachable {
			fmt.Fprintf(t, "  %s\tunknown\tunknown\tunknown\tunknown\t%s\n", c.Control, c.Step)
			continue
		}
		fmt.Fprintf(t, "  %s\t%d\t%d\t%d\t%t\t%s\n", c.Control, *c.Linked, *c.Final, *c.Complete, c.Revertible, c.Step)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range g.Controls {
		if c.Error != "" {
			fmt.Fprintf(w, "  %s: %s\n", c.Control, printable(c.Error))
		}
	}
	copying := ""
	if g.FirstCopy != "" {
		copying = "  " + printable(g.FirstCopy) + "\n"
	}
	_, err := fmt.Fprintf(w, "  row: %s\n  plan: %s: %s\n%s%s", g.Plan.Row, g.Plan.Action, printable(g.Plan.Why), copying, g.end())
	return err
}

// end tells what came of the plan.
func (g groupRecovered) end() string {
	switch {
	case g.Refused != "":
		return fmt.Sprintf("  refused: %s\n", printable(g.Refused))
	case g.Applied && g.RecoveryPoint != nil:
		return fmt.Sprintf("  done: every control shows CG %d\n", *g.RecoveryPoint)
	case g.Applied && g.Plan.CG > 0:
		return fmt.Sprintf("  done: every control shows CG %d, which is no recovery point\n", g.Plan.CG)
	case g.Applied:
		return "  done: no CG is final yet\n"
	case g.LogState == node.LogInUse:
		return "  a manager has the decision log, and decides by it; the row is what would apply without it\n"
	}
	return ""
}

// failed says why the plan cannot be carried out, or was not.
func (r recoverReport) failed() error {
	for _, g := range r.Groups {
		switch {
		case g.Refused != "":
			return refused("find out which control is the odd one: \"farside check\" and \"farside dump cgs\" read its pool", "group %s: %s", g.Group, g.Refused)
		case g.LogState == node.LogInUse || g.Plan.Action != manager.PlanRefuse:
		case g.Plan.Row == manager.RowMissing:
			return unreachable("make it reachable; if it is lost for good, leave it out with --override ADDRESS=absent", fmt.Errorf("group %s: %s", g.Group, g.Plan.Why))
		default:
			return refused("find out which control is the odd one: \"farside check\" and \"farside dump cgs\" read its pool", "group %s: %s", g.Group, g.Plan.Why)
		}
	}
	return nil
}

// recoverFlags say what to do.
type recoverFlags struct {
	plan, apply   bool
	group         string
	overrides     []string
	ask, deadline time.Duration
}

func (a *app) recoverCommand() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "recover (--plan | --apply)",
		Short: "Settle groups whose manager is gone, with its decision log or without",
		Long: `Settle groups whose manager is gone, with its decision log or without.

--plan asks every secondary control of the groups in a manager's file which CG its links show, reads the decision log,
and prints what the manager would do at its start, and why. It changes nothing and does not disturb a running manager.

--apply carries the plan out, in a new epoch, and stops: what was decided is released everywhere, what was not decided
is taken back everywhere. It needs exclusive access to the decision log: stop the manager first. (A manager that starts
does the same, and then goes on.)

If the log is lost, the controls alone decide:

  revertible controls  CG numbers shown                                     action
  none                 all equal                                            nothing: committed
  some                 those equal, the others equal, and the two differ    revert the revertible ones
  all                  all equal                                            revert all
  some                 all equal                                            release the revertible ones
  anything else                                                             refused, nothing is changed

While a control cannot be reached nothing is decided: it may hold the answer. --override ADDRESS=absent leaves it out, on
your word; that is recorded in the audit log. If it comes back and shows something else, the manager refuses to go on.

The exit status is 3 if the plan is to refuse, 4 if a control cannot be reached.`,
		Example: `  farside recover --plan --config /etc/farside/m1.toml
  farside recover --apply --config /etc/farside/m1.toml --group shop --override 127.0.0.1:7410=absent`,
		Args: args(cobra.NoArgs),
	}
	flags := c.Flags()
	flags.BoolVar(&f.plan, "plan", false, "print what would be done; change nothing")
	flags.BoolVar(&f.apply, "apply", false, "do it")
	flags.StringVar(&f.group, "group", "", "group to recover (default: all of the file)")
	flags.StringArrayVar(&f.overrides, "override", nil, "ADDRESS=absent: leave a secondary control out that cannot be reached")
	flags.DurationVar(&f.ask, "timeout", 3*time.Second, "how long to wait for each control's answer")
	flags.DurationVar(&f.deadline, "deadline", time.Minute, "how long --apply may take")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.recover(c.Context(), f) }
	return c
}

func (a *app) recover(ctx context.Context, f recoverFlags) error {
	if f.plan == f.apply {
		return usage("--plan shows what --apply would do", "give one of --plan and --apply")
	}
	if a.configPath == "" {
		return usage("name it with --config", "the manager's file is missing: it names the groups and their controls")
	}
	absent, err := parseOverrides(f.overrides)
	if err != nil {
		return err
	}
	file, err := config.Load(a.configPath, config.RoleManager, nil)
	if err != nil {
		return configError(err)
	}
	planned, err := a.planRecovery(ctx, file, node.RecoveryOptions{Group: f.group, Absent: absent, Timeout: f.ask, Ask: a.status})
	switch {
	case errors.Is(err, node.ErrOverride):
		return refused("leave out only controls that are lost; \"--plan\" shows them", "%w", err)
	case err != nil:
		return err
	}
	report := recoverReport{}
	for _, g := range planned {
		report.Groups = append(report.Groups, groupRecovered{GroupRecovery: g})
	}
	if f.apply && report.failed() == nil {
		log := a.logger(file.Node.LogLevel).With("node", file.Node.Name)
		if err := a.applyRecovery(ctx, file, &report, f.deadline, log); err != nil {
			return err
		}
	}
	if err := a.print(report); err != nil {
		return err
	}
	return report.failed()
}

// applyRecovery carries the plan out and notes in the report what came of it.
func (a *app) applyRecovery(ctx context.Context, file *config.File, report *recoverReport, limit time.Duration, log *slog.Logger) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var planned []node.GroupRecovery
	for _, g := range report.Groups {
		planned = append(planned, g.GroupRecovery)
	}
	statuses, err := a.recoverGroups(within, file, planned, log)
	switch {
	case errors.Is(err, manager.ErrLogInUse):
		return refused("stop the manager; or leave it to the manager: it recovers by itself", "%w", err)
	case err != nil && ctx.Err() == nil && within.Err() != nil:
		return unreachable("see what keeps it with --plan, and apply again: what was done stays right", err)
	case err != nil:
		return err
	}
	for i, s := range statuses {
		g := &report.Groups[i]
		g.Applied, g.Refused, g.RecoveryPoint = s.Halted == "", s.Halted, s.RecoveryPoint
	}
	return nil
}

// parseOverrides reads ADDRESS=absent.
func parseOverrides(given []string) (absent []string, err error) {
	for _, text := range given {
		address, what, ok := strings.Cut(text, "=")
		if !ok || what != "absent" {
			return nil, usage("write ADDRESS=absent, with the address as the file has it", "--override %q is not known", text)
		}
		at, err := config.ParseAddress(address)
		if err != nil {
			return nil, usage("", "--override: %w", err)
		}
		absent = append(absent, at.String())
	}
	return absent, nil
}
