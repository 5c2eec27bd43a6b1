package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/frameproxy"
	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/ring"
)

// Options of a demonstration.
type Options struct {
	// Dir holds the files; "" makes a temporary folder, which is removed unless Keep.
	Dir  string
	Keep bool
	// Time of ordinary replication, before and after the failure together.
	Time time.Duration
	// Seed of the random hosts.
	Seed uint64
	// Command runs farside: the program and its first arguments.
	Command []string
	// Tell gets the story, line by line, from one goroutine at a time.
	Tell func(line string)
}

// Result is what was measured.
type Result struct {
	GroupsFinal     uint64 // CGs that became final
	Reverts         uint64
	Verified        bool   // every copy equals its primary
	OrderViolations uint64 // records that a copy showed without one before them
	PayloadBytes    uint64 // received by the secondary controls
	DeviceBytes     uint64 // written by them: data, journal and checkpoints
	RPOP99, HoldP99 float64
}

const (
	groupName = "shop"
	poolSize  = 384 << 20
	interval  = 200 * time.Millisecond
	// patience is how long to wait for any one thing; a machine may be busy.
	patience = time.Minute
)

// volume is one volume and its copy.
type volume struct {
	name, export string
	primary      int // which primary control serves it
	secondary    int // which secondary control holds the copy
	host, copyAt string
}

type demo struct {
	o       Options
	dir     string
	io      string // how devices are reached
	began   time.Time
	volumes []*volume

	secondaries, primaries []*proc.Role
	manager                *proc.Role
	proxy                  *frameproxy.Proxy // in front of the second secondary

	acked  atomic.Uint64
	result Result
}

// Run runs the demonstration. The error says what could not be done; what did not hold is in the
// result.
func Run(ctx context.Context, o Options) (Result, error) {
	d := &demo{o: o, dir: o.Dir, began: time.Now()}
	if d.dir == "" {
		dir, err := os.MkdirTemp("", "farside-demo")
		if err != nil {
			return d.result, err
		}
		d.dir = dir
	} else if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return d.result, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Time+5*patience)
	defer cancel()
	err := d.run(ctx)
	err = errors.Join(err, d.stop())
	if o.Dir == "" && !o.Keep {
		err = errors.Join(err, os.RemoveAll(d.dir))
	} else {
		d.tell("the files are in %s", d.dir)
	}
	return d.result, err
}

func (d *demo) tell(format string, args ...any) {
	d.o.Tell(fmt.Sprintf("%5.1fs  ", time.Since(d.began).Seconds()) + fmt.Sprintf(format, args...))
}

func (d *demo) socket(name string) string { return proc.Socket(d.dir, name) }

func (d *demo) run(ctx context.Context) error {
	for _, part := range []func(context.Context) error{d.prepare, d.startAll, d.awaitFirstCopy, d.replicate, d.compareAll, d.measure} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes pools, and names everything.
func (d *demo) prepare(context.Context) error {
	d.tell("two primary controls (p1, p2) with two volumes each; their copies are spread over two secondary controls (s1, s2)")
	for i, name := range []string{"orders", "stock", "ledger", "mail"} {
		v := &volume{name: name, export: groupName + "/" + name, primary: i / 2, secondary: i % 2}
		v.host, v.copyAt = d.socket(fmt.Sprintf("p%d-nbd", v.primary+1)), d.socket(fmt.Sprintf("s%d-nbd", v.secondary+1))
		d.volumes = append(d.volumes, v)
	}
	for i := range 2 {
		if err := d.makePool(filepath.Join(d.dir, fmt.Sprintf("s%d.pool", i+1))); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) makePool(path string) (err error) {
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, poolSize)); err != nil {
		return err
	}
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Auto, AllowBuffered: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	d.io = "uring"
	if info := devs.Info()[0]; info.Kind == ring.Plain {
		d.io = "plain"
		d.tell("notice: %s", info.Notice)
	}
	_, err = engine.Format(devs, engine.FormatOptions{Name: filepath.Base(path), Created: time.Now().Unix()})
	return err
}

// startAll starts five processes.
func (d *demo) startAll(context.Context) (err error) {
	for _, name := range []string{"p1", "p2", "m1"} {
		if err := os.MkdirAll(filepath.Join(d.dir, name), 0o700); err != nil {
			return err
		}
	}
	d.tell("starting five processes on sockets in %s", d.dir)
	for i := range 2 {
		p, err := d.start(fmt.Sprintf("s%d", i+1), "secondary", d.secondaryConfig(i))
		if err != nil {
			return err
		}
		d.secondaries = append(d.secondaries, p)
	}
	for i := range 2 {
		p, err := d.start(fmt.Sprintf("p%d", i+1), "primary", d.primaryConfig(i))
		if err != nil {
			return err
		}
		d.primaries = append(d.primaries, p)
	}
	if d.proxy, err = frameproxy.Listen(d.socket("s2-manager"), d.socket("s2")); err != nil {
		return err
	}
	d.manager, err = d.start("m1", "manager", d.managerConfig())
	return err
}

func (d *demo) nodeConfig(name string) string {
	// A process that dies is noticed at once; silence only means that the machine is busy.
	return fmt.Sprintf("[node]\nname = %q\nlisten = %q\npeer_timeout = %q\n", name, d.socket(name), patience/2)
}

func (d *demo) secondaryConfig(i int) string {
	name := fmt.Sprintf("s%d", i+1)
	b := d.nodeConfig(name) + fmt.Sprintf("\n[secondary]\ndevices = [%q]\nio = %q\nnbd = %q\n", filepath.Join(d.dir, name+".pool"), d.io, d.socket(name+"-nbd"))
	for _, v := range d.volumes {
		if v.secondary == i {
			b += fmt.Sprintf("\n[[secondary.volume]]\nname = %q\ngroup = %q\nsize = %d\n", v.name, groupName, volumeSize)
		}
	}
	return b
}

func (d *demo) primaryConfig(i int) string {
	name := fmt.Sprintf("p%d", i+1)
	state := filepath.Join(d.dir, name)
	b := d.nodeConfig(name) + fmt.Sprintf("state_dir = %q\n\n[primary]\nio = %q\nnbd = %q\n", state, d.io, d.socket(name+"-nbd"))
	for _, v := range d.volumes {
		if v.primary == i {
			b += fmt.Sprintf("\n[[primary.volume]]\nname = %q\ngroup = %q\nfile = %q\nsize = %d\nsecondary = %q\n",
				v.name, groupName, filepath.Join(d.dir, v.name+".volume"), volumeSize, d.socket(fmt.Sprintf("s%d", v.secondary+1)))
		}
	}
	return b
}

func (d *demo) managerConfig() string {
	return d.nodeConfig("m1") + fmt.Sprintf("state_dir = %q\n\n[[manager.group]]\nname = %q\nprimaries = [%q, %q]\nsecondaries = [%q, %q]\ninterval = %q\ncoordination_timeout = \"1s\" # a busy machine may need it\n",
		filepath.Join(d.dir, "m1"), groupName, d.socket("p1"), d.socket("p2"), d.socket("s1"), d.socket("s2-manager"), interval)
}

// group asks the manager for the group's state.
func (d *demo) group(ctx context.Context) (manager.Status, error) {
	var s manager.NodeStatus
	if err := d.manager.Status(ctx, &s); err != nil {
		return manager.Status{}, err
	}
	if len(s.Groups) != 1 {
		return manager.Status{}, fmt.Errorf("the manager reports %d groups", len(s.Groups))
	}
	return s.Groups[0], nil
}

// await asks the manager until ok, or until a minute has passed.
func (d *demo) await(ctx context.Context, what string, ok func(manager.Status) bool) (manager.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := d.group(ctx)
		if err == nil && ok(s) {
			return s, nil
		}
		if err := d.alive(); err != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("waited in vain for %s: %w (last answer: %+v, %v)\n%s", what, ctx.Err(), s, err, d.manager.LogEnd(logEnd))
		case <-tick.C:
		}
	}
}

// alive says which process has ended by itself.
func (d *demo) alive() error {
	var errs []error
	for _, p := range d.all() {
		errs = append(errs, p.Ended())
	}
	return errors.Join(errs...)
}

func (d *demo) all() (all []*proc.Role) {
	if d.manager != nil {
		all = append(all, d.manager)
	}
	return append(append(all, d.primaries...), d.secondaries...)
}

func (d *demo) awaitFirstCopy(ctx context.Context) error {
	s, err := d.await(ctx, "the first copy", func(s manager.Status) bool { return s.RecoveryPoint != nil })
	if err == nil {
		d.tell("the first copy of all four volumes is complete: CG %d is the first recovery point", *s.RecoveryPoint)
	}
	return err
}

// replicate lets hosts write, looks at the copies, breaks a control and lets it come back.
func (d *demo) replicate(ctx context.Context) error {
	d.tell("hosts write over NBD: one writes numbered records round all volumes, each after the one before was answered; four write at random")
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var written atomic.Uint64
	hosts, hctx := errgroup.WithContext(writing)
	hosts.Go(func() error { return orderedHost(hctx, d.volumes, &d.acked) })
	for i, v := range d.volumes {
		hosts.Go(func() error { return randomHost(hctx, v, d.o.Seed+uint64(i), &written) })
	}
	err := d.story(hctx)
	stop()
	if herr := hosts.Wait(); err == nil || herr != nil && errors.Is(err, context.Canceled) {
		err = errors.Join(herr)
	}
	d.tell("hosts stopped: %d records in order, %d KiB at random", d.acked.Load(), written.Load()>>10)
	return err
}

func (d *demo) story(ctx context.Context) error {
	for _, part := range []func(context.Context) error{d.watch, d.fail, d.watch} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch checks the order in the copies a few times while replication goes on.
func (d *demo) watch(ctx context.Context) error {
	const looks = 3
	for range looks {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(d.o.Time / (2 * looks)):
		}
		if err := d.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look makes the copies stand still, by stopping the manager's process for a moment at a point at which both secondary
// controls show the same CG, and reads the records. Hosts go on writing meanwhile.
func (d *demo) look(ctx context.Context) error {
	cg, o, err := d.awaitStill(ctx, "both secondary controls at the same CG", func(order) bool { return true })
	if err == nil {
		d.tell("copy at CG %d: shows records 1 to %d of %d written so far, %d out of order", cg, o.last, d.acked.Load(), o.violations)
	}
	return err
}

// awaitStill looks until both secondary controls show the same CG and what they show will do, for a minute at the most.
func (d *demo) awaitStill(ctx context.Context, what string, ok func(order) bool) (cg uint64, o order, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if cg, o, err = d.stillLook(ctx); err != nil {
			return 0, o, err
		}
		if cg != 0 && ok(o) {
			d.result.OrderViolations += o.violations
			return cg, o, nil
		}
		select { // let the manager move on
		case <-ctx.Done():
			return 0, o, fmt.Errorf("waited in vain for %s: %w (newest record %d)", what, ctx.Err(), o.last)
		case <-time.After(interval / 20):
		}
	}
}

// stillLook returns CG 0 if the secondary controls do not show the same CG now.
func (d *demo) stillLook(ctx context.Context) (cg uint64, o order, err error) {
	if err := d.manager.Pause(ctx); err != nil {
		return 0, o, err
	}
	defer func() { err = errors.Join(err, d.manager.Resume()) }()
	cg, same, err := d.shown(ctx)
	if err != nil || !same {
		return 0, o, err
	}
	if o, err = readOrder(ctx, d.volumes); err != nil {
		return 0, o, err
	}
	// A command that was on its way may have arrived while we read.
	after, same, err := d.shown(ctx)
	if err != nil || !same || after != cg {
		return 0, o, err
	}
	return cg, o, nil
}

// shown is the final CG of the secondary controls, if it is the same on both.
func (d *demo) shown(ctx context.Context) (cg uint64, same bool, err error) {
	finals, err := d.finals(ctx)
	if err != nil {
		return 0, false, err
	}
	return finals[0], finals[0] == finals[1], nil
}

// finals asks every secondary control for its final CG.
func (d *demo) finals(ctx context.Context) (finals []uint64, err error) {
	for _, p := range d.secondaries {
		var s target.Status
		if err := p.Status(ctx, &s); err != nil {
			return nil, err
		}
		if len(s.Groups) != 1 {
			return nil, fmt.Errorf("%s reports %d groups", p.Name, len(s.Groups))
		}
		finals = append(finals, s.Groups[0].Final)
	}
	return finals, nil
}

// fail kills the second secondary control when it is told to link.
func (d *demo) fail(ctx context.Context) error {
	seen, err := d.auditLength()
	if err != nil {
		return err
	}
	struck := make(chan error, 1)
	d.strikeAtLink(func() { struck <- d.killSecondary(ctx) })
	select {
	case err = <-struck:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(patience):
		err = fmt.Errorf("no LINK was sent within %v", patience)
	}
	if err != nil {
		return err
	}
	before := d.acked.Load()
	d.tell("KILLED s2 with SIGKILL as it was told to link; s1 has linked or is about to. The manager:")
	done := func(e manager.Entry) bool { return e.Kind == manager.EntryUnreachable }
	if seen, err = d.follow(ctx, seen, done); err != nil {
		return err
	}
	d.tell("s2 comes back")
	if err := d.secondaries[1].Launch(); err != nil {
		return err
	}
	done = func(e manager.Entry) bool { return e.Kind == manager.EntryRevertEnd }
	if _, err = d.follow(ctx, seen, done); err != nil {
		return err
	}
	return d.awaitReverted(ctx, before)
}

// killSecondary keeps what s2 has measured, then kills it.
func (d *demo) killSecondary(ctx context.Context) error {
	if err := d.count(ctx, d.secondaries[1]); err != nil {
		return err
	}
	return d.secondaries[1].Kill()
}

// awaitReverted waits until a copy shows what the reverted CG had held.
func (d *demo) awaitReverted(ctx context.Context, record uint64) error {
	s, err := d.group(ctx)
	if err != nil {
		return err
	}
	formed := s.CGsFormed
	if _, err = d.await(ctx, "the next CG", func(s manager.Status) bool { return s.CGsFormed > formed }); err != nil {
		return err
	}
	cg, o, err := d.awaitStill(ctx, fmt.Sprintf("record %d, written before the failure", record), func(o order) bool { return o.last >= record })
	if err == nil {
		d.tell("CG %d is final and contains what was reverted: records up to %d were written when s2 was killed, the copy shows 1 to %d", cg, record, o.last)
	}
	return err
}

// compareAll waits for the last CG, then compares every copy with its primary.
func (d *demo) compareAll(ctx context.Context) error {
	stopped := time.Now()
	s, err := d.await(ctx, "a last CG", func(s manager.Status) bool { return s.RecoveryCut != nil && s.RecoveryCut.After(stopped) })
	if err != nil {
		return err
	}
	if err := d.awaitFinal(ctx, *s.RecoveryPoint); err != nil {
		return err
	}
	d.tell("CG %d is final and was cut after the last write: comparing copies with primaries, byte for byte", *s.RecoveryPoint)
	d.result.Verified = true
	for _, v := range d.volumes {
		differ, err := compareVolume(ctx, v)
		if err != nil {
			return err
		}
		verdict := "equal"
		if differ >= 0 {
			d.result.Verified = false
			verdict = fmt.Sprintf("DIFFERS at byte %d", differ)
		}
		d.tell("  %-6s on p%d and its copy on s%d: %d MiB, %s", v.name, v.primary+1, v.secondary+1, volumeSize>>20, verdict)
	}
	return d.look(ctx)
}

// awaitFinal waits until every secondary control shows CG cg: the first one that does makes it the recovery point.
func (d *demo) awaitFinal(ctx context.Context, cg uint64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		finals, err := d.finals(ctx)
		if err != nil || slices.Min(finals) >= cg {
			return err
		}
		select { // between two questions
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for CG %d everywhere: %w (final CGs are %d)", cg, ctx.Err(), finals)
		case <-time.After(interval / 20):
		}
	}
}

// measure gathers the figures.
func (d *demo) measure(ctx context.Context) error {
	s, err := d.group(ctx)
	if err != nil {
		return err
	}
	for _, p := range d.secondaries {
		if err := d.count(ctx, p); err != nil {
			return err
		}
	}
	d.result.GroupsFinal, d.result.Reverts = s.CGsFormed, s.Reverts
	if s.RPO.P99 == nil || s.Hold.P99 == nil {
		return fmt.Errorf("the manager has no RPO or hold times: %+v", s)
	}
	d.result.RPOP99, d.result.HoldP99 = *s.RPO.P99, *s.Hold.P99
	return nil
}

// count adds what a secondary control has received and written since it started.
func (d *demo) count(ctx context.Context, p *proc.Role) error {
	var s target.Status
	if err := p.Status(ctx, &s); err != nil {
		return err
	}
	d.result.PayloadBytes += s.Counters.PayloadBytes
	d.result.DeviceBytes += s.Counters.DeviceBytesWritten
	return nil
}

// stop ends all processes, the manager first.
func (d *demo) stop() error {
	var errs []error
	for _, p := range d.all() {
		errs = append(errs, p.Stop(endTime))
	}
	if d.proxy != nil {
		errs = append(errs, d.proxy.Close())
	}
	return errors.Join(errs...)
}

// label shortens the addresses that the manager knows controls by.
func (d *demo) label(control string) string {
	name := strings.TrimSuffix(filepath.Base(control), ".sock")
	return strings.TrimSuffix(name, "-manager")
}
