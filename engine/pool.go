package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/ring"
)

// Options of an open pool. The zero value is meaningful.
type Options struct {
	// Manual: nothing runs by itself; the goroutine that opened the pool drives it with
	// [Pool.Step], and calls that wait step it. For simulators.
	Manual bool
	// ReadWorkers is how many rings serve reads; 0: 1. Not used with Manual.
	ReadWorkers int
	// QueueDepth of the read rings; 0: 128.
	QueueDepth int
	// WriterBuffers and WriterBufferBlocks size each writer's buffers; 0: 32 of 64 blocks (8 MiB).
	WriterBuffers, WriterBufferBlocks int
	// OnComplete is told of each CG that became complete; OnFailure, once, why the pool stopped
	// acknowledging. Both run on the control loop and must not block.
	OnComplete func(group string, cg uint64)
	OnFailure  func(error)
	// OnRefused is told of a CG that was sealed on every volume and can never become complete: it was forgotten, its
	// updates must be sent again in smaller CGs. It runs on the control loop, too.
	OnRefused func(group string, cg uint64, err error)
	// Logger gets control-plane events; nil: none.
	Logger *slog.Logger
}

func (o *Options) fill() error {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.ReadWorkers, 1)
	def(&o.QueueDepth, 128)
	def(&o.WriterBuffers, 32)
	def(&o.WriterBufferBlocks, 64)
	if o.ReadWorkers < 0 || o.QueueDepth < 0 || o.WriterBuffers < 2 || o.WriterBufferBlocks < 1 || o.WriterBufferBlocks > 1024 {
		return fmt.Errorf("options %+v: sizes must be positive, with at least 2 writer buffers of at most 1024 blocks", *o)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Pool is a set of raw devices that holds copies of volumes.
type Pool struct {
	opts    Options
	devices ring.Devices
	info    []ring.DeviceInfo
	order   []int // device i of the pool is devices[order[i]]
	sb      *superblock
	alloc   *alloc.Map
	memory  *tableMemory
	readers readers
	ctl     *control
	reads   []submitter
	lane    atomic.Uint32
	writers atomic.Int32
	failure atomic.Pointer[error]
	repairs []error

	// Control loop only.
	groups     []*Group
	nextGroup  uint32
	nextVolume uint32
	retired    []prange
	stop       bool

	mu     sync.RWMutex // names; taken by control-plane calls only
	byName map[string]*Group
	vols   map[volumeKey]*Volume

	spaceMu sync.Mutex
	space   chan struct{} // closed and replaced when blocks were released

	ended chan struct{} // closed when the control loop has ended
	err   error         // how it ended
}

type volumeKey struct{ group, name string }

// Volume is virtual storage in a group.
type Volume struct {
	pool   *Pool
	group  *Group
	id     uint32
	name   string
	slot   int // in group.volumes and View.vols
	size   uint64
	table  *table
	writer atomic.Pointer[Writer]
}

// Name of the volume, unique in its group.
func (v *Volume) Name() string { return v.name }

// Group that the volume belongs to.
func (v *Volume) Group() *Group { return v.group }

// Size in bytes, a multiple of [BlockSize].
func (v *Volume) Size() uint64 { return v.size }

func (v *Volume) checkRange(first VBlock, n uint64) error {
	if all := v.size / BlockSize; uint64(first) > all || n > all-uint64(first) {
		return fmt.Errorf("volume %s: %d blocks from block %d: %w, which has %d", v.name, n, first, ErrPastEnd, all)
	}
	return nil
}

// locate says where a physical block is: the device by its place in what was opened.
func (p *Pool) locate(b PBlock) (opened int, block uint64) {
	device, block := p.locatePool(b)
	return p.order[device], block
}

// locatePool says where a physical block is: the device by its number in the pool, as the control loop's I/O counts.
func (p *Pool) locatePool(b PBlock) (device int, block uint64) {
	for i := len(p.sb.devices) - 1; i > 0; i-- {
		if d := &p.sb.devices[i]; b >= d.base {
			return i, uint64(b - d.base)
		}
	}
	return 0, uint64(b)
}

func (p *Pool) failed() error {
	if e := p.failure.Load(); e != nil {
		return *e
	}
	return nil
}

// call has f run by the control loop and waits for its reply.
func (p *Pool) call(ctx context.Context, f func(reply func(error))) error {
	done := make(chan error, 1)
	if !p.ctl.post(func() { f(func(err error) { done <- err }) }) {
		return ErrClosed
	}
	if p.opts.Manual {
		return p.stepUntil(done)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		select {
		case err := <-done:
			return err
		default:
			return errors.Join(ErrClosed, p.err)
		}
	}
}

func (p *Pool) callWait(f func(reply func(error))) error { return p.call(context.Background(), f) }

// stepUntil steps a manual pool until done has a value.
func (p *Pool) stepUntil(done chan error) error {
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		progress, err := p.Step()
		if err != nil {
			return err
		}
		if !progress && len(done) == 0 {
			return fmt.Errorf("%w: the call waits for something that this goroutine must do first", ErrState)
		}
	}
}

// Step drives a manual pool: it does a bounded amount of work and, if there is none, waits for one I/O. False:
// there is nothing to do and no I/O in flight.
func (p *Pool) Step() (progress bool, err error) {
	busy, err := p.ctl.step()
	if err != nil || busy {
		return busy, err
	}
	if p.ctl.io.idle() {
		return false, nil
	}
	// Nothing may have ended: a wake-up ends the wait, too.
	_, err = p.ctl.io.poll(true)
	return err == nil, err
}

// Failure says why the pool stopped acknowledging, nil if it did not.
func (p *Pool) Failure() error { return p.failed() }

// Repairs lists the damage that was found and repaired from a redundant copy when the pool was opened.
func (p *Pool) Repairs() []error { return p.repairs }

// UUID of the pool.
func (p *Pool) UUID() UUID { return p.sb.pool }

// Name given at format.
func (p *Pool) Name() string { return p.sb.name }

// Stats of a pool.
type Stats struct {
	Blocks, Free, Used uint64 // physical blocks that can hold data; Used = linked, being received or waiting to be released
	Retired            uint64 // given up after write errors
	JournalUsed        uint64 // bytes that a restart would replay
	JournalSize        uint64
	Checkpoint         uint64 // number of the newest
	MetadataBytes      uint64 // journal, table pages and roots written since the pool was opened
	Unfolded           int    // final CGs not yet part of the pointer tables
}

// Stats asks the control loop.
func (p *Pool) Stats(ctx context.Context) (Stats, error) {
	var told atomic.Pointer[Stats] // ctx may end while the control loop is answering
	err := p.call(ctx, func(reply func(error)) {
		c := p.ctl
		a := p.alloc.Stats()
		s := Stats{Free: a.Free, Used: a.Used, Blocks: a.Free + a.Used,
			JournalUsed: c.journal.used() * BlockSize, JournalSize: c.journal.size * BlockSize, Checkpoint: c.ckpt.number, MetadataBytes: c.io.written}
		for _, r := range p.retired {
			s.Retired += r.n
		}
		for _, g := range p.groups {
			for _, l := range g.live {
				if l.cg <= g.state.final {
					s.Unfolded++
				}
			}
		}
		told.Store(&s)
		reply(nil)
	})
	if s := told.Load(); s != nil {
		return *s, err
	}
	return Stats{}, err
}

// FreeBlocks is the number of free physical blocks, from any goroutine.
func (p *Pool) FreeBlocks() uint64 { return p.alloc.Stats().Free }

// WaitSpace waits until blocks were released since the call began, ctx ends, or the pool failed.
func (p *Pool) WaitSpace(ctx context.Context) error {
	p.spaceMu.Lock()
	freed := p.space
	p.spaceMu.Unlock()
	if err := p.failed(); err != nil {
		return err
	}
	select {
	case <-freed:
		return p.failed()
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		return ErrClosed
	}
}

// releaseTables gives back the blocks that tables name, and the tables. Nobody may look them up any more.
func (p *Pool) releaseTables(tables []*cgTable) {
	for _, t := range tables {
		t.blocks(func(b PBlock) {
			if err := p.alloc.ReleaseOne(uint64(b)); err != nil {
				p.ctl.post(func() { p.ctl.fail(err) })
			}
		})
		t.free()
	}
	if len(tables) > 0 {
		p.ctl.spaceFreed()
	}
}

// retire gives a bad range up for ever, and says so.
func (p *Pool) retire(r prange, cause error) {
	device, block := p.locate(r.first)
	p.opts.Logger.Error("write failed; the range is retired and its data placed elsewhere",
		"device", p.info[device].Path, "offset", blocksToBytes(block), "blocks", r.n, "error", cause)
	if err := p.alloc.Retire(uint64(r.first), r.n); err != nil {
		p.ctl.post(func() { p.ctl.fail(err) })
		return
	}
	p.ctl.post(func() {
		p.retired = append(p.retired, r)
		// A failed journal has stopped the pool already: there is nothing more to do about it here.
		p.ctl.journal.commit(func(error) {}, record{kind: recRetired, first: r.first, blocks: r.n})
	})
}

// Groups and volumes.

// Group finds a group by name.
func (p *Pool) Group(name string) (*Group, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if g := p.byName[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("group %q: %w; known are %q", name, ErrUnknown, sortedKeys(p.byName))
}

// Groups lists the groups by name.
func (p *Pool) Groups() []*Group {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []*Group
	for _, n := range sortedKeys(p.byName) {
		out = append(out, p.byName[n])
	}
	return out
}

// Volume finds a volume of the group by name.
func (g *Group) Volume(name string) (*Volume, error) {
	p := g.pool
	p.mu.RLock()
	defer p.mu.RUnlock()
	if v := p.vols[volumeKey{g.name, name}]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("volume %q of group %q: %w", name, g.name, ErrUnknown)
}

// Volumes lists the group's volumes by name.
func (g *Group) Volumes() []*Volume {
	g.pool.mu.RLock()
	defer g.pool.mu.RUnlock()
	var out []*Volume
	for k, v := range g.pool.vols {
		if k.group == g.name {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *Volume) int { return compareStrings(a.name, b.name) })
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func checkName(what, name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fmt.Errorf("%s name of %d bytes: want 1 to %d", what, len(name), MaxNameBytes)
	}
	for _, r := range name {
		if r < 0x21 || r == 0x7f || r == '/' || r == 0xfffd {
			return fmt.Errorf("%s name %q: %q is not allowed", what, name, r)
		}
	}
	return nil
}

// CreateVolume adds a volume of size bytes to a group, which is made if there is none of that name. All of it reads as
// zeros. From now on a CG of the group is complete only when this volume is sealed too.
func (p *Pool) CreateVolume(ctx context.Context, group, name string, size uint64) (*Volume, error) {
	if err := errors.Join(checkName("group", group), checkName("volume", name), checkVolumeSize(size)); err != nil {
		return nil, err
	}
	g, err := p.ensureGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	made := make(chan *Volume, 1)
	err = p.call(ctx, func(reply func(error)) {
		var failed error
		g.do(groupOp{
			decide: func() (*record, error) {
				if _, err := g.Volume(name); err == nil {
					return nil, fmt.Errorf("volume %q of group %q: %w: it exists", name, group, ErrState)
				}
				p.nextVolume++
				return &record{kind: recVolume, volume: p.nextVolume, size: size, name: name}, nil
			},
			applied: func(r *record) {
				var v *Volume
				if v, failed = p.addVolume(g, r.volume, r.name, r.size); failed == nil {
					made <- v
				}
			},
			reply: func(e error) { reply(errors.Join(e, failed)) },
		})
	})
	if err != nil {
		return nil, err
	}
	return <-made, nil
}

func (p *Pool) ensureGroup(ctx context.Context, name string) (*Group, error) {
	err := p.call(ctx, func(reply func(error)) {
		if _, err := p.Group(name); err == nil {
			reply(p.failed())
			return
		}
		p.nextGroup++
		id := p.nextGroup
		g := p.addGroup(id, name)
		g.do(groupOp{
			decide:  func() (*record, error) { return &record{kind: recGroup, name: name}, nil },
			applied: func(*record) {},
			reply:   reply,
		})
	})
	if err != nil {
		return nil, err
	}
	return p.Group(name)
}

func (p *Pool) addGroup(id uint32, name string) *Group {
	g := &Group{pool: p, id: id, name: name, state: groupState{name: name}}
	v := &View{group: g}
	g.final.Store(v)
	g.linked.Store(v)
	p.groups = append(p.groups, g)
	p.mu.Lock()
	p.byName[name] = g
	p.mu.Unlock()
	return g
}

func (p *Pool) addVolume(g *Group, id uint32, name string, size uint64) (*Volume, error) {
	t, err := newTable(size / BlockSize)
	if err != nil {
		return nil, err
	}
	v := &Volume{pool: p, group: g, id: id, name: name, size: size, table: t, slot: len(g.volumes)}
	g.volumes = append(g.volumes, v)
	same := g.final.Load() == g.linked.Load()
	g.final.Store(g.final.Load().withVolume(v.slot, v))
	if same {
		g.linked.Store(g.final.Load())
	} else {
		g.linked.Store(g.linked.Load().withVolume(v.slot, v))
	}
	p.mu.Lock()
	p.vols[volumeKey{g.name, name}] = v
	p.mu.Unlock()
	return v, nil
}

// DeleteVolume removes a volume and releases its blocks. It must not be bound to a writer, and no CG of its group
// may be between complete and folded.
func (p *Pool) DeleteVolume(ctx context.Context, group, name string) error {
	g, err := p.Group(group)
	if err != nil {
		return err
	}
	return p.call(ctx, func(reply func(error)) {
		var v *Volume
		g.do(groupOp{
			decide: func() (*record, error) {
				if v, err = g.Volume(name); err != nil {
					return nil, err
				}
				if v.writer.Load() != nil || len(g.live) > 0 || p.ctl.completing(g) {
					return nil, fmt.Errorf("volume %q of group %q: %w: it is being written; stop its primary or pause the group, then try again", name, group, ErrState)
				}
				return &record{kind: recVolumeDelete, volume: v.id}, nil
			},
			applied: func(*record) { p.removeVolume(v) },
			reply:   reply,
		})
	})
}

func (p *Pool) removeVolume(v *Volume) {
	g := v.group
	g.unseal(v)
	g.volumes[v.slot] = nil
	p.mu.Lock()
	delete(p.vols, volumeKey{g.name, v.name})
	p.mu.Unlock()
	view := g.final.Load().withVolume(v.slot, nil)
	g.final.Store(view)
	g.linked.Store(view)
	c := p.ctl
	c.ckpt.drop(v)
	c.whenUnread(func() {
		for b := VBlock(0); uint64(b) < v.table.blocks(); b++ {
			if e := v.table.load(b); e != 0 {
				if err := p.alloc.ReleaseOne(uint64(e.block())); err != nil {
					c.fail(fmt.Errorf("delete volume %s: %w", v.name, err))
				}
			}
		}
		v.table.close()
		c.spaceFreed()
	})
}

// Checkpoint writes what the journal holds into the table area, so that the next open need not replay it.
func (p *Pool) Checkpoint(ctx context.Context) error {
	return p.call(ctx, func(reply func(error)) {
		c := p.ctl
		if c.failed != nil {
			reply(c.failed)
			return
		}
		c.startCheckpoint()
		c.ckpt.done = append(c.ckpt.done, reply)
	})
}

// Close finishes background work, writes a checkpoint and closes the pool; the devices stay open. All writers must
// have been closed and no read may be in flight.
func (p *Pool) Close() error {
	if n := p.writers.Load(); n > 0 {
		return fmt.Errorf("close pool: %w: %d writers are open", ErrState, n)
	}
	var errs []error
	for _, r := range p.reads {
		errs = append(errs, r.Close())
	}
	err := p.callWait(func(reply func(error)) { p.windUp(reply) })
	if p.opts.Manual {
		return errors.Join(append(errs, err, p.shut())...)
	}
	<-p.ended
	return errors.Join(append(errs, err, p.err)...)
}

// windUp waits for background work, then checkpoints, then stops the loop.
func (p *Pool) windUp(reply func(error)) {
	c := p.ctl
	if c.failed != nil {
		p.stop = true
		reply(c.failed)
		return
	}
	if !c.settled() {
		c.post(func() { p.windUp(reply) })
		return
	}
	c.startCheckpoint()
	c.ckpt.done = append(c.ckpt.done, func(err error) {
		p.stop = true
		reply(err)
	})
}

// shut frees what the pool holds. Control loop's goroutine only.
func (p *Pool) shut() error {
	c := p.ctl
	c.inboxMu.Lock()
	c.closing = true
	c.inboxMu.Unlock()
	err := c.io.q.Close()
	for _, g := range p.groups {
		for _, l := range g.live {
			for _, t := range l.tables {
				t.free()
			}
		}
		for _, v := range g.volumes {
			if v != nil {
				v.table.close()
			}
		}
	}
	p.memory.close()
	return errors.Join(err, c.ckpt.close(), p.alloc.Close())
}

// run is the control loop's goroutine.
func (p *Pool) run(opened chan<- error) {
	defer close(p.ended)
	if err := p.recover(); err != nil {
		opened <- err
		return
	}
	opened <- nil
	err := p.ctl.loop(func() bool { return p.stop })
	p.err = errors.Join(err, p.shut())
	runtime.KeepAlive(p)
}
