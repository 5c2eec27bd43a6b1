package sim

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds     = flag.Uint64("seeds", 2000, "seeds that TestSeeds runs; fewer by default under the race detector")
	firstSeed = flag.Uint64("seed", 1, "the first of them")
	verbose   = flag.Bool("story", false, "print what happens")
)

// late says that the test binary will soon be ended for taking too long, as on a machine that has much else to do: then
// fewer seeds are run, and the test says how many.
func late(t *testing.T) bool {
	end, ok := t.Deadline()
	return ok && time.Until(end) < 4*time.Minute
}

// TestSeeds runs the whole system with many seeds.
func TestSeeds(t *testing.T) {
	if raceEnabled && *seeds == 2000 {
		*seeds = 30
	}
	var mu sync.Mutex
	var total Report
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < *seeds && !t.Failed() && !late(t); i = next.Add(1) - 1 {
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
	fmt.Printf("%d seeds: %d power failures and kills, %d of them at an I/O; %d I/Os, %d checked steps, %d CGs decided\n",
		total.Seeds, total.Crashes+total.Kills, total.AtIO, total.IOs, total.Steps, total.CGs)
	t.Logf("%+v", total)
	if total.Seeds >= 500 && min(total.Members, total.Pools, total.Volumes, total.Parts, total.Spread) == 0 {
		t.Errorf("controls or volumes did not come and go, or no first copy was spread over CGs: %+v", total)
	}
}
