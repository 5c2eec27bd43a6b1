package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./cmd/farside -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// outcome is what a command line did.
type outcome struct {
	code     int
	out, err string
}

func farside(t *testing.T, s services, args ...string) outcome {
	t.Helper()
	return farsideContext(t.Context(), s, args...)
}

func farsideContext(ctx context.Context, s services, args ...string) outcome {
	var out, errOut bytes.Buffer
	code := run(ctx, s, args, &out, &errOut)
	return outcome{code, out.String(), errOut.String()}
}

// fakes are services that answer at once with something in every field.
func fakes() services {
	role := func(_ context.Context, _ *config.File, _ *slog.Logger, ready func()) error { ready(); return nil }
	return services{
		secondary: role, primary: role, manager: role,
		status: func(_ context.Context, at config.Address) ([]byte, error) {
			if strings.HasSuffix(at.Addr, ":9") {
				return nil, errors.New("connection refused")
			}
			return []byte(`{"node":"m1","groups":[{"name":"shop","state":"idle","rpo_ms":null,"failures":[]},{"name":"x","tags":["a","\u001b[2J"]}],"empty":{},"note":""}`), nil
		},
		format: func(_ context.Context, r formatRequest, report progressFunc) (poolInfo, error) {
			for i := range uint64(101) {
				report("format", i<<20, 100<<20)
			}
			return poolInfo{Pool: "0a-0b", Name: r.Name, Devices: r.Devices, Bytes: 4 << 30, DataBytes: 3 << 30}, nil
		},
		group:        fakeManager,
		planRecovery: fakePlan, recoverGroups: fakeRecover,
		listVolumes: func(context.Context, poolRequest) ([]volumeInfo, error) {
			return []volumeInfo{{"shop", "data", 64 << 30, 17, "set aside", 3, 15}, {"shop", "log", 8192, 0, "awaited", 0, 0}}, nil
		},
		createVolume: func(context.Context, poolRequest, config.Volume) error { return nil },
		poolVolume: func(_ context.Context, _ poolRequest, change *wire.Volume) (volumeInfo, error) {
			return fakeVolume(change)
		},
		controlVolume: func(_ context.Context, at config.Address, change *wire.Volume) (volumeInfo, error) {
			if at.String() != "127.0.0.1:1" {
				return volumeInfo{}, &wire.RemoteError{Message: wire.Error{Code: wire.CodeState, Text: "primary \"a1\" is attached to it"}}
			}
			return fakeVolume(change)
		},
		check: func(_ context.Context, r checkRequest, _ progressFunc) (checkReport, error) {
			report := checkReport{OK: !r.Data, Structures: 12, DataBlocks: 5, Volumes: []volumeInfo{{"shop", "data", 64 << 30, 17, "awaited", 3, 0}}}
			if r.Data {
				report.Damage = []checkDamage{{"superblock 1", "/d", 262144, "checksum differs", true}, {"table page 3", "/d", 4096, "torn", false}}
			}
			return report, nil
		},
		dump: func(_ context.Context, r dumpRequest, w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s %s/%s %d json=%t\n", r.What, r.Group, r.Volume, r.CG, r.JSON)
			return err
		},
		bench: func(_ context.Context, o bench.Options) (result, error) {
			return volumeChange{Name: strings.Join(o.Names, "+"), Group: fmt.Sprint(o.Seconds), Deleted: true}, nil
		},
		demo: func(_ context.Context, r demoRequest, tell func(string)) (demoResult, error) {
			tell("the story")
			return demoResult{GroupsFinal: 40, Reverts: 1, Verified: r.Seed != 13, PayloadBytes: 1000, DeviceBytes: 1010, RPOP99Millis: 250.5, HoldP99Millis: 1.25}, nil
		},
		versions: func() versionInfo {
			return versionInfo{"v0.1.0", "0123abc", true, "go1.26", "linux", "amd64", 1, 1}
		},
	}
}

func TestHelp(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())
		got := farside(t, fakes(), append(path[1:], "--help")...)
		if got.code != exitOK || got.err != "" {
			t.Errorf("%s --help: status %d, errors %q", c.CommandPath(), got.code, got.err)
		}
		golden(t, filepath.Join("help", strings.Join(path, "-")+".golden"), got.out)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit((&app{services: fakes()}).root())
	golden(t, "help/farside.golden", farside(t, fakes()).out) // without a command: the same
}

// Errors: text, status, and nothing on standard output; the same as JSON.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "ext4.img")
	b := make([]byte, 1<<20)
	copy(b[1080:], "\x53\xef")
	b[1024+96] = 0x40
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[node]\nname = \"n\"\nlisten = \"0.0.0.0:1\"\n\n[secondary]\ndevicse = []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m1, misfit := exampleFile(t, dir, config.RoleManager), filepath.Join(dir, "misfit.toml")
	if err := os.WriteFile(misfit, []byte("[node]\nname = \"m1\"\nlisten = \"127.0.0.1:7400\"\n\n[secondary]\ndevices = [\"/d\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		code int
		args []string
	}{
		{"unknown-command", exitUsage, []string{"fromat"}},
		{"unknown-subcommand", exitUsage, []string{"volume", "creat"}},
		{"no-subcommand", exitUsage, []string{"volume"}},
		{"unknown-flag", exitUsage, []string{"format", "--devcie", "x"}},
		{"bad-output", exitUsage, []string{"version", "--output", "yaml"}},
		{"bad-log-level", exitUsage, []string{"version", "--log-level", "loud"}},
		{"extra-argument", exitUsage, []string{"format", "x"}},
		{"role-without-config", exitUsage, []string{"secondary"}},
		{"bad-config", exitUsage, []string{"secondary", "--config", bad}},
		{"bad-config-check", exitUsage, []string{"config", "check", bad}},
		{"config-misfits", exitUsage, []string{"config", "check", m1, misfit}},
		{"config-drift", exitUsage, []string{"config", "check", m1, "--manager", "127.0.0.1:2"}},
		{"config-whose", exitUsage, []string{"config", "check", misfit, "--manager", "127.0.0.1:1"}},
		{"config-unreachable", exitUnreachable, []string{"config", "check", m1, "--manager", "127.0.0.1:9"}},
		{"missing-config", exitUsage, []string{"primary", "--config", filepath.Join(dir, "none.toml")}},
		{"bad-role-flags", exitUsage, []string{"primary", "--name", "a b", "--volume", "name=v,size=5000"}},
		{"bad-example", exitUsage, []string{"config", "example", "boss"}},
		{"format-without-devices", exitUsage, []string{"format"}},
		{"format-missing-device", exitUsage, []string{"format", "--device", filepath.Join(dir, "none")}},
		{"format-refused", exitRefused, []string{"format", "--device", image}},
		{"format-twice", exitUsage, []string{"format", "--device", image, "--device", image, "--force"}},
		{"format-bad-size", exitUsage, []string{"format", "--device", image, "--journal", "2G"}},
		{"bench-refused", exitRefused, []string{"bench", "ingest", "--device", image}},
		{"bench-unknown", exitUsage, []string{"bench", "everything", "--device", image}},
		{"bench-forever", exitUsage, []string{"bench", "floors", "--device", image, "--seconds", "NaN"}},
		{"volume-bad-name", exitUsage, []string{"volume", "create", "data", "--size", "1GiB", "--device", image}},
		{"volume-bad-size", exitUsage, []string{"volume", "create", "shop/data", "--size", "1000", "--device", image}},
		{"volume-no-size", exitUsage, []string{"volume", "create", "shop/data", "--device", image}},
		{"volume-delete-refused", exitRefused, []string{"volume", "delete", "shop/data", "--device", image}},
		{"volume-rejoin-refused", exitRefused, []string{"volume", "rejoin", "shop/data", "--device", image}},
		{"volume-set-aside-attached", exitRefused, []string{"volume", "set-aside", "shop/data", "--control", "127.0.0.1:9"}},
		{"dump-unknown", exitUsage, []string{"dump", "everything", "--device", image}},
		{"status-nobody", exitUsage, []string{"status"}},
		{"status-not-loopback", exitUsage, []string{"status", "192.0.2.1:7400"}},
		{"group-nobody", exitUsage, []string{"group", "list"}},
		{"group-bad-name", exitUsage, []string{"group", "pause", "a b", "--manager", "127.0.0.1:1"}},
		{"group-set-nothing", exitUsage, []string{"group", "set", "shop", "--manager", "127.0.0.1:1"}},
		{"group-set-bad", exitUsage, []string{"group", "set", "shop", "--interval", "soon", "--manager", "127.0.0.1:1"}},
		{"group-refused", exitUsage, []string{"group", "set", "shop", "--interval", "25h", "--manager", "127.0.0.1:1"}},
		{"group-unreachable", exitUnreachable, []string{"group", "list", "--manager", "127.0.0.1:9"}},
		{"recover-neither", exitUsage, []string{"recover"}},
		{"recover-both", exitUsage, []string{"recover", "--plan", "--apply"}},
		{"recover-without-config", exitUsage, []string{"recover", "--plan"}},
		{"recover-bad-override", exitUsage, []string{"recover", "--plan", "--config", m1, "--override", "127.0.0.1:7410=gone"}},
		{"recover-override-reachable", exitRefused, []string{"recover", "--apply", "--config", m1, "--group", "shop", "--override", "127.0.0.1:7410=absent"}},
		{"recover-busy", exitRefused, []string{"recover", "--apply", "--config", m1, "--group", "busy"}},
		{"demo-too-long", exitUsage, []string{"demo", "--seconds", "1e9"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := farside(t, fakes(), test.args...)
			if text.code != test.code || text.out != "" {
				t.Errorf("status %d, output %q; want %d and none", text.code, text.out, test.code)
			}
			golden(t, filepath.Join("errors", test.name+".golden"), strings.ReplaceAll(text.err, dir, "DIR"))

			if test.name == "bad-output" {
				return
			}
			asJSON := farside(t, fakes(), append(slices.Clone(test.args), "--output", "json")...)
			var object struct {
				Error    string
				Next     *string
				ExitCode int `json:"exit_code"`
			}
			if err := json.Unmarshal([]byte(asJSON.err), &object); err != nil {
				t.Fatalf("not one JSON object: %v\n%s", err, asJSON.err)
			}
			if asJSON.code != test.code || object.ExitCode != test.code || object.Error == "" || object.Next == nil || asJSON.out != "" {
				t.Errorf("as JSON: status %d, %+v, output %q", asJSON.code, object, asJSON.out)
			}
		})
	}
}

func fakeVolume(change *wire.Volume) (volumeInfo, error) {
	v := volumeInfo{Group: change.Group, Name: change.Name, Bytes: 8192, CG: 17, Standing: "unattached"}
	if change.Action == wire.VolumeSetAside {
		v.Standing, v.WholeSince, v.SetAsideAt = "set aside", 3, 17
	}
	return v, nil
}

func volumeKeys(at string) []string {
	var keys []string
	for _, k := range []string{"bytes", "cg", "group", "name", "standing", "whole_since"} {
		keys = append(keys, at+"."+k)
	}
	return keys
}

// Results: text as in the golden file, JSON with exactly these keys.
func TestResults(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	b1, m1, a1 := exampleFile(t, dir, config.RoleSecondary), exampleFile(t, dir, config.RoleManager), exampleFile(t, dir, config.RolePrimary)
	twin := filepath.Join(dir, "twin.toml")
	text, err := os.ReadFile(a1)
	if err == nil {
		err = os.WriteFile(twin, []byte(strings.NewReplacer(`"a1"`, `"a2"`, "127.0.0.1:7401", "127.0.0.1:7421", `"shop"`, `"bank"`).Replace(string(text))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		code int
		args []string
		keys []string
	}{
		{"version", 0, []string{"version"}, []string{"arch", "commit", "format_version", "go", "modified", "os", "protocol_version", "version"}},
		{"format", 0, []string{"format", "--device", image, "--pool", "b1"}, []string{"bytes", "data_bytes", "devices", "devices[]", "name", "pool"}},
		{"volume-list", 0, []string{"volume", "list", "--config", b1}, append(volumeKeys("volumes[]"), "volumes", "volumes[].set_aside_at")},
		{"volume-set-aside", 0, []string{"volume", "set-aside", "shop/data", "--device", image}, append(volumeKeys("now"), "now", "now.set_aside_at", "group", "name")},
		{"volume-set-aside-running", 0, []string{"volume", "set-aside", "shop/data", "--control", "127.0.0.1:1"}, append(volumeKeys("now"), "now", "now.set_aside_at", "group", "name")},
		{"volume-rejoin", 0, []string{"volume", "rejoin", "shop/data", "--force", "--control", "127.0.0.1:1"}, append(volumeKeys("now"), "now", "group", "name")},
		{"volume-delete-running", 0, []string{"volume", "delete", "shop/data", "--force", "--control", "127.0.0.1:1"}, []string{"deleted", "group", "name"}},
		{"volume-create", 0, []string{"volume", "create", "shop/data", "--size", "64GiB", "--device", image}, []string{"bytes", "created", "group", "name"}},
		{"volume-delete", 0, []string{"volume", "delete", "shop/data", "--force", "--device", image}, []string{"deleted", "group", "name"}},
		{"check", 0, []string{"check", "--device", image}, append(volumeKeys("volumes[]"), "volumes", "damage", "data_blocks", "ok", "structures")},
		{"check-damaged", 1, []string{"check", "--data", "--device", image}, append(volumeKeys("volumes[]"), "volumes", "damage", "damage[].device", "damage[].offset",
			"damage[].redundant", "damage[].structure", "damage[].text", "data_blocks", "ok", "structures")},
		{"demo", 0, []string{"demo"}, []string{"device_bytes", "groups_final", "hold_p99_ms", "order_violations", "payload_bytes", "reverts", "rpo_p99_ms", "verified"}},
		{"demo-failed", 1, []string{"demo", "--seed", "13"}, []string{"device_bytes", "groups_final", "hold_p99_ms", "order_violations", "payload_bytes", "reverts", "rpo_p99_ms", "verified"}},
		{"config-check", 0, []string{"config", "check", b1}, []string{"file", "node", "ok", "role"}},
		{"group-list", 0, []string{"group", "list", "--manager", "127.0.0.1:1"}, append([]string{"groups", "manager"}, groupKeys("groups[]")...)},
		{"group-pause", 0, []string{"group", "pause", "shop", "--manager", "127.0.0.1:1"}, append([]string{"action", "group", "manager"}, groupKeys("group")...)},
		{"group-resume", 0, []string{"group", "resume", "shop", "--manager", "127.0.0.1:1"}, append([]string{"action", "group", "manager"}, groupKeys("group")...)},
		{"group-set", 0, []string{"group", "set", "shop", "--interval", "250ms", "--rpo-alert", "5s", "--manager", "127.0.0.1:1"}, append([]string{"action", "group", "manager"}, groupKeys("group")...)},
		{"config-check-all", 0, []string{"config", "check", b1, m1, a1}, []string{"ok", "notes", "files", "files[].file", "files[].node", "files[].ok", "files[].role"}},
		{"config-check-shared", 0, []string{"config", "check", a1, twin}, []string{"ok", "notes", "notes[]", "files", "files[].file", "files[].node", "files[].ok", "files[].role"}},
		{"recover-plan", 0, []string{"recover", "--plan", "--config", m1, "--group", "shop"}, recoverKeys("plan.controls", "plan.controls[]")},
		{"recover-apply", 0, []string{"recover", "--apply", "--config", m1, "--group", "shop"}, recoverKeys("plan.controls", "plan.controls[]")},
		{"recover-odd", 3, []string{"recover", "--apply", "--config", m1, "--group", "odd"}, recoverKeys()},
		{"recover-gone", 4, []string{"recover", "--apply", "--config", m1, "--group", "gone"}, recoverKeys("controls[].error")},
		{"recover-busy", 0, []string{"recover", "--plan", "--config", m1, "--group", "busy"}, recoverKeys()},
		{"status", 4, []string{"status", "127.0.0.1:7400", "127.0.0.1:9"}, []string{"nodes", "nodes[].address", "nodes[].error", "nodes[].reachable", "nodes[].status",
			"nodes[].status.empty", "nodes[].status.groups", "nodes[].status.groups[].failures", "nodes[].status.groups[].name", "nodes[].status.groups[].rpo_ms",
			"nodes[].status.groups[].state", "nodes[].status.groups[].tags", "nodes[].status.groups[].tags[]", "nodes[].status.node", "nodes[].status.note"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := farside(t, fakes(), test.args...)
			if got.code != test.code {
				t.Errorf("status %d, want %d; errors:\n%s", got.code, test.code, got.err)
			}
			golden(t, filepath.Join("results", test.name+".golden"), strings.ReplaceAll(got.out+"--- stderr\n"+got.err, dir, "DIR"))

			asJSON := farside(t, fakes(), append(test.args, "--output=json")...)
			var document any
			if err := json.Unmarshal([]byte(asJSON.out), &document); err != nil {
				t.Fatalf("not one JSON document: %v\n%s", err, asJSON.out)
			}
			keys := map[string]bool{}
			collectKeys(document, "", keys)
			var have []string
			for k := range keys {
				have = append(have, k)
			}
			slices.Sort(have)
			slices.Sort(test.keys)
			if diff := cmp.Diff(test.keys, have); diff != "" || asJSON.code != test.code {
				t.Errorf("JSON keys (-want +got), status %d:\n%s", asJSON.code, diff)
			}
		})
	}
}

// exampleFile writes the example configuration of a role.
func exampleFile(t *testing.T, dir string, role config.Role) string {
	t.Helper()
	path := filepath.Join(dir, string(role)+".toml")
	text, err := config.Example(role)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func collectKeys(v any, path string, keys map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			key := strings.TrimPrefix(path+"."+k, ".")
			keys[key] = true
			collectKeys(item, key, keys)
		}
	case []any:
		for _, item := range v {
			if _, object := item.(map[string]any); !object {
				keys[path+"[]"] = true
			}
			collectKeys(item, path+"[]", keys)
		}
	}
}

func TestDump(t *testing.T) {
	got := farside(t, fakes(), "dump", "cgs", "--cg", "7", "--volume", "shop/data", "--device", "/d", "--output", "json")
	if want := "cgs shop/data 7 json=true\n"; got.code != 0 || got.out != want {
		t.Errorf("status %d, output %q, want %q", got.code, got.out, want)
	}
}

// A pool in use is refused, and force does not help; one that only holds something can be forced.
func TestForce(t *testing.T) {
	testtool.NeedRoot(t)
	dev := loopdev.ForTest(t, "", 4<<20, loopdev.Options{})
	if err := os.WriteFile(dev.Path, []byte("XFSB"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := farside(t, fakes(), "format", "--device", dev.Path); got.code != exitRefused || !strings.Contains(got.err, "xfs") {
		t.Errorf("a filesystem: status %d, %s", got.code, got.err)
	}
	if got := farside(t, fakes(), "format", "--device", dev.Path, "--force"); got.code != exitOK {
		t.Errorf("a filesystem, forced: status %d, %s", got.code, got.err)
	}
	held, err := os.OpenFile(dev.Path, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if got := farside(t, fakes(), "format", "--device", dev.Path, "--force"); got.code != exitRefused || !strings.Contains(got.err, "in use") {
		t.Errorf("in use, forced: status %d, %s", got.code, got.err)
	}
}

func TestCreateFiles(t *testing.T) {
	dir := t.TempDir()
	have, want := filepath.Join(dir, "have"), filepath.Join(dir, "new")
	if err := os.WriteFile(have, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := farside(t, fakes(), "format", "--devices", have+","+want, "--create", "1MiB"); got.code != exitOK {
		t.Fatalf("status %d, %s", got.code, got.err)
	}
	for path, size := range map[string]int64{have: 1, want: 1 << 20} {
		if info, err := os.Stat(path); err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v; want %d bytes", path, info, err, size)
		}
	}
}

// Flags lie over the file, and the role gets both.
func TestRoleGetsItsConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m1.toml")
	text, err := config.Example(config.RoleManager)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := fakes()
	var node *config.File
	s.manager = func(_ context.Context, n *config.File, _ *slog.Logger, ready func()) error {
		node = n
		ready()
		return nil
	}
	got := farside(t, s, "manager", "--config", path, "--listen", "127.0.0.1:1", "--log-level", "debug")
	if got.code != 0 || got.out != "" || !strings.Contains(got.err, "msg=ready") {
		t.Fatalf("status %d, output %q, log %q", got.code, got.out, got.err)
	}
	if node.Node.Listen.Addr != "127.0.0.1:1" || node.Node.Name != "m1" || node.Node.LogLevel != "debug" || node.Manager.Groups[0].Name != "shop" {
		t.Errorf("the role got %+v %+v", node.Node, node.Manager)
	}
}

// An interrupt stops a role with status 0, and other work with 130.
func TestInterrupt(t *testing.T) {
	s := fakes()
	started := make(chan struct{}, 1)
	s.primary = func(ctx context.Context, _ *config.File, _ *slog.Logger, ready func()) error {
		ready()
		started <- struct{}{}
		<-ctx.Done()
		return fmt.Errorf("serve: %w", ctx.Err())
	}
	s.demo = func(ctx context.Context, _ demoRequest, _ func(string)) (demoResult, error) {
		started <- struct{}{}
		<-ctx.Done()
		return demoResult{}, fmt.Errorf("wait: %w", ctx.Err())
	}
	volume := "name=v,group=g,device=/d,secondary=127.0.0.1:2,nbd=127.0.0.1:3"
	for _, c := range []struct {
		code int
		args []string
	}{{exitOK, []string{"primary", "--name", "a", "--listen", "127.0.0.1:1", "--state-dir", "/s", "--volume", volume}}, {exitInterrupted, []string{"demo"}}} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-started; cancel() }()
		if got := farsideContext(ctx, s, c.args...); got.code != c.code {
			t.Errorf("%s interrupted: status %d, want %d; %s", c.args[0], got.code, c.code, got.err)
		}
	}
}

// Status over the real protocol: a node that answers, one that never does, one that is not there.
func TestWireStatus(t *testing.T) {
	dir := t.TempDir()
	long, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	serve := func(name string, answer func(*wire.Conn)) config.Address {
		at := config.Address{Network: "unix", Addr: filepath.Join(dir, name)}
		l, err := wire.Listen(t.Context(), at.String())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		t.Cleanup(func() { l.Close(); <-done })
		go func() {
			defer close(done)
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conn := wire.NewConn(nc, patience(long))
			defer conn.Close()
			answer(conn)
		}()
		return at
	}
	good := serve("good", func(conn *wire.Conn) {
		_, err := conn.Answer(wire.Hello{Role: wire.RoleManager, Node: "m1"}, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if h, _, err := conn.Next(); err != nil || h.Type != wire.TypeStatus {
			t.Errorf("asked with %v, %v", h.Type, err)
		}
		if err := conn.WriteMessage(&wire.StatusReply{JSON: []byte(`{"node":"m1"}`)}); err != nil {
			t.Error(err)
		}
	})
	if document, err := wireStatus(long, good); err != nil || string(document) != `{"node":"m1"}` {
		t.Errorf("status %s, %v", document, err)
	}

	silent := make(chan struct{})
	mute := serve("mute", func(*wire.Conn) { <-silent })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := wireStatus(ctx, mute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a node that never answers: %v", err)
	}
	close(silent)

	if _, err := wireStatus(t.Context(), config.Address{Network: "unix", Addr: filepath.Join(dir, "none")}); !errors.As(err, new(*net.OpError)) {
		t.Errorf("a node that is not there: %v", err)
	}
}

// The version command names what the program really was built from.
func TestVersionOfThisBuild(t *testing.T) {
	v := buildVersions()
	if v.Protocol != wire.Version || v.Format == 0 || !strings.HasPrefix(v.Go, "go") || v.Version == "" {
		t.Errorf("versions %+v", v)
	}
}

// Progress without a terminal: a line for each tenth, none twice.
func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := (&app{err: &out}).newProgress()
	p.update("copy", 0, 0)
	p.update("copy", 0, 1<<20)
	p.update("copy", 1<<19, 1<<20)
	p.update("copy", 1<<19+1, 1<<20)
	p.update("verify", 10, 10)
	p.close()
	want := "copy: begins\ncopy: 50 % of 1.0 MiB\nverify: begins\nverify: 100 % of 10 B\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Bars end whether their stage did or not; a close that waits for ever fails by the test's timeout.
func TestProgressBarsEnd(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, bars: mpb.New(mpb.WithOutput(&out), mpb.WithAutoRefresh())}
	p.update("copy", 0, 0)
	p.update("copy", 50, 100) // the stage after it begins before its end
	p.update("verify", 10, 10)
	p.close()
	if text := out.String(); !strings.Contains(text, "copy") || !strings.Contains(text, "verify 100 %") {
		t.Errorf("the bars show %q", text)
	}
}

func TestTreeRefusesBrokenJSON(t *testing.T) {
	for _, text := range []string{"", "{", `{"a":`, `[1,`, "nonsense"} {
		if err := writeTree(io.Discard, []byte(text), ""); err == nil {
			t.Errorf("%q was printed", text)
		}
	}
}
