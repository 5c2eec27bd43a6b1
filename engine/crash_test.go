package engine

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/farside-storage/farside/ring/ringtest"
)

var crashSeeds = flag.Int("crash-seeds", 2, "histories to crash at every point")

// history drives a pool with a generated sequence of operations and knows what it may hold afterwards.
type history struct {
	rng  *rand.Rand
	devs *ringtest.Devices
	pool *Pool
	w    *Writer

	vols    []string
	group   *Group
	open    uint64         // CG being received
	version uint64         // of the newest put
	changes map[key]uint64 // of the open CG
	images  map[uint64]map[key]uint64

	// The crash that is ordered: the n-th event of this kind, over all incarnations.
	crash   ringtest.Event
	crashIn uint64

	// What the pool acknowledged, and what was asked for last: after a crash one of the two holds.
	acked, asked GroupState
}

type key struct {
	vol   string
	block VBlock
}

const historyBlocks = 700 // per volume; more than one table page

func newHistory(seed uint64) *history {
	h := &history{rng: rand.New(rand.NewPCG(seed, 1)), open: 1, changes: map[key]uint64{},
		images: map[uint64]map[key]uint64{0: {}}, vols: []string{"a", "b"}}
	h.devs = ringtest.MustNew(ringtest.Options{Seed: seed}, ringtest.Spec{Size: 8 << 20, SectorSize: 512 << (3 * (seed % 2))}, ringtest.Spec{Size: 4 << 20})
	return h
}

func historyFormat() FormatOptions {
	o := smallFormat()
	o.VirtualBytes = 4 << 20
	return o
}

// start formats and opens; it is part of what can crash.
func (h *history) start() error {
	if _, err := Format(h.devs, historyFormat()); err != nil {
		return err
	}
	if err := h.openPool(); err != nil {
		return err
	}
	for _, name := range h.vols {
		if _, err := h.pool.CreateVolume(context.Background(), "g", name, historyBlocks*BlockSize); err != nil {
			return err
		}
	}
	return h.bind()
}

func (h *history) openPool() (err error) {
	h.pool, err = Open(h.devs, Options{Manual: true, WriterBuffers: 3, WriterBufferBlocks: 4})
	return err
}

func (h *history) bind() (err error) {
	if h.group, err = h.pool.Group("g"); err != nil {
		return err
	}
	if h.w, err = h.pool.NewWriter(); err != nil {
		return err
	}
	for _, v := range h.group.Volumes() {
		if err := h.w.Bind(v); err != nil {
			return err
		}
	}
	return nil
}

// step does one random operation.
func (h *history) step() error {
	switch n := h.rng.IntN(100); {
	case n < 60:
		return h.put()
	case n < 66:
		return h.zero()
	case n < 80:
		return h.seal()
	case n < 92:
		return h.command()
	case n < 95:
		return h.pool.Checkpoint(context.Background())
	case n < 97:
		return h.restart()
	default:
		_, err := h.pool.Step()
		return err
	}
}

func (h *history) pick() (*Volume, VBlock, uint64) {
	v, err := h.group.Volume(h.vols[h.rng.IntN(len(h.vols))])
	if err != nil {
		panic(err)
	}
	n := uint64(1 + h.rng.IntN(6))
	return v, VBlock(h.rng.Uint64N(historyBlocks - n)), n
}

func (h *history) put() error {
	v, b, n := h.pick()
	for i := range VBlock(n) {
		h.version++
		err := put(h.w, v, h.open, b+i, pattern(v.name, b+i, h.version))
		if errors.Is(err, ErrPoolFull) {
			return nil
		}
		if err != nil {
			return err
		}
		h.changes[key{v.name, b + i}] = h.version
	}
	return nil
}

func (h *history) zero() error {
	v, b, n := h.pick()
	n *= 9 // ranges as well as points
	n = min(n, historyBlocks-uint64(b))
	if err := h.w.Zero(v, h.open, b, n); err != nil {
		return err
	}
	for i := range VBlock(n) {
		h.changes[key{v.name, b + i}] = 0
	}
	return nil
}

// seal ends the open CG, unless the one before is still on its way.
func (h *history) seal() error {
	if h.acked.Complete != h.acked.Final {
		return nil
	}
	image := maps.Clone(h.images[h.acked.Final])
	maps.Copy(image, h.changes)
	h.images[h.open] = image
	h.asked = h.acked
	h.asked.Complete = h.open
	if err := h.w.Seal(h.open, h.group.Volumes()...); err != nil {
		return err
	}
	for h.acked.Complete != h.open {
		if _, err := h.pool.Step(); err != nil {
			return err
		}
		s, err := h.group.State(context.Background())
		if err != nil {
			return err
		}
		h.acked.Complete = s.Complete
	}
	h.open++
	h.changes = map[key]uint64{}
	return nil
}

// command moves the complete CG a step forward or back.
func (h *history) command() error {
	cg := h.acked.Complete
	if cg == h.acked.Final {
		return nil
	}
	c := Command{Epoch: 1, CG: cg}
	ctx := context.Background()
	h.asked = h.acked
	var err error
	switch n := h.rng.IntN(10); {
	case n == 0: // discard it and what has been received of the next
		h.asked.Linked, h.asked.Complete = h.acked.Final, h.acked.Final
		err = h.group.Discard(ctx, c, h.open)
		h.open++
		h.changes = map[key]uint64{}
	case h.acked.Linked == cg && n < 3:
		h.asked.Linked = h.acked.Final
		err = h.group.Revert(ctx, c)
	case h.acked.Linked == cg:
		h.asked.Final = cg
		err = h.group.Release(ctx, c)
	default:
		h.asked.Linked = cg
		err = h.group.Link(ctx, c)
	}
	if err == nil {
		h.acked = h.asked
	}
	return err
}

// restart closes and opens again; what was received of the open CG is gone.
func (h *history) restart() error {
	if err := errors.Join(h.w.Close(), h.pool.Close()); err != nil {
		return err
	}
	seen := h.devs.Count(h.crash)
	h.devs = h.devs.Reopen()
	if h.crashIn > seen {
		h.crashIn -= seen
		h.devs.CrashAt(h.crash, h.crashIn)
	}
	if err := h.openPool(); err != nil {
		return err
	}
	h.changes = map[key]uint64{}
	return h.bind()
}

// check opens what a crash left and compares: exactly one CG boundary on all volumes, not older than what
// was acknowledged.
func (h *history) check(devs *ringtest.Devices) (GroupState, error) {
	var zero GroupState
	pool, err := Open(devs, Options{Manual: true, WriterBuffers: 3, WriterBufferBlocks: 4})
	if err != nil {
		return zero, err
	}
	g, err := pool.Group("g")
	if err != nil {
		return zero, err
	}
	s, err := g.State(context.Background())
	if err != nil {
		return zero, err
	}
	got := GroupState{Final: s.Final, Linked: s.Linked, Complete: s.Complete}
	if a, b := numbers(h.acked), numbers(h.asked); got != a && got != b {
		return zero, fmt.Errorf("recovered %+v; acknowledged %+v, asked for %+v", got, a, b)
	}
	if err := h.compare(g, FinalView, h.images[s.Final]); err != nil {
		return zero, fmt.Errorf("final %d: %w", s.Final, err)
	}
	if err := h.compare(g, LinkedView, h.images[s.Linked]); err != nil {
		return zero, fmt.Errorf("linked %d: %w", s.Linked, err)
	}
	if err := h.goOn(pool, g, s); err != nil {
		return zero, fmt.Errorf("after recovery: %w", err)
	}
	return got, errors.Join(blocksAddUp(pool), pool.Close())
}

// recoverTwice recovers what a crash left, crashes again at once, and checks what is recovered then: it must be the same.
func (h *history) recoverTwice(devs *ringtest.Devices) error {
	pool, err := Open(devs, Options{Manual: true})
	if err != nil {
		return err
	}
	g, err := pool.Group("g")
	if err != nil {
		return err
	}
	first, err := g.State(context.Background())
	if err := errors.Join(err, pool.shut()); err != nil {
		return err
	}
	second, err := h.check(devs.Crash(ringtest.None))
	if err != nil {
		return err
	}
	if numbers(first) != second {
		return fmt.Errorf("recovered %+v, and after another crash %+v", numbers(first), second)
	}
	return nil
}

// goOn finishes the CG that was held, so that it is shown to be whole.
func (h *history) goOn(pool *Pool, g *Group, s GroupState) error {
	if s.Complete == s.Final {
		return nil
	}
	ctx, c := context.Background(), Command{Epoch: 1, CG: s.Complete}
	if err := errors.Join(g.Link(ctx, c), g.Release(ctx, c)); err != nil {
		return err
	}
	for range 3 { // through before, during and after the fold
		if err := h.compare(g, FinalView, h.images[s.Complete]); err != nil {
			return err
		}
		if _, err := pool.Step(); err != nil {
			return err
		}
	}
	return nil
}

func numbers(s GroupState) GroupState {
	return GroupState{Final: s.Final, Linked: s.Linked, Complete: s.Complete}
}

func (h *history) compare(g *Group, kind ViewKind, image map[key]uint64) error {
	for _, v := range g.Volumes() {
		buf := make([]byte, v.Size())
		if _, err := v.read(buf, 0, kind, nil); err != nil {
			return err
		}
		for b := range VBlock(historyBlocks) {
			got := buf[b*BlockSize : (b+1)*BlockSize]
			if want := image[key{v.name, b}]; !bytes.Equal(got, pattern(v.name, b, want)) {
				return fmt.Errorf("volume %s block %d: want version %d, got %d", v.name, b, want, le.Uint64(got[72:]))
			}
		}
	}
	return nil
}

// blocksAddUp: with nothing in progress, what is used is what the tables name.
func blocksAddUp(p *Pool) error {
	for {
		progress, err := p.Step()
		if err != nil {
			return err
		}
		if !progress {
			break
		}
	}
	named := uint64(0)
	for _, g := range p.groups {
		for _, v := range g.volumes {
			for b := range VBlock(v.table.blocks()) {
				if v.table.load(b) != 0 {
					named++
				}
			}
		}
		for _, l := range g.live {
			for _, t := range l.tables {
				t.blocks(func(PBlock) { named++ })
			}
		}
	}
	if s := p.alloc.Stats(); s.Used != named {
		return fmt.Errorf("%d blocks are used, %d are named", s.Used, named)
	}
	return nil
}

// run plays the history until it ends or the device crashes.
func (h *history) run(steps int) error {
	if err := h.start(); err != nil {
		return err
	}
	for range steps {
		if err := h.step(); err != nil {
			return err
		}
	}
	return nil
}

// TestReq08_CrashAnywhere crashes generated histories at every submission, completion and flush, format
// and recovery included. The recovered pool is one CG boundary, and recovering once more changes nothing.
func TestReq08_CrashAnywhere(t *testing.T) {
	for seed := range uint64(*crashSeeds) {
		for _, event := range []ringtest.Event{ringtest.Submission, ringtest.Completion, ringtest.FlushEnd} {
			points := 0
			stride := uint64(13) // a prime, so that seeds meet different points
			if event == ringtest.FlushEnd {
				stride = 3
			}
			for n := 1 + seed%stride; ; n += stride {
				h := newHistory(seed)
				h.crash, h.crashIn = event, n
				h.devs.CrashAt(event, n)
				err := h.run(120)
				if !h.devs.Crashed() {
					if err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					break // the crash-free end
				}
				points++
				for _, policy := range []ringtest.Policy{ringtest.None, ringtest.All, ringtest.Random} {
					after := h.devs.Crash(policy)
					if h.group == nil { // no volume was acknowledged yet
						continue
					}
					if err := h.recoverTwice(after.Reopen()); err != nil {
						t.Fatalf("seed %d, %v %d: %v", seed, event, n, err)
					}
				}
			}
			t.Logf("seed %d: %d crash points of kind %v", seed, points, event)
		}
	}
}
