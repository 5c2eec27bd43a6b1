package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// way is one to drive the same operations. What a simulator can vary on a manual pool (extents, journal, checkpoints, buffers, writers, devices)
// is in internal/sim's metamorphic tests; here are goroutines, read rings and their depths, and devices behind them.
type way struct {
	name        string
	opts        Options
	checkpoints int // one after so many operations; 0: none but the pool's own
	extent      uint32
	writers     int
	kind        ring.Kind // of a file
	file        bool
	readers     int // that read all the time
}

var ways = []way{
	{name: "manual", opts: Options{Manual: true}, writers: 1},
	{name: "a control loop of its own", writers: 1},
	{name: "read queues of one", opts: Options{QueueDepth: 1, ReadWorkers: 3}, writers: 1, extent: 256},
	{name: "small buffers, readers", opts: Options{QueueDepth: 4, WriterBuffers: 2, WriterBufferBlocks: 1}, writers: 2, checkpoints: 7, readers: 2},
	{name: "io_uring", opts: Options{QueueDepth: 8, ReadWorkers: 2}, writers: 2, file: true, kind: ring.Uring, readers: 1},
	{name: "pread and pwrite", opts: Options{QueueDepth: 2, WriterBuffers: 4, WriterBufferBlocks: 8}, writers: 1, file: true, kind: ring.Plain, checkpoints: 20},
}

// TestSameHistoryHoweverDriven plays the same operations in all ways: after each command both views show the same.
func TestSameHistoryHoweverDriven(t *testing.T) {
	var want []string
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			got := w.play(t)
			if want == nil {
				want = got
			}
			if len(want) < drivenOps/10 {
				t.Fatalf("only %d views", len(want))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("not what %q showed (-%[1]s +%s):\n%s", ways[0].name, w.name, d)
			}
		})
	}
}

// driven is a pool in one of the ways. Its writers belong to the test's goroutine.
type driven struct {
	way
	t        *testing.T
	rng      *rand.Rand
	devs     ring.Devices
	pool     *Pool
	group    *Group
	vols     []*Volume
	w        []*Writer
	complete chan uint64
	open     uint64
	version  uint64
	log      []string
	stop     chan struct{}
	reading  sync.WaitGroup
}

const drivenBlocks = tablePageEntries + 20

// drivenOps is how many operations are played; under the race detector each takes some ten times as long.
var drivenOps = map[bool]int{false: 250, true: 100}[raceDetector]

func (w way) play(t *testing.T) []string {
	d := &driven{way: w, t: t, rng: rand.New(rand.NewPCG(5, 5)), complete: make(chan uint64, 1), open: 1}
	d.opts.OnComplete = func(_ string, cg uint64) { d.complete <- cg }
	d.devices()
	o := smallFormat()
	o.VirtualBytes = 4 * drivenBlocks * BlockSize
	if d.extent > 0 {
		o.ExtentBlocks = d.extent
	}
	_, err := Format(d.devs, o)
	d.check(err)
	d.pool, err = Open(d.devs, d.opts)
	d.check(err)
	for _, name := range []string{"a", "b"} {
		_, err := d.pool.CreateVolume(t.Context(), "g", name, drivenBlocks*BlockSize)
		d.check(err)
	}
	d.begin()
	for i := range drivenOps {
		d.op()
		if d.checkpoints > 0 && i%d.checkpoints == 0 {
			d.check(d.pool.Checkpoint(t.Context()))
		}
	}
	d.end()
	d.check(d.devs.Close())
	return d.log
}

func (d *driven) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *driven) devices() {
	const size = 40 << 20
	if !d.file {
		d.devs = ringtest.MustNew(ringtest.Options{Seed: 5, Blocking: !d.opts.Manual}, ringtest.Spec{Size: size, SectorSize: 512})
		return
	}
	path := filepath.Join(d.t.TempDir(), "pool")
	d.check(os.WriteFile(path, nil, 0o600))
	d.check(os.Truncate(path, size))
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: d.kind, AllowBuffered: true})
	if errors.Is(err, ring.ErrUringForbidden) {
		d.t.Skipf("io_uring is not allowed here: %v", err)
	}
	d.check(err)
	d.devs = devs
}

// begin opens writers, and starts readers.
func (d *driven) begin() {
	var err error
	d.group, err = d.pool.Group("g")
	d.check(err)
	d.vols, d.w, d.stop = d.group.Volumes(), nil, make(chan struct{})
	for range d.writers {
		w, err := d.pool.NewWriter()
		d.check(err)
		d.w = append(d.w, w)
	}
	for i, v := range d.vols {
		d.check(d.w[i%d.writers].Bind(v))
	}
	for i := range d.readers {
		d.reading.Go(func() { d.read(d.vols[i], d.stop) })
	}
}

// read reads many times, or until it is told to stop: no read fails, whatever goes on.
func (d *driven) read(v *Volume, stop chan struct{}) {
	buf := make([]byte, 40*BlockSize)
	for n := range int64(100) {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := v.ReadAt(buf, n*7%(drivenBlocks-40)*BlockSize); err != nil {
			d.t.Error(err)
			return
		}
	}
}

func (d *driven) end() {
	close(d.stop)
	d.reading.Wait()
	for _, w := range d.w {
		d.check(w.Close())
	}
	d.check(d.pool.Close())
}

// op does the next operation: the same in every way.
func (d *driven) op() {
	i, n := d.rng.IntN(2), 1+d.rng.Uint64N(6)
	b := VBlock(d.rng.Uint64N(drivenBlocks - 60))
	v, w := d.vols[i], d.w[i%d.writers]
	switch k := d.rng.IntN(100); {
	case k < 55:
		for range n {
			d.version++
			d.check(put(w, v, d.open, b, pattern(v.name, b, d.version)))
			b++
		}
	case k < 63:
		d.check(w.Zero(v, d.open, b, n*9))
	case k < 80:
		d.seal()
	case k < 97:
		d.command(d.rng.IntN(10))
	default: // what was received of the open CG is forgotten
		d.end()
		if sim, ok := d.devs.(*ringtest.Devices); ok {
			d.devs = sim.Reopen()
		}
		var err error
		d.pool, err = Open(d.devs, d.opts)
		d.check(err)
		d.begin()
		d.look("restart")
	}
}

func (d *driven) state() GroupState {
	s, err := d.group.State(context.Background())
	d.check(err)
	return s
}

func (d *driven) seal() {
	if s := d.state(); s.Complete != s.Final {
		return
	}
	for i, v := range d.vols {
		d.check(d.w[i%d.writers].Seal(d.open, v))
	}
	for d.opts.Manual && len(d.complete) == 0 {
		_, err := d.pool.Step()
		d.check(err)
	}
	if cg := <-d.complete; cg != d.open {
		d.t.Fatalf("CG %d became complete, want %d", cg, d.open)
	}
	d.open++
	d.look("complete")
}

func (d *driven) command(n int) {
	s := d.state()
	if s.Complete == s.Final {
		return
	}
	ctx, c := context.Background(), Command{Epoch: 1, CG: s.Complete}
	switch {
	case n == 0:
		d.check(d.group.Discard(ctx, c, d.open))
		d.open++
	case s.Linked != s.Complete:
		d.check(d.group.Link(ctx, c))
	case n < 3:
		d.check(d.group.Revert(ctx, c))
	default:
		d.check(d.group.Release(ctx, c))
	}
	d.look("command")
}

// look writes down what both views show.
func (d *driven) look(after string) {
	s := d.state()
	line := fmt.Sprintf("%s: final %d, linked %d, complete %d, discarded %d, epoch %d:", after, s.Final, s.Linked, s.Complete, s.Discarded, s.Epoch)
	for _, v := range d.vols {
		line += fmt.Sprintf(" %016x/%016x", Sum(readAll(d.t, v, FinalView)), Sum(readAll(d.t, v, LinkedView)))
	}
	d.log = append(d.log, line)
}
