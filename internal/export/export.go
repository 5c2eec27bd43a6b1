package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/nbd"
)

// Volumes exports every volume of pool as "group/volume". The server must be closed before the pool.
func Volumes(pool *engine.Pool) nbd.Exports { return &exports{pool: pool} }

type exports struct {
	pool  *engine.Pool
	reads sync.Pool // of *read
}

// List names the volumes there are now.
func (e *exports) List() []string {
	var names []string
	for _, g := range e.pool.Groups() {
		for _, v := range g.Volumes() {
			names = append(names, g.Name()+"/"+v.Name())
		}
	}
	return names
}

// Lookup finds a volume by its export name.
func (e *exports) Lookup(_ context.Context, name string) (nbd.Device, func(), error) {
	group, volume, ok := strings.Cut(name, "/")
	if !ok {
		return nil, nil, fmt.Errorf("export %q: want GROUP/VOLUME; known are %q", name, e.List())
	}
	g, err := e.pool.Group(group)
	if err != nil {
		return nil, nil, fmt.Errorf("export %q: %w", name, err)
	}
	v, err := g.Volume(volume)
	if err != nil {
		return nil, nil, fmt.Errorf("export %q: %w; known are %q", name, err, e.List())
	}
	if err := v.CheckWhole(); err != nil {
		return nil, nil, fmt.Errorf("export %q: %w", name, err)
	}
	return &device{volume: v, reads: &e.reads}, nil, nil
}

// device is one volume as of its last final CG.
type device struct {
	volume *engine.Volume
	reads  *sync.Pool
}

// Info: multi-conn holds since there are no writes whose order could differ.
func (d *device) Info() nbd.Info {
	return nbd.Info{Size: d.volume.Size(), MinBlock: engine.BlockSize, PreferredBlock: engine.BlockSize,
		ReadOnly: true, BlockStatus: true, MultiConn: true,
		Description: "copy of volume " + d.volume.Name() + " of group " + d.volume.Group().Name() + " as of its last final consistency group"}
}

// Start begins the requests of a batch. A volume that was whole when a client chose it may be so no longer: it may
// have rejoined its group.
func (d *device) Start(batch []*nbd.Request) {
	err := d.volume.CheckWhole()
	for _, r := range batch {
		if err != nil {
			r.Finish(err)
			continue
		}
		switch r.Cmd {
		case nbd.CmdRead:
			d.read(r)
		case nbd.CmdBlockStatus:
			go d.status(r) // walks over tables: too long for the goroutine that reads requests
		default:
			r.Finish(errReadOnly)
		}
	}
}

var errReadOnly = fmt.Errorf("a secondary's copy is read-only: %w", unix.EPERM)

// read is a read in flight. It is used again, with the memory that engine.Read keeps.
type read struct {
	engine.Read
	request *nbd.Request
	home    *sync.Pool
}

func newRead(home *sync.Pool) *read {
	r := &read{home: home}
	r.Done = func(*engine.Read) { r.ended() }
	return r
}

func (d *device) read(req *nbd.Request) {
	r, ok := d.reads.Get().(*read)
	if !ok {
		r = newRead(d.reads)
	}
	r.request = req
	r.Volume, r.View, r.Off, r.Buf = d.volume, engine.FinalView, req.Off, req.Data.Bytes()
	r.Start()
}

// ended answers the request, when nothing of r is needed any more.
func (r *read) ended() {
	req, err := r.request, r.Err
	r.request, r.Buf, r.Volume = nil, nil, nil
	r.home.Put(r)
	if err != nil && errors.Is(err, engine.ErrClosed) {
		err = fmt.Errorf("%w: %w", unix.ESHUTDOWN, err)
	}
	req.Finish(err)
}

const (
	statusBytes = 1 << 30 // of a volume that one block status answers for: bounds its time
	statusRuns  = 4096
)

// status lists runs that are mapped or holes. The client asks again behind what it was told.
func (d *device) status(r *nbd.Request) {
	limit := statusRuns
	if r.One {
		limit = 1
	}
	extents, err := d.volume.Extents(context.Background(), r.Off, min(r.Len, statusBytes), limit)
	r.Status = r.Status[:0]
	for _, x := range extents {
		r.Status = append(r.Status, nbd.Run{Len: x.Len, Hole: !x.Mapped, Zero: !x.Mapped})
	}
	r.Finish(err)
}
