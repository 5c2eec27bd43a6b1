package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/bench"
)

// settings of a run.
type settings struct {
	loop, dir, output string
	size              string
	only              []string
	seconds, rounds   int
	full, group       int
	quick             bool
}

func main() {
	err := ownMounts()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = newCommand().ExecuteContext(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(status(err))
	}
}

// cannot is an error that was found before anything was done.
type cannot struct{ error }

func (c *cannot) Unwrap() error { return c.error }

func status(err error) int {
	if errors.As(err, new(*cannot)) {
		return bench.PeersCannot
	}
	return 1
}

func newCommand() *cobra.Command {
	var o settings
	c := &cobra.Command{
		Use:           "peers",
		Short:         "The work of a secondary control on what one would use instead, side by side with farside's engine (needs root)",
		Long:          "The work of a secondary control on what one would use instead, side by side with farside's engine.\n\n" + describe(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := c.Flags()
	f.StringVar(&o.loop, "loop", "tmpfs", "where the loop device's file is: tmpfs or disk")
	f.StringVar(&o.dir, "dir", "", "folder of the file with --loop disk (default: the one for temporary files)")
	f.StringVar(&o.size, "size", "4GiB", "of the loop device")
	f.IntVar(&o.seconds, "seconds", 10, "how long each store is measured in a round")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; each runs every store once")
	f.IntVar(&o.full, "full", 25, "per cent of the device that the volumes take")
	f.IntVar(&o.group, "group", 64<<10, "updates of a consistency group")
	f.StringSliceVar(&o.only, "only", nil, "these peers instead of all")
	f.BoolVar(&o.quick, "quick", false, "three rounds of a second each with small volumes and groups: good enough to see that it works")
	f.StringVar(&o.output, "output", "text", "text, json or markdown")
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := measure(c.Context(), o)
		if err != nil && len(r.Results) == 0 {
			return err
		}
		return errors.Join(err, print(r, o.output)) // what was measured before an error is not lost
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &cannot{err} })
	return c
}

func describe() string {
	var b strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&b, "  %-18s %s\n", p.name, p.what)
	}
	return b.String()
}

func print(r bench.Report, output string) error {
	switch output {
	case "json":
		return r.WriteJSON(os.Stdout)
	case "markdown":
		return r.WriteMarkdown(os.Stdout)
	}
	return r.WriteText(os.Stdout)
}

// quickly is what --quick does: a store that takes 10,000 updates/s is filled and measured within a few seconds.
func (o *settings) quickly() {
	if o.quick {
		o.seconds, o.rounds, o.full, o.group = 1, 3, min(o.full, 2), min(o.group, 4<<10)
	}
}

// check returns the device's size, the peers that take part, and why others do not. Its error is a cannot.
func (o *settings) check() (size int64, some []peer, missing []string, err error) {
	defer func() {
		if err != nil {
			err = &cannot{err}
		}
	}()
	n, err := humanize.ParseBytes(o.size)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("--size %q: %w", o.size, err)
	}
	size = int64(n) / blockSize * blockSize
	switch {
	case size < 3<<30 || size > 1<<40:
		err = fmt.Errorf("--size %s: want 3 GiB to 1 TiB", o.size)
	case o.loop != "tmpfs" && o.loop != "disk":
		err = fmt.Errorf("--loop %q: want tmpfs or disk", o.loop)
	case o.full < 1 || o.full > 40:
		err = fmt.Errorf("--full %d: want 1 to 40; stores that copy need room", o.full)
	case o.seconds < 1 || o.rounds < 1 || o.group < 1:
		err = errors.New("--seconds, --rounds and --group: want 1 or more")
	case !slices.Contains([]string{"text", "json", "markdown"}, o.output):
		err = fmt.Errorf("--output %q: want text, json or markdown", o.output)
	case os.Geteuid() != 0:
		err = errors.New("loop devices and mounts need root")
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(peers, func(p peer) bool { return p.name == name }) {
			err = errors.Join(err, fmt.Errorf("--only %q is not a peer; known are:\n%s", name, describe()))
		}
	}
	for _, p := range peers {
		lacks := p.missing()
		switch {
		case len(o.only) > 0 && !slices.Contains(o.only, p.name):
		case lacks == nil:
			some = append(some, p)
		case len(o.only) > 0:
			err = errors.Join(err, lacks)
		default:
			missing = append(missing, "peers/"+p.name+": "+lacks.Error())
		}
	}
	o.quickly()
	return size, some, missing, err
}

// measure runs all rounds.
func measure(ctx context.Context, o settings) (rep bench.Report, err error) {
	size, some, missing, err := o.check()
	if err != nil {
		return rep, err
	}
	for _, text := range missing {
		fmt.Fprintln(os.Stderr, text)
	}
	rep.Missing = missing
	m, err := newMedium(ctx, o.loop, o.dir, size)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	blocks := uint64(size) * uint64(o.full) / 100 / blockSize / volumes * volumes
	rep.Host = bench.ThisHost()
	rep.Host.Notices = append(rep.Host.Notices, fmt.Sprintf("loop device of %s on %s, 4 KiB sectors, direct I/O; %d volumes of together %d blocks; groups of %d updates", o.size, o.loop, volumes, blocks, o.group))
	stores := append([]peer{{name: "farside", open: openFarside}}, some...)
	results := map[string][]outcome{}
	for round := range o.rounds {
		for _, p := range stores {
			got, err := one(ctx, m, p, blocks, o)
			if err != nil {
				rep.Missing = append(rep.Missing, fmt.Sprintf("peers, from %s in round %d of %d on: %v", p.name, round+1, o.rounds, err))
				rep.Results = report(some, results)
				return rep, fmt.Errorf("%s: %w", p.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %-18s %8.0f updates/s in %d groups, %.2f device bytes per payload byte\n",
				round+1, o.rounds, p.name, got.rate(), got.groups, got.amplification)
			results[p.name] = append(results[p.name], got)
		}
	}
	rep.Results = report(some, results)
	return rep, nil
}

// one runs a store once, on a goroutine of its own: a ring belongs to a thread.
func one(ctx context.Context, m *medium, p peer, blocks uint64, s settings) (o outcome, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: servers that a store starts end with the thread that started them
		err = m.run(ctx, p, blocks, s.group, func(at place) (err error) {
			o, err = m.work(ctx, p, at, s)
			return err
		})
	}()
	<-done
	return o, err
}

func (m *medium) work(ctx context.Context, p peer, at place, set settings) (o outcome, err error) {
	s, err := p.open(ctx, at)
	if err != nil {
		return o, err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, s.close())
		}
	}()
	w := newWork(at.blocks)
	w.s = s
	if err := w.fill(ctx); err != nil {
		return o, err
	}
	before, err := m.loop.Stats()
	if err != nil {
		return o, err
	}
	if o, err = w.run(ctx, set.group, time.Duration(set.seconds)*time.Second); err != nil {
		return o, err
	}
	if err := w.verify(); err != nil {
		return o, err
	}
	open = false
	if err := s.close(); err != nil {
		return o, err
	}
	if at.dir != "" {
		if err := command(ctx, "sync", "-f", at.dir); err != nil {
			return o, err
		}
	}
	after, err := m.loop.Stats()
	o.amplification = float64(after.Sub(before).WriteBytes) / float64(o.updates*blockSize)
	return o, err
}

// report compares farside with each peer, round by round.
func report(some []peer, results map[string][]outcome) (out []bench.Result) {
	own := results["farside"]
	amplification := func(name string, list []outcome) bench.Result {
		var reps []bench.Repetition
		for _, o := range list {
			reps = append(reps, bench.Repetition{Value: o.amplification})
		}
		return bench.Judged(bench.Result{Name: "peers/" + name + "/device-bytes", Unit: "bytes/payload byte"}, reps)
	}
	if len(own) == 0 {
		return nil
	}
	out = append(out, amplification("farside", own))
	for _, p := range some {
		if len(results[p.name]) == 0 {
			continue
		}
		var reps []bench.Repetition
		for i, o := range results[p.name] {
			reps = append(reps, bench.Repetition{Value: own[i].rate(), Floor: o.rate()})
		}
		r := bench.Result{Name: "peers/" + p.name, Unit: "updates/s", FloorName: "the same work on " + p.name + ": " + p.what}
		if p.goal > 0 {
			r.Goal, r.Target = "P14", bench.AtLeast(p.goal)
		}
		out = append(out, bench.Judged(r, reps), amplification(p.name, results[p.name]))
	}
	return out
}
