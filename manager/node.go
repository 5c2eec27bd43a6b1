package manager

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

// Control is where a primary or secondary control is found.
type Control struct {
	Name string
	Role wire.Role
	Addr string // for wire.Dial: host:port on loopback, or unix:/path
	// Node is the name that the control must give for itself; "": any. Name is what this manager
	// calls it, in messages and in the audit log.
	Node string
}

// GroupOptions is a group and the settings it starts with if the decision log has none.
type GroupOptions struct {
	Group
	Settings Settings
}

// Options of a Node.
type Options struct {
	Name     string // of this node
	Listen   string // address at which tools may ask for status; "" none
	Controls []Control
	Groups   []GroupOptions
	Log      Log          // owned by the caller
	Audit    *AuditLog    // owned by the caller
	Logger   *slog.Logger // nil: slog.Default
	Wire     wire.Options
	// Watch, if not nil, is called with every audit entry, in order. It must return at once.
	Watch func(Entry)

	// recovering, and without whom: see Recover.
	recovering bool
	absent     []Absence

	// dial replaces the network in tests.
	dial func(context.Context, string) (*wire.Conn, error)
	// standing is what a Candidate has the status say; nil for a manager with a log of its own.
	standing func(context.Context) Leadership
}

// Validate says what is wrong with the options, and what to do about it.
func (o *Options) Validate() error {
	if o.Name == "" || o.Log == nil || o.Audit == nil || len(o.Groups) == 0 {
		return errors.New("manager: a node needs a name, a decision log, an audit log and at least one group")
	}
	controls := map[string]Control{}
	for _, c := range o.Controls {
		if _, twice := controls[c.Name]; twice || c.Name == "" || c.Addr == "" || c.Role != wire.RolePrimary && c.Role != wire.RoleSecondary {
			return fmt.Errorf("manager: control %q: give each one its own name, an address and the role primary or secondary", c.Name)
		}
		controls[c.Name] = c
	}
	seen := map[string]bool{}
	for _, g := range o.Groups {
		if err := cmp.Or(g.Validate(), g.Settings.Validate()); err != nil {
			return err
		}
		if seen[g.Name] {
			return fmt.Errorf("manager: group %s is given twice", g.Name)
		}
		seen[g.Name] = true
		for role, names := range map[wire.Role][]string{wire.RolePrimary: g.Primaries, wire.RoleSecondary: g.Secondaries} {
			for _, n := range names {
				if controls[n].Role != role {
					return fmt.Errorf("manager: group %s names %s control %q: there is none of that name and role among the controls", g.Name, role, n)
				}
			}
		}
	}
	return nil
}

// Node runs the cores of its groups: it keeps a connection to every control, writes the logs, and answers tools. One
// goroutine owns the cores; everything reaches it through one channel.
type Node struct {
	opts     Options
	log      *slog.Logger
	hello    wire.Hello
	started  time.Time
	listener net.Listener

	groups  []*groupRun // by name
	byGroup map[string]*groupRun
	peers   map[string]*peer
	runPeer func(*peer) // nil before Run

	inbox   chan func() // run by the loop's goroutine
	records chan record
	done    chan struct{} // closed when the loop ended
	wg      sync.WaitGroup

	auditError string
	recovered  func() // called when every group is recovered; may be nil
}

// groupRun is one core and what the node keeps beside it. The loop owns it.
type groupRun struct {
	name    string
	core    *Core
	timer   *time.Timer
	waiting map[uint64]chan error // Persist ID -> who asked for it
}

type record struct {
	group  *groupRun
	id     uint64
	record Record
}

// NewNode takes over the groups: it begins a new epoch of each in the decision log, and listens. Run does the work.
func NewNode(ctx context.Context, o Options) (*Node, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		opts: o, log: o.Logger, started: time.Now(),
		byGroup: map[string]*groupRun{}, peers: map[string]*peer{},
		inbox: make(chan func(), 256), records: make(chan record, 16*len(o.Groups)), done: make(chan struct{}),
	}
	if n.log == nil {
		n.log = slog.Default()
	}
	if n.opts.dial == nil {
		n.opts.dial = func(ctx context.Context, addr string) (*wire.Conn, error) { return wire.Dial(ctx, addr, o.Wire) }
	}
	n.hello = wire.Hello{Role: wire.RoleManager, Node: o.Name}
	if _, err := rand.Read(n.hello.Instance[:]); err != nil {
		return nil, fmt.Errorf("manager: instance number: %w", err)
	}
	for _, g := range o.Groups {
		if err := n.addGroup(g); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(n.groups, func(a, b *groupRun) int { return cmp.Compare(a.name, b.name) })
	for _, g := range n.groups {
		for _, m := range slices.Concat(g.core.prim, g.core.sec, g.core.joining) {
			p := n.peerOf(m.name, m.role)
			p.groups = append(p.groups, g)
		}
	}
	if o.Listen == "" {
		return n, nil
	}
	var err error
	n.listener, err = wire.Listen(ctx, o.Listen)
	return n, err
}

func (n *Node) addGroup(g GroupOptions) error {
	// Microseconds since 1970 as floor: a lost log cannot bring back an old epoch, and two managers that share no log
	// do not get the same one.
	rec, err := n.opts.Log.Begin(g.Name, uint64(max(0, time.Now().UnixMicro())))
	if err != nil {
		return err
	}
	rec.Paused = rec.Paused || n.opts.recovering // here only, not in the log
	if m := rec.Members; m != nil {
		m.Secondaries = slices.DeleteFunc(m.Secondaries, func(name string) bool { return isAbsent(n.opts.absent, name) })
	}
	core, err := NewCore(g.Group, g.Settings, rec, time.Now())
	if err != nil {
		return err
	}
	r := &groupRun{name: g.Name, core: core, waiting: map[uint64]chan error{}}
	n.groups = append(n.groups, r)
	n.byGroup[g.Name] = r
	return n.audit(Entry{Time: time.Now(), Group: g.Name, Epoch: rec.Epoch, CG: rec.Decided.CG, Kind: EntryStart, Did: "manager " + n.opts.Name + " took over"})
}

// peerOf finds or makes the peer of a control. One that the options do not name was added while the group ran; its
// name is its address.
func (n *Node) peerOf(name string, role wire.Role) *peer {
	if p := n.peers[name]; p != nil {
		return p
	}
	c := Control{Name: name, Role: role, Addr: name}
	if i := slices.IndexFunc(n.opts.Controls, func(x Control) bool { return x.Name == name }); i >= 0 {
		c = n.opts.Controls[i]
	}
	p := &peer{node: n, Control: c}
	n.peers[name] = p
	return p
}

// join gives a group a part of a control, and what must be told of it afterwards.
func (n *Node) join(g *groupRun, a Join) (then func()) {
	_, known := n.peers[a.Peer]
	p := n.peerOf(a.Peer, a.Role)
	p.groups = append(p.groups, g)
	if !known && n.runPeer != nil {
		n.runPeer(p)
	}
	if p.link == nil {
		return func() {}
	}
	return func() { n.step(g, Connected{p.Name, p.instance}) }
}

// leave takes a group's part of a control away; a control of no group is not spoken to any more.
func (n *Node) leave(g *groupRun, name string) {
	p := n.peers[name]
	p.groups = slices.DeleteFunc(p.groups, func(x *groupRun) bool { return x == g })
	if len(p.groups) > 0 {
		return
	}
	delete(n.peers, name)
	if p.cancel != nil {
		p.cancel()
	}
}

// Addr is where the node listens for tools; nil if it does not.
func (n *Node) Addr() net.Addr {
	if n.listener == nil {
		return nil
	}
	return n.listener.Addr()
}

// Run works until ctx ends, then closes every connection and returns nil. It may be called once. What is
// in progress is left to the next start: the decision log has all that is needed.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.wg.Go(n.keepRecords)
	n.runPeer = func(p *peer) {
		if !n.speaksTo(p.Control) {
			return
		}
		its, stop := context.WithCancel(ctx)
		p.cancel = stop
		n.wg.Go(func() {
			defer stop()
			p.run(its)
		})
	}
	for _, p := range n.peers {
		n.runPeer(p)
	}
	if n.listener != nil {
		d := desk{n.listener, n.opts.Wire, n.hello, n.log, n.answerTool}
		n.wg.Go(func() { d.serve(ctx) })
	}
	for _, g := range n.groups {
		n.step(g, Tick{})
	}
	n.loop(ctx)
	close(n.done)
	cancel()
	close(n.records) // the loop was the only sender
	n.wg.Wait()
	for _, g := range n.groups {
		if g.timer != nil {
			g.timer.Stop()
		}
	}
	return nil
}

func (n *Node) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-n.inbox:
			f()
		}
	}
}

// post hands f to the loop; false if the node ended.
func (n *Node) post(f func()) bool {
	select {
	case n.inbox <- f:
		return true
	case <-n.done:
		return false
	}
}

// step gives an event to a core and does what it wants. Only the loop calls it.
func (n *Node) step(g *groupRun, ev Event) {
	var then []func()
	for _, a := range slices.Clone(g.core.Step(time.Now(), ev)) {
		switch a := a.(type) {
		case Send:
			n.peers[a.To].send(a.Message)
		case Persist:
			n.persist(g, a)
		case Audit:
			// The entry is still in memory and in the status; replication does not stop for it.
			if err := n.audit(a.Entry); err != nil {
				n.log.Error("audit entry not written", "group", g.name, "error", err)
			}
		case SetTimer:
			n.setTimer(g, a.At)
		case Reconnect:
			n.peers[a.Peer].drop(errors.New(a.Reason))
		case Join:
			then = append(then, n.join(g, a))
		case Leave:
			n.leave(g, a.Peer)
		}
	}
	for _, f := range then {
		f()
	}
	n.noteRecovered()
}

func (n *Node) setTimer(g *groupRun, at time.Time) {
	if g.timer != nil {
		g.timer.Stop()
	}
	if at.IsZero() {
		return
	}
	g.timer = time.AfterFunc(time.Until(at), func() { n.post(func() { n.step(g, Tick{}) }) })
}

func (n *Node) audit(e Entry) error {
	err := n.opts.Audit.Write(e)
	if n.opts.Watch != nil {
		n.opts.Watch(e)
	}
	n.auditError = ""
	if err != nil {
		n.auditError = err.Error()
	}
	switch e.Kind {
	case EntryRevertBegin, EntryHalt, EntryStandby, EntryAlert, EntryUnreachable, EntryHoldFailed, EntryOverride:
		n.log.Warn(string(e.Kind), "group", e.Group, "cg", e.CG, "control", e.Control, "said", e.Said, "did", e.Did)
	case EntryStart, EntryPlan, EntryVisit, EntryReverted, EntryRevertEnd, EntryDiscardBegin, EntryDiscardEnd, EntrySettings, EntryPause, EntryMembers:
		n.log.Info(string(e.Kind), "group", e.Group, "cg", e.CG, "control", e.Control, "said", e.Said, "did", e.Did)
	}
	return err
}

// persist queues a record. The queue is longer than a core's records in flight; should it be full all the
// same, the log is stuck, and that is what the core is told.
func (n *Node) persist(g *groupRun, p Persist) {
	select {
	case n.records <- record{g, p.ID, p.Record}:
	default:
		n.recorded(record{g, p.ID, p.Record}, errors.New("too many records wait for the decision log"))
	}
}

// keepRecords makes records durable, in order, without holding up the loop.
func (n *Node) keepRecords() {
	for r := range n.records {
		err := n.opts.Log.Append(r.group.name, r.record)
		n.post(func() { n.recorded(r, err) })
	}
}

func (n *Node) recorded(r record, err error) {
	if w := r.group.waiting[r.id]; w != nil {
		delete(r.group.waiting, r.id)
		w <- err
	}
	if err != nil {
		n.step(r.group, NotDurable{r.id, err})
		return
	}
	n.step(r.group, Durable{r.id})
}

// ErrUnknownGroup is what the requests of a group that this node does not manage wrap.
var ErrUnknownGroup = fmt.Errorf("%w: not one of this manager's groups", wire.ErrUnknown)

// errEnded says that the node stopped before it could answer.
var errEnded = errors.New("manager: the node has stopped")

// Pause stops forming CGs of a group once the one in progress is final. It returns when that
// is durable, not when the CG is final: see Status.
func (n *Node) Pause(ctx context.Context, group string) error { return n.change(ctx, group, Pause{}) }

// Resume ends Pause; durable when it returns.
func (n *Node) Resume(ctx context.Context, group string) error { return n.change(ctx, group, Resume{}) }

// Tune changes the tunables that a JSON object names (see Settings.With) and no others; durable when it returns.
func (n *Node) Tune(ctx context.Context, group string, object []byte) error {
	return n.changeBy(ctx, group, func(c *Core) (Event, error) {
		s, err := c.Settings().With(object)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, wire.ErrState)
		}
		return SetSettings{s}, nil
	})
}

// AddControl adds a control to a running group; durable when it returns. It takes part once it is connected and a CG
// has ended: see "Members" in the package comment.
func (n *Node) AddControl(ctx context.Context, group, name, role string) error {
	if p, elsewhere := n.controlRole(name); elsewhere && p != role {
		return fmt.Errorf("manager: control %s is a %s: %w: %w", name, p, ErrMembers, wire.ErrState)
	}
	return n.changeMembers(ctx, group, func(m Members) (Members, error) { return m.With(name, role) })
}

// controlRole is the role of a control that the options name.
func (n *Node) controlRole(name string) (string, bool) {
	i := slices.IndexFunc(n.opts.Controls, func(x Control) bool { return x.Name == name })
	if i < 0 {
		return "", false
	}
	return n.opts.Controls[i].Role.String(), true
}

// RemoveControl removes a control from a running group; durable when it returns. It takes part until the next boundary.
func (n *Node) RemoveControl(ctx context.Context, group, name string) error {
	return n.changeMembers(ctx, group, func(m Members) (Members, error) { return m.Without(name) })
}

func (n *Node) changeMembers(ctx context.Context, group string, change func(Members) (Members, error)) error {
	return n.changeBy(ctx, group, func(c *Core) (Event, error) {
		m, err := change(c.Members())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, wire.ErrState)
		}
		return ChangeMembers{m}, nil
	})
}

func (n *Node) change(ctx context.Context, group string, ev Event) error {
	return n.changeBy(ctx, group, func(*Core) (Event, error) { return ev, nil })
}

// changeBy gives a core the event that event makes for it; the loop calls it, so that nothing changes in between.
func (n *Node) changeBy(ctx context.Context, group string, event func(*Core) (Event, error)) error {
	g := n.byGroup[group]
	if g == nil {
		return fmt.Errorf("manager: %w %q", ErrUnknownGroup, group)
	}
	answer := make(chan error, 1)
	if !n.post(func() {
		ev, err := event(g.core)
		if err == nil && g.core.State() == StateHalted {
			err = fmt.Errorf("manager: group %s is halted, nothing of it can be changed (%s): %w", group, g.core.stats.halted, wire.ErrState)
		}
		if err != nil {
			answer <- err
			return
		}
		n.changeNow(g, ev, answer)
	}) {
		return errEnded
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return n.unconfirmed(ctx, group)
	case <-n.done:
		return errEnded
	}
}

// changeNow has the answer given once the record that the change makes is durable; at once if nothing changed.
func (n *Node) changeNow(g *groupRun, ev Event, answer chan error) {
	id := g.core.nextID + 1 // of the next record, which is the change's own if there is one
	g.waiting[id] = answer
	n.step(g, ev)
	if g.core.nextID < id {
		delete(g.waiting, id)
		answer <- nil
	}
}

// NodeStatus is the JSON document that answers wire.Status.
type NodeStatus struct {
	Node     string    `json:"node"`
	Role     string    `json:"role"`
	Instance string    `json:"instance"`
	Started  time.Time `json:"started"`
	// Leadership tells how this manager stands among several with one log; nil: it has a log of its own.
	Leadership *Leadership `json:"leadership,omitempty"`
	Groups     []Status    `json:"groups"`                // empty while another manager leads
	AuditError string      `json:"audit_error,omitempty"` // why the last audit entry is not in the file
	Audit      []Entry     `json:"audit"`                 // the newest ones that are not routine, oldest first
}

// statusAudit is how many audit entries a status carries.
const statusAudit = 100

// Status returns the status of every group.
func (n *Node) Status(ctx context.Context) (NodeStatus, error) {
	answer := make(chan NodeStatus, 1)
	if !n.post(func() { answer <- n.statusNow() }) {
		return NodeStatus{}, errEnded
	}
	select {
	case s := <-answer:
		return s, nil
	case <-ctx.Done():
		return NodeStatus{}, ctx.Err()
	case <-n.done:
		return NodeStatus{}, errEnded
	}
}

func (n *Node) statusNow() NodeStatus {
	s := NodeStatus{
		Node: n.opts.Name, Role: wire.RoleManager.String(), Instance: fmt.Sprintf("%x", n.hello.Instance), Started: n.started,
		AuditError: n.auditError, Audit: n.opts.Audit.Tail(statusAudit),
	}
	for _, g := range n.groups {
		s.Groups = append(s.Groups, g.core.Status(time.Now()))
	}
	return s
}

func (n *Node) statusJSON(ctx context.Context) ([]byte, error) {
	s, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	if n.opts.standing != nil { // here, not in the loop: the log may be slow to answer
		l := n.opts.standing(ctx)
		s.Leadership = &l
	}
	return s.encode()
}

// encode leaves out the audit entries of a status that would be too long to send.
func (s NodeStatus) encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err == nil && len(b) > wire.MaxStatus {
		s.Audit = nil
		b, err = json.Marshal(s)
	}
	return b, err
}
