package export

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/nbd"
	"github.com/farside-storage/farside/primary"
)

// Hosts exports volumes of a primary control, read and write, by their names "group/volume". The server must
// be closed before the node.
func Hosts(node *primary.Node, names []string) *HostExports {
	return &HostExports{node: node, names: slices.Clone(names), users: map[string]int{}}
}

// HostExports is a list of volumes for hosts, which may change while it is served.
type HostExports struct {
	node     *primary.Node
	requests sync.Pool // of *primary.Request

	mu    sync.Mutex // guards what follows
	names []string
	users map[string]int // connections to each
}

// List names the volumes that are served.
func (h *HostExports) List() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.names)
}

// Add serves one more volume.
func (h *HostExports) Add(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names = append(h.names, name)
}

// Remove serves a volume no more. That is refused while a host is connected to it.
func (h *HostExports) Remove(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.users[name]; n > 0 {
		return fmt.Errorf("export %q is in use: disconnect the host from it first (%d NBD connections)", name, n)
	}
	h.names = slices.DeleteFunc(h.names, func(n string) bool { return n == name })
	return nil
}

// Lookup finds a volume by its export name.
func (h *HostExports) Lookup(_ context.Context, name string) (nbd.Device, func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.names, name) {
		return nil, nil, fmt.Errorf("export %q: known are %q", name, h.names)
	}
	group, volume, _ := strings.Cut(name, "/")
	v, err := h.node.Volume(group, volume)
	if err != nil {
		return nil, nil, fmt.Errorf("export %q: %w", name, err)
	}
	h.users[name]++
	return &hostDevice{volume: v, requests: &h.requests}, sync.OnceFunc(func() { h.release(name) }), nil
}

func (h *HostExports) release(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users[name]--
}

// hostDevice is one volume as hosts see it.
type hostDevice struct {
	volume   *primary.Volume
	requests *sync.Pool
}

// Info: the local device is one and the same for all connections, and a flush reaches all that was answered,
// so that multi-conn holds. Any alignment is served; whole blocks without a copy.
func (d *hostDevice) Info() nbd.Info {
	return nbd.Info{Size: d.volume.Size(), MinBlock: 1, PreferredBlock: primary.BlockSize,
		FUA: true, Flush: true, Trim: true, WriteZeroes: true, MultiConn: true,
		Description: "volume " + d.volume.Name() + " of group " + d.volume.Group()}
}

// Start begins the requests of a batch.
func (d *hostDevice) Start(batch []*nbd.Request) {
	b := batches.Get().(*hostBatch)
	for _, r := range batch {
		if q := d.request(r); q != nil {
			b.requests = append(b.requests, q)
		}
	}
	d.volume.Start(b.requests)
	clear(b.requests)
	b.requests = b.requests[:0]
	batches.Put(b)
}

type hostBatch struct{ requests []*primary.Request }

var batches = sync.Pool{New: func() any { return new(hostBatch) }}

// request translates one request; nil if it was answered at once.
func (d *hostDevice) request(r *nbd.Request) *primary.Request {
	q, _ := d.requests.Get().(*primary.Request)
	if q == nil {
		pool := d.requests
		q = &primary.Request{}
		q.Done = func(q *primary.Request, err error) {
			r := q.Owner.(*nbd.Request)
			q.Owner, q.Data = nil, nil
			pool.Put(q)
			r.Finish(err)
		}
	}
	q.FUA, q.Off, q.Len, q.Owner, q.Data = r.FUA, r.Off, r.Len, r, nil
	switch r.Cmd {
	case nbd.CmdRead:
		q.Kind, q.Data = primary.Read, r.Data
	case nbd.CmdWrite:
		q.Kind, q.Data = primary.Write, r.Data
	case nbd.CmdFlush:
		q.Kind = primary.Flush
	case nbd.CmdTrim:
		q.Kind = primary.Trim
	case nbd.CmdWriteZeroes:
		q.Kind = primary.WriteZeroes
	default:
		d.requests.Put(q)
		r.Finish(unix.ENOTSUP)
		return nil
	}
	return q
}
