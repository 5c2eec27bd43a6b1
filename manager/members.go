package manager

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

// Members are the controls of a group once an operator changed them while it ran. They are kept in the decision log,
// and have priority over the configuration from then on: see "Members" in the package comment.
type Members struct {
	// Version counts the changes, from 1.
	Version     uint64   `json:"version"`
	Primaries   []string `json:"primaries"`
	Secondaries []string `json:"secondaries"`
	// Joining are to take part, and do not yet.
	Joining []Joining `json:"joining,omitempty"`
}

// Joining is a control that was added and does not take part yet.
type Joining struct {
	Name string `json:"name"`
	Role string `json:"role"` // "primary", "secondary"
}

// ErrMembers says that the members of a group cannot be changed so.
var ErrMembers = errors.New("the members of the group cannot be changed so")

// Has says whether a control is a member, or joining.
func (m Members) Has(name string) bool { return m.role(name) != "" }

func (m Members) role(name string) string {
	switch {
	case slices.Contains(m.Primaries, name):
		return wire.RolePrimary.String()
	case slices.Contains(m.Secondaries, name):
		return wire.RoleSecondary.String()
	}
	for _, j := range m.Joining {
		if j.Name == name {
			return j.Role
		}
	}
	return ""
}

// next is a copy that may be changed, with the next version.
func (m Members) next() Members {
	return Members{m.Version + 1, slices.Clone(m.Primaries), slices.Clone(m.Secondaries), slices.Clone(m.Joining)}
}

// With adds a control. To add one that is there changes nothing, unless it has another role.
func (m Members) With(name, role string) (Members, error) {
	switch have := m.role(name); {
	case name == "" || role != wire.RolePrimary.String() && role != wire.RoleSecondary.String():
		return m, fmt.Errorf("manager: control %q as %q: give an address, and the role primary or secondary: %w", name, role, ErrMembers)
	case have == role:
		return m, nil
	case have != "":
		return m, fmt.Errorf("manager: control %s is a %s of the group already: %w", name, have, ErrMembers)
	}
	n := m.next()
	n.Joining = append(n.Joining, Joining{name, role})
	return n, nil
}

// Without removes a control. To remove one that is not there changes nothing; the last one of its role stays.
func (m Members) Without(name string) (Members, error) {
	if !m.Has(name) {
		return m, nil
	}
	n := m.next()
	is := func(x string) bool { return x == name }
	n.Primaries, n.Secondaries = slices.DeleteFunc(n.Primaries, is), slices.DeleteFunc(n.Secondaries, is)
	n.Joining = slices.DeleteFunc(n.Joining, func(j Joining) bool { return j.Name == name })
	if len(n.Primaries) == 0 || len(n.Secondaries) == 0 {
		return m, fmt.Errorf("manager: control %s is the only %s of the group: add another one first, or stop managing the group: %w", name, m.role(name), ErrMembers)
	}
	return n, nil
}

// joined makes a joining control a member.
func (m Members) joined(name string) Members {
	n := m.next()
	if m.role(name) == wire.RolePrimary.String() {
		n.Primaries = append(n.Primaries, name)
	} else {
		n.Secondaries = append(n.Secondaries, name)
	}
	n.Joining = slices.DeleteFunc(n.Joining, func(j Joining) bool { return j.Name == name })
	return n
}

// check refuses members of the decision log that no group can have.
func (m *Members) check() error {
	g := Group{Name: "of the decision log", Primaries: m.Primaries, Secondaries: m.Secondaries}
	for _, j := range m.Joining {
		if j.Role != wire.RolePrimary.String() && j.Role != wire.RoleSecondary.String() || slices.Contains(m.Primaries, j.Name) || slices.Contains(m.Secondaries, j.Name) {
			return fmt.Errorf("manager: members: %s cannot join as %q", j.Name, j.Role)
		}
	}
	return g.Validate()
}

// drift says how the members differ from the configuration, "" if they do not.
func (m Members) drift(configured Group) string {
	if m.Version == 0 {
		return "" // they are those of the configuration
	}
	var out []string
	tell := func(is, file []string, role string) {
		for _, n := range without(is, file) {
			out = append(out, fmt.Sprintf("%s %s is not in the configuration", role, n))
		}
		for _, n := range without(file, is) {
			out = append(out, fmt.Sprintf("%s %s of the configuration is no member", role, n))
		}
	}
	prim, sec := m.Primaries, m.Secondaries
	for _, j := range m.Joining {
		if j.Role == wire.RolePrimary.String() {
			prim = append(slices.Clone(prim), j.Name)
		} else {
			sec = append(slices.Clone(sec), j.Name)
		}
	}
	tell(prim, configured.Primaries, "primary")
	tell(sec, configured.Secondaries, "secondary")
	return strings.Join(out, "; ")
}

// without lists what is in all and not in those.
func without(all, those []string) []string {
	known := make(map[string]bool, len(those))
	for _, x := range those {
		known[x] = true
	}
	var out []string
	for _, x := range all {
		if !known[x] {
			out = append(out, x)
		}
	}
	return out
}

// Members returns the members as the operator left them, of which those that are joining do not take part yet.
func (c *Core) Members() Members { return c.members }

// onMembers takes an operator's change, which the caller has validated by With or Without.
func (c *Core) onMembers(m Members) {
	if m.Version == c.members.Version {
		return // nothing changes
	}
	m = c.putBack(m)
	for _, j := range m.Joining {
		if c.byName[j.Name] == nil {
			c.joining = append(c.joining, c.newJoining(j))
			c.audit(EntryMembers, c.round, j.Name, "", "added as "+j.Role+"; takes part once it is connected")
			c.out = append(c.out, Join{j.Name, roleOf(j.Role)})
		}
	}
	c.setMembers(m)
	for _, name := range c.leavers() {
		c.audit(EntryMembers, c.round, name, "", "removed; takes part until the next boundary")
	}
}

// putBack finds controls that were removed and added again before they let go: they never left.
func (c *Core) putBack(m Members) Members {
	for _, list := range []struct {
		now  []*member
		next *[]string
	}{{c.prim, &m.Primaries}, {c.sec, &m.Secondaries}} {
		for _, x := range list.now {
			at := slices.IndexFunc(m.Joining, func(j Joining) bool { return j.Name == x.name })
			if at >= 0 {
				m.Joining = slices.Delete(slices.Clone(m.Joining), at, at+1)
				*list.next = append(*list.next, x.name)
			}
		}
	}
	return m
}

// setMembers makes a list durable. It takes effect when that is done, at a boundary.
func (c *Core) setMembers(m Members) {
	c.members = m
	c.membersID = c.persist(Record{Members: &m})
	c.leaving = len(c.leavers()) > 0
}

func roleOf(name string) wire.Role {
	if name == wire.RolePrimary.String() {
		return wire.RolePrimary
	}
	return wire.RoleSecondary
}

func (c *Core) newJoining(j Joining) *member {
	m := &member{name: j.Name, role: roleOf(j.Role)}
	c.byName[j.Name] = m
	return m
}

// leavers are the members that were removed and still take part.
func (c *Core) leavers() []string {
	stay := slices.Concat(c.members.Primaries, c.members.Secondaries)
	for _, j := range c.members.Joining {
		stay = append(stay, j.Name)
	}
	return without(memberNames(slices.Concat(c.prim, c.sec, c.joining)), stay)
}

// changeMembers lets removed controls go, and takes joining ones in, if this is a boundary: nothing is between its
// cut and its decision. At such a moment a start of a manager with the new list would come to the same.
func (c *Core) changeMembers() {
	if c.membersID != 0 {
		return // not durable yet
	}
	switch c.st {
	case StateIdle, StateReverting, StateRelease:
		c.letGo()
	case StateStarting:
		if c.logKnown { // else what a control shows may be all that is known
			c.letGo()
		}
	}
	switch ready := func(m *member) bool { return c.obstacle(m) == "" }; {
	case c.st == StateIdle:
		c.takeIn()
	case c.st == StateDrain && slices.ContainsFunc(c.joining, ready):
		// The CG may be waiting for this very control, as a secondary does that has volumes of a primary that joins;
		// and a first copy lasts.
		c.abandon(CauseMembers, "a control is ready to join")
	case c.st == StateDrain && c.leaving:
		// Or for one that was removed, or for what that had in common with one that left before.
		c.abandon(CauseMembers, "a control was removed")
		c.letGo()
	}
}

// letGo drops the members that were removed. What a secondary has, it keeps; nobody commands it any more.
func (c *Core) letGo() {
	if !c.leaving || slices.ContainsFunc(c.sec, func(m *member) bool { return !c.members.Has(m.name) && c.goesBack(m) }) {
		return
	}
	c.leaving = false
	for _, name := range c.leavers() {
		delete(c.byName, name)
		c.out = append(c.out, Leave{name})
		c.audit(EntryMembers, c.round, name, "", "no longer takes part; it keeps what it has")
	}
	gone := func(m *member) bool { return !c.members.Has(m.name) }
	c.prim, c.sec, c.joining = slices.DeleteFunc(c.prim, gone), slices.DeleteFunc(c.sec, gone), slices.DeleteFunc(c.joining, gone)
	c.group.Primaries, c.group.Secondaries = memberNames(c.prim), memberNames(c.sec)
	switch c.st {
	case StateStarting:
		c.tryPlan()
	case StateRelease:
		c.tryFinish()
	}
}

// goesBack says whether a secondary is about to take back a link that was not decided. One that is not connected, or
// refuses, is not waited for.
func (c *Core) goesBack(m *member) bool {
	return c.st == StateReverting && (m.visit == visitAsked || m.visit == visitRevert) && (c.linkSent || m.stateKnown && m.state.Revertible())
}

// takeIn makes the next joining control that is ready a member, in two steps: durably, then in fact.
func (c *Core) takeIn() {
	for _, m := range c.joining {
		if !slices.ContainsFunc(c.members.Joining, func(j Joining) bool { return j.Name == m.name }) {
			c.join(m) // that it is a member is durable
			return
		}
		if c.obstacle(m) == "" {
			c.admit(m)
			return
		}
	}
}

// admit makes it durable that a joining control is a member. One that took part before, and comes with volumes that
// are made anew, has no part in what was decided any more.
func (c *Core) admit(m *member) {
	c.members = c.members.joined(m.name)
	durable := c.members
	r := Record{Members: &durable}
	if d := c.decided; contains(d.Primaries, m.name) || contains(d.Secondaries, m.name) {
		is := func(name string) bool { return name == m.name }
		d.Primaries, d.Secondaries = slices.DeleteFunc(slices.Clone(d.Primaries), is), slices.DeleteFunc(slices.Clone(d.Secondaries), is)
		c.decided = d
		if d.CG > 0 {
			r.Decided = &d
		}
	}
	if plant.On(plant.MembersNotDurable) {
		return
	}
	c.membersID = c.persist(r)
}

// obstacle is why a joining control cannot take part yet.
func (c *Core) obstacle(m *member) string {
	switch {
	case !m.connected:
		return "it is not connected"
	case m.refused != "":
		return m.refused
	case m.role == wire.RolePrimary:
		return ""
	case !m.fresh:
		return "it has not said what its links show"
	case m.state.Failed != "":
		return "it failed: " + m.state.Failed
	case m.state.Linked != 0 || m.state.Final != 0:
		if m.state.Final != c.final || m.state.Revertible() {
			return fmt.Sprintf("it shows CG %d, final %d, and the group CG %d: its pool has been in a group of this name before; use one that has not",
				m.state.Linked, m.state.Final, c.final)
		}
	}
	return ""
}

func (c *Core) join(m *member) {
	c.joining = slices.DeleteFunc(c.joining, func(x *member) bool { return x == m })
	list := &c.sec
	if m.role == wire.RolePrimary {
		list = &c.prim
	}
	*list = append(*list, m)
	slices.SortFunc(*list, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	c.group.Primaries, c.group.Secondaries = memberNames(c.prim), memberNames(c.sec)
	c.audit(EntryMembers, c.open, m.name, "", "takes part from the next CG on")
	// Its primaries may have sent it CGs that nobody had it link. It begins with the others: nothing but what is
	// final, and an open CG.
	c.abandon(CauseMembers, m.name+" joins the group")
}

// membersStatus is what the status tells of the members.
func (c *Core) membersStatus() MembersStatus {
	s := MembersStatus{Members: c.members, Drift: c.members.drift(c.configured)}
	for _, m := range c.joining {
		if !c.members.Has(m.name) {
			continue // it leaves
		}
		s.Waiting = append(s.Waiting, fmt.Sprintf("%s joins: %s", m.name, cmp.Or(c.obstacle(m), "at the next boundary")))
	}
	if c.leaving {
		for _, name := range c.leavers() {
			s.Waiting = append(s.Waiting, name+" leaves at the next boundary")
		}
	}
	return s
}

// MembersStatus is what the status tells of a group's members.
type MembersStatus struct {
	Members
	// Drift says how they differ from the configuration of this manager; "": not at all.
	Drift string `json:"drift,omitempty"`
	// Waiting are changes that have not taken effect yet.
	Waiting []string `json:"waiting,omitempty"`
}

// fromJoining takes what a control says that does not take part yet.
func (c *Core) fromJoining(m *member, msg wire.Message) {
	if h, ok := msg.(wire.Commanded); ok && (h.Head().Group != c.group.Name || h.Head().Epoch != c.epoch) {
		return
	}
	switch msg := msg.(type) {
	case *wire.State:
		m.queries = max(0, m.queries-1)
		m.state, m.stateKnown, m.fresh, m.stateAt, m.refused = *msg, true, true, c.now, ""
	case *wire.Error:
		if msg.Group == "" || msg.Group == c.group.Name {
			m.refused = msg.Text
		}
	}
}

// pollJoining asks secondaries that do not take part yet how they are.
func (c *Core) pollJoining(late func(time.Time) bool) {
	for _, m := range c.joining {
		switch {
		case !m.connected || m.role == wire.RolePrimary:
		case m.queries > 0 && late(m.askedSince):
			c.reconnect(m, fmt.Sprintf("no answer to QUERY for %v", c.settings.CommandTimeout))
		case m.queries == 0:
			c.query(m)
		}
	}
}
