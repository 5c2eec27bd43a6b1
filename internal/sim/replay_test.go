package sim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unexported lets cmp look at a replay.
var unexported = cmp.AllowUnexported(Replay{}, config{}, volumeConfig{})

// replays reads what is in testdata.
func replays(t *testing.T) map[string]Replay {
	t.Helper()
	files, err := filepath.Glob("testdata/*.replay")
	if err != nil || len(files) == 0 {
		t.Fatalf("no replays in testdata (%v): \"go test -tags plant ./internal/sim -run TestPlants -record\" writes one for each planted fault", err)
	}
	out := map[string]Replay{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ReadReplay(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[filepath.Base(name)] = r
	}
	return out
}

// TestReplays runs what fails with a fault that is planted, or failed once: without the fault it passes. That it does
// fail is seen by TestReplaysFail, with the build tag "plant".
func TestReplays(t *testing.T) {
	for name, r := range replays(t) {
		if _, err := r.Run(Options{Keep: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSame runs seeds twice: every line of their stories is the same.
func TestSame(t *testing.T) {
	for seed := range uint64(6) {
		var stories [2][]string
		var reports [2]Report
		for i := range stories {
			var err error
			reports[i], err = Run(seed, Options{Keep: true, Trace: func(line string) { stories[i] = append(stories[i], line) }})
			if err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(reports[0], reports[1]); diff != "" {
			t.Errorf("seed %d: (-first +second)\n%s", seed, diff)
		}
		if diff := cmp.Diff(stories[0], stories[1]); diff != "" {
			t.Errorf("seed %d: (-first +second)\n%.2000s", seed, diff)
		}
	}
}

// TestReplayText reads every kind of operation back as it was written.
func TestReplayText(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(60) {
		r := Draw(seed)
		var b strings.Builder
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		got, err := ReadReplay(strings.NewReader(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got, unexported); diff != "" {
			t.Fatalf("seed %d: (-written +read)\n%s", seed, diff)
		}
		for _, o := range r.Ops {
			seen[o.Kind] = true
		}
	}
	for _, k := range kinds {
		if !seen[k] {
			t.Errorf("no seed draws %q", k)
		}
	}
}

// FuzzReplay: whatever is read again after it was written is the same, and what is no replay is an error that says so.
func FuzzReplay(f *testing.F) {
	var whole strings.Builder
	if _, err := Draw(3).WriteTo(&whole); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.String()[:2000] + "\n# a comment\n")
	f.Add("farside sim replay 1\nseed 3\n1ms record\n2.5ms power node=s0 a=1 b=2 how=none\n")
	f.Add("farside sim replay 2\nseed x\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ReadReplay(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrReplay) {
				t.Errorf("%v does not wrap ErrReplay", err)
			}
			return
		}
		var b strings.Builder
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		again, err := ReadReplay(strings.NewReader(b.String()))
		if err != nil {
			t.Fatalf("%v, from\n%s", err, b.String())
		}
		if diff := cmp.Diff(r, again, unexported); diff != "" {
			t.Error(diff)
		}
	})
}

// TestReduce: of a list of operations only those are left without which nothing breaks.
func TestReduce(t *testing.T) {
	ops := drawOps(5, drawConfig(5))
	needed := []Op{ops[7], ops[len(ops)/2], ops[len(ops)-1]}
	breaks := func(some []Op) *Violation {
		for _, o := range needed {
			if !slices.Contains(some, o) {
				return nil
			}
		}
		return &Violation{Invariant: "planted"}
	}
	got, v := reduce(ops, &Violation{Invariant: "planted"}, breaks)
	if diff := cmp.Diff(needed, got); diff != "" || v.Invariant != "planted" {
		t.Errorf("(-needed +left)\n%s", diff)
	}
}

// TestReplayRefused: what cannot be run is refused with the line and what to do.
func TestReplayRefused(t *testing.T) {
	var b strings.Builder
	if _, err := (Replay{Seed: 3, Ops: []Op{{At: 1000, Kind: "record"}}, system: Draw(3).system}).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	if _, err := ReadReplay(strings.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(good, "\n")
	var all []string
	for i := range Draw(3).system.volumes {
		all = append(all, fmt.Sprintf("v%d", i))
	}
	for _, test := range []struct{ want, text string }{
		{"version 1, this farside runs version 2", strings.Replace(good, "replay 2", "replay 1", 1)},
		{"version 3, this farside runs version 2", strings.Replace(good, "replay 2", "replay 3", 1)},
		{"it is empty", ""},
		{"line 1: it is not", "\x7fELF\n"},
		{"\"seed NUMBER\"", lines[0]},
		{"line 2", lines[0] + "seed x\n"},
		{"was cut off", strings.Join(lines[:4], "")},
		{"a second line \"system\"", lines[0] + lines[1] + lines[2] + lines[2]},
		{"\"color\" is unknown in \"system\"", strings.Replace(good, "\nsystem ", "\nsystem color=red ", 1)},
		{"lacks primaries=", lines[0] + lines[1] + "system secondaries=1\n"},
		{"primaries is 0, not 1 to 16", strings.Replace(good, fmt.Sprintf("primaries=%d", Draw(3).system.primaries), "primaries=0", 1)},
		{"latency is 2h0m0s", strings.Replace(good, fmt.Sprintf("latency=%v", Draw(3).system.latency), "latency=2h", 1)},
		{"spare is NaN", replaceField(good, "spare", "NaN")},
		{"volume v0: no such primary", replaceField(good, "blocks", "4")},
		{"\"t0\" is no secondary", replaceField(good, "to", "t0")},
		{"not an operation", good + "1ms explode\n"},
		{"late is \"v99\": there is no such volume", good + "late v99\n"},
		{"\"v0\" is late twice", good + "late v0 v0\n"},
		{"without those that are late", good + "late " + strings.Join(all, " ") + "\n"},
		{"first copies' rest is -1", replaceField(good, "rest", "-1")},
	} {
		_, err := ReadReplay(strings.NewReader(test.text))
		if !errors.Is(err, ErrReplay) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v; want %q", err, test.want)
		}
	}
}

// replaceField puts another value behind the first KEY=.
func replaceField(text, key, value string) string {
	at := strings.Index(text, " "+key+"=") + len(key) + 2
	end := at + strings.IndexAny(text[at:], " \n")
	return text[:at] + value + text[end:]
}
