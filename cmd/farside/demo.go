package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/demo"
)

// demoRequest says how to run the demonstration.
type demoRequest struct {
	// Dir holds the files; "" makes a temporary folder, which is removed unless Keep.
	Dir  string
	Keep bool
	// Time of ordinary replication, before and after the failure together.
	Time time.Duration
	// Seed of the writes.
	Seed uint64
}

// demoResult is what the demonstration measured.
type demoResult struct {
	GroupsFinal     uint64  `json:"groups_final"`
	Reverts         uint64  `json:"reverts"`
	Verified        bool    `json:"verified"`
	OrderViolations uint64  `json:"order_violations"`
	PayloadBytes    uint64  `json:"payload_bytes"`
	DeviceBytes     uint64  `json:"device_bytes"`
	RPOP99Millis    float64 `json:"rpo_p99_ms"`
	HoldP99Millis   float64 `json:"hold_p99_ms"`
}

// held says what did not hold, if anything.
func (r demoResult) held() error {
	switch {
	case !r.Verified:
		return fmt.Errorf("a copy differs from its primary")
	case r.OrderViolations > 0:
		return fmt.Errorf("a copy showed a write without one that came before it, %d times", r.OrderViolations)
	case r.GroupsFinal == 0:
		return fmt.Errorf("no consistency group became final")
	case r.Reverts == 0:
		return fmt.Errorf("the failure while links were updated led to no revert")
	}
	return nil
}

func (r demoResult) writeText(w io.Writer) error {
	ratio := "not known"
	if r.PayloadBytes > 0 {
		ratio = fmt.Sprintf("%.3f", float64(r.DeviceBytes)/float64(r.PayloadBytes))
	}
	_, err := fmt.Fprintf(w, `
consistency groups final   %d
reverts                    %d
copies equal to primaries  %t
order violations           %d
payload bytes              %d
device bytes               %d (%s for each byte of payload)
age of the copy, p99       %.1f ms
hold of host writes, p99   %.2f ms
`, r.GroupsFinal, r.Reverts, r.Verified, r.OrderViolations, r.PayloadBytes, r.DeviceBytes, ratio, r.RPOP99Millis, r.HoldP99Millis)
	return err
}

// runDemo runs this program again for each role.
func runDemo(ctx context.Context, r demoRequest, tell func(line string)) (demoResult, error) {
	self, err := os.Executable()
	if err != nil {
		return demoResult{}, fmt.Errorf("find this program, to run it again for each role: %w", err)
	}
	m, err := demo.Run(ctx, demo.Options{Dir: r.Dir, Keep: r.Keep, Time: r.Time, Seed: r.Seed, Command: []string{self}, Tell: tell})
	return demoResult{GroupsFinal: m.GroupsFinal, Reverts: m.Reverts, Verified: m.Verified, OrderViolations: m.OrderViolations,
		PayloadBytes: m.PayloadBytes, DeviceBytes: m.DeviceBytes, RPOP99Millis: m.RPOP99, HoldP99Millis: m.HoldP99}, err
}

func (a *app) demoCommand() *cobra.Command {
	var r demoRequest
	var seconds float64
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole thing on files, without root, in under a minute",
		Long: `Run two primary and two secondary controls with a replication manager, each a process, on sparse files in a temporary
folder, and write to four volumes over NBD in an order that a copy must keep. After some seconds a secondary
control fails while links are being updated; the revert is shown, the control comes back, and at the end every
copy is compared with its primary.

The exit status is 1 if anything did not hold.`,
		Args: args(cobra.NoArgs),
	}
	f := c.Flags()
	f.StringVar(&r.Dir, "dir", "", "folder for the files (default: a temporary one)")
	f.BoolVar(&r.Keep, "keep", false, "leave the files when it ends")
	f.Float64Var(&seconds, "seconds", 10, "how long hosts write")
	f.Uint64Var(&r.Seed, "seed", 1, "seed of the writes")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !(seconds >= 1 && seconds <= 3600) {
			return usage("give 1 to 3600", "--seconds %v is out of range", seconds)
		}
		r.Time = time.Duration(seconds * float64(time.Second))
		// The story goes to standard output for people; for scripts that holds the result alone.
		story := a.out
		if a.json() {
			story = a.err
		}
		measured, err := a.demo(c.Context(), r, func(line string) { fmt.Fprintln(story, line) })
		if err != nil {
			return err
		}
		if err := a.print(measured); err != nil {
			return err
		}
		if err := measured.held(); err != nil {
			return &failure{code: exitFailed, err: err, next: "this is a defect: please report it with the output above"}
		}
		return nil
	}
	return c
}
