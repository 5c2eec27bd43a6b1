package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/sim"
)

// simReport is what a campaign did, and what it found.
type simReport struct {
	Passed   uint64         `json:"passed"`
	Failed   uint64         `json:"failed"`
	Counts   sim.Report     `json:"counts"`
	Failures []*sim.Failure `json:"failures"`
}

func (r *simReport) writeText(w io.Writer) error {
	for _, f := range r.Failures {
		if _, err := fmt.Fprintf(w, "seed %d: %v\nSave the lines below in a file, and \"farside sim --replay FILE\" does it again:\n\n%s\n",
			f.Seed, f.Violation, f.Replay); err != nil {
			return err
		}
	}
	c := r.Counts
	_, err := fmt.Fprintf(w, "%d checked steps, %d device I/Os, %d CGs decided, %d power failures, %d kills (%d of both at an I/O), %d failovers, %d pools recovered, %d copies read\n%d passed, %d failed\n",
		c.Steps, c.IOs, c.CGs, c.Crashes, c.Kills, c.AtIO, c.Failovers, c.Recoveries, c.Reads, r.Passed, r.Failed)
	return err
}

// runSeed simulates one seed; a test has it fail.
var runSeed = sim.Run

type simFlags struct {
	seeds, first, replay string
	trace                bool
}

func (a *app) simCommand() *cobra.Command {
	var f simFlags
	c := &cobra.Command{
		Use:   "sim",
		Short: "Simulate the whole system, crash by crash",
		Long: `Simulate managers, primaries, secondaries, hosts, devices and the network between them, in virtual time, with
power failures, kills, partitions and damage. After each step it is checked that no copy is lost, mixed or
stale. Nothing on this machine is touched. Each seed is another system with another history; the same seed is
always the same. A failure is printed as a list of operations that --replay runs again.`,
		Example: `  farside sim --seeds 2000
  farside sim --replay failure.txt --trace`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().StringVar(&f.seeds, "seeds", "100", "how many seeds to run")
	c.Flags().StringVar(&f.first, "seed", "1", "the first seed")
	c.Flags().StringVar(&f.replay, "replay", "", "run the operations in this file instead")
	c.Flags().BoolVar(&f.trace, "trace", false, "print what happens (with --replay, or a single seed)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		report, err := a.simulate(c.Context(), f)
		if err != nil {
			return err
		}
		if err := a.print(report); err != nil {
			return err
		}
		if report.Failed > 0 {
			return fmt.Errorf("%d of %d runs broke an invariant", report.Failed, report.Failed+report.Passed)
		}
		return nil
	}
	return c
}

func (a *app) simulate(ctx context.Context, f simFlags) (*simReport, error) {
	if f.replay != "" {
		return a.simReplay(f)
	}
	count, err := number("seeds", f.seeds)
	if err != nil {
		return nil, err
	}
	first, err := number("seed", f.first)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		return nil, usage("give a number from 1 on", "--seeds 0 runs nothing")
	}
	if f.trace && count > 1 {
		return nil, usage("add --seeds 1", "--trace prints one run, not %d", count)
	}
	return a.simSeeds(ctx, first, count, f.trace)
}

func number(flag, text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usage("give a whole number, such as --"+flag+" 42", "--%s %q is not a number", flag, text)
	}
	return n, nil
}

func (a *app) simReplay(f simFlags) (*simReport, error) {
	file, err := os.Open(f.replay)
	if err != nil {
		return nil, usage("name a file that \"farside sim\" printed", "--replay: %w", err)
	}
	r, err := sim.ReadReplay(file)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, usage("name a file that \"farside sim\" printed", "--replay %s: %w", f.replay, err)
	}
	report := &simReport{}
	o := sim.Options{Keep: true}
	if f.trace {
		o.Trace = func(line string) { fmt.Fprintln(a.err, line) }
	}
	counts, err := r.Run(o)
	return report, report.take(counts, err)
}

// take adds the outcome of a run; the error is one of the simulation itself.
func (r *simReport) take(counts sim.Report, err error) error {
	r.Counts.Add(counts)
	f, broken := errors.AsType[*sim.Failure](err)
	switch {
	case broken:
		r.Failed++
		r.Failures = append(r.Failures, f)
	case err != nil:
		return err
	default:
		r.Passed++
	}
	return nil
}

// simSeeds runs seeds on all cores.
func (a *app) simSeeds(ctx context.Context, first, count uint64, trace bool) (*simReport, error) {
	report := &simReport{Failures: []*sim.Failure{}}
	o := sim.Options{}
	if trace {
		o.Trace = func(line string) { fmt.Fprintln(a.err, line) }
	}
	var mu sync.Mutex // guards report, failure and tenth
	var failure error
	var tenth uint64
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range min(uint64(runtime.GOMAXPROCS(0)), count) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < count && ctx.Err() == nil; i = next.Add(1) - 1 {
				counts, err := runSeed(first+i, o)
				mu.Lock()
				failure = errors.Join(failure, report.take(counts, err))
				if done := report.Passed + report.Failed; tenths(done, count) > tenth {
					tenth = tenths(done, count)
					fmt.Fprintf(a.err, "%d of %d seeds, %d failed\n", done, count, report.Failed)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return report, failure
}
