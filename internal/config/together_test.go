package config

import (
	"fmt"
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
