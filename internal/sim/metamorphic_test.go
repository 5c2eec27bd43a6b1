package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// variant is a way to run the same operations.
type variant struct {
	name             string
	format           engine.FormatOptions
	buffers, blocks  int
	checkpoints      int // one after so many operations, 0: none but the pool's own
	writers          int // 1: all volumes on one; 2: one each
	sector           int
	seed             uint64
	kind             ring.Kind // of a file; 0: simulated
	file             bool
	twoDevices       bool
	steps, snapshots bool // step, or hold readers, between operations
}

var variants = []variant{
	{name: "plain", buffers: 4, blocks: 8, writers: 1, sector: 4096},
	{name: "two small buffers", buffers: 2, blocks: 1, writers: 1, sector: 512, seed: 1},
	{name: "deep queues", buffers: 32, blocks: 64, writers: 1, sector: 4096, seed: 2},
	{name: "larger extents", format: engine.FormatOptions{ExtentBlocks: 256}, buffers: 4, blocks: 8, writers: 1, sector: 512, seed: 3},
	{name: "larger journal", format: engine.FormatOptions{JournalBytes: 8 << 20}, buffers: 4, blocks: 8, writers: 1, sector: 4096, seed: 4},
	{name: "checkpoints all the time", buffers: 4, blocks: 8, writers: 1, sector: 512, checkpoints: 3, seed: 5},
	{name: "a writer for each volume", buffers: 3, blocks: 4, writers: 2, sector: 4096, seed: 6},
	{name: "two devices", buffers: 4, blocks: 8, writers: 2, sector: 512, twoDevices: true, seed: 7},
	{name: "readers hold views", buffers: 4, blocks: 8, writers: 1, sector: 4096, steps: true, snapshots: true, seed: 8},
	{name: "pread and pwrite on a file", buffers: 4, blocks: 8, writers: 2, file: true, kind: ring.Plain, checkpoints: 20},
	{name: "io_uring on a file", buffers: 8, blocks: 16, writers: 1, file: true, kind: ring.Uring},
}

const (
	metaBlocks = 600 // of each volume; more than one table page
	metaOps    = 300
)

// TestSameHistory runs the same operations under different options: what each CG shows is the same.
func TestSameHistory(t *testing.T) {
	for seed := range uint64(1) {
		want := play(t, variants[0], seed)
		if len(want) < 20 {
			t.Fatalf("seed %d made only %d views", seed, len(want))
		}
		for _, v := range variants[1:] {
			t.Run(fmt.Sprintf("%s, seed %d", v.name, seed), func(t *testing.T) {
				if diff := cmp.Diff(want, play(t, v, seed)); diff != "" {
					t.Errorf("the history differs from that of %q (-%[1]s +%s):\n%s", variants[0].name, v.name, diff)
				}
			})
		}
	}
}

// player drives a pool through a list of operations that depends on the seed alone.
type player struct {
	t       *testing.T
	v       variant
	rng     *rand.Rand
	devs    ring.Devices
	reopen  func()
	pool    *engine.Pool
	group   *engine.Group
	vols    []*engine.Volume
	writers []*engine.Writer
	open    uint64
	stamp   uint64
	log     []string // what the views show after each change
	held    *engine.Snapshot
	buf     []byte
}

func play(t *testing.T, v variant, seed uint64) []string {
	p := &player{t: t, v: v, rng: rand.New(rand.NewPCG(seed, 77)), open: 1, buf: make([]byte, metaBlocks*engine.BlockSize)}
	p.devices()
	f := v.format
	f.VirtualBytes = 2 * metaBlocks * engine.BlockSize
	if f.ExtentBlocks == 0 {
		f.ExtentBlocks = 64
	}
	_, err := engine.Format(p.devs, f)
	p.check(err)
	p.pool, err = engine.Open(p.devs, p.options())
	p.check(err)
	for _, name := range []string{"a", "b"} {
		_, err := p.pool.CreateVolume(context.Background(), "g", name, metaBlocks*engine.BlockSize)
		p.check(err)
	}
	p.bind()
	for i := range metaOps {
		p.op()
		if v.checkpoints > 0 && i%v.checkpoints == 0 {
			p.check(p.pool.Checkpoint(context.Background()))
		}
		p.between(i)
	}
	p.shut()
	p.check(p.devs.Close())
	return p.log
}

func (p *player) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) options() engine.Options {
	return engine.Options{Manual: true, WriterBuffers: p.v.buffers, WriterBufferBlocks: p.v.blocks}
}

// devices makes what the pool lives on, and reopen, which the pool's restart needs.
func (p *player) devices() {
	const size = 40 << 20
	if !p.v.file {
		specs := []ringtest.Spec{{Size: size, SectorSize: p.v.sector}}
		if p.v.twoDevices {
			specs = append(specs, ringtest.Spec{Size: 16 << 20, SectorSize: p.v.sector})
		}
		devs := ringtest.MustNew(ringtest.Options{Seed: p.v.seed}, specs...)
		p.devs = devs
		p.reopen = func() { devs = devs.Reopen(); p.devs = devs }
		return
	}
	path := filepath.Join(p.t.TempDir(), "pool")
	p.check(os.WriteFile(path, nil, 0o600))
	p.check(os.Truncate(path, size))
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: p.v.kind, AllowBuffered: true})
	if errors.Is(err, ring.ErrUringForbidden) {
		testtool.Missing(p.t, "io_uring is not allowed here: %v", err)
	}
	p.check(err)
	p.devs, p.reopen = devs, func() {}
}

func (p *player) bind() {
	var err error
	p.group, err = p.pool.Group("g")
	p.check(err)
	p.vols, p.writers = p.group.Volumes(), nil
	for range p.v.writers {
		w, err := p.pool.NewWriter()
		p.check(err)
		p.writers = append(p.writers, w)
	}
	for i, v := range p.vols {
		p.check(p.writers[i%p.v.writers].Bind(v))
	}
}

func (p *player) shut() {
	p.drop()
	for _, w := range p.writers {
		p.check(w.Close())
	}
	p.check(p.pool.Close())
}

func (p *player) drop() {
	if p.held != nil {
		p.held.Close()
		p.held = nil
	}
}

// op does the next operation: the same whatever the variant.
func (p *player) op() {
	switch n := p.rng.IntN(100); {
	case n < 60:
		i, b, n := p.place(6)
		for k := range n {
			p.put(i, b+engine.VBlock(k))
		}
	case n < 68:
		i, b, n := p.place(60)
		p.check(p.writers[i%p.v.writers].Zero(p.vols[i], p.open, b, n))
	case n < 84:
		p.seal()
	case n < 97:
		p.command()
	default: // a restart forgets what was received of the open CG
		p.shut()
		p.reopen()
		var err error
		p.pool, err = engine.Open(p.devs, p.options())
		p.check(err)
		p.bind()
		p.look("restart")
	}
}

func (p *player) place(most uint64) (volume int, b engine.VBlock, n uint64) {
	n = 1 + p.rng.Uint64N(most)
	return p.rng.IntN(len(p.vols)), engine.VBlock(p.rng.Uint64N(metaBlocks - n)), n
}

func (p *player) put(i int, b engine.VBlock) {
	p.stamp++
	w := p.writers[i%p.v.writers]
	mem, err := w.Space(1)
	p.check(err)
	binary.LittleEndian.PutUint64(mem, p.stamp)
	clear(mem[8:engine.BlockSize])
	p.check(w.Put(p.vols[i], p.open, b, []uint64{engine.Sum(mem[:engine.BlockSize])}))
}

func (p *player) state() engine.GroupState {
	s, err := p.group.State(context.Background())
	p.check(err)
	return s
}

// seal ends the open CG, unless one is on its way.
func (p *player) seal() {
	if s := p.state(); s.Complete != s.Final {
		return
	}
	for i, v := range p.vols {
		p.check(p.writers[i%p.v.writers].Seal(p.open, v))
	}
	for p.state().Complete != p.open {
		_, err := p.pool.Step()
		p.check(err)
	}
	p.open++
	p.look("complete")
}

// command moves the complete CG on, or back.
func (p *player) command() {
	s, n := p.state(), p.rng.IntN(10)
	if s.Complete == s.Final {
		return
	}
	ctx, c := context.Background(), engine.Command{Epoch: 1, CG: s.Complete}
	switch {
	case n == 0:
		p.check(p.group.Discard(ctx, c, p.open))
		p.open++
	case s.Linked == s.Complete && n < 3:
		p.check(p.group.Revert(ctx, c))
	case s.Linked == s.Complete:
		p.check(p.group.Release(ctx, c))
	default:
		p.check(p.group.Link(ctx, c))
	}
	p.look("command")
}

// look writes down what both views show.
func (p *player) look(after string) {
	s := p.state()
	line := fmt.Sprintf("%s: final %d, linked %d, complete %d, discarded %d:", after, s.Final, s.Linked, s.Complete, s.Discarded)
	for _, v := range p.vols {
		_, err := v.ReadAt(p.buf, 0)
		p.check(err)
		line += fmt.Sprintf(" %016x", xxhash.Sum64(p.buf))
		_, err = v.ReadLinkedAt(p.buf, 0)
		p.check(err)
		line += fmt.Sprintf("/%016x", xxhash.Sum64(p.buf))
	}
	p.log = append(p.log, line)
}

// between does what must not matter.
func (p *player) between(i int) {
	if p.v.steps {
		_, err := p.pool.Step()
		p.check(err)
	}
	if p.v.snapshots && i%17 == 0 {
		p.drop()
		p.held = p.group.Snapshot(engine.FinalView)
	}
}
