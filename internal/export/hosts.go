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
func Hosts(node *primary.Node, names []string) nbd.Exports { return &hosts{node: node, names: names} }

type hosts struct {
	node     *primary.Node
	names    []string
	requests sync.Pool // of *primary.Request
}

// List names the volumes that are served.
func (h *hosts) List() []string { return slices.Clone(h.names) }

// Lookup finds a volume by its export name.
func (h *hosts) Lookup(_ context.Context, name string) (nbd.Device, func(), error) {
	if !slices.Contains(h.names, name) {
		return nil, nil, fmt.Errorf("export %q: known are %q", name, h.names)
	}
	group, volume, _ := strings.Cut(name, "/")
	v, err := h.node.Volume(group, volume)
	if err != nil {
		return nil, nil, fmt.Errorf("export %q: %w", name, err)
	}
	return &hostDevice{volume: v, requests: &h.requests}, nil, nil
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
