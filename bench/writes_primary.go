package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/farside-storage/farside/internal/nbdclient"
)

// bareExport is the name under which other servers serve a bare device.
const bareExport = "bare"

// bareServer serves a device without replication, as one would without farside: the floor of what hosts see.
type bareServer struct {
	*process
	place
	what string // version and options, for people
}

// qemuAIO are the ways in which qemu-nbd can do direct I/O without threads; the faster one is the floor.
var qemuAIO = []string{"io_uring", "native"}

// connections that a host of compared servers has: qemu-nbd takes 16 requests in flight on each, farside 32 and more.
const connections = 4

func (p place) connected() (at []place) {
	for range connections {
		at = append(at, p)
	}
	return at
}

// startQemu serves a device with each way of I/O for a moment, and keeps the fastest.
func (c *cluster) startQemu(ctx context.Context, device string, write bool) (*bareServer, error) {
	best, highest := "", 0.0
	var errs []error
	for _, aio := range qemuAIO {
		rate, err := c.probeQemu(ctx, device, aio, write)
		if err != nil {
			errs = append(errs, err) // this machine may forbid one of them
			continue
		}
		c.o.Progress(fmt.Sprintf("  qemu-nbd --aio=%s: %.0f requests/s", aio, rate))
		if rate > highest {
			best, highest = aio, rate
		}
	}
	if best == "" {
		return nil, errors.Join(errs...)
	}
	return c.tryQemu(ctx, device, best)
}

func (c *cluster) probeQemu(ctx context.Context, device, aio string, write bool) (float64, error) {
	q, err := c.tryQemu(ctx, device, aio)
	if err != nil {
		return 0, err
	}
	rate, err := c.rateOf(ctx, q.connected(), write, c.settle)
	return rate, errors.Join(err, q.stop())
}

func (c *cluster) tryQemu(ctx context.Context, device, aio string) (*bareServer, error) {
	path, err := exec.LookPath("qemu-nbd")
	if err != nil {
		return nil, fmt.Errorf("this workload compares with qemu-nbd, which is not here; on Debian: apt install qemu-utils: %w", err)
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	socket := c.dir + "/qemu-" + aio + ".nbd"
	options := []string{"--format=raw", "--cache=none", "--aio=" + aio, fmt.Sprintf("--shared=%d", connections)}
	command := append([]string{path}, options...)
	p, err := launch(c.dir, "qemu-nbd", append(command, "--persistent", "--export-name="+bareExport, "--socket="+socket, device)...)
	if err != nil {
		return nil, err
	}
	_, name, _ := strings.Cut(string(version), "qemu-nbd")
	name, _, _ = strings.Cut(name, "\n")
	return c.serving(ctx, p, "unix:"+socket, "qemu-nbd"+name+", "+strings.Join(options, " "))
}

// serving waits until a server that was launched answers.
func (c *cluster) serving(ctx context.Context, p *process, addr, what string) (*bareServer, error) {
	s := &bareServer{p, place{addr, bareExport, c.volume}, what}
	err := p.await(ctx, p.name, func(ctx context.Context) error {
		client, err := nbdclient.Dial(ctx, s.addr, s.export)
		if err != nil {
			return err
		}
		return client.Close()
	})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	c.running = append(c.running, p)
	return s, nil
}

// compared is a pair of controls, and other servers, each on a device of its own that is like theirs.
type compared struct {
	*cluster
	qemu   *bareServer
	nbdkit *bareServer // nil: it is not installed
	// besideNbdkit are rates of a control with nbdkit's as the floor, each pair one after the other.
	besideNbdkit []Repetition
}

func (r *run) openCompared(ctx context.Context, write bool) (_ *compared, err error) {
	c, err := r.openCluster(ctx, 1, r.o.cluster.interval)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	bare, err := c.makeDevice(ctx, "bare", c.volume)
	if err != nil {
		return nil, err
	}
	q, err := c.startQemu(ctx, bare, write)
	if err != nil {
		return nil, err
	}
	n, err := c.startNbdkit(ctx)
	return &compared{cluster: c, qemu: q, nbdkit: n}, err
}

func (c *compared) notes() []string {
	return []string{
		fmt.Sprintf("one host, 4 KiB at random places, %d in flight on %d connections over a Unix socket, the same client for both; %s; a CG every %s", hostDepth, connections, c.what(), c.interval),
		"floor: " + c.qemu.what + "; it was the faster of --aio=" + strings.Join(qemuAIO, " and "),
		"host, servers, and the devices' kernel threads share this machine's processors; so does the secondary control, which has a machine of its own where it counts",
	}
}

// quiesced waits until nothing is left to replicate: a floor must not share the processors with that.
func (c *compared) quiesced(ctx context.Context) error {
	if err := c.awaitCut(ctx); err != nil {
		return err
	}
	return c.primaries[0].await(ctx, "an empty queue", func(ctx context.Context) error {
		g, err := c.primary(ctx, 0)
		if err == nil && len(g.Connections) == 1 && g.Connections[0].QueuedBytes > 0 {
			err = fmt.Errorf("%d bytes wait for the secondary", g.Connections[0].QueuedBytes)
		}
		return err
	})
}

// lacksQemu says whether the workload is to be left out: there is nothing to compare with, and it is not the only one
// asked for.
func (r *run) lacksQemu(name string) bool {
	_, err := exec.LookPath("qemu-nbd")
	if err == nil || r.alone() {
		return false
	}
	r.leaveOut("%s: it compares with qemu-nbd: %v; on Debian: apt install qemu-utils", name, err)
	return true
}

// runWritesPrimary: what hosts can write to a primary control that replicates, beside a server that does not.
func runWritesPrimary(ctx context.Context, r *run) (out []Result, err error) {
	if r.lacksQemu("writes-primary") {
		return nil, nil
	}
	c, err := r.openCompared(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	before, err := c.counted(ctx)
	if err != nil {
		return nil, err
	}
	reps, err := r.alternate(ctx, func() (float64, error) {
		return c.rateOf(ctx, c.qemu.connected(), true, r.hostTime())
	}, func() (float64, error) {
		rate, err := c.rateOf(ctx, c.places()[0].connected(), true, r.hostTime())
		if err = errors.Join(err, c.quiesced(ctx)); err != nil {
			return 0, err
		}
		return rate, c.compareNbdkit(ctx, rate, true, r.hostTime())
	})
	if err != nil {
		return nil, err
	}
	after, err := c.counted(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.verify(ctx); err != nil {
		return nil, err
	}
	sent, read := after.sent-before.sent, after.catchups-before.catchups
	return c.results(Result{Name: "writes-primary", Goal: "P11", Unit: "writes/s", Target: atLeast(0.80),
		FloorName: "host writes to qemu-nbd on a bare device without replication",
		Notes: append(c.notes(), fmt.Sprintf("%.0f MB were sent to the secondary, of which %.1f %% read from the local device because the queue was full; afterwards a sixteenth of the copy was compared with the volume: equal",
			float64(sent)/1e6, 100*float64(read)/float64(max(1, sent))))}, reps), nil
}

// hostTime is how long hosts are measured at a time: both sides alike, since both are servers that have to warm up.
func (r *run) hostTime() time.Duration {
	if r.o.Quick {
		return min(r.span(), time.Second)
	}
	return min(r.span(), 5*time.Second)
}

// scatterTime is how long random writes scatter the blocks of a copy before it is read.
const scatterTime = 2 * time.Second

// runReadsNBD: what hosts can read from a copy, beside a server of a bare device.
func runReadsNBD(ctx context.Context, r *run) (out []Result, err error) {
	if r.lacksQemu("reads-nbd") {
		return nil, nil
	}
	c, err := r.openCompared(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if _, err := c.rateOf(ctx, c.places(), true, min(scatterTime, r.span())); err != nil {
		return nil, err
	}
	if err := errors.Join(c.quiesced(ctx), c.verify(ctx)); err != nil {
		return nil, err
	}
	replica := place{c.copySocket(0), c.export(0), c.volume}
	reps, err := r.alternate(ctx, func() (float64, error) {
		return c.rateOf(ctx, c.qemu.connected(), false, r.hostTime())
	}, func() (float64, error) {
		rate, err := c.rateOf(ctx, replica.connected(), false, r.hostTime())
		if err != nil {
			return 0, err
		}
		return rate, c.compareNbdkit(ctx, rate, false, r.hostTime())
	})
	if err != nil {
		return nil, err
	}
	return c.results(Result{Name: "reads-nbd", Goal: "P10", Unit: "reads/s", Target: atLeast(1),
		FloorName: "host reads from qemu-nbd on a bare device",
		Notes:     append(c.notes(), "the copy on the secondary control, as of its last final CG, every block's checksum verified; its blocks lie scattered by random writes; before, a sixteenth was compared with the volume: equal")}, reps), nil
}
