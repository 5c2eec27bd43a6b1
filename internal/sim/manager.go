package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// epoch0 is the manager's clock when virtual time begins.
var epoch0 = time.Unix(1_700_000_000, 0)

// decisionLog is the durable log that the managers share. As in etcd, whoever began the newest epoch may
// write to it.
type decisionLog struct {
	rec     manager.Recovered
	decided map[uint64]bool
	order   []uint64 // decided CGs, ascending
	members members
	file    manager.Group // as the operator has it in the configuration
	// doubtful is the CG whose decision was lost with the log, 0 none. It is decided as long as nobody takes it back.
	doubtful uint64
}

// lose forgets everything but the epoch.
func (l *decisionLog) lose() {
	l.rec, l.file = manager.Recovered{Epoch: l.rec.Epoch}, l.members.now
	l.doubtful = l.newest()
}

// begin starts an epoch.
func (l *decisionLog) begin() manager.Recovered {
	l.rec.Epoch++
	rec := l.rec
	rec.Known = rec.Reserved > 0 || rec.Decided.CG > 0
	return rec
}

// newest is the CG decided last, 0 for none; it is known even when the log was lost.
func (l *decisionLog) newest() uint64 {
	if len(l.order) == 0 {
		return 0
	}
	return l.order[len(l.order)-1]
}

var errFenced = errors.New("another manager leads")

func (l *decisionLog) append(epoch uint64, r manager.Record) error {
	if epoch != l.rec.Epoch {
		return errFenced
	}
	if r.Decided != nil {
		if r.Decided.CG >= l.doubtful { // one below it says only what the links prove, while the doubtful one is taken back
			l.doubtful = 0
		}
		l.rec.Decided = *r.Decided
		if n := r.Decided.CG; !l.decided[n] {
			l.decided[n] = true
			l.order = append(l.order, n)
			l.members.part[n] = r.Decided
		}
	}
	if r.Reserve > 0 {
		l.rec.Reserved = r.Reserve
	}
	if r.Settings != nil {
		l.rec.Settings = r.Settings
	}
	if r.Paused != nil {
		l.rec.Paused = *r.Paused
	}
	if r.Members != nil {
		l.rec.Members = r.Members
		l.members.set(manager.Group{Name: groupName, Primaries: r.Members.Primaries, Secondaries: r.Members.Secondaries})
	}
	return nil
}

// managerNode drives a manager's core.
type managerNode struct {
	*node
	core     *manager.Core
	epoch    uint64
	peers    map[string]*end
	alarm    time.Time
	queue    []manager.Persist // being made durable, in order
	point    uint64
	revertAt time.Duration // when the newest revert began
	acting   bool
	wanted   map[string]int  // with whom it is to be connected; the number of the attempt
	known    map[string]bool // who takes part, as it said itself
	dials    int
	incoming []manager.Event
}

func (w *world) wall() time.Time { return epoch0.Add(w.now) }

// start takes the group over.
func (m *managerNode) start() {
	w := m.w
	m.begin()
	rec := w.log.begin()
	core, err := manager.NewCore(w.log.file, w.cfg.settings, rec, w.wall())
	if err != nil {
		w.fail("start", "manager %s: %v", m.name, err)
	}
	m.core, m.epoch, m.peers, m.alarm, m.queue, m.point = core, rec.Epoch, map[string]*end{}, time.Time{}, nil, 0
	w.trace("%s takes over with epoch %d", m.name, m.epoch)
	m.wanted, m.known = map[string]int{}, map[string]bool{}
	for _, name := range slices.Concat(w.log.members.now.Primaries, w.log.members.now.Secondaries) {
		m.known[name] = true
	}
	m.step(manager.Tick{})
	for _, n := range w.controls() {
		if core.Members().Has(n.name) {
			m.join(n.name)
		}
	}
}

// stop ends the process; of what was being made durable a part may be durable.
func (m *managerNode) stop(silent bool) {
	if !m.up {
		return
	}
	for _, p := range m.queue[:m.rng.IntN(len(m.queue)+1)] {
		_ = m.persist(p.Record) // another manager leads: it has no effect
	}
	m.queue = nil
	m.end(silent)
}

func (m *managerNode) connect(peer *node, met func(*end), pause time.Duration) {
	attempt := m.wanted[peer.name]
	given := func() bool { return m.wanted[peer.name] != attempt } // up, by leave
	m.after(pause, func() {
		if given() {
			return
		}
		m.w.dial(m.node, peer, met, func(e *end) {
			if given() {
				if e != nil {
					e.close()
				}
				return
			}
			again := m.between(5*time.Millisecond, m.w.cfg.backoff)
			if e == nil {
				m.step(manager.Disconnected{Peer: peer.name, Reason: "cannot be reached"})
				m.connect(peer, met, again)
				return
			}
			m.peers[peer.name] = e
			e.onItem = func(v any) { m.step(manager.Received{From: peer.name, Message: v.(wire.Message)}) }
			e.onEnd = func(err error) {
				delete(m.peers, peer.name)
				m.step(manager.Disconnected{Peer: peer.name, Reason: err.Error()})
				m.connect(peer, met, again)
			}
			m.step(manager.Connected{Peer: peer.name, Instance: peer.instance})
		})
	})
}

// step gives an event to the core and does what it wants. Events that this leads to come after.
func (m *managerNode) step(ev manager.Event) {
	m.incoming = append(m.incoming, ev)
	if m.acting {
		return
	}
	m.acting = true
	for len(m.incoming) > 0 {
		ev := m.incoming[0]
		m.incoming = m.incoming[1:]
		for _, a := range m.core.Step(m.w.wall(), ev) {
			m.act(a)
		}
		m.w.checkManager(m, ev)
	}
	m.acting = false
}

func (m *managerNode) act(a manager.Action) {
	switch a := a.(type) {
	case manager.Send:
		m.w.checkSend(m, a)
		if e := m.peers[a.To]; e != nil {
			e.send(a.Message)
		}
	case manager.Persist:
		m.queue = append(m.queue, a)
		m.after(m.between(20*time.Microsecond, 2*time.Millisecond), m.recorded)
	case manager.SetTimer:
		m.alarm = a.At
		if !a.At.IsZero() {
			m.after(a.At.Sub(m.w.wall()), func() {
				if m.alarm.Equal(a.At) {
					m.step(manager.Tick{})
				}
			})
		}
	case manager.Reconnect:
		if e := m.peers[a.Peer]; e != nil {
			e.close()
			end := e.onEnd
			m.after(0, func() { end(errors.New(a.Reason)) })
		}
	case manager.Audit:
		m.w.audit(m, a.Entry)
	case manager.Join:
		m.join(a.Peer)
	case manager.Leave:
		m.w.report.Members++
		delete(m.known, a.Peer)
		m.leave(a.Peer)
	}
}

// recorded makes the oldest record durable.
func (m *managerNode) recorded() {
	p := m.queue[0]
	m.queue = m.queue[1:]
	if err := m.persist(p.Record); err != nil {
		m.step(manager.NotDurable{ID: p.ID, Err: err})
		return
	}
	m.step(manager.Durable{ID: p.ID})
}

// persist makes a record durable, if this manager may.
func (m *managerNode) persist(r manager.Record) error {
	l := m.w.log
	fresh := r.Decided != nil && !l.decided[r.Decided.CG]
	if err := l.append(m.epoch, r); err != nil {
		return err
	}
	if fresh {
		m.w.checkDecision(m, r.Decided)
	}
	return nil
}

// leads says whether this is the manager with the newest epoch.
func (m *managerNode) leads() bool { return m.up && m.epoch == m.w.log.rec.Epoch }
