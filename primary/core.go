package primary

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
	"unsafe"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// GroupSpec describes the part of a consistency group that lives on this node.
type GroupSpec struct {
	Name    string
	Volumes []VolumeSpec
}

// VolumeSpec describes one volume.
type VolumeSpec struct {
	Name string
	Size uint64 // bytes, a multiple of BlockSize
	// Secondaries names the secondary controls that hold a copy of the volume.
	Secondaries []string
	// Place says where the volume's contents are: equal only if they are the same ones, as far as that can be known.
	// A volume that has left its group finds its copies again if it comes back with the same place; with an empty one
	// it does not. At most 8192 bytes.
	Place string
}

// CoreOptions tunes a Core. The zero value is useful.
type CoreOptions struct {
	// QueueBytes bounds the payload queued for one connection, unacknowledged payload included;
	// 0 means 64 MiB. Beyond it the control records changes.
	QueueBytes int64
	// CatchupReads is the largest number of catch-up reads in flight for one connection; 0 means
	// 4. While hosts write and the CG is still open it is 1: host I/O goes first.
	CatchupReads int
	// CatchupBytes is the longest catch-up read, a multiple of BlockSize up to 1 MiB; 0 means 1 MiB.
	CatchupBytes int64
	// FirstCopyRest ends a first copy that is spread over CGs: at the first cut at which no more than so many bytes
	// are left, the rest becomes part of the CG that was cut. 0 means 32 MiB. It bounds how much longer this one CG
	// takes because of the copy. Without it a copy would never end while hosts write all the time.
	FirstCopyRest int64
	// FirstCopyRate limits the reads of first copies that are spread over CGs, in bytes per second over all
	// connections; 0 is no limit. The rest that FirstCopyRest leaves to one CG is not limited.
	FirstCopyRate int64
	// FirstCopyShare is how much of first copies that are spread over CGs one CG takes on a connection, in bytes, to within
	// the reads in flight; 0 means 4 GiB. The last CG takes up to twice as much. A secondary needs about 40 bytes of
	// memory for each block of an open CG: without this bound a group whose CGs are not cut, because it is paused or its
	// manager is away, would fill it.
	FirstCopyShare int64
	// IntentRegion is the granularity of the write-intent log in bytes, a power of two, at least 64
	// KiB; 0 means 1 MiB: one region is then one catch-up read, so that a finer grain would
	// save little reading after a crash, and a 4 TiB volume costs 512 KiB of log.
	IntentRegion uint64
	// IntentLinger is how long a region stays marked at least after its last write; 0 means
	// 30 s. It keeps a region that is written all the time from being marked and cleared for
	// every CG, each time with a synchronous write of the log.
	IntentLinger time.Duration
	// Overwrite lists the identities of volumes on secondaries that a first copy may overwrite, on an operator's word,
	// although they hold something unknown to this primary. It overwrites no other such volume.
	Overwrite []wire.UUID
	// Alloc makes memory for a read or a read-modify-write: n bytes (a multiple of BlockSize, at most
	// a host request rounded up), aligned to 4096, with one reference. Nil means Go's heap.
	Alloc func(n int) Payload
}

func (o CoreOptions) withDefaults() CoreOptions {
	if o.QueueBytes == 0 {
		o.QueueBytes = 64 << 20
	}
	if o.CatchupReads == 0 {
		o.CatchupReads = 4
	}
	if o.CatchupBytes == 0 {
		o.CatchupBytes = maxRun * BlockSize
	}
	if o.FirstCopyRest == 0 {
		o.FirstCopyRest = 32 << 20
	}
	if o.FirstCopyShare == 0 {
		o.FirstCopyShare = 4 << 30
	}
	if o.IntentRegion == 0 {
		o.IntentRegion = 1 << 20
	}
	if o.IntentLinger == 0 {
		o.IntentLinger = 30 * time.Second
	}
	if o.Alloc == nil {
		o.Alloc = allocHeap
	}
	return o
}

func (o CoreOptions) validate() error {
	switch {
	case o.QueueBytes < 64<<10:
		return fmt.Errorf("queue of %d bytes: want at least 65536", o.QueueBytes)
	case o.CatchupReads < 1:
		return fmt.Errorf("%d catch-up reads: want at least 1", o.CatchupReads)
	case o.CatchupBytes < BlockSize || o.CatchupBytes > maxRun*BlockSize || o.CatchupBytes%BlockSize != 0:
		return fmt.Errorf("catch-up reads of %d bytes: want a multiple of %d up to %d", o.CatchupBytes, BlockSize, maxRun*BlockSize)
	case o.FirstCopyRate < 0:
		return fmt.Errorf("rate of first copies of %d bytes per second: want none or more", o.FirstCopyRate)
	case o.FirstCopyRest < 0:
		return fmt.Errorf("rest of a first copy of %d bytes: want none or more", o.FirstCopyRest)
	case o.FirstCopyShare < 0:
		return fmt.Errorf("share of first copies of %d bytes in a CG: want none or more", o.FirstCopyShare)
	case o.IntentRegion < 64<<10 || o.IntentRegion&(o.IntentRegion-1) != 0:
		return fmt.Errorf("intent region of %d bytes: want a power of two, at least 65536", o.IntentRegion)
	case o.IntentLinger < 0:
		return errors.New("intent linger is negative")
	}
	return nil
}

// Actions is what a Core wants done. The driver performs it outside of any lock, in any order.
type Actions struct {
	// Device I/O to begin; each ends by Core.DeviceDone. The driver may begin them in any order: a request that
	// depends on an earlier one is not given before that one has ended.
	Device []*DeviceIO
	// Done are host requests that have ended, in IO.Err their outcome. The core no longer uses them.
	Done []*IO
	// Ready are connections whose sender slept (TakeFrame gave nil) and has work now.
	Ready []int
	// Manager are answers and reports for managers.
	Manager []ManagerMessage
	// Intent, if not nil, is to be written to the write-intent log, then made durable, then
	// reported by Core.IntentDone. There is one at a time.
	Intent *IntentWrite
	// Reattach are connections to be ended and made anew, with another Attach.
	Reattach []int
	// Gone are volumes that have left (RemoveVolume): their devices are not used any more.
	Gone []int
	// Notices are for the operator's log.
	Notices []Notice
}

// ManagerMessage is a message for the manager of a session (the number that was given to Core.Manage).
type ManagerMessage struct {
	Session int
	Message wire.Message
}

// Notice is a line for the operator's log.
type Notice struct {
	Level slog.Level
	Text  string
	Args  []any // as slog wants them
}

func (a *Actions) reset() {
	clear(a.Device)
	clear(a.Done)
	clear(a.Manager)
	*a = Actions{Device: a.Device[:0], Done: a.Done[:0], Ready: a.Ready[:0], Reattach: a.Reattach[:0], Gone: a.Gone[:0], Manager: a.Manager[:0], Notices: a.Notices[:0]}
}

// volume is one volume of a group.
type volume struct {
	index    int
	logIndex int // in the newest snapshot of the write-intent log; -1: not there
	spec     VolumeSpec
	blocks   uint64
	group    *group
	replicas []*replica
	locks    rangeLocks
	// gens holds what each CG after the last final one may have changed, ascending; the last
	// one is the open CG's (number 0: before a manager said which CG is open).
	gens    []generation
	writing int // host writes that were admitted and have not ended
	hosts   int // host requests that were submitted and have not ended
	leaving bool
	gone    bool // has left: nothing refers to it but its index
	intent  volumeIntent
	// retryAt: a catch-up read failed; none is tried before.
	retryAt time.Duration
	lastErr string
}

type generation struct {
	cg      uint64
	epoch   uint64 // in which it was opened
	changed *bitmap
}

func (v *volume) changed() *bitmap { return v.gens[len(v.gens)-1].changed }

// replica is the copy of a volume on one secondary.
type replica struct {
	volume *volume
	conn   *conn
	apart  bool    // not in the list of its connection: it is about to join, or has left
	handle uint32  // position in Attach
	open   *bitmap // catch-up bits of the open CG
	cut    *bitmap // catch-up bits of the CG that is cut and not drained
	// pending are the blocks of a first copy that is spread over CGs which no CG has brought yet: see firstcopy.go.
	// Empty unless spread.
	pending *bitmap
	spread  bool
	hole    bool   // the secondary said, when the connection was made, that the volume is not whole
	rest    bool   // fullCG has only what was left of a spread first copy
	cursor  uint64 // where the search for catch-up bits goes on
	synced  bool   // the secondary once had the whole volume, in a final CG
	// lacking are the regions that a copy which is not synced may not have, as the write-intent log is to say. Those of a
	// copy that is synced since are marks in the log until the device is flushed: it may lose with its power what was
	// written before it was known here, and the copy has that.
	lacking *bitmap
	// identity is of the volume there that this primary copies to; zero: none yet. noted is what the write-intent log
	// says durably, noting what it will once the write in progress is durable.
	identity, noted, noting wire.UUID
	whole                   string // why the whole volume is copied; "" once that is final
	fullCG                  uint64 // not synced: the CG that has every block, 0 none
	// fullEpoch is the epoch in which fullCG was opened.
	fullEpoch uint64
}

// bits gives the catch-up bits for a lane of the replica's connection.
func (r *replica) bits(l *lane) *bitmap {
	if l == r.conn.cut {
		return r.cut
	}
	return r.open
}

// Core is the primary control without I/O. Its methods are called by one goroutine at a time;
// none blocks. Time is what the driver last gave to Tick.
type Core struct {
	opt     CoreOptions
	now     time.Duration
	groups  []*group
	byName  map[string]*group
	volumes []*volume
	left    []IntentLeft // copies of volumes that have left, oldest first: see left.go
	conns   []*conn
	intent  *intentState
	out     Actions
	due     time.Duration // nothing is due before
	pace    pace          // of first copies

	chunks  chunkPool
	payload sharedPool
	frames  []*Frame
	reads   []*IO // unused catch-up requests
}

// NewCore makes a core. prior is what the write-intent log of an earlier run says (see LoadIntent);
// without a usable one every volume is copied as a whole.
func NewCore(opt CoreOptions, specs []GroupSpec, prior *IntentLog) (*Core, error) {
	c := &Core{opt: opt.withDefaults(), byName: map[string]*group{}}
	if err := c.opt.validate(); err != nil {
		return nil, err
	}
	for _, s := range specs {
		if err := c.addGroup(s); err != nil {
			return nil, err
		}
	}
	c.restoreIntent(prior)
	return c, nil
}

func (c *Core) addGroup(s GroupSpec) error {
	if s.Name == "" || c.byName[s.Name] != nil {
		return fmt.Errorf("group %q: name is empty or used twice", s.Name)
	}
	g := &group{index: len(c.groups), name: s.Name}
	c.groups = append(c.groups, g)
	c.byName[s.Name] = g
	for _, vs := range s.Volumes {
		if err := c.addVolume(g, vs); err != nil {
			return fmt.Errorf("group %q: %w", s.Name, err)
		}
	}
	return nil
}

func (c *Core) addVolume(g *group, s VolumeSpec) error {
	if err := g.admits(s); err != nil {
		return err
	}
	v := c.makeVolume(g, s)
	for _, r := range v.replicas {
		r.handle = uint32(len(r.conn.replicas))
		r.conn.replicas = append(r.conn.replicas, r)
	}
	return nil
}

// admits says what is wrong with a volume.
func (g *group) admits(s VolumeSpec) error {
	for _, v := range g.volumes {
		switch {
		case v.spec.Name != s.Name:
		case v.leaving:
			return fmt.Errorf("volume %q is still leaving: it can join again when no CG has it any more; try again", s.Name)
		default:
			return fmt.Errorf("volume %q is listed twice", s.Name)
		}
	}
	if g.name == "" || len(g.name) > maxIntentName {
		return fmt.Errorf("%q is not the name of a group", g.name)
	}
	for i, name := range s.Secondaries {
		if slices.Contains(s.Secondaries[:i], name) {
			return fmt.Errorf("volume %q: secondary %q is listed twice", s.Name, name)
		}
	}
	if s.Name == "" || s.Size == 0 || s.Size%BlockSize != 0 {
		return fmt.Errorf("volume %q of %d bytes: want a name and a size that is a multiple of %d", s.Name, s.Size, BlockSize)
	}
	if len(s.Place) > maxIntentPlace {
		return fmt.Errorf("volume %q: its place is %d bytes long: want at most %d", s.Name, len(s.Place), maxIntentPlace)
	}
	return nil
}

// makeVolume makes a volume with its copies, which are in no list yet.
func (c *Core) makeVolume(g *group, s VolumeSpec) *volume {
	v := &volume{index: len(c.volumes), logIndex: -1, spec: s, blocks: s.Size / BlockSize, group: g}
	v.gens = []generation{{changed: newBitmap(v.blocks, &c.chunks)}}
	c.volumes = append(c.volumes, v)
	g.volumes = append(g.volumes, v)
	for _, name := range s.Secondaries {
		cn := c.connFor(g, name)
		v.replicas = append(v.replicas, &replica{volume: v, conn: cn,
			open: newBitmap(v.blocks, &c.chunks), cut: newBitmap(v.blocks, &c.chunks), pending: newBitmap(v.blocks, &c.chunks)})
	}
	return v
}

func (c *Core) connFor(g *group, secondary string) *conn {
	for _, cn := range g.conns {
		if cn.secondary == secondary {
			return cn
		}
	}
	cn := &conn{index: len(c.conns), group: g, secondary: secondary}
	if g.open != 0 {
		cn.open = cn.newLane(g.open)
	}
	c.conns = append(c.conns, cn)
	g.conns = append(g.conns, cn)
	return cn
}

// Volume finds a volume's index.
func (c *Core) Volume(group, name string) (int, bool) {
	if g := c.byName[group]; g != nil {
		for _, v := range g.volumes {
			if v.spec.Name == name {
				return v.index, true
			}
		}
	}
	return 0, false
}

// Connections lists which (group, secondary) each connection index stands for.
func (c *Core) Connections() []ConnSpec {
	specs := make([]ConnSpec, len(c.conns))
	for i, cn := range c.conns {
		specs[i] = ConnSpec{Group: cn.group.name, Secondary: cn.secondary}
	}
	return specs
}

// ConnSpec says what a connection is for.
type ConnSpec struct{ Group, Secondary string }

// Take moves the actions that have gathered into dst, whose slices it reuses.
func (c *Core) Take(dst *Actions) {
	dst.reset()
	c.out.Intent = c.intent.nextWrite(c)
	*dst, c.out = c.out, *dst
}

// Tick tells the time and does what is due. It costs nothing when nothing is.
func (c *Core) Tick(now time.Duration) {
	c.now = now
	if now < c.due {
		return
	}
	for _, g := range c.groups {
		if g.hold != holdNone && now >= g.holdDeadline {
			c.expireHold(g)
		}
		for _, cn := range g.conns {
			c.tryRegroup(cn)
		}
		for _, v := range g.volumes {
			if v.retryAt != 0 && now >= v.retryAt {
				v.retryAt = 0
				c.kickVolume(v)
			}
		}
	}
	c.pace.tick(c)
	c.intent.tick(c)
	c.due = c.nextDue()
}

// Deadline is when Tick must be called at the latest.
func (c *Core) Deadline() time.Duration { return c.due }

// dueAt has Tick look at what is due at t.
func (c *Core) dueAt(t time.Duration) { c.due = min(c.due, t) }

func (c *Core) nextDue() time.Duration {
	next := c.intent.rotateAt
	if c.pace.waitUntil != 0 {
		next = min(next, c.pace.waitUntil)
	}
	if c.intent.snapshotDue && c.intent.retryAt > c.now {
		next = min(next, c.intent.retryAt)
	}
	for _, g := range c.groups {
		if g.hold != holdNone && g.holdDeadline < next {
			next = g.holdDeadline
		}
		for _, cn := range g.conns {
			if cn.regroupBy > c.now && cn.regroupBy < next {
				next = cn.regroupBy
			}
		}
		for _, v := range g.volumes {
			if v.retryAt != 0 && v.retryAt < next {
				next = v.retryAt
			}
		}
	}
	return next
}

func (c *Core) notice(level slog.Level, text string, args ...any) {
	c.out.Notices = append(c.out.Notices, Notice{level, text, args})
}

// DeviceIO is one request to the local device of a volume: Request.Device is the volume's index.
// The driver sets Err and calls Core.DeviceDone.
type DeviceIO struct {
	ring.Call
	io *IO
}

// Inspect looks for zeros in what a catch-up read has brought. The driver may call it after the device
// has finished and before DeviceDone, outside of the lock that guards the core, to keep this work
// out of it.
func (d *DeviceIO) Inspect() {
	if io := d.io; io.Op == opCatchup && d.Err == nil && !io.inspected {
		io.zero, io.inspected = zeroBlocks(d.Buf), true
	}
}

// heapPayload is memory that the collector frees.
type heapPayload struct{ b []byte }

// allocHeap cuts an aligned piece out of a larger one.
func allocHeap(n int) Payload {
	b := make([]byte, n+BlockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (BlockSize - 1)
	return &heapPayload{b[skip : skip+n : skip+n]}
}

func (p *heapPayload) Bytes() []byte { return p.b }
func (*heapPayload) Retain()         {}
func (*heapPayload) Release()        {}
