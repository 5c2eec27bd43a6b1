package engine

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// The crash tests in a few words. A history is played until the n-th submission, completion or flush of a device; there it
// crashes. What the devices may hold then is opened, and compared with what the history knows: exactly one CG on all
// volumes, not older than what was acknowledged, and not younger than what had been asked for. n goes up until the history
// reaches its end without a crash.
//
// Each crash has two kinds of outcome. When the power fails, every sector that was not flushed holds any of its versions:
// all combinations are tried if they are few, else none, all, a prefix, all but one, and random ones. When only the process
// dies, what was written can be read and still be lost: the pool is opened, and then the power fails, before and
// after each I/O of that recovery.
//
// Histories that are scripted (TestCrashInScripts): format over a pool, recovery with damaged superblocks, checkpoint, fold under a
// snapshot, volumes made and deleted, fence, discard, revert, close, write errors, the end of the journal's ring. Each begins
// with the recovery of what a killed process left, so that recovery is crashed in all of them. Histories that are generated
// (TestReq08_CrashAnywhere): all of these but format over a pool, damage and write errors, at random, format of blank devices included.

var (
	crashSeeds  = flag.Int("crash-seeds", 2, "generated histories to crash")
	crashStride = flag.Uint64("crash-stride", 17, "generated histories crash at every n-th point; 1: at all")
	// Under the race detector everything takes some ten times as long.
	scriptStride = map[bool]uint64{false: 1, true: 5}[raceDetector]
)

var crashEvents = []ringtest.Event{ringtest.Submission, ringtest.Completion, ringtest.FlushEnd}

// crashes checks what crashes leave, and counts.
type crashes struct {
	points              [3]int // by event
	images, distinct    int    // of failed power
	kills, distinctKill int
	recoveries          int // points within recoveries
	seen                map[outcome]bool
	// lie: recoveries believe to flush, and do not.
	lie bool
}

// outcome is what a crash left, and what it is compared with. The same need not be checked twice.
type outcome struct {
	readable, durable uint64
	acked, asked      facts
}

func newCrashes() *crashes { return &crashes{seen: map[outcome]bool{}} }

func (c *crashes) String() string {
	return fmt.Sprintf("crashed at %d submissions, %d completions and %d flushes: %d images (%d distinct), %d kills (%d distinct) with %d crashes of their recoveries",
		c.points[0], c.points[1], c.points[2], c.images, c.distinct, c.kills, c.distinctKill, c.recoveries)
}

// everywhere crashes what play plays, at every stride-th event of each kind, until it ends without a crash.
func (c *crashes) everywhere(first, stride uint64, play func(ringtest.Event, uint64) (*history, error)) error {
	for _, event := range crashEvents {
		if event == ringtest.FlushEnd {
			first, stride = 1, 1
		}
		for n := first; ; n += stride {
			h, err := play(event, n)
			if !h.devs.Crashed() {
				if err == nil { // the crash-free end
					err = c.powerFails(h, h.devs.Crash(ringtest.None))
				}
				if err != nil {
					return fmt.Errorf("without a crash: %w", err)
				}
				break
			}
			if !errors.Is(err, ringtest.ErrCrashed) {
				return fmt.Errorf("event %d number %d: crashed, but: %w", event, n, errors.Join(err, errors.New("no crash was reported")))
			}
			h.leave()
			c.points[event]++
			if err := c.after(h); err != nil {
				return fmt.Errorf("event %d number %d: %w", event, n, err)
			}
		}
	}
	return nil
}

// after checks all outcomes of a crash.
func (c *crashes) after(h *history) error {
	for name, devs := range h.devs.Crashes(5) {
		if err := c.powerFails(h, devs); err != nil {
			return fmt.Errorf("power failed, %s: %w", name, err)
		}
	}
	if err := c.processDies(h, h.devs.Kill()); err != nil {
		return fmt.Errorf("process killed: %w", err)
	}
	return nil
}

// powerFails checks, recovers, and recovers again what is on the devices.
func (c *crashes) powerFails(h *history, devs *ringtest.Devices) error {
	c.images++
	sum := devs.Digest()
	if o := (outcome{sum, sum, h.acked, h.asked}); c.seen[o] {
		return nil
	} else {
		c.seen[o] = true
	}
	c.distinct++
	rep, err := Check(devs, CheckOptions{Data: true})
	if err != nil {
		return err
	}
	if len(rep.Damage) > 0 {
		for _, d := range rep.Damage {
			if h.formatted || d.Structure != "superblock" && d.Structure != "pool" { // format leads to a whole pool, or to none
				return fmt.Errorf("check: %+v", rep.Damage)
			}
		}
		return formatAgain(devs)
	}
	got, err := c.recover(h, devs, h.acked, h.asked)
	if err != nil {
		return err
	}
	return c.recoverAndGoOn(h, devs.Crash(ringtest.None), got)
}

// formatAgain: after a crash in format there may be no pool, but one can be made.
func formatAgain(devs *ringtest.Devices) error {
	if _, err := Format(devs, historyFormat()); err != nil {
		return err
	}
	p, err := Open(devs, historyOptions())
	if err != nil {
		return err
	}
	return p.Close()
}

// recover opens, compares, and leaves without a word.
func (c *crashes) recover(h *history, devs *ringtest.Devices, allowed ...facts) (got facts, err error) {
	pool, err := Open(devs, historyOptions())
	if err != nil {
		return got, err
	}
	if got, err = factsOf(pool); err == nil {
		err = h.compareViews(pool, got)
	}
	if !slices.Contains(allowed, got) && err == nil {
		err = fmt.Errorf("recovered %+v\nallowed are %+v", got, allowed)
	}
	return got, errors.Join(err, pool.shut())
}

// recoverAndGoOn opens once more, finds the same, and works with it.
func (c *crashes) recoverAndGoOn(h *history, devs *ringtest.Devices, want facts) error {
	pool, err := Open(devs, historyOptions())
	if err != nil {
		return err
	}
	got, err := factsOf(pool)
	if err == nil && got != want {
		err = fmt.Errorf("recovered %+v, and after another crash %+v", want, got)
	}
	if err == nil {
		if err = h.goOn(pool, got); err != nil {
			err = fmt.Errorf("after recovery: %w", err)
		}
	}
	if err == nil {
		err = blocksAddUp(pool)
	}
	if err != nil {
		return errors.Join(err, pool.shut())
	}
	return pool.Close()
}

// processDies goes on with what can be read of a cache that nobody has flushed: devs are not durable. What recovery shows
// stays, whenever the power fails; until it has shown anything, the history's own promises hold.
func (c *crashes) processDies(h *history, devs *ringtest.Devices) error {
	c.kills++
	o := outcome{devs.Digest(), devs.Crash(ringtest.None).Digest(), h.acked, h.asked}
	if c.seen[o] {
		return nil
	}
	c.seen[o] = true
	c.distinctKill++
	if err := c.powerFails(h, devs.Crash(ringtest.Random)); err != nil {
		return fmt.Errorf("power failed: %w", err)
	}
	events := crashEvents
	if c.distinctKill%8 != 1 { // until it flushes, recovery only reads (but for one script): that need not be crashed each time
		events = events[ringtest.FlushEnd:]
	}
	for _, event := range events {
		for n := uint64(1); ; n++ {
			again := devs.Reset(ringtest.All)
			again.CrashAt(event, n)
			ended, err := c.recoveryCrashes(h, again)
			if err != nil {
				return fmt.Errorf("event %d number %d of recovery: %w", event, n, err)
			}
			if ended {
				break
			}
			c.recoveries++
		}
	}
	return nil
}

// recoveryCrashes opens devs, which may crash meanwhile; if they do not, the power fails as soon as recovery has answered.
func (c *crashes) recoveryCrashes(h *history, devs *ringtest.Devices) (ended bool, err error) {
	if c.lie {
		for i := range devs.Info() {
			devs.Inject(ringtest.Fault{Kind: ringtest.Lies, Device: i, Op: ring.OpFlush})
		}
	}
	pool, err := Open(devs, historyOptions())
	if devs.Crashed() {
		if !errors.Is(err, ringtest.ErrCrashed) {
			return false, fmt.Errorf("crashed, but: %w", errors.Join(err, errors.New("no crash was reported")))
		}
		if devs.Unchanged() { // it has only read so far
			return false, nil
		}
		for _, p := range []ringtest.Policy{ringtest.None, ringtest.All, ringtest.Random} {
			if err := c.powerFails(h, devs.Crash(p)); err != nil {
				return false, fmt.Errorf("power failed: %w", err)
			}
		}
		return false, nil
	}
	if err != nil {
		if h.formatted {
			return false, err
		}
		return true, nil // a crash in format leaves no pool
	}
	got, err := factsOf(pool)
	if err := errors.Join(err, pool.shut()); err != nil {
		return false, err
	}
	if got != h.acked && got != h.asked {
		return false, fmt.Errorf("recovered %+v\nacknowledged %+v\nasked for %+v", got, h.acked, h.asked)
	}
	known := h.from(nil)
	known.acked, known.asked, known.formatted = got, got, true
	for _, p := range []ringtest.Policy{ringtest.None, ringtest.Random} {
		if err := c.powerFails(known, devs.Crash(p)); err != nil {
			return false, fmt.Errorf("power failed after recovery had shown %+v: %w", got, err)
		}
	}
	return true, nil
}

// TestReq08_CrashAnywhere crashes generated histories, from format to close.
func TestReq08_CrashAnywhere(t *testing.T) {
	seeds := *crashSeeds
	if raceDetector {
		seeds = 1
	}
	for seed := range uint64(seeds) {
		c := newCrashes()
		err := c.everywhere(1+seed**crashStride/2%*crashStride, *crashStride, func(event ringtest.Event, n uint64) (*history, error) {
			h := newHistory(seed)
			h.crash, h.crashIn = event, n
			h.devs.CrashAt(event, n)
			return h, h.run(120)
		})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		t.Logf("seed %d: %v", seed, c)
	}
}
