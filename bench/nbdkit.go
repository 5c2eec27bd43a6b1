package bench

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// nbdkit is the other server that one would put before a bare device. There is no goal against it: its file plugin
// reads and writes through the page cache, where qemu-nbd and controls do direct I/O.

// startNbdkit serves a device of its own, with the options that are kindest to it; nil if nbdkit is not installed.
func (c *cluster) startNbdkit(ctx context.Context) (*bareServer, error) {
	path, err := exec.LookPath("nbdkit")
	if err != nil {
		return nil, nil // a note says so
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	device, err := c.makeDevice(ctx, "bare-nbdkit", c.volume)
	if err != nil {
		return nil, err
	}
	socket := c.dir + "/nbdkit.nbd"
	options := []string{fmt.Sprintf("--threads=%d", hostDepth), "file"}
	command := append([]string{path, "--foreground", "--unix=" + socket}, options...)
	p, err := launch(c.dir, "nbdkit", append(command, "file="+device)...)
	if err != nil {
		return nil, err
	}
	return c.serving(ctx, p, "unix:"+socket, strings.TrimSpace(string(version))+", "+strings.Join(options, " ")+" plugin")
}

// compareNbdkit measures nbdkit just after a control reached a rate.
func (c *compared) compareNbdkit(ctx context.Context, rate float64, write bool, d time.Duration) error {
	if c.nbdkit == nil {
		return nil
	}
	bare, err := c.rateOf(ctx, c.nbdkit.connected(), write, d)
	c.besideNbdkit = append(c.besideNbdkit, Repetition{Value: rate, Floor: bare})
	return err
}

// results are the figure beside qemu-nbd, which has the goal, and that beside nbdkit.
func (c *compared) results(r Result, reps []Repetition) []Result {
	if c.nbdkit == nil {
		r.Notes = append(r.Notes, "not compared with nbdkit: it is not installed (Debian: nbdkit)")
		return []Result{result(r, reps)}
	}
	beside := Result{Name: r.Name + "/nbdkit", Unit: r.Unit, FloorName: "the same from nbdkit on a bare device",
		Notes: []string{"floor: " + c.nbdkit.what + "; measured just after each repetition; it goes through the page cache, where the others do direct I/O"}}
	return []Result{result(r, reps), result(beside, c.besideNbdkit)}
}
