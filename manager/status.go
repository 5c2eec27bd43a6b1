package manager

import (
	"fmt"
	"slices"
	"time"

	"github.com/farside-storage/farside/wire"
)

// sampleKeep is how many recent samples percentiles are computed from.
const sampleKeep = 1024

// samples keeps the most recent durations.
type samples struct {
	v    []time.Duration
	next int
}

func (s *samples) add(d time.Duration) {
	if len(s.v) < sampleKeep {
		s.v = append(s.v, d)
		return
	}
	s.v[s.next] = d
	s.next = (s.next + 1) % sampleKeep
}

// holdWindow is after how many holds the older ones are forgotten: a summary is of the newest 1 to 2 times as many.
const holdWindow = 1024

// holdTimes counts the newest hold times of one primary. A manager of hundreds of primaries sums them all up in one
// status, while all its groups wait: so there is nothing to sort, and its size does not depend on how many there
// were.
type holdTimes struct {
	newest, before heldWindow // before is full, unless it is empty
}

type heldWindow struct {
	histogram wire.HoldHistogram
	holds     int
	longest   time.Duration
}

func (h *holdTimes) add(d time.Duration) {
	if h.newest.holds == holdWindow {
		h.before, h.newest = h.newest, heldWindow{}
	}
	h.newest.histogram.Add(d)
	h.newest.longest = max(h.newest.longest, d)
	h.newest.holds++
}

// percentiles are upper limits as [wire.HoldHistogram.Quantile] gives them; the longest is exact.
func (h *holdTimes) percentiles() Percentiles {
	if h.newest.holds == 0 {
		return Percentiles{}
	}
	sum, longest := h.newest.histogram, max(h.newest.longest, h.before.longest)
	sum.Merge(&h.before.histogram)
	at := func(p float64) *float64 { return millis(min(sum.Quantile(p), longest)) }
	return Percentiles{h.newest.holds + h.before.holds, at(0.5), at(0.99), millis(longest)}
}

// Percentiles sums up recent samples, in milliseconds. They are nil if there is no sample yet.
type Percentiles struct {
	Samples int      `json:"samples"`
	P50     *float64 `json:"p50_ms"`
	P99     *float64 `json:"p99_ms"`
	Max     *float64 `json:"max_ms"`
}

func (s *samples) percentiles() Percentiles {
	if len(s.v) == 0 {
		return Percentiles{}
	}
	v := slices.Sorted(slices.Values(s.v))
	at := func(pct int) *float64 { return millis(v[min(len(v)-1, (len(v)*pct+99)/100-1)]) }
	return Percentiles{len(v), at(50), at(99), millis(v[len(v)-1])}
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// Failure is why a CG was given up.
type Failure struct {
	Time   time.Time `json:"time"`
	CG     uint64    `json:"cg"`
	Cause  Cause     `json:"cause"`
	Reason string    `json:"reason"`
}

// stats is what status tells beyond the state machine's own fields.
type stats struct {
	formed, failed, reverts, holdsFailed uint64
	last                                 *Failure
	point                                uint64 // recovery point
	cut                                  time.Time
	cutKnown                             bool
	rpo, hold                            samples
	halted                               string
	rpoAlert                             bool
}

func (s *stats) fail(now time.Time, cg uint64, cause Cause, why string) {
	s.last = &Failure{now, cg, cause, why}
}

func (s *stats) holdFailed(now time.Time, cg uint64, why string) {
	s.holdsFailed++
	s.fail(now, cg, CauseTimeout, why)
}

// Status is the state of a group for people and scripts. A value that is not known is null, never a guess.
// Counters and samples begin with the start of this manager.
type Status struct {
	Group    string   `json:"group"`
	State    State    `json:"state"`
	Paused   bool     `json:"paused"`
	Waiting  string   `json:"waiting,omitempty"` // what the group waits for, if not for its interval
	Halted   string   `json:"halted,omitempty"`  // why the manager refuses to go on, if it does
	Epoch    uint64   `json:"epoch"`
	Settings Settings `json:"settings"`

	OpenCG uint64 `json:"open_cg"` // 0: none opened yet
	// RecoveryPoint is the newest CG that a secondary reported final (R5); nil until that is known, and during
	// FirstCopy.
	RecoveryPoint *uint64 `json:"recovery_point"`
	// FirstCopy is nil if the group has had a recovery point, or that is not known.
	FirstCopy *FirstCopy `json:"first_copy,omitempty"`
	// RecoveryCut is the time of its cut, by the manager's clock.
	RecoveryCut *time.Time `json:"recovery_cut"`
	// RPOMillis is the age of the recovery point now.
	RPOMillis *float64 `json:"rpo_ms"`

	CGsFormed   uint64 `json:"cgs_formed"`
	CGsFailed   uint64 `json:"cgs_failed"`   // given up after an error
	HoldsFailed uint64 `json:"holds_failed"` // attempts to hold given up, the CG stayed open
	Reverts     uint64 `json:"reverts"`      // failed CGs of which a link had been asked for or found
	// LastFailure is nil if no CG failed since the manager leads.
	LastFailure *Failure `json:"last_failure,omitempty"`

	// RPO has the RPO just before each new recovery point: the worst age each one reached.
	RPO Percentiles `json:"rpo"`
	// Hold has the time from sending HOLD to the last answer to THAW: no host write waited longer.
	Hold Percentiles `json:"hold"`

	Controls []ControlStatus `json:"controls"`
	Members  MembersStatus   `json:"members"`
	Alerts   []string        `json:"alerts"`
}

// ControlStatus is one control as the manager sees it.
type ControlStatus struct {
	Name      string `json:"name"`
	Role      string `json:"role"` // "primary", "secondary"
	Connected bool   `json:"connected"`
	// Since is when the connection was made, or when it ended; nil if there was none yet.
	Since   *time.Time `json:"since"`
	Joining bool       `json:"joining,omitempty"` // it was added and does not take part yet
	Error   string     `json:"error,omitempty"`   // the last one, if nothing succeeded since

	// Of a primary. Held is the time from sending HOLD to its answer, which is how long its writes in progress took
	// to end. Hold is the time from sending HOLD to its answer to THAW: no host write on it waited longer. Both are
	// of the newest 1024 to 2048 holds. Their 50th and 99th percentiles are upper limits, from 4 us on at most a
	// quarter above the truth.
	Held *Percentiles `json:"held,omitempty"`
	Hold *Percentiles `json:"hold,omitempty"`

	// Of a secondary, from its last report; nil if there was none.
	Linked     *uint64    `json:"linked,omitempty"`
	Final      *uint64    `json:"final,omitempty"`
	Complete   *uint64    `json:"complete,omitempty"`
	Receiving  *uint64    `json:"receiving,omitempty"`
	FreeBlocks *uint64    `json:"free_blocks,omitempty"`
	PoolFull   bool       `json:"pool_full,omitempty"`
	Failed     string     `json:"failed,omitempty"`
	ReportedAt *time.Time `json:"reported_at,omitempty"`
	// Vacant: it waits for no volume of the group, so that the recovery point says nothing of it.
	Vacant bool `json:"vacant,omitempty"`
	// LagCGs is how many CG numbers its final CG is behind the open one.
	LagCGs *uint64 `json:"lag_cgs,omitempty"`
	// LagMillis is the age of its final CG's cut.
	LagMillis *float64 `json:"lag_ms,omitempty"`
}

// Status returns the group's status at time now.
func (c *Core) Status(now time.Time) Status {
	s := Status{
		Group: c.group.Name, State: c.st, Paused: c.paused, Epoch: c.epoch, Settings: c.settings, OpenCG: c.open,
		CGsFormed: c.stats.formed, CGsFailed: c.stats.failed, HoldsFailed: c.stats.holdsFailed, Reverts: c.stats.reverts,
		Halted: c.stats.halted, RPO: c.stats.rpo.percentiles(), Hold: c.stats.hold.percentiles(), Alerts: c.alerts(now),
	}
	if c.stats.last != nil {
		last := *c.stats.last
		s.LastFailure = &last
	}
	if p := c.stats.point; p > 0 {
		s.RecoveryPoint = &p
	}
	if c.stats.cutKnown {
		cut := c.stats.cut
		s.RecoveryCut, s.RPOMillis = &cut, millis(now.Sub(cut))
	}
	s.FirstCopy = c.firstCopyStatus()
	s.Waiting, s.Members = c.awaited(), c.membersStatus()
	for _, m := range slices.Concat(c.prim, c.sec) {
		s.Controls = append(s.Controls, c.controlStatus(m, now))
	}
	for _, m := range c.joining {
		j := c.controlStatus(m, now)
		j.Joining = true
		s.Controls = append(s.Controls, j)
	}
	return s
}

func (c *Core) controlStatus(m *member, now time.Time) ControlStatus {
	s := ControlStatus{Name: m.name, Role: "primary", Connected: m.connected, Error: m.problem()}
	if !m.since.IsZero() {
		since := m.since
		s.Since = &since
	}
	if m.role == wire.RolePrimary {
		held, hold := m.heldTimes.percentiles(), m.holdTimes.percentiles()
		s.Held, s.Hold = &held, &hold
		return s
	}
	s.Role = "secondary"
	if !m.stateKnown {
		return s
	}
	st, at := m.state, m.stateAt
	s.Linked, s.Final, s.Complete, s.Receiving = &st.Linked, &st.Final, &st.Complete, &st.Receiving
	s.FreeBlocks, s.PoolFull, s.Failed, s.ReportedAt = &st.FreeBlocks, st.PoolFull, st.Failed, &at
	s.Vacant = st.Vacant()
	if c.open > st.Final {
		lag := c.open - st.Final
		s.LagCGs = &lag
	}
	if st.Final == c.decided.CG && !c.decided.Cut.IsZero() {
		s.LagMillis = millis(now.Sub(c.decided.Cut))
	}
	return s
}

// problem is what keeps a control from taking part, or did last.
func (m *member) problem() string {
	switch {
	case m.bad != "":
		return m.bad
	case m.refused != "":
		return m.refused
	}
	return m.lastError
}

func (c *Core) alerts(now time.Time) []string {
	out := []string{}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if c.stats.halted != "" {
		add("halted: %s", c.stats.halted)
	}
	if f := c.firstCopyStatus(); f != nil {
		add("%v: the group has no recovery point before all of them are", f)
	}
	if c.rpoOver(now) {
		add("RPO %v is above the threshold of %v", now.Sub(c.stats.cut).Round(time.Millisecond), c.settings.RPOAlert)
	}
	if c.drainStreak >= drainFailLimit {
		add("%d CGs in a row did not become complete: the drain timeout is not applied until one succeeds", c.drainStreak)
	}
	if drift := c.members.drift(c.configured); drift != "" {
		add("the members in the decision log (version %d) count, and differ from the configuration file: %s", c.members.Version, drift)
	}
	for _, m := range slices.Concat(c.prim, c.sec) {
		if !m.connected {
			add("%s is not connected", m.name)
		}
		if m.bad != "" {
			add("%s", m.bad)
		}
		if m.state.PoolFull {
			add("%s: the pool is full", m.name)
		}
		if m.role == wire.RoleSecondary && m.stateKnown && m.state.Vacant() {
			add("%s waits for no volume of the group: the recovery point is not there. Add a volume (farside group add-volume), or remove the control (farside group remove-control)", m.name)
		}
		if m.state.Failed != "" {
			add("%s failed: %s", m.name, m.state.Failed)
		}
	}
	return out
}
