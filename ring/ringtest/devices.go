package ringtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/ring"
)

// ErrCrashed is what every queue of a crashed incarnation answers.
var ErrCrashed = errors.New("simulated crash")

// Spec describes one simulated device.
type Spec struct {
	// Path is its name in messages; "" means "sim0", "sim1", ...
	Path string
	// Size in bytes, a multiple of the sector size.
	Size int64
	// SectorSize in bytes, 512 or 4096; 0 means 4096.
	SectorSize int
	// NoDiscard: discards are refused.
	NoDiscard bool
	ReadOnly  bool
}

// Options says how devices behave.
type Options struct {
	// Seed decides everything that is random.
	Seed uint64
	// Blocking: Reap with nothing in flight sleeps until Wake, instead of returning 0.
	Blocking bool
	// Memory holds what is written; nil means Go's heap.
	Memory *Memory
}

// Memory is memory for the contents of devices that is used again by later ones: a campaign of many short
// simulations would else spend its time on allocation. All devices that share one, and their successors, must be used
// from one goroutine.
type Memory struct {
	slabs [][]byte
	used  int
	rest  []byte // of the slab used last
}

// slabBytes is what Memory takes from the heap at a time.
const slabBytes = 1 << 20

// get gives n bytes of arbitrary contents.
func (m *Memory) get(n int) []byte {
	if m == nil {
		return make([]byte, n)
	}
	if len(m.rest) < n {
		if m.used == len(m.slabs) {
			m.slabs = append(m.slabs, make([]byte, slabBytes))
		}
		m.rest = m.slabs[m.used]
		m.used++
	}
	b := m.rest[:n:n]
	m.rest = m.rest[n:]
	return b
}

// Reset takes all memory back. No device that has used it may be used any more.
func (m *Memory) Reset() { m.used, m.rest = 0, nil }

// Devices is a set of simulated devices in one incarnation: from its making to a crash.
// Safe for use from several goroutines, though only a single one makes it deterministic.
type Devices struct {
	mu      sync.Mutex
	opts    Options
	rng     *rand.Rand
	infos   []ring.DeviceInfo
	disks   []*disk
	queues  []*queue
	faults  []*Fault
	counts  [eventCount]uint64
	crashAt [eventCount]uint64 // 0: never
	crashed bool
	arrived uint64 // seq at the crash: what is above it was in flight
	closed  bool
	// seq numbers changes of contents over all disks, in the order in which they were applied.
	seq  uint64
	born uint64 // seq when the incarnation began
}

// New makes devices full of zeros.
func New(o Options, specs ...Spec) (*Devices, error) {
	d := empty(o)
	for i, s := range specs {
		info, err := s.info(i)
		if err != nil {
			return nil, err
		}
		d.infos = append(d.infos, info)
		d.disks = append(d.disks, newDisk(info.SectorSize, o.Memory))
	}
	return d, nil
}

// MustNew is New for specifications known to be right.
func MustNew(o Options, specs ...Spec) *Devices {
	d, err := New(o, specs...)
	if err != nil {
		panic(err)
	}
	return d
}

func empty(o Options) *Devices {
	return &Devices{opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15))}
}

func (s Spec) info(i int) (ring.DeviceInfo, error) {
	if s.Path == "" {
		s.Path = fmt.Sprintf("sim%d", i)
	}
	if s.SectorSize == 0 {
		s.SectorSize = 4096
	}
	if s.SectorSize != 512 && s.SectorSize != 4096 {
		return ring.DeviceInfo{}, fmt.Errorf("%s: sectors of %d bytes: want 512 or 4096", s.Path, s.SectorSize)
	}
	if s.Size <= 0 || s.Size%int64(s.SectorSize) != 0 {
		return ring.DeviceInfo{}, fmt.Errorf("%s: size of %d bytes: want a positive multiple of %d", s.Path, s.Size, s.SectorSize)
	}
	return ring.DeviceInfo{
		Path: s.Path, Size: s.Size, SectorSize: s.SectorSize, Direct: true, Block: true,
		ReadOnly: s.ReadOnly, Kind: ring.Simulated, Discard: !s.NoDiscard, WriteZeroes: true,
	}, nil
}

// Info implements [ring.Devices].
func (d *Devices) Info() []ring.DeviceInfo { return append([]ring.DeviceInfo(nil), d.infos...) }

// NewQueue implements [ring.Devices].
func (d *Devices) NewQueue(o ring.QueueOptions) (ring.Queue, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, ErrCrashed
	}
	if d.closed {
		return nil, ring.ErrClosed
	}
	if o.Depth == 0 {
		o.Depth = 128
	}
	if o.Depth < 0 || o.Depth&(o.Depth-1) != 0 {
		return nil, fmt.Errorf("queue depth %d: want a power of two", o.Depth)
	}
	q := newQueue(d, o.Depth)
	d.queues = append(d.queues, q)
	return q, nil
}

// Close ends the incarnation without a crash; see Reopen.
func (d *Devices) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.crashed && len(d.queues) > 0 {
		return fmt.Errorf("close simulated devices: %d queues are still open", len(d.queues))
	}
	d.closed = true
	return nil
}

// Reopen gives the next incarnation of devices that did not crash: the power stayed on, so that what was written but
// not flushed is still there, and still not durable. The receiver must not be used any more.
func (d *Devices) Reopen() *Devices {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.successor()
	n.disks = d.disks
	d.closed = true
	return n
}

// successor is the next incarnation, without disks. The seed goes on, so that it does not repeat the
// decisions of this one.
func (d *Devices) successor() *Devices {
	o := d.opts
	o.Seed = d.rng.Uint64()
	n := empty(o)
	n.infos, n.seq, n.born = d.infos, d.seq, d.seq
	return n
}

// ReadAt copies what the device holds now, not what a crash would leave, past all queues and faults.
func (d *Devices) ReadAt(device int, p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disks[device].readBytes(p, off)
}

// Digest is a checksum of all that reads see, past queues and faults: devices that hold the same have the same.
func (d *Devices) Digest() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var h xxhash.Digest
	h.Reset()
	for i, k := range d.disks {
		h.Write([]byte{byte(i)})
		k.digest(&h)
	}
	return h.Sum64()
}

// Unchanged says that this incarnation has neither changed nor flushed anything so far: what a crash leaves is what
// it would have left before.
func (d *Devices) Unchanged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seq == d.born && d.counts[FlushEnd] == 0
}

// WriteAt stores p durably, past all queues and faults: for planting damage.
func (d *Devices) WriteAt(device int, p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disks[device].plant(p, off)
}

// Stats counts what a device has done in this incarnation. Bytes are those of requests that
// changed or read the device, failed ones not included.
type Stats struct {
	Reads, Writes, Flushes, Discards, Zeroes uint64
	ReadBytes, WriteBytes                    uint64
}

// Stats of one device.
func (d *Devices) Stats(device int) Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disks[device].stats
}
