package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
)

// RecoveryOptions say what to recover.
type RecoveryOptions struct {
	// Group is the group; "" all groups of the manager's file.
	Group string
	// Absent are secondary controls, by their addresses in the file, that an operator wants left out.
	Absent []string
	// Timeout is how long each control may take to answer.
	Timeout time.Duration
	// Ask gets the status document of a node.
	Ask func(ctx context.Context, at config.Address) ([]byte, error)
}

// What a decision log was found to be.
const (
	LogPresent = "present" // it knows the group
	LogLost    = "lost"    // no such file, or it has never heard of the group
	LogInUse   = "in use"  // a manager has it
)

// GroupRecovery is what is known of a group, and what a recovery would do.
type GroupRecovery struct {
	Group string `json:"group"`
	// Log is where the decision log is, LogState what it was found to be.
	Log      string `json:"log"`
	LogState string `json:"log_state"`
	// Decided is the newest decision; nil if the log does not know one.
	Decided  *uint64           `json:"decided_cg"`
	Controls []ControlRecovery `json:"controls"`
	Plan     manager.Plan      `json:"plan"`
	// FirstCopy says that the group has no recovery point, or that it is not known whether it had one, while volumes are
	// not whole; else it is "".
	FirstCopy string `json:"first_copy,omitempty"`

	absent []manager.Absence
}

// ControlRecovery is what one secondary control shows. Numbers that are not known are nil.
type ControlRecovery struct {
	Control    string  `json:"control"`
	Node       string  `json:"node"` // "" if not known
	Reachable  bool    `json:"reachable"`
	Error      string  `json:"error,omitempty"` // why it is not reachable
	Absent     bool    `json:"absent"`          // left out on the operator's word
	Linked     *uint64 `json:"linked"`
	Final      *uint64 `json:"final"`
	Complete   *uint64 `json:"complete"`
	Epoch      *uint64 `json:"epoch"`
	Revertible bool    `json:"revertible"`
	Step       string  `json:"step"` // what would be done

	copies manager.FirstCopy
}

// ErrOverride says that a control cannot be left out.
var ErrOverride = errors.New("cannot be left out")

// PlanRecovery says what each secondary control of a manager's groups shows, and what a start of the manager would
// do. It only asks for status and reads the decision log: nothing is changed, and a running manager is not disturbed.
func PlanRecovery(ctx context.Context, f *config.File, o RecoveryOptions) ([]GroupRecovery, error) {
	var out []GroupRecovery
	for _, g := range f.Manager.Groups {
		if o.Group == "" || o.Group == g.Name {
			r, err := planGroup(ctx, f, g, o)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the file has no group %q", o.Group)
	}
	for _, a := range o.Absent {
		if !slices.ContainsFunc(out, func(r GroupRecovery) bool {
			return slices.ContainsFunc(r.Controls, func(c ControlRecovery) bool { return c.Control == a })
		}) {
			return nil, fmt.Errorf("%s %w: no group has a secondary control at this address", a, ErrOverride)
		}
	}
	return out, nil
}

func planGroup(ctx context.Context, f *config.File, g config.Group, o RecoveryOptions) (GroupRecovery, error) {
	r := GroupRecovery{Group: g.Name, Log: decisionLog(f)}
	rec, err := readLog(ctx, f, g.Name)
	switch {
	case errors.Is(err, manager.ErrLogInUse):
		r.LogState = LogInUse
	case errors.Is(err, fs.ErrNotExist) || err == nil && !rec.Known:
		r.LogState = LogLost
	case err != nil:
		return r, err
	default:
		r.LogState, r.Decided = LogPresent, &rec.Decided.CG
	}
	secondaries, err := secondariesOf(g, rec)
	if err != nil {
		return r, err
	}
	r.Controls = make([]ControlRecovery, len(secondaries))
	var asking sync.WaitGroup
	for i, at := range secondaries {
		asking.Go(func() { r.Controls[i] = askControl(ctx, at, g.Name, o) })
	}
	asking.Wait()
	if err := r.leaveOut(o.Absent); err != nil {
		return r, err
	}
	var states []manager.ControlState
	var copies manager.FirstCopy
	for _, c := range r.Controls {
		if !c.Absent {
			states = append(states, c.state())
			copies.Volumes += c.copies.Volumes
			copies.Whole += c.copies.Whole
		}
	}
	r.Plan = manager.Assess(rec, states)
	switch {
	case r.LogState != LogInUse:
		r.FirstCopy = manager.ExplainFirstCopy(rec, copies)
	case copies.Whole < copies.Volumes:
		r.FirstCopy = copies.String() + ": the manager that runs knows whether there was a recovery point before"
	}
	for i := range r.Controls {
		r.Controls[i].Step = r.step(r.Controls[i])
	}
	return r, ctx.Err()
}

// secondariesOf are the members of the decision log, where an operator changed them, else those of the file.
func secondariesOf(g config.Group, rec manager.Recovered) (out []config.Address, err error) {
	if rec.Members == nil {
		return g.Secondaries, nil
	}
	for _, name := range rec.Members.Secondaries {
		at, err := config.ParseAddress(name)
		if err != nil {
			return nil, fmt.Errorf("the decision log names the secondary %q of group %s: %w", name, g.Name, err)
		}
		out = append(out, at)
	}
	return out, nil
}

// leaveOut takes an operator's word for controls that are not reachable, and for no others.
func (r *GroupRecovery) leaveOut(absent []string) error {
	for i := range r.Controls {
		c := &r.Controls[i]
		if !slices.Contains(absent, c.Control) {
			continue
		}
		if c.Reachable {
			return fmt.Errorf("%s %w: it answers, and shows CG %d: what it shows counts", c.Control, ErrOverride, *c.Linked)
		}
		c.Absent = true
		r.absent = append(r.absent, manager.Absence{Control: c.Control, Why: c.Error})
	}
	return nil
}

func (r *GroupRecovery) step(c ControlRecovery) string {
	switch {
	case c.Absent:
		return "left out"
	case r.LogState == LogInUse:
		return "nothing: a manager runs"
	}
	return r.Plan.Step(c.state())
}

func (c ControlRecovery) state() manager.ControlState {
	s := manager.ControlState{Name: c.Control, Reachable: c.Reachable}
	if c.Reachable {
		s.Linked, s.Final = *c.Linked, *c.Final
	}
	return s
}

// askControl asks one secondary control what its links show. A status is answered from what is durable, like a
// manager's query, but carries no epoch and so refuses nobody.
func askControl(ctx context.Context, at config.Address, group string, o RecoveryOptions) ControlRecovery {
	c := ControlRecovery{Control: at.String()}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	document, err := o.Ask(ctx, at)
	var s target.Status
	if err == nil {
		err = json.Unmarshal(document, &s)
	}
	if err == nil && s.Role != string(config.RoleSecondary) {
		err = fmt.Errorf("at this address is a %s, not a secondary control", s.Role)
	}
	c.Node = s.Node
	if err == nil {
		err = c.found(s, group)
	}
	if err != nil {
		c.Error = err.Error()
	}
	return c
}

func (c *ControlRecovery) found(s target.Status, group string) error {
	i := slices.IndexFunc(s.Groups, func(g target.GroupStatus) bool { return g.Name == group })
	if i < 0 {
		return fmt.Errorf("%s has no group %s: is this its pool?", s.Node, group)
	}
	g := s.Groups[i]
	if g.Error != "" {
		return fmt.Errorf("%s does not know its state: %s", s.Node, g.Error)
	}
	c.Reachable, c.Revertible = true, g.Linked > g.Final
	c.Linked, c.Final, c.Complete, c.Epoch = &g.Linked, &g.Final, &g.Complete, &g.Epoch
	for _, v := range g.Volumes {
		if v.Standing != engine.Awaited.String() {
			continue
		}
		c.copies.Volumes++
		if v.WholeSince > 0 {
			c.copies.Whole++
		}
	}
	return nil
}

// Recover carries out what PlanRecovery said of the groups planned: the recovery of a manager's start, and nothing
// more. It takes the decision log, so it is refused (manager.ErrLogInUse) while a manager runs. What the controls
// show is looked at again: where that has changed, what is right now is done. A group that ends halted was refused,
// with the reason in its status.
func Recover(ctx context.Context, f *config.File, planned []GroupRecovery, log *slog.Logger) (out []manager.Status, err error) {
	decisions, release, err := takeLog(ctx, f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	audit, err := manager.OpenAuditLog(filepath.Join(f.Node.StateDir, AuditLogFile))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	all := managerOptions(f)
	for _, r := range planned { // one after the other: a control may be absent from one group only
		o := all
		o.Log, o.Audit, o.Logger = decisions, audit, log
		o.Groups = slices.DeleteFunc(slices.Clone(all.Groups), func(g manager.GroupOptions) bool { return g.Name != r.Group })
		statuses, err := manager.Recover(ctx, o, r.absent)
		out = append(out, statuses...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}
