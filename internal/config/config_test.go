package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lines returns the problems of an error, one for each line.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestExamplesAreValidAndHoldEveryKey(t *testing.T) {
	for _, role := range Roles() {
		text, err := Example(role)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(string(role)+".toml", []byte(text), role)
		if err != nil {
			t.Errorf("%s: %v", role, err)
			continue
		}
		if f.Role() != role {
			t.Errorf("the example for %s is for %s", role, f.Role())
		}
		for _, key := range Keys(role) {
			leaf := key.Path[strings.LastIndex(key.Path, ".")+1:]
			if !strings.Contains(text, "\n"+leaf+" = ") && !strings.Contains(text, "[["+key.Path+"]]") {
				t.Errorf("the example for %s lacks the key %s", role, key.Path)
			}
		}
	}
	if _, err := Example("boss"); err == nil {
		t.Error("an example for an unknown role was returned")
	}
}

func TestExamplesFitTogether(t *testing.T) {
	files := map[Role]*File{}
	for _, role := range Roles() {
		text, _ := Example(role)
		f, err := Parse("", []byte(text), role)
		if err != nil {
			t.Fatal(err)
		}
		files[role] = f
	}
	sizes := map[string]Size{}
	for _, v := range files[RoleSecondary].Secondary.Volumes {
		sizes[v.Export()] = v.Size
	}
	for _, v := range files[RolePrimary].Primary.Volumes {
		if sizes[v.Export()] != v.Size || v.Secondary != files[RoleSecondary].Node.Listen {
			t.Errorf("volume %s: size %s and secondary %s do not fit the secondary's file", v.Export(), v.Size, v.Secondary)
		}
	}
	g := files[RoleManager].Manager.Groups[0]
	if g.Primaries[0] != files[RolePrimary].Node.Listen || g.Secondaries[0] != files[RoleSecondary].Node.Listen {
		t.Errorf("the manager's addresses %v %v are not the controls'", g.Primaries, g.Secondaries)
	}
}

const minimalManager = `
[node]
name = "m1"
listen = "unix:/run/m1.sock"
state_dir = "/var/lib/farside"

[[manager.group]]
name = "shop"
primaries = ["127.0.0.1:1"]
secondaries = ["[::1]:2", "localhost:3"]
`

func TestDefaults(t *testing.T) {
	f, err := Parse("m.toml", []byte(minimalManager), RoleManager)
	if err != nil {
		t.Fatal(err)
	}
	want := Group{
		Name:        "shop",
		Primaries:   []Address{{"tcp", "127.0.0.1:1"}},
		Secondaries: []Address{{"tcp", "[::1]:2"}, {"tcp", "localhost:3"}},
		Interval:    Duration(time.Second), CoordinationTimeout: Duration(50 * time.Millisecond), DrainTimeout: Duration(30 * time.Second),
		CommandTimeout: Duration(5 * time.Second), RPOAlert: Duration(30 * time.Second),
	}
	if diff := cmp.Diff(want, f.Manager.Groups[0]); diff != "" {
		t.Errorf("group (-want +got):\n%s", diff)
	}
	if f.Node.LogLevel != "info" {
		t.Errorf("log level %q, want info", f.Node.LogLevel)
	}
}

// A value that is given is never replaced by a default, zero included.
func TestZeroIntervalStays(t *testing.T) {
	f, err := Parse("m.toml", []byte(minimalManager+"interval = \"0s\"\n"), RoleManager)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Manager.Groups[0].Interval; got != 0 {
		t.Errorf("interval %v, want 0", got)
	}
}

func TestBadFiles(t *testing.T) {
	node := "[node]\nname = \"n\"\nlisten = \"127.0.0.1:1\"\nstate_dir = \"/s\"\n"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"syntax", "[node\n", []string{"f.toml:1:6: not TOML: expected ']' to close table name"}},
		{"unknown key", node + "[secondary]\ndevicse = [\"/d\"]\n", []string{
			`f.toml:5:2: secondary.devices: is missing: give the devices of the pool`,
			`f.toml:6:1: secondary.devicse: unknown key "devicse" in [secondary]: the nearest known key is "devices"`,
		}},
		{"unknown section", node + "[secondray]\n[secondary]\ndevices = [\"/d\"]\n", []string{
			`f.toml:5:2: secondray: unknown key "secondray" in the file: the nearest known key is "secondary"`,
		}},
		{"known elsewhere", node + "interval = \"1s\"\n[secondary]\ndevices = [\"/d\"]\n", []string{
			`f.toml:5:1: node.interval: unknown key "interval" in [node]: the nearest known key is "manager.group.interval"`,
		}},
		{"second element, dotted and inline", node + "[primary]\nnbd = \"127.0.0.1:2\"\nvolume = [\n" +
			"  { name = \"a\", group = \"g\", device = \"/d\", secondary = \"127.0.0.1:3\" }, # fine\n" +
			"  { name = \"b\", grup = \"g\", device = \"/e\", secondary = \"127.0.0.1:3\" },\n]\n", []string{
			`f.toml:9:5: primary.volume[1].group: is missing: give a name`,
			`f.toml:9:17: primary.volume[1].grup: unknown key "grup" in [primary.volume[1]]: the nearest known key is "group"`,
		}},
		{"wrong types", "[node]\nname = 7\nlisten = [\"127.0.0.1:1\"]\nstate_dir = 2020-01-01\n[secondary]\ndevices = \"/d\"\n" +
			"io = true\nvolume = \"v\"\n", []string{
			`f.toml:2:1: node.name: is a number: write a string in quotes`,
			`f.toml:3:1: node.listen: is a list: write a string in quotes`,
			`f.toml:4:1: node.state_dir: is a date or time: write a string in quotes`,
			`f.toml:6:1: secondary.devices: is a string: write a list, ["...", "..."]`,
			`f.toml:7:1: secondary.io: is a truth value: write a string in quotes`,
			`f.toml:8:1: secondary.volume: is a string: write [[secondary.volume]] for each one`,
		}},
		{"sizes", node + "[secondary]\ndevices = [\"/d\"]\n" +
			"[[secondary.volume]]\nname = \"a\"\ngroup = \"g\"\nsize = 10000\n" +
			"[[secondary.volume]]\nname = \"b\"\ngroup = \"g\"\nsize = \"1G\"\n" +
			"[[secondary.volume]]\nname = \"a\"\ngroup = \"g\"\nsize = \"100\"\n", []string{
			`f.toml:10:1: secondary.volume[0].size: 10000 bytes is not a multiple of 4 KiB: the nearest valid sizes are 8192 (8KiB) and 12288 (12KiB)`,
			`f.toml:14:1: secondary.volume[1].size: "1G": the unit "G" is ambiguous: write GiB (powers of 1024) or GB (powers of 1000)`,
			`f.toml:16:1: secondary.volume[2].name: the volume "a" of group "g" is secondary.volume[0] already`,
			`f.toml:18:1: secondary.volume[2].size: 100 bytes is too small for a volume: the nearest valid size is 4096 (4KiB)`,
		}},
		{"addresses", "[node]\nname = \"n\"\nlisten = \"10.0.0.1:7400\"\n[secondary]\ndevices = [\"/d\", \"/x/../d\"]\nnbd = \":10809\"\n", []string{
			`f.toml:3:1: node.listen: "10.0.0.1:7400" is not a loopback address: until there is TLS, plain TCP is accepted on loopback only; use 127.0.0.1:PORT, [::1]:PORT or unix:/path/of/socket, and a tunnel such as ssh -L to another machine`,
			`f.toml:5:1: secondary.devices[1]: /x/../d is the same device as secondary.devices[0]`,
			`f.toml:6:1: secondary.nbd: ":10809" is not a loopback address: until there is TLS, plain TCP is accepted on loopback only; use 127.0.0.1:PORT, [::1]:PORT or unix:/path/of/socket, and a tunnel such as ssh -L to another machine`,
		}},
		{"durations", minimalManager + "interval = 200\ncoordination_timeout = \"0s\"\ndrain_timeout = \"-1s\"\nrpo_alert = \"soon\"\n", []string{
			`f.toml:11:1: manager.group[0].interval: the number 200 has no unit: write a string such as "200ms"`,
			`f.toml:12:1: manager.group[0].coordination_timeout: 0s is out of range: write a value from 1ms to 10s`,
			`f.toml:13:1: manager.group[0].drain_timeout: "-1s" is negative: a duration must be 0 or more`,
			`f.toml:14:1: manager.group[0].rpo_alert: "soon" is not a duration: write a number and a unit, such as "200ms", "1.5s" or "1m30s"`,
		}},
		{"primary volumes", node + "[[primary.volume]]\nname = \"a b\"\ngroup = \"g\"\ndevice = \"/d\"\nfile = \"/f\"\nsecondary = \"127.0.0.1:3\"\nnbd = \"127.0.0.1:1\"\n" +
			"[[primary.volume]]\nname = \"b\"\ngroup = \"g\"\nfile = \"/d\"\n", []string{
			`f.toml:6:1: primary.volume[0].name: the name "a b" has ' ' in it: a name has letters, digits, ".", "_" and "-", and begins with a letter or digit`,
			`f.toml:9:1: primary.volume[0].file: both device and file are given: a volume is on one of them`,
			`f.toml:11:1: primary.volume[0].nbd: 127.0.0.1:1 is the address of node.listen already: choose another`,
			`f.toml:12:3: primary.volume[1].size: is missing: give the size in bytes: a file needs one`,
			`f.toml:12:3: primary.volume[1]: /d holds primary.volume[0] already: a device holds one volume, and a volume is in one group`,
			`f.toml:12:3: primary.volume[1].secondary: is missing: give the address of the secondary control that holds the copy`,
			`f.toml:12:3: primary.volume[1].nbd: is missing: give the address where hosts find the volume (or set primary.nbd for all)`,
		}},
		{"a manager's audit log", "[node]\nname = \"n\"\nlisten = \"127.0.0.1:1\"\npeer_timeout = \"10ms\"\n[manager]\ndecision_log = \"d.db\"\n" +
			"[[manager.group]]\nname = \"g\"\nprimaries = [\"127.0.0.1:2\"]\nsecondaries = [\"127.0.0.1:3\"]\n", []string{
			`f.toml:1:2: node.state_dir: is missing: give a directory for the audit log`,
			`f.toml:4:1: node.peer_timeout: 10ms is out of range: write a value from 1s to 1m0s`,
		}},
		{"two roles", node + "[secondary]\ndevices = [\"/d\"]\n[manager]\n", []string{
			`f.toml:7:2: manager: a node has one role, and this file has secondary and manager: write one file for each node`,
		}},
		{"no role", node, []string{`f.toml: has no section for a role: write one of [primary], [secondary] and [manager]`}},
		{"empty", "", []string{
			`f.toml: has no section for a role: write one of [primary], [secondary] and [manager]`,
			`f.toml: node.name: is missing: give a name`,
			`f.toml: node.listen: is missing: give the address where this node listens, such as "127.0.0.1:7400"`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("f.toml", []byte(test.text), "")
			if diff := cmp.Diff(test.want, lines(err)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWrongRole(t *testing.T) {
	text, _ := Example(RolePrimary)
	_, err := Parse("a1.toml", []byte(text), RoleSecondary)
	if err == nil || !strings.Contains(err.Error(), `start it with "farside primary"`) {
		t.Errorf("error %v, want one that names the right command", err)
	}
}

func TestSettingsLieOverTheFile(t *testing.T) {
	text, _ := Example(RoleSecondary)
	path := filepath.Join(t.TempDir(), "b1.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path, RoleSecondary, []Setting{
		{Key: "node.log_level", Values: []string{"debug"}},
		{Key: "secondary.devices", Values: []string{"/a", "/b", "/c"}},
		{Key: "secondary.volume", Values: []string{"name=v,group=g,size=4 MiB"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Node.LogLevel != "debug" || f.Node.Name != "b1" {
		t.Errorf("node %+v, want the flag's level and the file's name", f.Node)
	}
	if diff := cmp.Diff([]string{"/a", "/b", "/c"}, f.Secondary.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Volume{{"v", "g", 4 << 20}}, f.Secondary.Volumes); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
}

func TestSettingsAlone(t *testing.T) {
	f, err := Load("", RoleManager, []Setting{
		{Key: "node.name", Values: []string{"m"}},
		{Key: "node.listen", Values: []string{"127.0.0.1:1"}},
		{Key: "node.state_dir", Values: []string{"/s"}},
		{Key: "manager.decision_log", Values: []string{"d.db"}},
		{Key: "manager.group", Values: []string{"name=g,primaries=127.0.0.1:2;127.0.0.1:3,secondaries=unix:/s,coordination-timeout=20ms"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Group{
		Name: "g", Primaries: []Address{{"tcp", "127.0.0.1:2"}, {"tcp", "127.0.0.1:3"}}, Secondaries: []Address{{"unix", "/s"}},
		Interval: Duration(time.Second), CoordinationTimeout: Duration(20 * time.Millisecond), DrainTimeout: Duration(30 * time.Second),
		CommandTimeout: Duration(5 * time.Second), RPOAlert: Duration(30 * time.Second),
	}
	if diff := cmp.Diff(want, f.Manager.Groups[0]); diff != "" {
		t.Errorf("group (-want +got):\n%s", diff)
	}
}

func TestEtcdLog(t *testing.T) {
	parse := func(keys string) (*File, error) {
		return Parse("m.toml", []byte(strings.Replace(minimalManager, "[[manager.group]]", "[manager]\n"+keys+"\n[[manager.group]]", 1)), RoleManager)
	}
	f, err := parse(`decision_log = "etcd://10.0.0.1:2379,etcd-b:2379/site/a"
etcd_ca = "/ca.pem"
etcd_user = "farside"
etcd_password_file = "/password"`)
	if err != nil {
		t.Fatal(err)
	}
	log, ok := f.Manager.Etcd()
	want := EtcdLog{Endpoints: []string{"10.0.0.1:2379", "etcd-b:2379"}, Prefix: "site/a"}
	if diff := cmp.Diff(want, log); !ok || diff != "" || f.Manager.EtcdLease.Std() != 5*time.Second {
		t.Errorf("etcd %v, lease %v (-want +got):\n%s", ok, f.Manager.EtcdLease, diff)
	}
	if f, err = parse(`decision_log = "etcd.db"`); err != nil {
		t.Fatal(err)
	} else if _, ok := f.Manager.Etcd(); ok {
		t.Error("a file was taken for an etcd")
	}
	for keys, problem := range map[string]string{
		`etcd_user = "u"`:                                          "m.toml:8:1: manager.etcd_user: belongs to a decision log in etcd",
		`decision_log = "etcd://10.0.0.1:2379"`:                    "10.0.0.1:2379 is not a loopback address",
		`decision_log = "etcd://127.0.0.1"`:                        `"127.0.0.1" is not the address of an etcd`,
		`decision_log = "etcd://"`:                                 `"" is not the address of an etcd`,
		`decision_log = "etcd://127.0.0.1:1/a//b"`:                 `the prefix "a//b"`,
		"decision_log = \"etcd://[::1]:1\"\netcd_cert = \"/c\"":    "manager.etcd_key: is missing",
		"decision_log = \"etcd://[::1]:1\"\netcd_user = \"u\"":     "manager.etcd_password_file: is missing",
		"decision_log = \"etcd://[::1]:1\"\netcd_lease = \"2.5s\"": "not a number of whole seconds",
		"decision_log = \"etcd://[::1]:1\"\netcd_lease = \"0s\"":   "manager.etcd_lease: 0s is out of range",
	} {
		if _, err := parse(keys); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v, want %q", keys, err, problem)
		}
	}
	if _, err := parse(`decision_log = "etcd://root:secret@127.0.0.1:2379"`); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "etcd_password_file") {
		t.Errorf("a password in the address: %v", err)
	}
}

func TestBadSettings(t *testing.T) {
	_, err := Load("", RoleSecondary, []Setting{
		{Key: "node.name", Values: []string{"n"}},
		{Key: "node.listen", Values: []string{"8.8.8.8:53"}},
		{Key: "secondary.devices", Values: []string{"/a"}},
		{Key: "secondary.volume", Values: []string{"nam=v,group=g,size=4097,x"}},
	})
	want := []string{
		`flag --listen: node.listen: "8.8.8.8:53" is not a loopback address: until there is TLS, plain TCP is accepted on loopback only; use 127.0.0.1:PORT, [::1]:PORT or unix:/path/of/socket, and a tunnel such as ssh -L to another machine`,
		`flag --volume: secondary.volume: "x" is not key=value: write name=...`,
		`flag --volume: secondary.volume[0].nam: unknown key "nam" in [secondary.volume[0]]: the nearest known key is "name"`,
		`secondary.volume[0].name: is missing: give a name`,
		`secondary.volume[0].size: 4097 bytes is not a multiple of 4 KiB: the nearest valid sizes are 4096 (4KiB) and 8192 (8KiB)`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), "", nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want one that wraps os.ErrNotExist", err)
	}
}

func TestHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.toml")
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, "", nil); err == nil || !strings.Contains(err.Error(), "is not a configuration file") {
		t.Errorf("error %v, want a refusal by size", err)
	}
}

func TestErrorIsTyped(t *testing.T) {
	_, err := Parse("f.toml", []byte("x = 1\n"), "")
	var e *Error
	if !errors.As(err, &e) || e.Line != 0 && e.Line != 1 {
		t.Fatalf("error %v has no *Error in it", err)
	}
}

func TestKeysHaveUniqueFlagsAndUsage(t *testing.T) {
	for _, role := range Roles() {
		seen := map[string]string{}
		for _, k := range Keys(role) {
			if strings.Count(k.Path, ".") > 1 {
				continue // inside a list of tables: no flag of its own
			}
			if other := seen[k.Flag]; other != "" {
				t.Errorf("%s: the keys %s and %s have one flag", role, other, k.Path)
			}
			seen[k.Flag] = k.Path
			if k.Usage == "" {
				t.Errorf("the key %s has no help", k.Path)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, role := range Roles() {
		text, _ := Example(role)
		f.Add([]byte(text))
	}
	f.Add([]byte("a.b.c = [[{x=1}], 2]\n[[a.d]]\n[[a.d.e]]\n[a.d.e.f]\n\"q.[r\" = 1e9"))
	f.Fuzz(func(t *testing.T, document []byte) {
		file, err := Parse("f", document, "")
		if (err == nil) == (file == nil) {
			t.Fatalf("file %v and error %v", file, err)
		}
		if err == nil && file.Role() == "" {
			t.Fatal("a file without a role was accepted")
		}
	})
}
