package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
)

// benchmarks lists what can be measured.
var benchmarks = []string{"ingest", "floor"}

// benchRequest says what to measure. Everything on Device is destroyed.
type benchRequest struct {
	What   string
	Device string
	IO     config.IO
	Time   time.Duration
}

func (a *app) benchCommand() *cobra.Command {
	var devices []string
	var io string
	var seconds float64
	var force bool
	c := &cobra.Command{
		Use:   "bench WORKLOAD",
		Short: "Measure, each result with the floor of its device",
		Long: `Measure a workload on a device, and in the same run the device's own limits. Everything on the device is
destroyed: what it holds is looked at first, as with "farside format".

WORKLOAD is one of: ` + strings.Join(benchmarks, ", ") + `.`,
		Example:   "  farside bench ingest --device /dev/nvme1n1 --seconds 10 --output json",
		Args:      args(cobra.ExactArgs(1)),
		ValidArgs: benchmarks,
	}
	f := c.Flags()
	f.StringSliceVar(&devices, "devices", nil, "block device or file to measure on")
	f.StringVar(&io, "io", "uring", "how the device is reached: uring or plain")
	f.Float64Var(&seconds, "seconds", 10, "how long each measurement takes")
	f.BoolVar(&force, "force", false, "destroy what the device holds")
	c.RunE = func(c *cobra.Command, given []string) error {
		r := benchRequest{What: given[0], Time: time.Duration(seconds * float64(time.Second))}
		switch {
		case !slices.Contains(benchmarks, r.What):
			return usage("name one of: "+strings.Join(benchmarks, ", "), "%q is not a workload", r.What)
		case len(devices) != 1:
			return usage("name it with --device", "a benchmark needs one device, not %d", len(devices))
		case !(seconds > 0 && seconds <= 86400):
			return usage("give more than 0 and at most 86400", "--seconds %v is out of range", seconds)
		}
		if err := r.IO.UnmarshalText([]byte(io)); err != nil {
			return usage("", "--io: %w", err)
		}
		r.Device = devices[0]
		if err := mayOverwrite(devices, force); err != nil {
			return err
		}
		p := a.newProgress()
		measured, err := a.bench(c.Context(), r, p.update)
		p.close()
		if err != nil {
			return err
		}
		return a.print(measured)
	}
	return c
}
