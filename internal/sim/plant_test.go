//go:build plant

package sim

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/internal/plant"
)

// plantSeeds bounds the seeds within which a planted fault must be noticed.
const plantSeeds = 500

// TestPlants plants one fault after the other, and sees that the simulation notices each.
func TestPlants(t *testing.T) {
	for f := plant.None + 1; f < plant.End; f++ {
		plant.Active = f
		seed, found := firstFailure()
		if found == nil {
			t.Errorf("%-52s NOT NOTICED within %d seeds", f, plantSeeds)
			continue
		}
		fmt.Printf("%-52s seed %3d: %s: %.110s\n", f, seed, found.Invariant, firstLine(found.Text))
	}
	plant.Active = plant.None
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
