package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	good := file("good", "farside sim replay 1\nseed 3\n# a comment\n1ms record\n2ms kill node=s0\n")
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
		{`its first line is not "farside sim replay 1"`, []string{"--replay", file("elf", "\x7fELF")}},
		{`it has no line "seed NUMBER"`, []string{"--replay", file("cut", "farside sim replay 1\n")}},
		{`it has no line "seed NUMBER"`, []string{"--replay", file("empty", "")}},
		{`want "seed NUMBER"`, []string{"--replay", file("seedless", "farside sim replay 1\n1ms record\n")}},
		{`line 3: "explode" is not an operation`, []string{"--replay", file("odd", "farside sim replay 1\nseed 3\n1ms explode\n")}},
		{`line 3: "soon record" does not begin with a time`, []string{"--replay", file("timeless", "farside sim replay 1\nseed 3\nsoon record\n")}},
		{`"color" is not node`, []string{"--replay", file("color", "farside sim replay 1\nseed 3\n1ms write color=red\n")}},
	} {
		got := farside(t, fakes(), append([]string{"sim"}, test.args...)...)
		if got.code != exitUsage || !strings.Contains(got.err, test.want) || !strings.Contains(got.err, "next: ") {
			t.Errorf("sim %q: status %d, errors %q; want %q and a next step", test.args, got.code, got.err, test.want)
		}
	}
}
