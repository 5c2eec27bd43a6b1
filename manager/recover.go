package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/farside-storage/farside/wire"
)

// ErrLogInUse is what errors wrap that find a decision log in the hands of a running manager.
var ErrLogInUse = errors.New("the decision log is in use by another process")

// ReadLog reads what the decision log in a file says of a group, and changes nothing. An error wraps fs.ErrNotExist if
// there is no such file, ErrLogInUse while a manager has it.
func ReadLog(path, group string) (rec Recovered, err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return rec, fmt.Errorf("manager: %s: %w", path, ErrLogInUse)
	case errors.Is(err, fs.ErrNotExist):
		return rec, err
	case err != nil:
		return rec, fmt.Errorf("manager: decision log %s cannot be read: %w", path, err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Bucket(metaBucket) == nil {
			return errors.New("is not the decision log of a manager: name the right file")
		}
		if err := checkFormat(tx); err != nil {
			return err
		}
		if b := tx.Bucket(groupsBucket).Bucket([]byte(group)); b != nil {
			rec, err = readGroup(b)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("manager: decision log %s, group %s: %w", path, group, err)
	}
	return rec, errors.Join(err, db.Close())
}

// Absence leaves a secondary control out of a recovery. Only an operator may decide that.
type Absence struct {
	Control string
	// Why is what made the operator say so: the error with which the control could not be reached.
	Why string
}

// Recover does what a manager does when it starts, and then stops: in a new epoch, that of every secondary control is
// raised, what was decided is released everywhere, and what was not is taken back everywhere. No CG is formed,
// primary controls are not spoken to, and tools are not answered. It returns when every group is done or halted, with
// what they came to; an error says that ctx ended before, or why it could not begin.
//
// Controls that are absent have no part in the decision. Each is recorded in the audit log. Should one show something
// else when it comes back, then a manager that starts with it refuses to go on.
func Recover(ctx context.Context, o Options, absent []Absence) ([]Status, error) {
	o.Listen, o.recovering, o.absent = "", true, absent
	o.Groups = slices.Clone(o.Groups)
	for i := range o.Groups {
		g := &o.Groups[i].Group
		g.Secondaries = slices.DeleteFunc(slices.Clone(g.Secondaries), func(name string) bool { return isAbsent(absent, name) })
	}
	n, err := NewNode(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, g := range n.groups {
		for _, a := range absent {
			err = errors.Join(err, n.audit(Entry{Time: time.Now(), Group: g.name, Epoch: g.core.epoch, CG: g.core.decided.CG, Kind: EntryOverride, Control: a.Control,
				Said: "not reached: " + a.Why, Did: "left out on the operator's word: what it shows has no part in the decision"}))
		}
	}
	if err != nil {
		return nil, err // what is not on record is not done
	}
	run, stop := context.WithCancelCause(ctx)
	n.recovered = func() { stop(nil) }
	err = n.Run(run)
	var out []Status
	var waits []error
	for _, g := range n.groups { // the loop has ended
		s := g.core.Status(time.Now())
		if out = append(out, s); !g.core.recovered() {
			waits = append(waits, fmt.Errorf("manager: recovery of group %s did not end: it is in %s: %s", g.name, s.State, s.Waiting))
		}
	}
	if len(waits) > 0 {
		err = errors.Join(append(waits, err, ctx.Err())...)
	}
	return out, err
}

func isAbsent(absent []Absence, control string) bool {
	return slices.ContainsFunc(absent, func(a Absence) bool { return a.Control == control })
}

// recovered says whether the start is over: everything decided is final, everything else was taken back, on every
// control.
func (c *Core) recovered() bool { return c.st == StateIdle || c.st == StateHalted }

// noteRecovered calls back once every group is recovered. Only the loop calls it.
func (n *Node) noteRecovered() {
	if n.recovered != nil && !slices.ContainsFunc(n.groups, func(g *groupRun) bool { return !g.core.recovered() }) {
		n.recovered()
	}
}

// speaksTo says whether a recovery needs the control.
func (n *Node) speaksTo(c Control) bool { return !n.opts.recovering || c.Role == wire.RoleSecondary }
