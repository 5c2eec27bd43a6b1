package sim

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReplays runs what once failed. A replay draws its system from the seed: where config.go changes, it becomes
// another run, and the unit test named in its comment is what guards the bug.
func TestReplays(t *testing.T) {
	files, err := filepath.Glob("testdata/*.replay")
	if err != nil || len(files) == 0 {
		t.Fatalf("no replays in testdata: %v", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r, err := ReadReplay(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Run(Options{}); err != nil {
				t.Error(err)
			}
		})
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
		r := Replay{Seed: seed, Ops: drawOps(seed, drawConfig(seed))}
		var b strings.Builder
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		got, err := ReadReplay(strings.NewReader(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
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
	f.Add("farside sim replay 1\nseed 3\n# a comment\n1ms record\n2.5ms power node=s0 a=1 b=2 how=none\n")
	f.Add("farside sim replay 1\nseed x\n")
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
		if diff := cmp.Diff(r, again); diff != "" {
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
