package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Members are the controls of a group as its manager has them: those that take part, and those that will.
type Members struct {
	Version                uint64 // 0: they were never changed
	Primaries, Secondaries []string
}

// CheckMembers compares a manager's file with the members of the groups that the manager has. The list in its
// decision log has priority over the file, so that a file which differs says what is not so. The error joins one
// [Error] for each problem.
func CheckMembers(n Named, manager string, groups map[string]Members) error {
	t := &together{}
	if n.File.Manager == nil {
		t.problem(n, "", "is of a %s, and %s is a manager: name the manager's file", n.File.Role(), manager)
		return errors.Join(t.problems...)
	}
	known := map[string]bool{}
	for i, g := range n.File.Manager.Groups {
		key := fmt.Sprintf("manager.group[%d]", i)
		known[g.Name] = true
		m, there := groups[g.Name]
		if !there {
			t.problem(n, key+".name", "%s does not manage the group %q: it has %s. Restart it with this file", manager, g.Name, quoted(groups))
			continue
		}
		t.drift(n, key+".primaries", g.Primaries, manager, m.Version, m.Primaries)
		t.drift(n, key+".secondaries", g.Secondaries, manager, m.Version, m.Secondaries)
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if !known[name] {
			t.problem(n, "manager.group", "has no group %q, which %s manages", name, manager)
		}
	}
	return errors.Join(t.problems...)
}

func quoted(groups map[string]Members) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		names = append(names, fmt.Sprintf("%q", name))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// drift compares one list of a group.
func (t *together) drift(n Named, key string, file []Address, manager string, version uint64, is []string) {
	why := "restart it to have it so"
	if version > 0 {
		why = fmt.Sprintf("the list in its decision log (version %d) counts: bring this file up to date, or change the list with \"farside group\"", version)
	}
	for i, a := range file {
		if !slices.Contains(is, a.String()) {
			t.problem(n, fmt.Sprintf("%s[%d]", key, i), "%s is no member at %s; %s", a, manager, why)
		}
	}
	for _, name := range is {
		if !slices.ContainsFunc(file, func(a Address) bool { return a.String() == name }) {
			t.problem(n, key, "%s is a member at %s, and not here; %s", name, manager, why)
		}
	}
}
