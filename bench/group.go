package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/wire"
)

const (
	groupPairs = 4
	// quietRate is a load at which nothing waits for a processor, but every CG brings something: an empty one would
	// make the manager pause.
	quietRate = 400
)

func runGroup(ctx context.Context, r *run) ([]Result, error) {
	return r.group(ctx, "group", groupPairs, []strain{
		{name: "quiet", what: fmt.Sprintf("%d host writes/s", quietRate), rate: func(float64) float64 { return quietRate }, goals: goals{link: atMost(1)}},
		halfOfPeak,
		{name: "peak", what: "hosts write as fast as they are answered", rate: func(float64) float64 { return 0 }, goals: goals{hold: atMost(holdGoal)}},
	})
}

// strain is a load under which a group is looked at.
type strain struct {
	name, what string
	// rate of all hosts together, by what they reach at most.
	rate  func(peak float64) float64
	goals goals
}

type goals struct{ hold, rpo, link *Target }

// The goals of P12, in milliseconds.
const (
	holdGoal = 2
	rpoGoal  = 250
)

var halfOfPeak = strain{name: "half", what: "hosts write at half of what they reach at most", rate: func(peak float64) float64 { return peak / 2 },
	goals: goals{hold: atMost(holdGoal), rpo: atMost(rpoGoal), link: atMost(1)}}

// group measures holds, recovery points and links of so many pairs of controls whose CGs follow each other at once.
func (r *run) group(ctx context.Context, name string, pairs int, strains []strain) (out []Result, err error) {
	c, err := r.openCluster(ctx, pairs, "0s")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	x, err := c.openRounds(ctx, pairs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	peak, err := r.peak(ctx, c)
	if err != nil {
		return nil, err
	}
	highest := result(Result{Name: name + "/peak", Unit: "writes/s", Notes: []string{
		fmt.Sprintf("%d primary and %d secondary controls and a manager, each a process, CGs one after the other (interval 0); %s", pairs, pairs, c.what()),
		fmt.Sprintf("what hosts reach: 4 KiB writes at random places, one host for each volume, %d in flight each, over NBD and Unix sockets; the hosts run in the benchmark's process", hostDepth)}}, peak)
	out = append(out, highest)
	for _, s := range strains {
		m, err := r.strained(ctx, c, x, s, highest.Value)
		if err != nil {
			return out, err
		}
		out = append(out, m.results(name, pairs, s)...)
	}
	if err := c.verify(ctx); err != nil {
		return out, err
	}
	out[0].Notes = append(out[0].Notes, "afterwards a sixteenth of each copy was compared with its volume: equal")
	return out, nil
}

// patience is how long something may take that takes milliseconds on a machine that has them to spare.
const patience = time.Minute

// window is how long each measurement of a group takes: there are many of them, and CGs are short.
func (r *run) window() time.Duration { return r.span() * 3 / 10 }

// peak measures what hosts reach while CGs are formed.
func (r *run) peak(ctx context.Context, c *cluster) (reps []Repetition, err error) {
	h, err := startHosts(ctx, c.places(), true, 0)
	if err != nil {
		return nil, err
	}
	if err = sleep(ctx, c.settle); err == nil {
		for range r.o.Repetitions {
			var rate float64
			if rate, err = h.rate(ctx, r.window()); err != nil {
				break
			}
			reps = append(reps, Repetition{Value: rate})
		}
	}
	if err := errors.Join(err, h.end()); err != nil {
		return nil, err
	}
	r.progress("  hosts reach %.0f writes/s", reps[0].Value)
	return reps, c.awaitCut(ctx)
}

// strains measured: floors while the group is paused, then the group, in turn, under the same load all the time.
type measuredGroup struct {
	floors  []roundTimes
	windows []groupWindow
	latency wire.HoldHistogram // of host writes, in all windows
	manager managerGroup       // at the end
}

// groupWindow is what happened while a group was watched.
type groupWindow struct {
	holds          wire.HoldHistogram // on all primaries
	cgs            []formed
	seconds        float64
	failed         uint64 // CGs, and attempts to hold
	sent, catchups uint64 // bytes
}

func (r *run) strained(ctx context.Context, c *cluster, x *rounds, s strain, peak float64) (m measuredGroup, err error) {
	h, err := startHosts(ctx, c.places(), true, s.rate(peak))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, h.end()) }()
	for i := range r.o.Repetitions + 1 {
		if err := c.pause(ctx); err != nil {
			return m, err
		}
		f, ferr := x.measure(ctx, r.window())
		if err := errors.Join(ferr, c.resume(ctx), h.err()); err != nil {
			return m, err
		}
		m.floors = append(m.floors, f)
		// The CG that was open during the pause is a large one, and so is the one that filled up until that was final.
		if err := errors.Join(c.awaitCut(ctx), c.awaitCut(ctx)); err != nil {
			return m, err
		}
		if i == r.o.Repetitions {
			m.manager, err = c.group(ctx)
			break
		}
		before := h.latency()
		w, err := c.watch(ctx, r.window())
		if err != nil {
			return m, err
		}
		took := h.latency()
		if took, err = took.Since(&before); err != nil {
			return m, err
		}
		m.latency.Merge(&took)
		m.windows = append(m.windows, w)
		r.progress("  %s, repetition %d of %d: %d CGs, hold p99 %.2f ms, RPO p99 %.1f ms, LINK to FINAL %.0f us", s.name, i+1, r.o.Repetitions,
			len(w.cgs)-1, millis(w.holds.Quantile(0.99)), millis(quantile(ages(w.cgs), 0.99)), micros(quantile(phases(w.cgs, formed.whole), 0.5)))
	}
	return m, err
}

// watch looks at the group for d, or longer if no two CGs became final in that time: of two, the second was held in it.
func (c *cluster) watch(ctx context.Context, d time.Duration) (w groupWindow, err error) {
	before, err := c.counted(ctx)
	if err != nil {
		return w, err
	}
	begin, end := time.Now(), time.Time{}
	var cgs []formed
	for len(cgs) < 3 { // the one before is among them
		if err := sleep(ctx, d); err != nil {
			return w, err
		}
		end = time.Now()
		if cgs, err = c.timeline(begin, end); err != nil {
			return w, err
		}
		if end.Sub(begin) > d+patience {
			return w, fmt.Errorf("fewer than two CGs became final within %v", patience)
		}
	}
	if w, err = c.counted(ctx); err != nil {
		return w, err
	}
	if w.holds, err = w.holds.Since(&before.holds); err != nil {
		return w, err
	}
	w.failed -= before.failed
	w.sent -= before.sent
	w.catchups -= before.catchups
	w.seconds, w.cgs = end.Sub(begin).Seconds(), cgs
	return w, nil
}

// counted adds up what controls count since they started.
func (c *cluster) counted(ctx context.Context) (w groupWindow, err error) {
	g, err := c.group(ctx)
	if err != nil {
		return w, err
	}
	w.failed = g.CGsFailed + g.HoldsFailed
	for i := range c.primaries {
		p, err := c.primary(ctx, i)
		if err != nil {
			return w, err
		}
		w.holds.Merge(&p.Holds)
		for _, x := range p.Connections {
			w.sent += x.SentBytes
			w.catchups += x.CatchupBytes
		}
	}
	return w, nil
}

// repetitions pairs each window's figure with the mean of the floors around it; floor may be nil.
func (m measuredGroup) repetitions(figure func(groupWindow) float64, floor func(roundTimes) float64) (reps []Repetition) {
	for i, w := range m.windows {
		p := Repetition{Value: figure(w)}
		if floor != nil {
			p.Floor = (floor(m.floors[i]) + floor(m.floors[i+1])) / 2
		}
		reps = append(reps, p)
	}
	return reps
}

func (m measuredGroup) results(name string, pairs int, s strain) []Result {
	detail := func(figure string) string {
		if s.name == halfOfPeak.name {
			return name + "/" + figure
		}
		return name + "/" + figure + "-at-" + s.name
	}
	between := fmt.Sprintf("between a process and %d others over TCP loopback, one thread each with blocking system calls, under the same load while no CG is formed", pairs)
	hold := Result{Name: detail("hold"), Goal: "P12", Unit: "ms", Target: s.goals.hold, Absolute: true, Notes: m.notes(s),
		FloorName: "p99 of two rounds of messages " + between}
	hold.Notes = append(hold.Notes, m.bare(), "p99 of how long host writes were held, on each primary from its HOLD to its THAW, as the upper limit of a bucket of its histogram (at most a quarter above the truth); the goal is for the value")
	rpo := Result{Name: detail("rpo"), Goal: "P12", Unit: "ms", Target: s.goals.rpo,
		Notes: []string{s.what, "p99 of the age that the recovery point had just before the next one: from the cut of a CG to when the next one was final on the last secondary, by the manager's audit log"}}
	link := Result{Name: detail("link-to-final"), Unit: "us", Target: s.goals.link,
		FloorName: "median of four rounds of messages " + between + "; for each message a 4 KiB write and a flush of a loop device of its own, before the answer",
		Notes:     []string{s.what, "median time from LINK sent to all to FINAL of the last, the decision log's transaction included", m.parts()}}
	if s.goals.link != nil {
		link.Goal = "LINK" // it has no number among P1 to P15
	}
	return []Result{
		result(hold, m.repetitions(func(w groupWindow) float64 { return millis(w.holds.Quantile(0.99)) },
			func(t roundTimes) float64 { return millis(quantile(t.two, 0.99)) })),
		result(rpo, m.repetitions(func(w groupWindow) float64 { return millis(quantile(ages(w.cgs), 0.99)) }, nil)),
		result(link, m.repetitions(func(w groupWindow) float64 { return micros(quantile(phases(w.cgs, formed.whole), 0.5)) },
			func(t roundTimes) float64 { return micros(quantile(t.four, 0.5)) })),
	}
}

// bare tells more of the floors.
func (m measuredGroup) bare() string {
	var two, four []time.Duration
	for _, f := range m.floors {
		two, four = append(two, f.two...), append(four, f.four...)
	}
	return fmt.Sprintf("floors, all together: two rounds %.2f ms (median; p99 %.2f ms), four rounds with a flush %.2f ms (p99 %.2f ms)",
		millis(quantile(two, 0.5)), millis(quantile(two, 0.99)), millis(quantile(four, 0.5)), millis(quantile(four, 0.99)))
}

// all gathers a part of every CG's way over all windows.
func (m measuredGroup) all(part func(formed) time.Duration) (out []time.Duration) {
	for _, w := range m.windows {
		out = append(out, phases(w.cgs, part)...)
	}
	return out
}

func (m measuredGroup) parts() string {
	at := func(part func(formed) time.Duration, p float64) float64 { return micros(quantile(m.all(part), p)) }
	return fmt.Sprintf("of which LINK to decision durable %.0f us, RELEASE to FINAL %.0f us; p99 of the whole %.0f us; before it, cut to complete everywhere %.0f us (p99 %.0f us)",
		at(formed.linked, 0.5), at(formed.released, 0.5), at(formed.whole, 0.99), at(formed.drained, 0.5), at(formed.drained, 0.99))
}

// notes say what went on.
func (m measuredGroup) notes(s strain) []string {
	var holds wire.HoldHistogram
	cgs, failed, seconds, sent, catchups := 0, uint64(0), 0.0, uint64(0), uint64(0)
	for _, w := range m.windows {
		holds.Merge(&w.holds)
		cgs, failed, seconds, sent, catchups = cgs+len(w.cgs)-1, failed+w.failed, seconds+w.seconds, sent+w.sent, catchups+w.catchups
	}
	notes := []string{
		fmt.Sprintf("%s: %.0f writes/s, answered in %.2f ms (median; p99 %.2f ms, from when each was sent)", s.what, float64(m.latency.Holds())/seconds,
			millis(m.latency.Quantile(0.5)), millis(m.latency.Quantile(0.99))),
		fmt.Sprintf("%.0f CGs/s, %d failed; median of %d holds %.2f ms; %.1f MB/s sent to secondaries, of which %.1f %% read from the local device because the queue was full",
			float64(cgs)/seconds, failed, holds.Holds(), millis(holds.Quantile(0.5)), float64(sent)/1e6/seconds, 100*float64(catchups)/float64(max(1, sent))),
		m.byManager(),
	}
	if last := m.manager.LastFailure; failed > 0 && last != nil {
		notes = append(notes, "the last failure: "+last.Reason)
	}
	return notes
}

// byManager is how the manager saw its last holds, on the primary where they took longest.
func (m measuredGroup) byManager() string {
	var held, hold percentiles
	for _, c := range m.manager.Controls {
		if c.Held != nil && c.Hold != nil {
			held = percentiles{max(held.P50, c.Held.P50), max(held.P99, c.Held.P99)}
			hold = percentiles{max(hold.P50, c.Hold.P50), max(hold.P99, c.Hold.P99)}
		}
	}
	return fmt.Sprintf("by the manager's clock, over its newest holds (1024 to 2048): HOLD sent to HELD %.2f ms (p99 %.2f ms), HOLD sent to THAWED %.2f ms (p99 %.2f ms), each on the slowest primary",
		held.P50, held.P99, hold.P50, hold.P99)
}
