package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// steadyFull are the two pools of workload steady, in percent.
var steadyFull = []int{50, 90}

// instant is how far a run had come at some moment.
type instant struct {
	seconds float64 // since the first update
	blocks  uint64  // put
	written uint64  // blocks of payload that went to the device
	writes  uint64  // in so many requests
}

// steady is one long run.
type steady struct {
	ingested
	full     int
	instants []instant // one for each second, or more of them in a short run
	longest  time.Duration
	// floor is that of sequential writes, random that of random 4 KiB writes, in blocks per second: means of before
	// and after.
	floor, random float64
	groups        uint64
}

// steadyRun updates a pool for d, and looks once a second.
func (r *run) steadyRun(ctx context.Context, full int, d time.Duration) (x steady, err error) {
	x.full = full
	if err := r.addFloors(ctx, &x); err != nil {
		return x, err
	}
	if err := inOwnThread(func() error { return r.steadyHere(ctx, &x, d) }); err != nil {
		return x, err
	}
	return x, r.addFloors(ctx, &x)
}

// addFloors measures the floors; it is called twice.
func (r *run) addFloors(ctx context.Context, x *steady) error {
	sequential, err := r.sequentialFloor(ctx, r.floorTime())
	if err != nil {
		return err
	}
	random, err := r.randomFloor(ctx, ring.OpWrite, r.floorTime())
	x.floor += sequential.perSecond() / 2
	x.random += random.perSecond() / 2
	return err
}

func (r *run) steadyHere(ctx context.Context, x *steady, d time.Duration) (err error) {
	var last time.Time // of a final CG; the committer's until the session is closed
	s, err := newSession(r.dev, sessionOptions{full: x.full, onFinal: func(uint64) {
		now := time.Now()
		if !last.IsZero() {
			x.longest = max(x.longest, now.Sub(last))
		}
		last = now
	}})
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, s.close())
		}
	}()
	if err := errors.Join(s.fill(ctx), s.pool.Checkpoint(ctx)); err != nil {
		return err
	}
	filled, _, err := r.dev.stats()
	if err != nil {
		return err
	}
	begin, blocks, first := time.Now(), s.w.Stats().Blocks, s.cg
	next := begin
	s.onBatch = func(now time.Time) {
		if now.Before(next) {
			return
		}
		st := s.w.Stats()
		x.instants = append(x.instants, instant{now.Sub(begin).Seconds(), st.Blocks - blocks, st.DeviceBlocks, st.DeviceWrites})
		next = now.Add(min(time.Second, d/24))
	}
	if err := s.updateFor(ctx, d); err != nil {
		return err
	}
	x.elapsed, next = time.Since(begin), begin
	s.onBatch(time.Now())
	if err := errors.Join(s.awaitFinal(ctx), s.verify()); err != nil {
		return err
	}
	x.updates, x.groups = s.w.Stats().Blocks-blocks, s.cg-first
	x.notes = []string{fmt.Sprintf("volume of %d blocks over a pool %d %% full, %d CGs in %.0f s, of which %d were cut early for want of room and %d late; %.1f %% of the updates superseded within their CG",
		s.blocks, x.full, x.groups, x.elapsed.Seconds(), s.early, s.late, 100*float64(s.w.Stats().Superseded)/float64(s.w.Stats().Blocks))}
	open = false
	if err := s.close(); err != nil {
		return err
	}
	end, counted, err := r.dev.stats()
	x.counted = counted
	if counted {
		x.steady = float64(end.Sub(filled).WriteBytes) / float64(x.updates*engine.BlockSize)
	}
	return err
}

// between are the updates per second, and the blocks of one write, in a part of the run.
func (x *steady) between(from, to float64) (rate, perWrite float64) {
	var a, b *instant
	for i := range x.instants {
		p := &x.instants[i]
		if p.seconds >= from && a == nil {
			a = p
		}
		if p.seconds <= to {
			b = p
		}
	}
	if a == nil || b == nil || b.seconds <= a.seconds {
		return 0, 0
	}
	return float64(b.blocks-a.blocks) / (b.seconds - a.seconds), float64(b.written-a.written) / float64(max(b.writes-a.writes, 1))
}

// phases are the second minute and the last one, or fifths of a run that has fewer than five minutes.
func (x *steady) phases() (begin, end, last float64) {
	total := x.elapsed.Seconds()
	span := min(60, total/5)
	return span, 2 * span, total - span
}

func runSteady(ctx context.Context, r *run) ([]Result, error) {
	d := time.Duration(r.o.Minutes) * time.Minute
	if r.o.Quick {
		d = 6 * time.Second
	}
	var out []Result
	var runs []steady
	for _, full := range steadyFull {
		r.progress("  %v of updates over a pool %d %% full", d, full)
		x, err := r.steadyRun(ctx, full, d)
		if err != nil {
			return out, err
		}
		runs = append(runs, x)
		out = append(out, x.results()...)
	}
	return out, r.keepPicture("steady.svg", throughput(runs))
}

func (x *steady) results() []Result {
	name := func(what string) string { return fmt.Sprintf("steady/full=%d%%%s", x.full, what) }
	begin, end, last := x.phases()
	early, earlyRun := x.between(begin, end)
	late, lateRun := x.between(last, x.elapsed.Seconds())
	whole, _ := x.between(begin, x.elapsed.Seconds())
	var decay *Target
	if early > 0 {
		decay = atLeast(0.95)
	}
	out := []Result{
		result(Result{Name: name(""), Unit: "blocks/s", FloorName: "bare 256 KiB sequential writes, before and after",
			Notes: append([]string{fmt.Sprintf("updates at full speed from %.0f s on", begin)}, x.notes...), Series: x.series()}, []Repetition{{Value: whole, Floor: x.floor}}),
		result(Result{Name: name("/random"), Unit: "blocks/s", FloorName: "bare 4 KiB writes at random places at depth 128, before and after",
			Notes: []string{"where every hole is one block, nothing else is left"}}, []Repetition{{Value: whole, Floor: x.random}}),
		result(Result{Name: name("/last"), Goal: "no decay", Unit: "blocks/s", Target: decay,
			FloorName: fmt.Sprintf("the same run from %.0f s to %.0f s; the value is that from %.0f s to the end", begin, end, last),
			Notes:     []string{fmt.Sprintf("what holes explain: %.1f blocks per device write then, %.1f at the end", earlyRun, lateRun)}}, []Repetition{{Value: late, Floor: early}}),
		result(Result{Name: name("/longest-gap"), Unit: "s", Notes: []string{"longest time between two recovery points; a CG is cut every second, or earlier when the pool has no room for more of it"}},
			[]Repetition{{Value: x.longest.Seconds()}}),
	}
	if x.counted {
		out = append(out, result(Result{Name: name("/device-bytes"), Goal: "P3", Unit: "bytes/payload byte", Target: atMost(1.02),
			Notes: []string{"bytes written by the kernel's block statistics, from the end of the first fill to the closed pool: journal and checkpoints included"}},
			[]Repetition{{Value: x.steady}}))
	}
	return out
}

// series are the updates per second over time.
func (x *steady) series() (s []Sample) {
	for i := 1; i < len(x.instants); i++ {
		a, b := x.instants[i-1], x.instants[i]
		s = append(s, Sample{Seconds: b.seconds, Value: float64(b.blocks-a.blocks) / (b.seconds - a.seconds)})
	}
	return s
}

// throughput is the picture of all runs.
func throughput(runs []steady) *chart {
	c := &chart{title: "Random 4 KiB updates at full speed, a recovery point at least every second", x: "minutes", y: "thousand blocks of 4 KiB per second"}
	floor, longest := 0.0, 0.0
	for i := range runs {
		x := &runs[i]
		l := line{name: fmt.Sprintf("pool %d %% full", x.full)}
		for _, p := range x.series() {
			l.points = append(l.points, point{p.Seconds / 60, p.Value / 1e3})
			longest = max(longest, p.Seconds/60)
		}
		c.lines = append(c.lines, l)
		floor += x.floor / 1e3 / float64(len(runs))
	}
	c.lines = append(c.lines, line{name: "bare sequential writes", dashed: true, points: []point{{0, floor}, {longest, floor}}})
	return c
}

// keepPicture writes a picture, if there is a folder for it.
func (r *run) keepPicture(name string, c *chart) error {
	if r.o.Pictures == "" {
		return nil
	}
	path := filepath.Join(r.o.Pictures, name)
	r.progress("  the picture is in %s", path)
	return os.WriteFile(path, c.svg(), 0o644)
}
