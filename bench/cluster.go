package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

const clusterGroup = "bench"

// clusterShape says how large a cluster is, and how fast where that is not what is measured.
type clusterShape struct {
	volume, pool int64  // bytes of each
	interval     string // of CGs, where hosts are measured
	// settle is how long a load runs before it is measured.
	settle time.Duration
	// span of each measurement, if it is not to be what the options say.
	span time.Duration
}

// usualShape: several CGs that change all of the volume fit in the pool.
var usualShape = clusterShape{volume: 128 << 20, pool: 640 << 20, interval: "1s", settle: 300 * time.Millisecond}

// cluster is a whole installation on this machine, each role a process of its own: so many primary controls with one
// volume each, as many secondary controls with its copy, and a manager. Controls and manager speak TCP over loopback,
// hosts reach the volumes over Unix sockets.
type cluster struct {
	o Options
	clusterShape
	dir   string
	plain bool // devices are files, because loop devices could not be made
	loops []*loopdev.Device

	running     []*process // in the order in which they were started
	primaries   []*control
	secondaries []*control
	manager     *control
}

// openCluster makes devices and starts everything; it returns when the first copy is final. interval is the
// manager's, in the configuration's notation. Close it in any case but an error.
func (r *run) openCluster(ctx context.Context, pairs int, interval string) (_ *cluster, err error) {
	c := &cluster{o: r.o, clusterShape: r.o.cluster}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if err := c.makeFolder(); err != nil {
		return nil, err
	}
	ports, err := freePorts(2*pairs + 1)
	if err != nil {
		return nil, err
	}
	r.progress("  start %d primary and %d secondary controls and a manager", pairs, pairs)
	for i := range pairs {
		if err := c.startPair(ctx, i, ports[2*i], ports[2*i+1]); err != nil {
			return nil, err
		}
	}
	if err := c.startManager(ctx, ports[2*pairs], interval); err != nil {
		return nil, err
	}
	return c, c.awaitCut(ctx)
}

// span is how long a measurement of hosts, or several of a group, take.
func (r *run) span() time.Duration {
	if d := r.o.cluster.span; d > 0 {
		return d
	}
	return r.duration()
}

// makeFolder chooses where everything is: in memory, or where backing files of loop devices on disk are.
func (c *cluster) makeFolder() (err error) {
	home := loopdev.Memory
	if _, err := os.Stat(home); err != nil {
		home = ""
	}
	if c.o.Loop == loopDisk {
		home = c.o.Dir
	}
	c.dir, err = os.MkdirTemp(home, "farside-bench-")
	return err
}

// makeDevice makes a device of size bytes that was written in full once, with contents that do not compress.
func (c *cluster) makeDevice(ctx context.Context, name string, size int64) (path string, err error) {
	if err := roomFor(c.dir, size); err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, name+".dev")
	if err := writeOnce(ctx, file, size); err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		d, err := loopdev.Attach(file, loopdev.Options{BlockSize: 4096})
		if err == nil {
			c.loops = append(c.loops, d)
			return d.Path, os.Remove(file) // the loop device keeps it
		}
		c.o.Progress(fmt.Sprintf("  no loop device, a file instead: %v", err))
	}
	c.plain = true
	return file, nil
}

func writeOnce(ctx context.Context, path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	mem := make([]byte, 4<<20)
	newRandom(uint64(size)).fill(mem)
	for at := int64(0); at < size; {
		n, err := f.Write(mem[:min(size-at, int64(len(mem)))])
		if err != nil {
			return err
		}
		if at += int64(n); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return f.Sync()
}

func (c *cluster) startPair(ctx context.Context, i int, secondaryAt, primaryAt string) error {
	name := fmt.Sprintf("v%d", i+1)
	pool, err := c.makeDevice(ctx, fmt.Sprintf("s%d", i+1), c.pool)
	if err != nil {
		return err
	}
	if err := c.formatPool(pool, fmt.Sprintf("s%d", i+1)); err != nil {
		return err
	}
	s, err := c.startControl(ctx, "secondary", fmt.Sprintf("s%d", i+1), secondaryAt,
		table("[secondary]", "io", c.io(), "devices", []string{pool}, "nbd", c.copySocket(i))+
			table("[[secondary.volume]]", "name", name, "group", clusterGroup, "size", c.volume))
	if err != nil {
		return err
	}
	c.secondaries = append(c.secondaries, s)
	volume, err := c.makeDevice(ctx, fmt.Sprintf("p%d", i+1), c.volume)
	if err != nil {
		return err
	}
	kind := "device"
	if c.plain {
		kind = "file"
	}
	p, err := c.startControl(ctx, "primary", fmt.Sprintf("p%d", i+1), primaryAt,
		table("[primary]", "io", c.io(), "nbd", c.hostSocket(i))+
			table("[[primary.volume]]", "name", name, "group", clusterGroup, kind, volume, "size", c.volume, "secondary", secondaryAt))
	if err != nil {
		return err
	}
	c.primaries = append(c.primaries, p)
	return nil
}

// formatPool makes a pool on a device that this process has made.
func (c *cluster) formatPool(path, name string) (err error) {
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: c.o.Kind, AllowBuffered: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	_, err = engine.Format(devs, engine.FormatOptions{Name: name})
	return err
}

func (c *cluster) startManager(ctx context.Context, at, interval string) (err error) {
	var primaries, secondaries []string
	for i := range c.primaries {
		primaries, secondaries = append(primaries, c.primaries[i].listen), append(secondaries, c.secondaries[i].listen)
	}
	c.manager, err = c.startControl(ctx, "manager", "m1", at,
		table("[[manager.group]]", "name", clusterGroup, "primaries", primaries, "secondaries", secondaries, "interval", interval))
	return err
}

// io is how controls reach their devices, as in their configuration.
func (c *cluster) io() string {
	if c.o.Kind == ring.Plain {
		return "plain"
	}
	return "uring"
}

func (c *cluster) hostSocket(i int) string { return fmt.Sprintf("unix:%s/p%d.nbd", c.dir, i+1) }
func (c *cluster) copySocket(i int) string { return fmt.Sprintf("unix:%s/s%d.nbd", c.dir, i+1) }
func (c *cluster) export(i int) string     { return fmt.Sprintf("%s/v%d", clusterGroup, i+1) }

// close stops the processes, the manager first, and removes everything. It runs after a cancelled run, too.
func (c *cluster) close() error {
	var errs []error
	for i := len(c.running) - 1; i >= 0; i-- {
		errs = append(errs, c.running[i].stop())
	}
	for _, d := range c.loops {
		errs = append(errs, d.Detach())
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// what describes the devices.
func (c *cluster) what() string {
	where := "in memory"
	if c.o.Loop == loopDisk {
		where = "on disk"
	}
	if c.plain {
		return fmt.Sprintf("files %s, not loop devices: those need root", where)
	}
	return fmt.Sprintf("loop devices with 4 KiB sectors on files %s; %d MiB for each volume, %d MiB for each pool", where, c.volume>>20, c.pool>>20)
}

// Parts of the status documents.
type (
	managerStatus struct {
		Groups []managerGroup `json:"groups"`
	}
	managerGroup struct {
		State       string     `json:"state"`
		Waiting     string     `json:"waiting"`
		RecoveryCut *time.Time `json:"recovery_cut"`
		CGsFormed   uint64     `json:"cgs_formed"`
		CGsFailed   uint64     `json:"cgs_failed"`
		HoldsFailed uint64     `json:"holds_failed"`
		LastFailure *struct {
			Reason string `json:"reason"`
		} `json:"last_failure"`
		Controls []struct {
			Held, Hold *percentiles // of a primary: HOLD sent to HELD, and to THAWED
		} `json:"controls"`
	}
	percentiles struct {
		P50 float64 `json:"p50_ms"`
		P99 float64 `json:"p99_ms"`
	}
	primaryStatus struct {
		Groups []primaryGroup `json:"groups"`
	}
	primaryGroup struct {
		Holds       wire.HoldHistogram `json:"hold_histogram"`
		Connections []struct {
			QueuedBytes  int64  `json:"queued_bytes"`
			SentBytes    uint64 `json:"sent_bytes"`
			CatchupBytes uint64 `json:"catchup_bytes"`
		} `json:"connections"`
	}
)

func (c *cluster) group(ctx context.Context) (managerGroup, error) {
	return c.askManager(ctx, &wire.Status{})
}

func (c *cluster) askManager(ctx context.Context, m wire.Message) (g managerGroup, err error) {
	var s managerStatus
	if err := c.manager.ask(ctx, m, &s); err != nil {
		return g, err
	}
	if len(s.Groups) != 1 {
		return g, fmt.Errorf("the manager reports %d groups, want 1", len(s.Groups))
	}
	return s.Groups[0], nil
}

func (c *cluster) primary(ctx context.Context, i int) (g primaryGroup, err error) {
	var s primaryStatus
	if err := c.primaries[i].ask(ctx, &wire.Status{}, &s); err != nil {
		return g, err
	}
	if len(s.Groups) != 1 {
		return g, fmt.Errorf("%s reports %d groups, want 1", c.primaries[i].name, len(s.Groups))
	}
	return s.Groups[0], nil
}

// awaitCut waits until a CG is final that was cut after now: all that hosts wrote before is in the copies.
func (c *cluster) awaitCut(ctx context.Context) error {
	now := time.Now()
	return c.manager.await(ctx, "a final CG", func(ctx context.Context) error {
		g, err := c.group(ctx)
		if err == nil && (g.RecoveryCut == nil || g.RecoveryCut.Before(now)) {
			err = fmt.Errorf("the group is in %s and waits for %q", g.State, g.Waiting)
		}
		return err
	})
}

// pause has no CG formed until resume; it returns when the one in progress is final.
func (c *cluster) pause(ctx context.Context) error {
	if _, err := c.askManager(ctx, &wire.GroupChange{Group: clusterGroup, Action: wire.GroupPause}); err != nil {
		return err
	}
	return c.manager.await(ctx, "the pause", func(ctx context.Context) error {
		g, err := c.group(ctx)
		if err == nil && g.State != "IDLE" {
			err = fmt.Errorf("the group is in %s", g.State)
		}
		return err
	})
}

func (c *cluster) resume(ctx context.Context) error {
	_, err := c.askManager(ctx, &wire.GroupChange{Group: clusterGroup, Action: wire.GroupResume})
	return err
}

// verify compares copies with volumes, at every sixteenth MiB; hosts must have stopped.
func (c *cluster) verify(ctx context.Context) error {
	// A CG counts as soon as one secondary has it final. When the next one does, all have the one before.
	if err := errors.Join(c.awaitCut(ctx), c.awaitCut(ctx)); err != nil {
		return err
	}
	for i := range c.primaries {
		if err := c.verifyVolume(ctx, i); err != nil {
			return fmt.Errorf("%s and its copy: %w", c.export(i), err)
		}
	}
	return nil
}

func (c *cluster) verifyVolume(ctx context.Context, i int) (err error) {
	const piece, every = 1 << 20, 16
	volume, err := nbdclient.Dial(ctx, c.hostSocket(i), c.export(i))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, volume.Close()) }()
	replica, err := nbdclient.Dial(ctx, c.copySocket(i), c.export(i))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replica.Close()) }()
	var have, want [piece]byte
	for off := int64(0); off < c.volume; off += every * piece {
		for _, x := range []struct {
			from io.ReaderAt
			to   []byte
		}{{volume, want[:]}, {replica, have[:]}} {
			if _, err := x.from.ReadAt(x.to, off); err != nil {
				return err
			}
		}
		if !bytes.Equal(have[:], want[:]) {
			return fmt.Errorf("they differ in the MiB at byte %d", off)
		}
	}
	return nil
}
