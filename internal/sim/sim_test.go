package sim

import (
	"errors"
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds     = flag.Uint64("seeds", 300, "seeds that TestSeeds runs; fewer by default under the race detector")
	firstSeed = flag.Uint64("seed", 1, "the first of them")
	verbose   = flag.Bool("story", false, "print what happens")
)

// TestSeeds runs the whole system with many seeds.
func TestSeeds(t *testing.T) {
	if raceEnabled && *seeds == 300 {
		*seeds = 30
	}
	var mu sync.Mutex
	var total Report
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < *seeds && !t.Failed(); i = next.Add(1) - 1 {
				o := Options{Keep: *verbose}
				if *verbose {
					o.Trace = func(line string) { t.Log(line) }
				}
				r, err := Run(*firstSeed+i, o)
				mu.Lock()
				total.Add(r)
				if f, ok := errors.AsType[*Failure](err); ok {
					t.Errorf("%v\n%s", f, f.Replay)
				} else if err != nil {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%+v", total)
}
