package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/ring"
)

// benchReport prints a report as text; its JSON form is the report's own.
type benchReport struct{ bench.Report }

func (r benchReport) writeText(w io.Writer) error { return r.WriteText(w) }

// benchFlags are the flags that are not options of package bench as they stand.
type benchFlags struct {
	devices  []string
	io, size string
	goFormat bool
	force    bool
}

func (a *app) benchCommand() *cobra.Command {
	var o bench.Options
	var flags benchFlags
	c := &cobra.Command{
		Use:   "bench WORKLOAD...",
		Short: "Measure, each result with the floor of its device",
		Long: `Measure workloads on a device, and in the same run the limits of the device itself.

Everything on the device is destroyed. A device that holds something is refused first, as by "farside format". With
--loop a loop device is made for the run. The workloads reads-nbd, writes-primary, rpo and group need no device: they
make their own, in memory or with "--loop disk" on disk, and run whole controls, each a process, with hosts that
write over NBD.

WORKLOAD is "all" or some of:
` + describeWorkloads(),
		Example: `  farside bench ingest --device /dev/nvme1n1 --seconds 10 --output json
  farside bench group --quick
  farside bench all --loop tmpfs --quick`,
		Args:      args(cobra.MinimumNArgs(1)),
		ValidArgs: append(bench.Names(), "all"),
	}
	f := c.Flags()
	f.StringSliceVar(&flags.devices, "devices", nil, "block device or file to measure on")
	f.StringVar(&o.Loop, "loop", "", "make a loop device for the run: tmpfs or disk (needs root)")
	f.StringVar(&flags.size, "size", "", "bytes of the loop device, or of the device that are used")
	f.StringVar(&flags.io, "io", "uring", "how the device is reached: uring or plain")
	f.IntVar(&o.Seconds, "seconds", 0, "how long each measurement takes (0: 10, with --quick 2)")
	f.IntVar(&o.Repetitions, "repetitions", 0, "measurements of each workload, alternating with its floor (0: 3)")
	f.IntVar(&o.Full, "full", 0, "per cent of the pool that the ingest volume takes (0: 25); what is received takes as much again")
	f.IntVar(&o.Minutes, "minutes", 0, "how long each run of steady takes (0: 10, with --quick six seconds)")
	f.StringVar(&o.Pictures, "pictures", "", "existing folder for pictures (SVG) of figures over time")
	f.BoolVar(&o.Quick, "quick", false, "short: good enough to see that it works")
	f.StringVar(&o.Profile, "profile", "", "write a profile: cpu, mem, mutex, block or trace")
	f.BoolVar(&flags.goFormat, "go", false, "print Go's benchmark format, for benchstat")
	f.BoolVar(&flags.force, "force", false, "destroy what the device holds")
	c.RunE = func(c *cobra.Command, given []string) error {
		o.Names = given
		if err := flags.apply(&o); err != nil {
			return err
		}
		o.Progress = func(line string) { fmt.Fprintln(a.err, line) }
		if flags.goFormat && a.json() {
			return usage("give one of the two", "--go and --output json are both forms of the report")
		}
		measured, err := a.bench(c.Context(), o)
		if errors.Is(err, bench.ErrOptions) {
			return usage("see \"farside bench --help\"", "%w", err)
		}
		r, isReport := measured.(benchReport)
		if err != nil && (!isReport || len(r.Results) == 0) {
			return err
		}
		if isReport && flags.goFormat { // what was measured before an error is not lost
			return errors.Join(err, r.WriteGo(a.out))
		}
		return errors.Join(err, a.print(measured))
	}
	return c
}

// apply checks the flags and looks at what the device holds.
func (b *benchFlags) apply(o *bench.Options) error {
	for _, name := range o.Names {
		if name != "all" && bench.Describe(name) == "" {
			return usage("name one of: all, "+strings.Join(bench.Names(), ", "), "%q is not a workload", name)
		}
	}
	var io config.IO
	if err := io.UnmarshalText([]byte(b.io)); err != nil {
		return usage("", "--io: %w", err)
	}
	o.Kind = ring.Uring
	if io == config.IOPlain {
		o.Kind = ring.Plain
	}
	var size config.Size
	if err := parseSizes(map[string]string{"size": b.size}, map[string]*config.Size{"size": &size}); err != nil {
		return err
	}
	o.Size = int64(size)
	if o.Loop != "" {
		if len(b.devices) > 0 {
			return usage("give one of the two", "--loop makes the device; --device names one")
		}
		return nil
	}
	if len(b.devices) == 0 && !bench.NeedDevice(o.Names) {
		return nil
	}
	if len(b.devices) != 1 {
		return usage("name it with --device, or give --loop tmpfs", "a benchmark needs one device, not %d", len(b.devices))
	}
	o.Device = b.devices[0]
	if _, err := os.Stat(o.Device); errors.Is(err, os.ErrNotExist) {
		return usage("check the name; a file must be there before, as \"truncate -s 4G FILE\" makes it", "%s does not exist", o.Device)
	}
	return mayOverwrite(b.devices, b.force)
}

func describeWorkloads() string {
	var b strings.Builder
	for _, n := range bench.Names() {
		fmt.Fprintf(&b, "  %-14s %s\n", n, bench.Describe(n))
	}
	return strings.TrimRight(b.String(), "\n")
}

// runBench runs this program again for each role where a workload wants whole controls.
func runBench(ctx context.Context, o bench.Options) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to run it again for each role: %w", err)
	}
	o.Command = []string{self}
	r, err := bench.Run(ctx, o)
	return benchReport{r}, err
}
