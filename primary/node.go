package primary

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// Options of a Node.
type Options struct {
	// Name of the node, as peers and operators see it.
	Name string
	// Groups and their volumes. Device i of Devices holds the i-th volume, counted over all groups in order. Where
	// one can be closed by itself (ring.DeviceCloser), it is when its volume has left its group and nothing uses it
	// any more.
	Groups  []GroupSpec
	Devices ring.Devices
	// Queue sizes the ring to the devices; the zero value is useful.
	Queue ring.QueueOptions
	// Secondaries maps the names in VolumeSpec.Secondaries to addresses, as wire.Dial takes them. A
	// secondary control that answers with another name is used nevertheless.
	Secondaries map[string]string
	// StateDir holds the write-intent log. It must exist, and belongs to one node at a time.
	StateDir string
	// Listener is where managers and tools connect (wire.Listen). Nil: no manager can reach this node.
	Listener net.Listener
	// Core tunes the replication.
	Core CoreOptions
	// Wire tunes the connections.
	Wire wire.Options
	// MaxBackoff bounds the pause between attempts to reach a secondary; 0 means 2 s.
	MaxBackoff time.Duration
	// Reload is called when a tool has the configuration read again (wire.Reload); its error is the answer. Nil: that
	// is refused.
	Reload func() error
	// Log gets what operators should know; nil discards it.
	Log *slog.Logger
}

var (
	// ErrClosed: the node was closed.
	ErrClosed = errors.New("primary control is closed")
	// ErrNoVolume: there is no such volume.
	ErrNoVolume = errors.New("no such volume")
)

// Node is a running primary control. All methods may be called from any goroutine.
type Node struct {
	opt      Options
	log      *slog.Logger
	worker   *ring.Worker
	started  time.Time
	instance wire.UUID
	memory   buffers
	files    *intentFiles
	parts    atomic.Pointer[parts]

	// ctx ends when the node closes.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup // links, listener, sessions
	clocks  sync.WaitGroup // timer and intent writer: they outlive host requests

	poke      chan struct{} // to the timer: the deadline moved
	intents   chan *IntentWrite
	stopClock chan struct{}
	batches   sync.Pool // *batch

	closeOnce sync.Once
	closeErr  error

	// mu guards everything below.
	mu       sync.Mutex
	core     *Core
	alarm    time.Duration // the deadline that the timer knows of
	sessions map[int]*session
	nextID   int
	closing  bool
	busy     int // host writes in the core
	idle     sync.Cond
}

// parts are what a node has of volumes and connections, by their indexes in the core. What it points at never
// changes: a change makes another one, under Node.mu.
type parts struct {
	links   []*link
	volumes []*Volume // those that have left stay, as their indexes do
}

// batch is memory for one visit to the core.
type batch struct {
	actions Actions
	calls   []*ring.Call
}

// Open starts a primary control. It owns Listener from then on; Devices are the caller's to close
// after Close.
func Open(opt Options) (*Node, error) {
	n := &Node{opt: opt, log: opt.Log, started: time.Now(), sessions: map[int]*session{},
		poke: make(chan struct{}, 1), intents: make(chan *IntentWrite, 1), stopClock: make(chan struct{})}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.opt.MaxBackoff == 0 {
		n.opt.MaxBackoff = 2 * time.Second
	}
	if n.opt.Secondaries = maps.Clone(n.opt.Secondaries); n.opt.Secondaries == nil {
		n.opt.Secondaries = map[string]string{}
	}
	n.idle.L = &n.mu
	n.batches.New = func() any { return new(batch) }
	n.instance = newUUID()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.open(); err != nil {
		n.cancel()
		return nil, fmt.Errorf("start primary control %q: %w", opt.Name, err)
	}
	return n, nil
}

func newUUID() (u wire.UUID) {
	rand.Read(u[:]) // documented never to fail
	return u
}

func (n *Node) open() error {
	if err := n.checkOptions(); err != nil {
		return err
	}
	files, prior, err := openIntent(n.opt.StateDir)
	if err != nil {
		return err
	}
	if n.opt.Core.Alloc == nil {
		n.opt.Core.Alloc = n.memory.get
	}
	n.core, err = NewCore(n.opt.Core, n.opt.Groups, prior)
	if err == nil {
		n.worker, err = ring.NewWorker(n.opt.Devices, n.opt.Queue)
	}
	if err != nil {
		return errors.Join(err, files.close())
	}
	n.files = files
	n.makeVolumes()
	n.start()
	return nil
}

// checkOptions compares volumes with devices and names with addresses.
func (n *Node) checkOptions() error {
	info := n.opt.Devices.Info()
	i := 0
	for _, g := range n.opt.Groups {
		for _, v := range g.Volumes {
			if i >= len(info) {
				return fmt.Errorf("volume %q has no device: there are %d devices", v.Name, len(info))
			}
			if v.Size > uint64(info[i].Size) {
				return fmt.Errorf("volume %q has %d bytes, but %s has only %d", v.Name, v.Size, info[i].Path, info[i].Size)
			}
			for _, s := range v.Secondaries {
				if n.opt.Secondaries[s] == "" {
					return fmt.Errorf("volume %q: secondary %q has no address", v.Name, s)
				}
			}
			i++
		}
	}
	return nil
}

func (n *Node) makeVolumes() {
	p := &parts{}
	for _, g := range n.opt.Groups {
		for _, v := range g.Volumes {
			i := len(p.volumes)
			p.volumes = append(p.volumes, &Volume{node: n, worker: n.worker, device: i, index: i, group: g.Name, name: v.Name, size: v.Size,
				info: n.opt.Devices.Info()[i], unread: make(chan struct{}, 1)})
		}
	}
	p.links = n.newLinks(nil)
	n.parts.Store(p)
}

// newLinks adds the links of connections that the core has and that are not in the list yet.
func (n *Node) newLinks(have []*link) []*link {
	have = slices.Clone(have)
	for _, s := range n.core.Connections()[len(have):] {
		have = append(have, &link{node: n, index: len(have), spec: s, address: n.opt.Secondaries[s.Secondary],
			ready: make(chan struct{}, 1), again: make(chan struct{}, 1)})
	}
	return have
}

func (n *Node) start() {
	n.clocks.Go(n.runTimer)
	n.clocks.Go(n.runIntent)
	n.visit(nil)
	for _, l := range n.parts.Load().links {
		n.running.Go(l.run)
	}
	if n.opt.Listener != nil {
		n.running.Go(n.accept)
	}
}

func (n *Node) now() time.Duration { return time.Since(n.started) }

// visit lets f talk to the core, then does what the core wants done.
func (n *Node) visit(f func(c *Core)) {
	b := n.enter()
	if f != nil {
		f(n.core)
	}
	n.leave(b)
}

// enter locks the core for a batch of events; leave ends it.
func (n *Node) enter() *batch {
	b := n.batches.Get().(*batch)
	n.mu.Lock()
	n.core.Tick(n.now())
	return b
}

// leave unlocks the core and does what it wants done. What has to keep its order (messages for managers) is
// handed over under the lock.
func (n *Node) leave(b *batch) {
	n.core.Take(&b.actions)
	a := &b.actions
	for _, m := range a.Manager {
		if s := n.sessions[m.Session]; s != nil {
			s.push(m.Message)
		}
	}
	if a.Intent != nil {
		n.intents <- a.Intent // room for one, and there is one at a time
	}
	n.busy -= len(a.Done)
	if n.closing {
		n.idle.Broadcast()
	}
	if d := n.core.Deadline(); d < n.alarm || n.alarm == 0 {
		n.alarm = d
		signal(n.poke)
	}
	n.mu.Unlock()
	n.perform(b)
	n.batches.Put(b)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // one is pending already
	}
}

func (n *Node) perform(b *batch) {
	a := &b.actions
	parts := n.parts.Load()
	b.calls = b.calls[:0]
	for _, d := range a.Device {
		v := parts.volumes[d.Device]
		d.Device = v.device
		if d.Done == nil {
			d.Done = func(*ring.Call) { n.deviceDone(d) }
		}
		if v.worker != n.worker {
			v.worker.Go(&d.Call)
			continue
		}
		b.calls = append(b.calls, &d.Call)
	}
	n.worker.Go(b.calls...)
	for _, i := range a.Ready {
		signal(parts.links[i].ready)
	}
	for _, i := range a.Reattach {
		signal(parts.links[i].again)
	}
	for _, i := range a.Gone {
		n.running.Go(parts.volumes[i].leave)
	}
	for _, io := range a.Done {
		r := io.Owner.(*Request)
		r.finish(io.Err)
	}
	for _, t := range a.Notices {
		n.log.Log(n.ctx, t.Level, t.Text, t.Args...)
	}
	clear(b.calls)
	a.reset()
}

// deviceDone runs on the worker's goroutine.
func (n *Node) deviceDone(d *DeviceIO) {
	d.Inspect()
	b := n.enter()
	n.core.DeviceDone(d)
	n.leave(b)
}

// runTimer calls the core when its deadline has come.
func (n *Node) runTimer() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-n.stopClock:
			return
		case <-n.poke:
		case <-timer.C:
			b := n.enter()
			n.alarm = 0 // leave sets it again, and pokes
			n.leave(b)
		}
		n.mu.Lock()
		wait := n.alarm - n.now()
		n.mu.Unlock()
		timer.Reset(max(wait, 0))
	}
}

// runIntent writes the write-intent log.
func (n *Node) runIntent() {
	for {
		select {
		case <-n.stopClock:
			return
		case w := <-n.intents:
			err := n.files.write(w)
			n.visit(func(c *Core) { c.IntentDone(err) })
		}
	}
}

// Volume finds a volume.
func (n *Node) Volume(group, name string) (*Volume, error) {
	for _, v := range n.Volumes() {
		if v.group == group && v.name == name {
			return v, nil
		}
	}
	return nil, fmt.Errorf("volume %q of group %q: %w", name, group, ErrNoVolume)
}

// Volumes lists the volumes in the order of the options, then in that in which they were added. One that leaves is not
// among them.
func (n *Node) Volumes() (list []*Volume) {
	for _, v := range n.parts.Load().volumes {
		if !v.left.Load() {
			list = append(list, v)
		}
	}
	return list
}

// Status describes the node.
func (n *Node) Status() Status {
	n.mu.Lock()
	n.core.Tick(n.now())
	s := n.core.Status()
	n.mu.Unlock()
	s.Node = n.opt.Name
	return s
}

// statusJSON is Status for the wire.
func (n *Node) statusJSON() []byte {
	b, err := json.Marshal(n.Status())
	if err != nil {
		return fmt.Appendf(nil, `{"error": %q}`, err.Error()) // no value of Status can do this
	}
	return b
}

// Close waits for host requests in progress, then ends everything. Nothing is lost by it: what secondaries
// have not got stays marked in the write-intent log.
func (n *Node) Close() error {
	n.closeOnce.Do(func() { n.closeErr = n.close() })
	return n.closeErr
}

func (n *Node) close() error {
	n.mu.Lock()
	n.closing = true
	for n.busy > 0 { // holds end by their timeout
		n.idle.Wait()
	}
	n.mu.Unlock()
	n.cancel()
	var errs []error
	if n.opt.Listener != nil {
		if err := n.opt.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	n.running.Wait()
	// Catch-up reads are all that is left; those that end now start no others, for no
	// secondary is attached any more.
	errs = append(errs, n.worker.Close())
	for _, v := range n.parts.Load().volumes {
		errs = append(errs, v.closeWorker())
	}
	n.visit((*Core).SaveIntent)
	n.mu.Lock()
	for n.core.IntentPending() {
		n.idle.Wait()
	}
	n.mu.Unlock()
	close(n.stopClock)
	n.clocks.Wait()
	return errors.Join(append(errs, n.files.close())...)
}
