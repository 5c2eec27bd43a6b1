package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckTogether(t *testing.T) {
	secondary := func(name string, port int, volumes ...string) string {
		s := fmt.Sprintf("[node]\nname = %q\nlisten = \"127.0.0.1:%d\"\n[secondary]\ndevices = [\"/d\"]\n", name, port)
		for _, v := range volumes {
			s += fmt.Sprintf("[[secondary.volume]]\ngroup = \"g\"\n%s\n", v)
		}
		return s
	}
	primary := func(name string, port int, volumes ...string) string {
		s := fmt.Sprintf("[node]\nname = %q\nlisten = \"127.0.0.1:%d\"\nstate_dir = \"/s\"\n[primary]\nnbd = \"127.0.0.1:9\"\n", name, port)
		for i, v := range volumes {
			s += fmt.Sprintf("[[primary.volume]]\ngroup = \"g\"\ndevice = \"/d%d\"\n%s\n", i, v)
		}
		return s
	}
	manager := func(name string, port int, group, primaries, secondaries string) string {
		return fmt.Sprintf("[node]\nname = %q\nlisten = \"127.0.0.1:%d\"\nstate_dir = \"/s\"\n[[manager.group]]\nname = %q\nprimaries = [%s]\nsecondaries = [%s]\n",
			name, port, group, primaries, secondaries)
	}
	const at1, at2, at3 = `"127.0.0.1:1"`, `"127.0.0.1:2"`, `"127.0.0.1:3"`
	vol := func(name, size, secondary string) string {
		return fmt.Sprintf("name = %q\nsize = %q\nsecondary = %s", name, size, secondary)
	}
	s1 := secondary("s1", 1, "name = \"a\"\nsize = \"1MiB\"")
	p1 := primary("p1", 2, vol("a", "1MiB", at1))
	m1 := manager("m1", 3, "g", at2, at1)
	for _, c := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"good", []string{s1, p1, m1}, nil},
		{"one alone", []string{m1}, nil},
		{"sizes differ", []string{s1, primary("p1", 2, vol("a", "2MiB", at1))}, []string{`f1: primary.volume[0].size: 2MiB is not the size of the copy, 1MiB in f0: make them equal`}},
		{"the whole device", []string{s1, primary("p1", 2, "name = \"a\"\nsecondary = "+at1)}, nil},
		{"unknown volume", []string{s1, primary("p1", 2, vol("b", "1MiB", at1))}, []string{`f1: primary.volume[0]: f0 has no volume "g/b": its file has "g/a"`}},
		{"no secondary", []string{m1, primary("p1", 2, vol("a", "1MiB", at3))}, []string{
			`f1: primary.volume[0].secondary: at 127.0.0.1:3 is the manager "m1" (f0): name a secondary control`,
			`f0: manager.group[0].secondaries: f1 has the copy of the volume "g/a" on 127.0.0.1:3: add that address`}},
		{"two primaries", []string{s1, p1, primary("p2", 4, vol("a", "1MiB", at1))}, []string{
			`f2: primary.volume[0]: 127.0.0.1:1 holds the copy of the volume "g/a" of f1 already: a volume has one primary`}},
		{"same name", []string{s1, primary("s1", 2, vol("a", "1MiB", at1))}, []string{`f1: node.name: "s1" is the node of f0 already: every node has its own name`}},
		{"group of nobody", []string{s1, p1, manager("m1", 3, "h", at2, at1)}, []string{
			`f2: manager.group[0].primaries[0]: f1 has no volume of the group "h"`, `f2: manager.group[0].secondaries[0]: f0 has no volume of the group "h"`}},
		{"roles exchanged", []string{s1, p1, manager("m1", 3, "g", at1, at2)}, []string{
			`f2: manager.group[0].primaries[0]: at 127.0.0.1:1 is the secondary "s1" (f0), not a primary`,
			`f2: manager.group[0].secondaries[0]: at 127.0.0.1:2 is the primary "p1" (f1), not a secondary`,
			`f2: manager.group[0].primaries: f1 has volumes of the group "g": add its address 127.0.0.1:2`,
			`f2: manager.group[0].secondaries: f1 has the copy of the volume "g/a" on 127.0.0.1:1: add that address`}},
		{"two managers", []string{m1, manager("m2", 4, "g", at2, at1)}, []string{
			`f1: manager.group[0]: the group "g" is managed by f0 already: two managers of a group need one decision log, in etcd`}},
		{"in another group", []string{s1, strings.ReplaceAll(p1, `"g"`, `"h"`)}, []string{
			`f1: primary.volume[0]: f0 has no volume "h/a": its file has "g/a"; a volume is in one group, the same on both sides: here in "h", there in "g"`}},
		{"a copy of nothing", []string{secondary("s1", 1, "name = \"a\"\nsize = \"1MiB\"", "name = \"b\"\nsize = \"1MiB\""), p1, m1}, []string{
			`f0: secondary.volume[1]: no primary of the group "g" (f2: manager.group[0]) has the volume "g/b" on 127.0.0.1:1: no consistency group would become complete`}},
		{"a copy of what is not given", []string{secondary("s1", 1, "name = \"a\"\nsize = \"1MiB\"", "name = \"b\"\nsize = \"1MiB\""), p1,
			manager("m1", 3, "g", at2+`, "127.0.0.1:5"`, at1)}, nil},
		{"addresses of two machines", []string{s1, secondary("s2", 1), p1, m1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files []Named
			for i, text := range c.files {
				f, err := Parse("", []byte(text), "")
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, Named{fmt.Sprintf("f%d", i), f})
			}
			if d := cmp.Diff(c.want, lines(CheckTogether(files))); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

func parsed(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("", []byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// One volume in two groups: under one name, under another name of the same device, and on two nodes.
func TestOneDeviceForTwoVolumes(t *testing.T) {
	dir := t.TempDir()
	disk, other, link := filepath.Join(dir, "disk"), filepath.Join(dir, "other"), filepath.Join(dir, "link")
	for _, path := range []string{disk, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(disk, link); err != nil {
		t.Fatal(err)
	}
	primary := func(g, h string) string {
		return fmt.Sprintf("[node]\nname = \"p\"\nlisten = \"127.0.0.1:1\"\nstate_dir = \"/s\"\n[primary]\nnbd = \"127.0.0.1:9\"\n"+
			"[[primary.volume]]\nname = \"a\"\ngroup = \"g\"\ndevice = %q\nsecondary = \"127.0.0.1:2\"\n"+
			"[[primary.volume]]\nname = \"a\"\ngroup = \"h\"\ndevice = %q\nsecondary = \"127.0.0.1:2\"\n", g, h)
	}
	pool := fmt.Sprintf("[node]\nname = \"s\"\nlisten = \"127.0.0.1:2\"\n[secondary]\ndevices = [%q, %q]\n", link, disk)
	if _, err := Parse("f", []byte(primary(disk, dir+"/./disk")), ""); err == nil || !strings.Contains(err.Error(), "primary.volume[1]: "+disk+" holds primary.volume[0] already") {
		t.Errorf("the same name: %v", err)
	}
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"two devices", primary(disk, other), nil},
		{"not there", primary(dir+"/x", dir+"/y"), nil},
		{"a link", primary(disk, link), []string{fmt.Sprintf(`f: primary.volume[1]: %s is the same device as %s, which holds the volume "g/a" (primary.volume[0]) already: `+
			"a device holds one volume, and a volume is in one group", link, disk)}},
		{"a pool", pool, []string{fmt.Sprintf("f: secondary.devices[1]: %s is the same device as %s, which holds its pool (secondary.devices[0]) already: "+
			"a device holds one volume, and a volume is in one group", disk, link)}},
	} {
		if d := cmp.Diff(c.want, lines(CheckDevices("f", parsed(t, c.text)))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	notes := Shared([]Named{{"f0", parsed(t, primary(disk, other))}, {"f1", parsed(t, pool)}})
	if len(notes) != 1 || !strings.Contains(notes[0], "f1: secondary.devices[1]: "+disk+" holds its pool; f0: primary.volume[0]") {
		t.Errorf("notes %q", notes)
	}
	if notes := Shared([]Named{{"f0", parsed(t, primary(disk, other))}, {"f1", parsed(t, primary(dir+"/x", dir+"/y"))}}); notes != nil {
		t.Errorf("notes %q", notes)
	}
}

func TestCheckMembers(t *testing.T) {
	file := Named{"m.toml", parsed(t, "[node]\nname = \"m\"\nlisten = \"127.0.0.1:3\"\nstate_dir = \"/s\"\n"+
		"[[manager.group]]\nname = \"g\"\nprimaries = [\"127.0.0.1:1\"]\nsecondaries = [\"127.0.0.1:2\", \"unix:/s2\"]\n")}
	const p, s, s2 = "127.0.0.1:1", "127.0.0.1:2", "unix:/s2"
	const counts = `the list in its decision log (version 4) counts: bring this file up to date, or change the list with "farside group"`
	for _, c := range []struct {
		name string
		has  map[string]Members
		want []string
	}{
		{"the same", map[string]Members{"g": {4, []string{p}, []string{s2, s}}}, nil},
		{"one added, one removed", map[string]Members{"g": {4, []string{p, "127.0.0.1:9"}, []string{s}}}, []string{
			"m.toml: manager.group[0].primaries: 127.0.0.1:9 is a member at M, and not here; " + counts,
			"m.toml: manager.group[0].secondaries[1]: unix:/s2 is no member at M; " + counts}},
		{"an older file", map[string]Members{"g": {0, []string{p}, []string{s}}}, []string{
			"m.toml: manager.group[0].secondaries[1]: unix:/s2 is no member at M; restart it to have it so"}},
		{"another group", map[string]Members{"h": {}}, []string{
			`m.toml: manager.group[0].name: M does not manage the group "g": it has "h". Restart it with this file`,
			`m.toml: manager.group: has no group "h", which M manages`}},
	} {
		if d := cmp.Diff(c.want, lines(CheckMembers(file, "M", c.has))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	pool := Named{"s.toml", parsed(t, "[node]\nname = \"s\"\nlisten = \"127.0.0.1:2\"\n[secondary]\ndevices = [\"/d\"]\n")}
	if err := CheckMembers(pool, "M", nil); err == nil || !strings.Contains(err.Error(), "s.toml: is of a secondary") {
		t.Errorf("the file of a secondary: %v", err)
	}
}
