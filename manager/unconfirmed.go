package manager

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Where names the file of the log, for people.
func (l *boltLog) Where() string { return l.db.Path() }

// standingTimeout bounds the question why the log is silent.
const standingTimeout = 2 * time.Second

// unconfirmed is the error of a change that the decision log did not take before ctx ended: it says which log, and
// why if that is known.
func (n *Node) unconfirmed(ctx context.Context, group string) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	where := "the decision log"
	if l, ok := n.opts.Log.(interface{ Where() string }); ok {
		where += " " + l.Where()
	}
	why := "it does not answer"
	if n.opts.standing != nil {
		asked, cancel := context.WithTimeout(context.WithoutCancel(ctx), standingTimeout)
		defer cancel()
		if said := n.opts.standing(asked).Error; said != "" {
			why = said
		}
	}
	return fmt.Errorf("manager: %s has not taken the change of group %s in time (%s): it may still take effect; look at the group again when the log answers: %w",
		where, group, why, ctx.Err())
}
