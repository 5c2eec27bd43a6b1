package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// ingestOrder has an assistant be a secondary under load, until it is killed.
type ingestOrder struct {
	Path   string
	Region int64
	Kind   ring.Kind
	Full   int
}

// finalReport tells of a CG that became final.
type finalReport struct{ Final uint64 }

// ingestUntilKilled makes a pool, fills a volume and updates it at full speed; it reports each CG that is final, the
// first fill not included.
func ingestUntilKilled(ctx context.Context, a *assignment) error {
	var o ingestOrder
	if err := a.in.Decode(&o); err != nil {
		return err
	}
	devs, err := openWhenFree(ctx, o.Path, o.Kind)
	if err != nil {
		return err
	}
	d := &device{Devices: devs, infos: devs.Info(), what: o.Path}
	d.infos[0].Size = o.Region
	return errors.Join(inOwnThread(func() error { return d.ingestForever(ctx, a, o.Full) }), devs.Close())
}

func (d *device) ingestForever(ctx context.Context, a *assignment, full int) (err error) {
	var updating bool // set before the first CG that is told of, and only then
	finals := make(chan uint64, 1024)
	s, err := newSession(d, sessionOptions{full: full, onFinal: func(cg uint64) { finals <- cg }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := errors.Join(s.fill(ctx), s.pool.Checkpoint(ctx)); err != nil {
		return err
	}
	for {
		if err := s.updateFor(ctx, cutEvery); err != nil {
			return err
		}
		for len(finals) > 0 {
			if cg := <-finals; updating {
				if err := a.out.Encode(finalReport{cg}); err != nil {
					return err
				}
			}
		}
		updating = true
	}
}

// lingering is how long a device may still be in use by a process that was killed: the kernel ends its io_uring, and
// with it the last reference, some time after the process is gone.
const lingering = 30 * time.Second

// openWhenFree opens a device that another process of this run has, or had a moment ago.
func openWhenFree(ctx context.Context, path string, kind ring.Kind) (ring.Devices, error) {
	deadline := time.Now().Add(lingering)
	for {
		devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: kind, AllowBuffered: true})
		if err == nil || !errors.Is(err, ring.ErrInUse) || time.Now().After(deadline) {
			return devs, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lend closes the device for as long as another process has it.
func (d *device) lend(ctx context.Context, kind ring.Kind, f func() error) error {
	if err := d.Devices.Close(); err != nil {
		return err
	}
	d.Devices = nil
	err := f()
	devs, oerr := openWhenFree(context.WithoutCancel(ctx), d.info().Path, kind)
	if oerr != nil {
		return errors.Join(err, fmt.Errorf("take the device back: %w", oerr))
	}
	d.Devices = devs
	return err
}

// crash leaves a pool on the device whose secondary was killed under load, after d of updates.
func (r *run) crash(ctx context.Context, d time.Duration) error {
	return r.dev.lend(ctx, r.o.Kind, func() (err error) {
		a, err := assist("ingest", ingestOrder{Path: r.dev.info().Path, Region: r.dev.region(), Kind: r.o.Kind, Full: r.o.Full})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.kill()) }()
		var f finalReport
		if err := a.hear(ctx, &f); err != nil {
			return err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return ctx.Err()
	})
}

// zone is a part of the device, in bytes.
type zone struct{ start, length int64 }

// zones finds the pointer-table area (both slots of each page) and the journal of the pool on the device, from its
// superblock (FORMAT.md, section 5).
func (d *device) zones(ctx context.Context) (journal, tables zone, err error) {
	arena, err := ring.NewArena(engine.BlockSize)
	if err != nil {
		return journal, tables, err
	}
	defer func() { err = errors.Join(err, arena.Close()) }()
	b := arena.Bytes()
	if err := d.read(0, b, arena); err != nil {
		return journal, tables, err
	}
	if string(b[:8]) != "FARSIDE\x00" {
		return journal, tables, fmt.Errorf("there is no superblock at the head of %s", d.what)
	}
	field := func(off int) int64 { return int64(binary.LittleEndian.Uint64(b[off:])) * engine.BlockSize }
	return zone{field(104), field(112)}, zone{field(120), 2 * field(128)}, ctx.Err()
}

// read reads one piece.
func (d *device) read(off int64, buf []byte, arena *ring.Arena) error {
	return inOwnThread(func() (err error) {
		q, err := d.NewQueue(ring.QueueOptions{Depth: 1, Arenas: []*ring.Arena{arena}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, q.Close()) }()
		q.Push(ring.Request{Op: ring.OpRead, Off: off, Buf: buf})
		var out [1]ring.Completion
		if _, err := q.Reap(out[:], 1); err != nil {
			return err
		}
		return out[0].Err
	})
}

// scanFloor reads tables and journal once, 256 KiB at a time, in seconds for each byte.
func (r *run) scanFloor(ctx context.Context) (perByte float64, err error) {
	journal, tables, err := r.dev.zones(ctx)
	if err != nil {
		return 0, err
	}
	bytes, elapsed := 0.0, 0.0
	for _, z := range []zone{tables, journal} {
		m, err := drive(ctx, r.dev, load{op: ring.OpRead, size: sequentialPiece, depth: sequentialDepth, once: true, start: z.start, end: z.start + z.length}, 0)
		if err != nil {
			return 0, err
		}
		bytes += float64(m.ops) * sequentialPiece
		elapsed += m.elapsed.Seconds()
	}
	return elapsed / bytes, nil
}

// started is what one start after a crash came to.
type started struct {
	elapsed float64 // seconds
	cpu     float64 // seconds, of the process
	used    float64 // bytes of table pages that are in use, and of journal that was replayed
	whole   float64 // bytes of table area and journal
	mapped  uint64
}

// start opens the pool that was left, and closes it in good order.
func (r *run) start(ctx context.Context) (x started, err error) {
	journal, tables, err := r.dev.zones(ctx)
	if err != nil {
		return x, err
	}
	begin, cpu := time.Now(), processCPU()
	pool, err := engine.Open(r.dev.forPool(), engine.Options{})
	if err != nil {
		return x, fmt.Errorf("start after the crash: %w", err)
	}
	x.elapsed, x.cpu = time.Since(begin).Seconds(), (processCPU() - cpu).Seconds()
	defer func() { err = errors.Join(err, pool.Close()) }()
	st, err := pool.Stats(ctx)
	if err != nil {
		return x, err
	}
	const entries = (engine.BlockSize - 32) / 8 // of a table page (FORMAT.md, section 7)
	pages := 0.0
	for _, g := range pool.Groups() {
		for _, v := range g.Volumes() {
			pages += float64(v.Size()/engine.BlockSize+entries-1) / entries
			x.mapped += v.Size() / engine.BlockSize
		}
	}
	x.used = pages*engine.BlockSize + float64(st.JournalUsed)
	x.whole = float64(journal.length + tables.length)
	return x, nil
}

func runRecovery(ctx context.Context, r *run) ([]Result, error) {
	var strict, literal []Repetition
	var last started
	for i := range r.o.Repetitions {
		if err := r.crash(ctx, min(r.duration(), 10*time.Second)); err != nil {
			return nil, err
		}
		before, err := r.scanFloor(ctx)
		if err != nil {
			return nil, err
		}
		x, err := r.start(ctx)
		if err != nil {
			return nil, err
		}
		after, err := r.scanFloor(ctx)
		if err != nil {
			return nil, err
		}
		perByte := (before + after) / 2
		strict = append(strict, Repetition{Value: 1e3 * x.elapsed, Floor: 1e3 * perByte * x.used})
		literal = append(literal, Repetition{Value: 1e3 * x.elapsed, Floor: 1e3 * perByte * x.whole})
		last = x
		r.progress("  repetition %d of %d: %.4g ms, reading what is in use %.4g ms, all of both areas %.4g ms", i+1, r.o.Repetitions,
			strict[i].Value, strict[i].Floor, literal[i].Floor)
	}
	note := fmt.Sprintf("a secondary is killed (SIGKILL) under load in another process; then engine.Open is timed, to the moment it may be used: "+
		"%d mapped blocks, %.1f MiB of table pages and journal in use, of %.1f MiB; the last start used %.1f ms of processor time", last.mapped, last.used/(1<<20), last.whole/(1<<20), 1e3*last.cpu)
	return []Result{
		result(Result{Name: "recovery", Goal: "P9", Unit: "ms", Target: atMost(2), Notes: []string{note},
			FloorName: "the table pages in use, in one of their two slots, and the journal that is replayed, read once sequentially, 256 KiB at depth 32"}, strict),
		result(Result{Name: "recovery/areas", Goal: "P9", Unit: "ms", Target: atMost(2),
			FloorName: "all of the table area, both slots, and all of the journal, read in the same way; mostly not in use here"}, literal),
	}, nil
}
