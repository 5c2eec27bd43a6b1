package manager

import (
	"context"
	"errors"
	"time"
)

// ErrNotLeader is what the errors of a shared decision log wrap once this manager does not lead any more, or can no
// longer know that it does. What was being written then may or may not be durable: the next leader reads the truth.
var ErrNotLeader = errors.New("this manager does not lead")

// Election chooses one among several managers that share a decision log.
type Election interface {
	// Campaign waits until this manager leads, however long the log cannot be reached. An error says that ctx ended,
	// or that trying again is of no use.
	Campaign(ctx context.Context) (Term, error)
	// Standing says who leads, as the log has it now. It returns within two seconds.
	Standing(ctx context.Context) Leadership
}

// Term is the time during which this manager leads: the decision log, as long as it may be written. Close gives
// the leadership up at once, so that another manager need not wait.
type Term interface {
	Log
	// Context ends with the term; its cause says why it ended.
	Context() context.Context
}

// Leadership is how a manager stands among several that share a decision log.
type Leadership struct {
	// Leads says whether this manager forms CGs now. One that does not stands by.
	Leads bool `json:"leads"`
	// Since is when the term of this manager began; nil while it stands by.
	Since *time.Time `json:"since,omitempty"`
	// TakeoverMillis is how long it then took until every group was taken over: its controls were fenced and asked,
	// and what was left unfinished was released or reverted. Nil until then.
	TakeoverMillis *float64 `json:"takeover_ms,omitempty"`
	// Leader is the name of the manager that leads; nil if none does or it is not known.
	Leader *string `json:"leader"`
	// LeaderListen is the address of that manager.
	LeaderListen string `json:"leader_listen,omitempty"`
	// Log is where the decision log is.
	Log string `json:"log"`
	// Error says why the log cannot be reached. Nothing new is decided then; hosts go on writing.
	Error string `json:"error,omitempty"`
	// Problem says why this manager can never take over from the one that leads.
	Problem string `json:"problem,omitempty"`
	// Ended says why the last term of this manager ended, and when.
	Ended   string     `json:"ended,omitempty"`
	EndedAt *time.Time `json:"ended_at,omitempty"`
}
