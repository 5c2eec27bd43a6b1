package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/wire"
)

// drawMembers lets the controls of some seeds change. It draws from a source of its own, so that it does not shift
// what else is drawn.
func (c *config) drawMembers(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0x3e3b))
	if rng.IntN(5) > 0 {
		return
	}
	c.changes = true
	shape := rng.IntN(8)
	if shape < 4 { // a pair that has nothing to do with the others
		c.addSecondary()
		c.addPrimary(rng, c.secondaries-1)
	} else if shape < 7 { // another place for copies of a volume that is there
		c.addSecondary()
		v := &c.volumes[rng.IntN(len(c.volumes))]
		v.to = append(slices.Clone(v.to), c.secondaries-1)
	} // else the controls that are there leave, and come back
}

func (c *config) addSecondary() {
	c.absent = append(c.absent, fmt.Sprintf("s%d", c.secondaries))
	c.secondaries++
}

func (c *config) addPrimary(rng *rand.Rand, to int) {
	c.absent = append(c.absent, fmt.Sprintf("p%d", c.primaries))
	for range 1 + rng.IntN(2) {
		c.volumes = append(c.volumes, volumeConfig{primary: c.primaries, blocks: uint64(24 + rng.IntN(73)), to: []int{to}})
	}
	c.primaries++
}

// members draws changes: mostly of the controls that do not take part at first.
func (d *drawing) members(seed uint64) {
	if !d.c.changes {
		return
	}
	d.rng = rand.New(rand.NewPCG(seed, 0x3e3c))
	at := func(most time.Duration) time.Duration { return 1 + time.Duration(d.rng.Int64N(int64(most))) }
	for _, name := range d.c.absent {
		d.add(Op{At: at(d.c.length / 2), Kind: "member", Node: name, How: "add"})
		if d.rng.IntN(2) == 0 {
			d.add(Op{At: d.c.length/2 + at(d.c.length/2), Kind: "member", Node: name, How: "remove"})
		}
	}
	for range d.rng.IntN(3) {
		name, off := d.secondary(), at(d.c.length)
		if d.rng.IntN(3) == 0 {
			name = d.primary()
		}
		d.add(Op{At: off, Kind: "member", Node: name, How: "remove"})
		d.add(Op{At: off + d.dur(60*time.Millisecond), Kind: "member", Node: name, How: "add"})
	}
}

// group is the group as it is configured when everything begins.
func (c *config) group() manager.Group {
	g := manager.Group{Name: groupName}
	add := func(list *[]string, name string) {
		if !slices.Contains(c.absent, name) {
			*list = append(*list, name)
		}
	}
	for i := range c.primaries {
		add(&g.Primaries, fmt.Sprintf("p%d", i))
	}
	for i := range c.secondaries {
		add(&g.Secondaries, fmt.Sprintf("s%d", i))
	}
	return g
}

// members is what the simulation knows of who takes part: what is durable, whatever a manager makes of it.
type members struct {
	now  manager.Group   // durable: who takes part, or will at the next boundary
	ever map[string]bool // who did, at some time
	// part has, of each decided CG, who took part.
	part map[uint64]*manager.Decision
}

func newMembers(g manager.Group) members {
	m := members{part: map[uint64]*manager.Decision{}}
	m.set(g)
	return m
}

func (m *members) set(g manager.Group) {
	m.now = g
	if m.ever == nil {
		m.ever = map[string]bool{}
	}
	for _, name := range slices.Concat(g.Primaries, g.Secondaries) {
		m.ever[name] = true
	}
}

func (m *members) has(name string) bool {
	return slices.Contains(m.now.Primaries, name) || slices.Contains(m.now.Secondaries, name)
}

// judged says whether what a secondary shows is that of the group: one that left shows what it had.
func (w *world) judged(s *secondaryNode) bool { return !w.cfg.changes || w.log.members.has(s.name) }

// shows is the CG that a secondary shows once everything decided before CG limit is final: the newest that it took
// part in since its pool was made, 0 if there is none.
func (w *world) shows(s *secondaryNode, limit uint64) uint64 {
	for _, n := range slices.Backward(w.log.order) {
		if n <= s.born {
			return 0
		}
		if n < limit && w.took(s, n) {
			return n
		}
	}
	return 0
}

// took says whether a secondary took part in a CG that was decided, with the pool that it has.
func (w *world) took(s *secondaryNode, n uint64) bool {
	d := w.log.members.part[n]
	return n > s.born && (d == nil || slices.Contains(d.Secondaries, s.name))
}

const noLimit = 1 << 63

// required says whether a manager must wait for a control: it knows it as one that takes part, and nobody has removed
// it durably.
func (m *managerNode) required(name string) bool { return m.known[name] && m.w.log.members.has(name) }

// requires is required of a secondary whose pool the manager can know.
func (m *managerNode) requires(s *secondaryNode) bool {
	return m.required(s.name) && m.epoch >= s.bornEpoch
}

// change is an operator's command to the manager that leads. A control that comes back has a new pool, unless it
// shows what the group does.
func (w *world) change(name, how string) {
	m := w.leader()
	if !m.up || m.hung > w.now || m.core.State() == manager.StateHalted {
		return
	}
	role, s := wire.RolePrimary, w.secondary(name)
	if s != nil {
		role = wire.RoleSecondary
	} else if w.primary(name) == nil {
		return
	}
	next, err := m.core.Members().Without(name)
	if how == "add" {
		if s != nil && !m.core.Members().Has(name) {
			if s.pool == nil || w.log.members.has(name) || m.wanted[name] != 0 {
				return // it has not let go yet
			}
			if st := s.pool.Inspect().State(s.group); st.Final > 0 || st.Linked > 0 {
				s.replace()
			}
		}
		next, err = m.core.Members().With(name, role.String())
	}
	if err != nil || next.Version == m.core.Members().Version {
		return // the last one of its role stays, and what is so already
	}
	w.trace("an operator has %s: %s", m.name, how)
	m.step(manager.ChangeMembers{Members: next})
}

// replace gives a secondary new devices with a new pool.
func (s *secondaryNode) replace() {
	w := s.w
	s.heal()
	s.stop(true, ringtest.None)
	s.rotten, s.broken, s.damaged, s.acks = nil, 0, 0, acks{}
	s.pools++
	s.born, s.bornEpoch = w.log.newest(), w.log.rec.Epoch
	if err := s.makePool(); err != nil {
		w.fail("format", "%s: %v", s.name, err)
	}
	w.trace("%s has a new pool", s.name)
	w.report.Pools++
	s.later()
}

// closed says whether everybody who takes part has his peers there: then CGs can be formed.
func (w *world) closed(g manager.Members) bool {
	for _, v := range w.volumes {
		for _, s := range v.to {
			if g.Has(v.owner.name) != g.Has(s.name) {
				return false
			}
		}
	}
	return true
}

// complete has an operator add the controls without which the members cannot form CGs.
func (w *world) complete() {
	m := w.leader()
	if !w.cfg.changes || !m.up || w.closed(m.core.Members()) {
		return
	}
	for _, p := range w.prim {
		w.change(p.name, "add")
	}
	for _, s := range w.sec {
		w.change(s.name, "add")
	}
}

// joined does what package target does when it is told that more is final than it knows: the streams end, for their
// primaries may believe that what they sent counts.
func (s *secondaryNode) joined(r *wire.Revert) {
	if s.pool.Inspect().State(s.group).Final >= r.Final {
		return
	}
	for _, t := range slices.Clone(s.sessions) {
		t.close(wire.Refusal(fmt.Errorf("CG %d is final, and not here: attach again: %w", r.Final, wire.ErrState), 0, groupName, 0))
	}
}

// Managers.

// join connects a manager with a control, until leave.
func (m *managerNode) join(name string) {
	m.dials++
	m.wanted[name] = m.dials
	if p := m.w.primary(name); p != nil {
		m.connect(p.node, p.serveManager, 0)
		return
	}
	s := m.w.secondary(name)
	m.connect(s.node, s.serveManager, 0)
}

func (m *managerNode) leave(name string) {
	delete(m.wanted, name)
	if e := m.peers[name]; e != nil {
		delete(m.peers, name)
		e.close()
	}
}

// checkMembers looks at a command, before it leaves, for whom it leaves out.
func (w *world) checkMembers(m *managerNode, to string, c wire.Commanded) {
	if !w.cfg.changes {
		return
	}
	switch c.(type) {
	case *wire.Link:
		if !w.log.members.ever[to] {
			w.fail("members", "%s sends LINK(%d) to %s, which is no member durably", m.name, c.Head().CG, to)
		}
	case *wire.Hold:
		if !m.leads() {
			return
		}
		for _, name := range slices.Concat(w.log.members.now.Primaries, w.log.members.now.Secondaries) {
			if !m.known[name] && m.core.Members().Has(name) {
				w.fail("members", "%s holds CG %d without %s, which is a member", m.name, c.Head().CG, name)
			}
		}
	}
}

// checkDecision looks at a decision that became durable, for whom it leaves out, and who has not linked the CG.
func (w *world) checkDecision(m *managerNode, d *manager.Decision) {
	for _, name := range slices.Concat(w.log.members.now.Primaries, w.log.members.now.Secondaries) {
		if m.required(name) && !slices.Contains(d.Primaries, name) && !slices.Contains(d.Secondaries, name) {
			w.fail("members", "%s decides CG %d without %s, which is a member", m.name, d.CG, name)
		}
	}
	for _, s := range w.sec {
		if m.requires(s) && slices.Contains(d.Secondaries, s.name) && max(s.acks.linked, s.acks.final) < d.CG && s.seen.Linked < d.CG {
			w.fail("one CG", "%s decides CG %d, which %s has not linked", m.name, d.CG, s.name)
		}
	}
}

// losable says whether the decision log may be lost without an operator having to choose: everybody shows what was
// decided last, and nobody is about to join.
func (w *world) losable() bool {
	m := w.leader()
	if m.up && len(m.core.Members().Joining) > 0 {
		return false
	}
	if w.log.rec.Members == nil {
		return true
	}
	if len(w.log.rec.Members.Joining) > 0 {
		return false
	}
	n := w.log.newest()
	for _, name := range w.log.members.now.Secondaries {
		s := w.secondary(name)
		if s.pool == nil || s.pool.Inspect().State(s.group).Final != n || w.shows(s, noLimit) != n {
			return false
		}
	}
	return true
}
