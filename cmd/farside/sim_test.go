package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/sim"
)

// TestSimCommand runs a few seeds, one of them twice, and what is no seed and no replay.
func TestSimCommand(t *testing.T) {
	got := farside(t, fakes(), "sim", "--seeds", "2", "--seed", "7")
	if got.code != exitOK || !strings.HasSuffix(got.out, "\n2 passed, 0 failed\n") || !strings.Contains(got.err, "2 of 2 seeds, 0 failed") {
		t.Errorf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	if again := farside(t, fakes(), "sim", "--seeds", "2", "--seed", "7"); again.out != got.out {
		t.Errorf("the same seeds did another thing:\n%s%s", got.out, again.out)
	}
	got = farside(t, fakes(), "sim", "--seeds", "1", "--output", "json")
	if got.code != exitOK || !strings.Contains(got.out, `"passed": 1`) {
		t.Errorf("status %d, output %q", got.code, got.out)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var system strings.Builder
	r := sim.Draw(3)
	r.Ops = nil
	if _, err := r.WriteTo(&system); err != nil {
		t.Fatal(err)
	}
	good := file("good", system.String()+"# a comment\n1ms record\n2ms kill node=s0\n")
	if got := farside(t, fakes(), "sim", "--replay", good, "--trace"); got.code != exitOK || !strings.Contains(got.err, "kill node=s0") {
		t.Errorf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	for _, test := range []struct {
		want string
		args []string
	}{
		{`--seed "x" is not a number`, []string{"--seed", "x"}},
		{`--seeds "-1" is not a number`, []string{"--seeds", "-1"}},
		{"--seeds 0 runs nothing", []string{"--seeds", "0"}},
		{"--trace prints one run, not 3", []string{"--seeds", "3", "--trace"}},
		{"no such file", []string{"--replay", filepath.Join(dir, "none")}},
		{`line 1: it is not "farside sim replay 2"`, []string{"--replay", file("elf", "\x7fELF")}},
		{"the replay has version 1, this farside runs version 2", []string{"--replay", file("old", "farside sim replay 1\nseed 3\n1ms record\n")}},
		{`it has no line "seed NUMBER"`, []string{"--replay", file("cut", "farside sim replay 2\n")}},
		{"it is empty", []string{"--replay", file("empty", "")}},
		{`want "seed NUMBER"`, []string{"--replay", file("seedless", "farside sim replay 2\n1ms record\n")}},
		{`it has no line "system"`, []string{"--replay", file("systemless", "farside sim replay 2\nseed 3\n1ms record\n")}},
		{`"explode" is not an operation`, []string{"--replay", file("odd", system.String()+"1ms explode\n")}},
		{`"soon record" does not begin with a time`, []string{"--replay", file("timeless", system.String()+"soon record\n")}},
		{`"color" is not node`, []string{"--replay", file("color", system.String()+"1ms write color=red\n")}},
	} {
		got := farside(t, fakes(), append([]string{"sim"}, test.args...)...)
		if got.code != exitUsage || !strings.Contains(got.err, test.want) || !strings.Contains(got.err, "next: ") {
			t.Errorf("sim %q: status %d, errors %q; want %q and a next step", test.args, got.code, got.err, test.want)
		}
	}
}

// TestSimStatus: a run that breaks an invariant ends the command with status 1, and what --replay takes is printed.
func TestSimStatus(t *testing.T) {
	defer func(f func(uint64, sim.Options) (sim.Report, error)) { runSeed = f }(runSeed)
	runSeed = func(seed uint64, _ sim.Options) (sim.Report, error) {
		if seed == 2 {
			return sim.Report{Seeds: 1}, &sim.Failure{Seed: 2, Violation: &sim.Violation{Invariant: "R1", Text: "broken on purpose"}, Replay: "the replay\n"}
		}
		return sim.Report{Seeds: 1}, nil
	}
	got := farside(t, fakes(), "sim", "--seeds", "3")
	if got.code != exitFailed || !strings.HasSuffix(got.out, "\n2 passed, 1 failed\n") || !strings.Contains(got.out, "the replay\n") ||
		!strings.Contains(got.out, "broken on purpose") || !strings.Contains(got.err, "1 of 3 runs broke an invariant") {
		t.Errorf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	got = farside(t, fakes(), "sim", "--seeds", "3", "--output", "json")
	if got.code != exitFailed || !strings.Contains(got.out, `"failed": 1`) {
		t.Errorf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	if got := farside(t, fakes(), "sim", "--seeds", "1"); got.code != exitOK {
		t.Errorf("nothing failed: status %d, errors %q", got.code, got.err)
	}
}
