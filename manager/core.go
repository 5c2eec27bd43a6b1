package manager

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farside-storage/farside/wire"
)

// State is the state of a group (see the package comment).
type State uint8

const (
	StateStarting State = iota
	StateIdle
	StateHold
	StateThaw
	StateDrain
	StateLink
	StateDecided
	StateRelease
	StateReverting
	StateHalted
)

var stateNames = [...]string{"STARTING", "IDLE", "HOLD", "THAW", "DRAIN", "LINK", "DECIDED", "RELEASE", "REVERTING", "HALTED"}

func (s State) String() string { return stateNames[s] }

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("manager: no state is called %q; known are %q", text, stateNames)
}

// Group names a group and the controls that take part in it, by Control.Name.
type Group struct {
	Name        string
	Primaries   []string
	Secondaries []string
}

// Validate refuses a group that cannot form a CG.
func (g Group) Validate() error {
	if g.Name == "" {
		return fmt.Errorf("manager: a group without a name: give it one")
	}
	if len(g.Primaries) == 0 || len(g.Secondaries) == 0 {
		return fmt.Errorf("manager: group %s has %d primary and %d secondary controls: it needs at least one of each",
			g.Name, len(g.Primaries), len(g.Secondaries))
	}
	seen := map[string]bool{}
	for _, n := range slices.Concat(g.Primaries, g.Secondaries) {
		if n == "" || seen[n] {
			return fmt.Errorf("manager: group %s: control name %q is empty or used twice: every control needs its own name", g.Name, n)
		}
		seen[n] = true
	}
	return nil
}

const (
	maxCG          = 1 << 62     // numbers above are damage, not progress
	reserveStep    = 64          // CG numbers made usable by one durable record
	reserveLow     = 16          // reserve more when fewer than these are left
	lostLogGap     = 1 << 16     // numbers left out behind the newest one seen, when the log is lost
	drainFailLimit = 5           // CGs failed in a row until the drain timeout is no longer applied
	retryInterval  = time.Second // repetition of RELEASE and REVERT
	pollInterval   = time.Second // of QUERY, for status and for noticing reports of failure
	idleLeast      = time.Millisecond
	idleMost       = 200 * time.Millisecond
	backoffLeast   = 100 * time.Millisecond
	backoffMost    = 5 * time.Second
)

// visit is how far the visit of one secondary by a revert has come.
type visit uint8

const (
	visitPending visit = iota // not asked yet, or unreachable
	visitAsked                // QUERY sent
	visitRevert               // REVERT sent
	visitRefused              // it answered with an error; asked again later
	visitDone
)

// member is what the core knows of one control.
type member struct {
	name      string
	role      wire.Role
	connected bool
	everSeen  bool
	instance  wire.UUID
	lastError string    // of the connection
	since     time.Time // of the connection, or of its end; zero before the first
	refused   string    // the last error it sent, until it answers again

	// Of the connection: questions not answered yet, and when the oldest was asked.
	opens, queries        int
	openSince, askedSince time.Time

	// Of the round. Primaries: held, thawed, drained. Secondaries: complete, linked, final.
	held, thawed, drained   bool
	blocks                  uint64 // of payload that it sent for the CG, once drained
	complete, linked, final bool
	lacking                 uint64 // volumes that are not whole with the CG, once complete
	vacantAsked             bool   // it was asked to complete the CG without any volume

	// Primaries only: see ControlStatus.
	heldTimes, holdTimes holdTimes

	// Secondaries only.
	state      wire.State
	stateKnown bool // some report was seen, maybe on an older connection
	fresh      bool // reported on this connection
	stateAt    time.Time
	bad        string // why it cannot take part: its state contradicts the log
	visit      visit
	revertCG   uint64
	sentAt     time.Time // of the last RELEASE or REVERT
	unreached  bool      // EntryUnreachable was written for this visit
}

// Core is the state machine of one group. It is not safe for concurrent use.
type Core struct {
	group     Group
	epoch     uint64
	settings  Settings
	paused    bool
	logKnown  bool
	now       time.Time
	out       []Action
	timer     time.Time
	nextID    uint64
	prim, sec []*member
	// members are the controls as the operator left them, durable when membersID is 0; prim and sec are those that
	// take part, joining those that will.
	members    Members
	membersID  uint64 // Persist in flight, 0 none
	leaving    bool   // leavers has some
	joining    []*member
	configured Group
	byName     map[string]*member

	st       State
	round    uint64 // CG being formed, or given up
	open     uint64 // CG open at the primaries; 0 before the first OPEN
	final    uint64 // newest CG final on every secondary
	decided  Decision
	pending  Decision // being made durable
	decideID uint64   // its Persist

	high      uint64 // highest CG number that may be in use
	reserved  uint64 // durable limit of use
	reserveTo uint64 // the limit asked for by reserveID
	reserveID uint64 // Persist in flight, 0 none
	through   uint64 // REVERTING: numbers up to this are discarded

	deadline   time.Time // of the state, zero none
	nextRound  time.Time
	nextPoll   time.Time
	holdStart  time.Time
	cutTime    time.Time
	openLost   string // why the open CG must be abandoned once the round ended
	starting   bool   // the release or revert in progress belongs to the start
	linkSent   bool   // LINK of the round was sent to somebody
	linkedBack bool   // this revert took back a link somewhere
	discards   bool   // this revert is no error, and found nothing to take back

	failStreak  int
	drainStreak int
	idlePause   time.Duration // after the last CG, if the interval is 0: see "Times" in the package comment
	stats       stats
}

// NewCore returns the core of a group as the decision log has it, at time now. The settings of the log
// have priority over those given. The caller must have made rec.Epoch durable.
func NewCore(g Group, s Settings, rec Recovered, now time.Time) (*Core, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if rec.Settings != nil {
		s = *rec.Settings
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	configured, members := g, Members{Primaries: g.Primaries, Secondaries: g.Secondaries}
	if rec.Members != nil {
		if err := rec.Members.check(); err != nil {
			return nil, err
		}
		members = *rec.Members
		g.Primaries, g.Secondaries = members.Primaries, members.Secondaries
	}
	c := &Core{
		configured: configured, members: members,
		group: g, epoch: rec.Epoch, settings: s, paused: rec.Paused, logKnown: rec.Known, now: now,
		byName: map[string]*member{}, decided: rec.Decided, high: rec.Reserved, reserved: rec.Reserved,
		starting: true,
	}
	c.prim = c.membersOf(g.Primaries, wire.RolePrimary)
	c.sec = c.membersOf(g.Secondaries, wire.RoleSecondary)
	for _, j := range members.Joining {
		c.joining = append(c.joining, c.newJoining(j))
	}
	return c, nil
}

// membersOf are kept in order of name, so that every run sends in the same order.
func (c *Core) membersOf(names []string, role wire.Role) []*member {
	names = slices.Sorted(slices.Values(names))
	out := make([]*member, len(names))
	for i, n := range names {
		out[i] = &member{name: n, role: role}
		c.byName[n] = out[i]
	}
	return out
}

// State returns the group's state.
func (c *Core) State() State { return c.st }

// Settings returns the tunables in force.
func (c *Core) Settings() Settings { return c.settings }

// Step takes one event at time now and returns what is to be done, in order. The slice is valid until the next Step.
func (c *Core) Step(now time.Time, ev Event) []Action {
	c.out = c.out[:0]
	if now.After(c.now) {
		c.now = now
	}
	// Time first: an answer that arrives after its deadline was passed is late, even if nobody ticked.
	polls := !c.now.Before(c.nextPoll)
	c.timers()
	if polls {
		c.pollJoining(func(since time.Time) bool { return c.now.Sub(since) >= c.settings.CommandTimeout })
	}
	switch ev := ev.(type) {
	case Tick:
	case Connected:
		c.onConnected(ev)
	case Disconnected:
		c.onDisconnected(ev)
	case Received:
		c.onReceived(ev)
	case Durable:
		c.onDurable(ev.ID)
	case NotDurable:
		c.onNotDurable(ev)
	case SetSettings:
		c.onSettings(ev.Settings)
	case Pause:
		c.setPaused(true)
	case Resume:
		c.setPaused(false)
	case ChangeMembers:
		c.onMembers(ev.Members)
	}
	c.advance()
	c.rearm()
	return c.out
}

// advance takes the steps that depend on several events having come together.
func (c *Core) advance() {
	c.changeMembers()
	switch c.st {
	case StateIdle:
		c.tryHold()
	case StateDrain:
		c.tryLink()
	case StateReverting:
		c.tryEndRevert()
	}
}

func (c *Core) onConnected(ev Connected) {
	m := c.byName[ev.Peer]
	if m == nil {
		return
	}
	restarted := m.everSeen && m.instance != ev.Instance
	m.connected, m.everSeen, m.instance, m.lastError, m.since = true, true, ev.Instance, "", c.now
	if slices.Contains(c.joining, m) {
		m.refused = ""
	}
	m.opens, m.queries, m.fresh = 0, 0, false
	c.send(m, &wire.Fence{Command: c.command(0)})
	if m.role == wire.RolePrimary {
		if slices.Contains(c.joining, m) {
			return
		}
		if c.open != 0 && c.st != StateStarting && c.st != StateReverting && c.st != StateHalted {
			c.sendOpen(m)
		}
		return
	}
	c.asked(m) // a secondary answers a fence with its state
	if c.st != StateReverting || slices.Contains(c.joining, m) {
		return
	}
	// What a secondary forgot it must be told again; that is known of a restart only.
	if m.visit != visitDone || restarted {
		m.visit = visitAsked
	}
}

func (c *Core) onDisconnected(ev Disconnected) {
	m := c.byName[ev.Peer]
	if m == nil {
		return
	}
	if !m.connected { // an attempt to connect failed
		m.lastError = ev.Reason
		return
	}
	m.connected, m.opens, m.queries, m.fresh = false, 0, 0, false
	m.lastError, m.since = "disconnected: "+ev.Reason, c.now
	if slices.Contains(c.joining, m) {
		return
	}
	if m.role == wire.RoleSecondary && m.visit != visitDone {
		m.visit = visitPending
	}
	why := fmt.Sprintf("%s disconnected: %s", m.name, ev.Reason)
	switch c.st {
	case StateHold:
		c.failHold(why)
	case StateThaw, StateDrain:
		c.abandon(CauseDisconnect, why)
	case StateLink:
		// The primaries have done their part for this CG.
		if m.role == wire.RoleSecondary {
			c.abandon(CauseDisconnect, why)
		}
	case StateReverting:
		c.noteUnreachable(m)
	}
}

func (c *Core) onReceived(ev Received) {
	m := c.byName[ev.From]
	if m == nil || !m.connected || c.st == StateHalted {
		return
	}
	if slices.Contains(c.joining, m) {
		c.fromJoining(m, ev.Message)
		return
	}
	if e, ok := ev.Message.(*wire.Error); ok {
		c.onError(m, *e)
		return
	}
	msg, ok := ev.Message.(wire.Commanded)
	if !ok || !c.mine(m, msg) {
		return
	}
	if m.role == wire.RolePrimary {
		c.fromPrimary(m, msg)
	} else {
		c.fromSecondary(m, msg)
	}
}

// mine filters answers that are not for this group and epoch. An unsolicited Complete or Lost may carry the epoch the
// peer knew when it was sent, so a lower one is let through there: the CG number decides.
func (c *Core) mine(m *member, msg wire.Commanded) bool {
	h := msg.Head()
	if h.Group != c.group.Name {
		return false
	}
	if h.Epoch > c.epoch {
		c.fenced(m, fmt.Sprintf("it is at epoch %d", h.Epoch))
		return false
	}
	switch msg.(type) {
	case *wire.Complete, *wire.Lost:
		return true
	}
	return h.Epoch == c.epoch
}

func (c *Core) fromPrimary(m *member, msg wire.Commanded) {
	switch msg := msg.(type) {
	case *wire.Opened:
		m.opens = max(0, m.opens-1)
		m.openSince, m.refused = c.now, ""
	case *wire.Held:
		c.onHeld(m, msg.CG)
	case *wire.Thawed:
		c.onThawed(m, *msg)
	case *wire.Drained:
		c.onDrained(m, *msg)
	case *wire.Lost:
		c.onLost(m, *msg)
	}
}

func (c *Core) fromSecondary(m *member, msg wire.Commanded) {
	switch msg := msg.(type) {
	case *wire.State:
		c.onState(m, *msg)
	case *wire.Complete:
		c.onComplete(m, msg.CG, msg.Lacking)
	case *wire.Linked:
		c.onLinked(m, msg.CG)
	case *wire.Final:
		c.onFinal(m, msg.CG)
	case *wire.Reverted:
		c.onReverted(m, msg.CG)
	case *wire.Lost:
		c.onLost(m, *msg)
	}
}

// onError takes a refusal. One that names no CG of the round is kept for status only.
func (c *Core) onError(m *member, e wire.Error) {
	if e.Group != "" && e.Group != c.group.Name {
		return
	}
	m.refused = e.Text
	if e.Code == wire.CodeStaleEpoch {
		c.fenced(m, e.Text)
		return
	}
	if m.role == wire.RolePrimary && e.Code == wire.CodeState {
		m.opens = max(0, m.opens-1) // a refusal answers an OPEN, too
	}
	why := fmt.Sprintf("%s refused: %s", m.name, e.Text)
	cause := CauseRefusal
	if e.Code == wire.CodeIO {
		cause = CauseIO
	}
	if c.st == StateReverting && m.role == wire.RoleSecondary && (m.visit == visitAsked || m.visit == visitRevert) {
		m.visit, m.sentAt = visitRefused, c.now
		c.audit(EntryVisit, c.round, m.name, "error: "+e.Text, "asked again in "+retryInterval.String())
		return
	}
	// An error without a CG number belongs to whatever was asked last. A full pool pushes back and goes on by itself.
	if e.CG != 0 && e.CG != c.round && e.CG != c.open && e.Code != wire.CodeState || e.Code == wire.CodePoolFull {
		return
	}
	switch c.st {
	case StateHold, StateThaw, StateDrain, StateLink:
		if m.role == wire.RoleSecondary || c.st != StateLink {
			c.abandon(cause, why)
			return
		}
		c.openLost = why
	case StateIdle:
		if m.role == wire.RolePrimary && e.Code == wire.CodeState {
			// Most likely it knows a higher CG number than ours; start over behind that.
			c.high = max(c.high, min(e.CG, maxCG))
			c.abandon(cause, why)
		}
	case StateDecided, StateRelease:
		if m.role == wire.RolePrimary {
			c.openLost = why
		}
	}
}

func (c *Core) onLost(m *member, l wire.Lost) {
	why := fmt.Sprintf("%s lost CG %d: %s", m.name, l.CG, l.Reason)
	m.refused = why
	switch c.st {
	case StateHold, StateThaw, StateDrain, StateLink:
		if l.CG == c.round && (c.st != StateLink || m.role == wire.RoleSecondary) {
			c.abandon(CauseLost, why)
			return
		}
	case StateIdle:
		if l.CG == c.open {
			c.abandon(CauseLost, why)
			return
		}
	}
	if l.CG == c.open {
		c.openLost = why
	}
}

// fenced ends this manager's part: someone with a higher epoch leads.
func (c *Core) fenced(m *member, said string) {
	c.halt(fmt.Sprintf("%s refuses epoch %d: %s. Another manager leads this group; "+
		"if this one should, restart it: a start takes a higher epoch", m.name, c.epoch, said))
}

// halt stops the group for good; nothing more is sent to anybody.
func (c *Core) halt(why string) {
	if c.st == StateHalted {
		return
	}
	c.audit(EntryHalt, c.round, "", "", why)
	c.stats.fail(c.now, c.round, CauseHalt, why)
	c.st, c.deadline = StateHalted, time.Time{}
	c.stats.halted = why
}

func (c *Core) onSettings(s Settings) {
	if s.Validate() != nil {
		return // the caller has reported it
	}
	c.settings = s
	c.persist(Record{Settings: &s})
	c.audit(EntrySettings, c.round, "", "", fmt.Sprintf("interval %v, coordination timeout %v, drain timeout %v, "+
		"command timeout %v, RPO alert %v", s.Interval, s.CoordinationTimeout, s.DrainTimeout, s.CommandTimeout, s.RPOAlert))
	if c.st == StateIdle && !c.cutTime.IsZero() && c.failStreak == 0 {
		c.nextRound = c.cutTime.Add(s.Interval)
	}
	if c.st == StateDrain {
		c.deadline = c.drainDeadline()
	}
}

func (c *Core) setPaused(p bool) {
	if c.paused == p {
		return
	}
	c.paused = p
	c.persist(Record{Paused: &p})
	did := "resumed"
	if p {
		did = "paused: no CG is formed once the one in progress is final"
	}
	c.audit(EntryPause, c.round, "", "", did)
}

// Helpers that make actions.

func (c *Core) command(cg uint64) wire.Command {
	return wire.Command{Group: c.group.Name, Epoch: c.epoch, CG: cg}
}

func (c *Core) send(m *member, msg wire.Message) {
	if m.connected && c.st != StateHalted {
		c.out = append(c.out, Send{m.name, msg})
	}
}

func (c *Core) sendOpen(m *member) {
	if !m.connected {
		return
	}
	if m.opens == 0 {
		m.openSince = c.now
	}
	m.opens++
	c.send(m, &wire.Open{Command: c.command(c.open), Final: c.final})
}

func (c *Core) query(m *member) {
	if m.connected {
		c.send(m, &wire.Query{Command: c.command(c.round), Drained: c.drained()})
		c.asked(m)
	}
}

func (c *Core) asked(m *member) {
	if m.queries == 0 {
		m.askedSince = c.now
	}
	m.queries++
}

func (c *Core) persist(r Record) uint64 {
	c.nextID++
	c.out = append(c.out, Persist{c.nextID, r})
	return c.nextID
}

func (c *Core) audit(k EntryKind, cg uint64, control, said, did string) {
	c.out = append(c.out, Audit{Entry{c.now, c.group.Name, c.epoch, cg, k, control, said, did}})
}

func (c *Core) reconnect(m *member, why string) {
	m.lastError = why
	m.opens, m.queries = 0, 0 // once is enough; Disconnected follows
	c.out = append(c.out, Reconnect{m.name, why})
}

func all(ms []*member, f func(*member) bool) bool {
	return !slices.ContainsFunc(ms, func(m *member) bool { return !f(m) })
}

// missing lists the names of those for which f does not hold.
func missing(ms []*member, f func(*member) bool) string {
	var out []string
	for _, m := range ms {
		if !f(m) {
			out = append(out, m.name)
		}
	}
	return strings.Join(out, ", ")
}
