package manager

import (
	"time"

	"github.com/farside-storage/farside/wire"
)

// Event is something that happened to a group; [Core.Step] takes it.
type Event interface{ event() }

type (
	// Tick says that time passed; due timers are looked at with every event, Tick is for when there is no other.
	Tick struct{}
	// Connected says that a connection to a peer is up and greeted. A reconnect is always preceded
	// by Disconnected.
	Connected struct {
		Peer     string
		Instance wire.UUID
	}
	// Disconnected says that the connection to a peer is gone, nothing of it arrives any more; or that an attempt to
	// connect failed.
	Disconnected struct{ Peer, Reason string }
	// Received is a message of a peer; the core does not keep it.
	Received struct {
		From    string
		Message wire.Message
	}
	// Durable answers a Persist: its record survives a crash.
	Durable struct{ ID uint64 }
	// NotDurable answers a Persist: it is not known whether its record survives a crash.
	NotDurable struct {
		ID  uint64
		Err error
	}
	// SetSettings changes the tunables, which the caller has validated.
	SetSettings struct{ Settings Settings }
	// Pause stops forming CGs once the one in progress is final.
	Pause struct{}
	// Resume ends Pause.
	Resume struct{}
	// ChangeMembers changes the controls of the group: Members.With or Members.Without of the present ones.
	ChangeMembers struct{ Members Members }
)

func (Tick) event()         {}
func (Connected) event()    {}
func (Disconnected) event() {}
func (Received) event()     {}
func (Durable) event()      {}
func (NotDurable) event()   {}
func (SetSettings) event()  {}
func (Pause) event()        {}
func (Resume) event()       {}

func (ChangeMembers) event() {}

// Action is something that [Core.Step] wants done, in the order given.
type Action interface{ action() }

type (
	// Send asks for a message to a connected peer, in order with others to the same peer.
	Send struct {
		To      string
		Message wire.Message
	}
	// Persist asks for a record to be made durable in the decision log, and for Durable or NotDurable with its ID then.
	// Records are made durable in the order asked for.
	Persist struct {
		ID     uint64
		Record Record
	}
	// Audit asks for an entry in the audit log.
	Audit struct{ Entry Entry }
	// SetTimer asks for a Tick at that time; it replaces the timer set before. The zero time means none.
	SetTimer struct{ At time.Time }
	// Reconnect asks for the connection to a peer to be closed (Disconnected follows) and made anew: the peer left
	// a command unanswered.
	Reconnect struct{ Peer, Reason string }
	// Join asks for a connection to a control that the group had no part of; Connected follows, at once if there is
	// one.
	Join struct {
		Peer string
		Role wire.Role
	}
	// Leave says that the group has no part of a control any more: nothing of it is given to the core.
	Leave struct{ Peer string }
)

func (Send) action()      {}
func (Persist) action()   {}
func (Audit) action()     {}
func (SetTimer) action()  {}
func (Reconnect) action() {}
func (Join) action()      {}
func (Leave) action()     {}

// Record is one durable change of the decision log; fields that are nil or zero do not change.
type Record struct {
	// Decided makes a CG committed.
	Decided *Decision
	// Reserve allows CG numbers up to and including this one to be used.
	Reserve uint64
	// Settings replaces the tunables.
	Settings *Settings
	// Paused replaces the paused flag.
	Paused *bool
	// Members replaces the controls of the group.
	Members *Members
}

// Decision is the record DECIDED(n).
type Decision struct {
	CG    uint64 `json:"cg"`
	Epoch uint64 `json:"epoch"`
	// Cut is the manager's clock at the cut; zero if not known (a decision reconstructed without the log).
	Cut time.Time `json:"cut"`
	// FirstCopy: the group never had a recovery point, and with this CG it still has none: it leaves a part of the first copy of a volume
	// out.
	FirstCopy bool `json:"first_copy,omitempty"`
	// Primaries and Secondaries took part in the CG.
	Primaries   []string `json:"primaries"`
	Secondaries []string `json:"secondaries"`
}

// Recovered is what the decision log holds of a group when a manager starts.
type Recovered struct {
	// Known is false if the log has never heard of the group: it is new, or the log was lost.
	Known bool
	// Epoch is the epoch of this start, durable and higher than any before.
	Epoch uint64
	// Reserved is the highest CG number that may have been used.
	Reserved uint64
	// Decided is the newest decision; CG 0 if there is none.
	Decided Decision
	// Settings are the tunables; nil if none were recorded.
	Settings *Settings
	Paused   bool
	// Members are the controls of the group; nil if they were never changed: those of the configuration.
	Members *Members
}

// Entry is one line of the audit log.
type Entry struct {
	Time  time.Time `json:"time"`
	Group string    `json:"group"`
	Epoch uint64    `json:"epoch"`
	CG    uint64    `json:"cg"`
	Kind  EntryKind `json:"kind"`
	// Control is the control this is about, "" if it is about the group.
	Control string `json:"control,omitempty"`
	// Said is what the control reported, in words.
	Said string `json:"said,omitempty"`
	// Did is what the manager did about it.
	Did string `json:"did"`
}

// EntryKind classifies an Entry.
type EntryKind string

const (
	EntryStart       EntryKind = "start"        // a manager took the group over
	EntryPlan        EntryKind = "plan"         // what the start will do, and why
	EntryHoldFailed  EntryKind = "hold-failed"  // an attempt to hold was given up
	EntryCut         EntryKind = "cut"          // all primaries were held
	EntryLink        EntryKind = "link"         // all secondaries complete, LINK sent
	EntryDecided     EntryKind = "decided"      // the decision is durable
	EntryFinal       EntryKind = "final"        // final everywhere
	EntryRevertBegin EntryKind = "revert-begin" // why a CG was given up
	// EntryDiscardBegin: a manager starts, or the members change, and nothing is linked that was not decided. The
	// secondaries are visited as in a revert, but only to forget what they received of later CGs.
	EntryDiscardBegin EntryKind = "discard-begin"
	EntryDiscardEnd   EntryKind = "discard-end" // every control answered
	EntryVisit        EntryKind = "visit"       // one control asked, and what was done
	EntryReverted     EntryKind = "reverted"    // one control answered
	EntryUnreachable  EntryKind = "unreachable" // one control cannot be visited now
	EntryRevertEnd    EntryKind = "revert-end"  // every control answered
	EntryStandby      EntryKind = "standby"     // a manager stopped leading, others may
	EntryHalt         EntryKind = "halt"        // the manager refuses to go on
	EntrySettings     EntryKind = "settings"    // tunables changed
	EntryPause        EntryKind = "pause"       // paused or resumed
	EntryMembers      EntryKind = "members"     // a control was added or removed, or that took effect
	EntryOverride     EntryKind = "override"    // an operator had one control left out of a recovery
	EntryAlert        EntryKind = "alert"       // an alert was raised or ended
)

// Routine says whether an entry belongs to a CG that is formed as it should be. Such entries are in the file only, or
// they would drive the others out of memory within seconds.
func (e Entry) Routine() bool {
	switch e.Kind {
	case EntryCut, EntryLink, EntryDecided, EntryFinal:
		return true
	}
	return false
}
