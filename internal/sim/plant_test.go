//go:build plant

package sim

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/internal/plant"
)

// plantSeeds bounds the seeds within which a planted fault must be noticed.
const plantSeeds = 500

var (
	record    = flag.Bool("record", false, "have TestPlants write a replay for each planted fault into testdata")
	firstFlaw = flag.Int("first", 1, "the first fault that TestPlants plants")
	lastFlaw  = flag.Int("last", int(plant.End)-1, "the last one")
	table     = flag.Bool("table", false, "have TestPlants write what it finds into the table of doc.go")
)

// TestPlants plants one fault after the other, and sees that the simulation notices each.
func TestPlants(t *testing.T) {
	for f := plant.Fault(*firstFlaw); f <= plant.Fault(*lastFlaw); f++ {
		plant.Active = f
		seed, found := firstFailure()
		if found == nil {
			t.Errorf("%-52s NOT NOTICED within %d seeds", f, plantSeeds)
			continue
		}
		fmt.Printf("%-52s seed %3d: %s: %.110s\n", f, seed, found.Invariant, firstLine(found.Text))
		if *table {
			writeRow(t, f, seed, found)
		}
		if *record {
			recordReplay(t, f, seed)
		}
	}
	plant.Active = plant.None
}

// tableHead is the line before the table of doc.go, and an empty one.
const tableHead = "// The seed that noticed it first, when this was written, and the invariant:\n//\n"

// writeRow replaces, or adds, the row of a fault in the table of doc.go.
func writeRow(t *testing.T, f plant.Fault, seed uint64, found *Violation) {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), tableHead)
	rows, rest, closed := strings.Cut(after, "\n//\n")
	if !ok || !closed {
		t.Fatal("doc.go has no table of planted faults any more")
	}
	list := strings.Split(rows, "\n")
	row := fmt.Sprintf("//\t%-49s %3d  %s", f, seed, found.Invariant)
	if at := slices.IndexFunc(list, func(x string) bool { return strings.HasPrefix(x, "//\t"+f.String()+" ") }); at >= 0 {
		list[at] = row
	} else {
		list = append(list, row)
	}
	text = []byte(before + tableHead + strings.Join(list, "\n") + "\n//\n" + rest)
	if err := os.WriteFile("doc.go", text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// recordReplay writes the shortest replay found that the fault breaks.
func recordReplay(t *testing.T, f plant.Fault, seed uint64) {
	t.Helper()
	reductions = 100
	_, err := Run(seed, Options{})
	failure, ok := errors.AsType[*Failure](err)
	if !ok {
		t.Fatalf("seed %d does not fail again: %v", seed, err)
	}
	head, rest, _ := strings.Cut(failure.Replay, "\n")
	text := fmt.Sprintf("%s\n# planted: %s\n# broken: %s\n%s", head, f, failure.Violation.Invariant, rest)
	if err := os.WriteFile(filepath.Join("testdata", replayName(f)), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func replayName(f plant.Fault) string {
	return strings.NewReplacer(" ", "-", "'", "").Replace(strings.ToLower(f.String())) + ".replay"
}

// TestReplaysFail: each replay in testdata fails with the fault that its name tells.
func TestReplaysFail(t *testing.T) {
	defer func() { plant.Active = plant.None }()
	all := replays(t)
	for f := plant.None + 1; f < plant.End; f++ {
		name := replayName(f)
		r, ok := all[name]
		if !ok {
			t.Logf("testdata/%s is missing: TestPlants with -record writes it", name)
			continue
		}
		delete(all, name)
		plant.Active = f
		if _, err := r.Run(Options{Keep: true}); err == nil {
			t.Errorf("%s passes although its fault is planted: run TestPlants with -record to find another", name)
		}
	}
	for name := range all {
		t.Errorf("%s belongs to no planted fault", name)
	}
}

// firstFailure finds the lowest seed that breaks an invariant.
func firstFailure() (uint64, *Violation) {
	var mu sync.Mutex
	var next, best atomic.Uint64
	best.Store(plantSeeds + 1)
	var found *Violation
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed < best.Load(); seed = next.Add(1) {
				_, err := Run(seed, Options{Keep: true})
				if f, ok := errors.AsType[*Failure](err); ok {
					mu.Lock()
					if seed < best.Load() {
						best.Store(seed)
						found = f.Violation
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return best.Load(), found
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
