package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Named is a configuration and the name of its file.
type Named struct {
	Source string
	File   *File
}

// CheckTogether finds what is wrong between files that are good each by itself: what one of them says of a node that
// another one configures. Nodes are recognised by the addresses where they listen; what is said of a node whose file
// is not given is not checked. The error joins one [Error] for each problem.
func CheckTogether(files []Named) error {
	t := &together{files: files, at: map[Address][]Named{}}
	for _, n := range files {
		t.at[n.File.Node.Listen] = append(t.at[n.File.Node.Listen], n)
	}
	t.names()
	t.volumes()
	t.groups()
	return errors.Join(t.problems...)
}

type together struct {
	files    []Named
	at       map[Address][]Named
	problems []error
}

func (t *together) problem(n Named, key, format string, args ...any) {
	t.problems = append(t.problems, &Error{Source: n.Source, Key: key, Problem: fmt.Sprintf(format, args...)})
}

// node returns the node that listens at an address; false if its file is not given, or the files have several:
// addresses are those of different machines then.
func (t *together) node(a Address) (Named, bool) {
	n := t.at[a]
	if len(n) != 1 {
		return Named{}, false
	}
	return n[0], true
}

func (t *together) names() {
	seen := map[string]string{}
	for _, n := range t.files {
		if first, twice := seen[n.File.Node.Name]; twice {
			t.problem(n, "node.name", "%q is the node of %s already: every node has its own name", n.File.Node.Name, first)
			continue
		}
		seen[n.File.Node.Name] = n.Source
	}
}

// volumes compares the volumes of primaries with those of the secondaries that hold their copies.
func (t *together) volumes() {
	type copyOf struct {
		secondary Address
		volume    string
	}
	holders := map[copyOf]string{}
	for _, n := range t.files {
		if n.File.Primary == nil {
			continue
		}
		for i, v := range n.File.Primary.Volumes {
			key := fmt.Sprintf("primary.volume[%d]", i)
			if first, twice := holders[copyOf{v.Secondary, v.Export()}]; twice {
				t.problem(n, key, "%s holds the copy of the volume %q of %s already: a volume has one primary", v.Secondary, v.Export(), first)
			}
			holders[copyOf{v.Secondary, v.Export()}] = n.Source
			t.pair(n, key, v)
		}
	}
}

func (t *together) pair(n Named, key string, v PrimaryVolume) {
	s, known := t.node(v.Secondary)
	if !known {
		return
	}
	if s.File.Secondary == nil {
		t.problem(n, key+".secondary", "at %s is the %s %q (%s): name a secondary control", v.Secondary, s.File.Role(), s.File.Node.Name, s.Source)
		return
	}
	have := s.File.Secondary.Volumes
	i := slices.IndexFunc(have, func(w Volume) bool { return w.Export() == v.Export() })
	switch {
	case i < 0:
		t.problem(n, key, "%s has no volume %q: its file has %s%s", s.Source, v.Export(), exports(have), elsewhere(have, v))
	case v.Size != 0 && v.Size != have[i].Size:
		t.problem(n, key+".size", "%s is not the size of the copy, %s in %s: make them equal", v.Size, have[i].Size, s.Source)
	}
}

// elsewhere tells of volumes that have the name of one, in other groups.
func elsewhere(have []Volume, v PrimaryVolume) string {
	var groups []string
	for _, w := range have {
		if w.Name == v.Name && w.Group != v.Group {
			groups = append(groups, fmt.Sprintf("%q", w.Group))
		}
	}
	if groups == nil {
		return ""
	}
	return fmt.Sprintf("; a volume is in one group, the same on both sides: here in %q, there in %s", v.Group, strings.Join(groups, ", "))
}

func exports(volumes []Volume) string {
	var names []string
	for _, v := range volumes {
		names = append(names, fmt.Sprintf("%q", v.Export()))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// groups compares what managers say of groups with the volumes of their controls.
func (t *together) groups() {
	led := map[string]Named{}
	for _, n := range t.files {
		if n.File.Manager == nil {
			continue
		}
		for i, g := range n.File.Manager.Groups {
			key := fmt.Sprintf("manager.group[%d]", i)
			if first, twice := led[g.Name]; twice && (!n.File.Manager.inEtcd() || !first.File.Manager.inEtcd()) {
				t.problem(n, key, "the group %q is managed by %s already: two managers of a group need one decision log, in etcd", g.Name, first.Source)
			}
			led[g.Name] = n
			t.controls(n, key+".primaries", g.Primaries, RolePrimary, g.Name)
			t.controls(n, key+".secondaries", g.Secondaries, RoleSecondary, g.Name)
			t.missing(n, key, g)
			t.idle(n, key, g)
		}
	}
}

// controls checks that the controls of a group have volumes of it.
func (t *together) controls(n Named, key string, list []Address, role Role, group string) {
	for i, a := range list {
		c, known := t.node(a)
		if !known {
			continue
		}
		item := fmt.Sprintf("%s[%d]", key, i)
		if c.File.Role() != role {
			t.problem(n, item, "at %s is the %s %q (%s), not a %s", a, c.File.Role(), c.File.Node.Name, c.Source, role)
			continue
		}
		if !slices.Contains(groupsOf(c.File), group) {
			t.problem(n, item, "%s has no volume of the group %q", c.Source, group)
		}
	}
}

func groupsOf(f *File) (groups []string) {
	if f.Primary != nil {
		for _, v := range f.Primary.Volumes {
			groups = append(groups, v.Group)
		}
	}
	if f.Secondary != nil {
		for _, v := range f.Secondary.Volumes {
			groups = append(groups, v.Group)
		}
	}
	return groups
}

// missing finds controls that have volumes of a group and that its manager does not name: their part would never be
// in a CG.
func (t *together) missing(n Named, key string, g Group) {
	for _, p := range t.files {
		if p.File.Primary == nil || !slices.Contains(groupsOf(p.File), g.Name) {
			continue
		}
		if _, known := t.node(p.File.Node.Listen); known && !slices.Contains(g.Primaries, p.File.Node.Listen) {
			t.problem(n, key+".primaries", "%s has volumes of the group %q: add its address %s", p.Source, g.Name, p.File.Node.Listen)
		}
		for _, v := range p.File.Primary.Volumes {
			if v.Group == g.Name && !slices.Contains(g.Secondaries, v.Secondary) {
				t.problem(n, key+".secondaries", "%s has the copy of the volume %q on %s: add that address", p.Source, v.Export(), v.Secondary)
			}
		}
	}
}

// idle finds volumes of a group's secondaries that no primary brings a copy to: no CG would ever be complete there.
// It takes the files of all the group's primaries to know.
func (t *together) idle(n Named, key string, g Group) {
	brought := map[Address]map[string]bool{}
	for _, a := range g.Primaries {
		p, known := t.node(a)
		if !known || p.File.Primary == nil {
			return
		}
		for _, v := range p.File.Primary.Volumes {
			if brought[v.Secondary] == nil {
				brought[v.Secondary] = map[string]bool{}
			}
			brought[v.Secondary][v.Export()] = true
		}
	}
	for _, a := range g.Secondaries {
		s, known := t.node(a)
		if !known || s.File.Secondary == nil {
			continue
		}
		for i, v := range s.File.Secondary.Volumes {
			if v.Group == g.Name && !brought[a][v.Export()] {
				t.problem(s, fmt.Sprintf("secondary.volume[%d]", i), "no primary of the group %q (%s: %s) has the volume %q on %s: no consistency group would become complete",
					g.Name, n.Source, key, v.Export(), a)
			}
		}
	}
}

// Shared tells of devices and files that two nodes keep data on. That is as it should be on two machines, and
// two volumes that overwrite each other on one; the files do not say which.
func Shared(files []Named) (notes []string) {
	type use struct {
		source string
		deviceUse
	}
	first := map[string]use{}
	for _, n := range files {
		for _, u := range n.File.deviceUses() {
			s, twice := first[u.path]
			if !twice {
				first[u.path] = use{n.Source, u}
				continue
			}
			if s.source != n.Source {
				notes = append(notes, fmt.Sprintf("%s: %s: %s holds %s; %s: %s: it holds %s. That is well on two machines. On one, a device holds one volume, and a volume is "+
					"in one group: the node that starts second is refused", n.Source, u.key, u.path, u.what, s.source, s.key, s.what))
			}
		}
	}
	return notes
}
