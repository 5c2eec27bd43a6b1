package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/ring"
)

// Options of an open pool. The zero value is meaningful.
type Options struct {
	// Manual is for simulators: nothing runs by itself. The goroutine that opened the pool drives it with [Pool.Step];
	// calls that wait step the pool themselves.
	Manual bool
	// ReadWorkers is how many rings serve reads; 0: 1. Not used with Manual.
	ReadWorkers int
	// QueueDepth of the read rings; 0: 128.
	QueueDepth int
	// ReadArenas is memory for reads, registered with the read rings where the kernel allows it: a read into it costs
	// no page pinning. Reads into other memory work as well. It must outlive the pool. Not used with Manual.
	ReadArenas []*ring.Arena
	// WriterBuffers and WriterBufferBlocks size each writer's buffers; 0: 16 of 128 blocks (8 MiB).
	WriterBuffers, WriterBufferBlocks int
	// OnComplete is called for each CG that became complete. OnFailure is called once, with the reason why the pool
	// stopped acknowledging. Both run on the control loop and must not block.
	OnComplete func(group string, cg uint64)
	OnFailure  func(error)
	// OnRefused is called for a CG that was sealed on every volume and can never become complete, with the reason.
	// The CG was forgotten; its updates must be sent again, in smaller CGs if it was too large. It runs on the
	// control loop and must not block.
	OnRefused func(group string, cg uint64, err error)
	// Pause is called between the steps of a call that waits, if the pool is Manual. A simulator can let other things
	// happen there; these may step the pool.
	Pause func()
	// Arenas provides memory for device I/O; nil: it is mapped when needed. Only with Manual.
	Arenas *ring.Arenas
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
	def(&o.WriterBuffers, 16)
	def(&o.WriterBufferBlocks, 128)
	if o.ReadWorkers < 0 || o.QueueDepth < 0 || o.WriterBuffers < 2 || o.WriterBufferBlocks < 1 || o.WriterBufferBlocks > 1024 {
		return fmt.Errorf("options %+v: sizes must be positive, with at least 2 writer buffers of at most 1024 blocks", *o)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// processors says how many goroutines may share the work of opening a pool: a simulator wants one after the other.
func (o *Options) processors() int {
	if o.Manual {
		return 1
	}
	return runtime.GOMAXPROCS(0)
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
		if len(done) > 0 {
			continue
		}
		if p.opts.Pause != nil {
			p.opts.Pause()
		} else if !progress {
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
	back := newFreeing(p.alloc)
	check := func(err error) {
		if err != nil {
			p.ctl.post(func() { p.ctl.fail(err) })
		}
	}
	for _, t := range tables {
		t.blocks(func(b PBlock) { check(back.add(b)) })
		check(back.flush())
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
		p.ctl.recordRetired(r)
	})
}

// recordRetired makes it durable that a range is bad. Where a CG holds the journal there is no room for that: the
// catalog of the next checkpoint has it, and a restart before that would find the range bad once more, and free.
func (c *control) recordRetired(r prange) {
	if !c.journal.admits(recRetired, false) {
		c.relieveJournal()
		return
	}
	// A failed journal has stopped the pool already: there is nothing more to do about it here.
	c.journal.commit(func(error) {}, record{kind: recRetired, first: r.first, blocks: r.n})
}
