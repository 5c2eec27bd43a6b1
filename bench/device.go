package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/ring"
)

const (
	loopMemory = "tmpfs"
	loopDisk   = "disk"
	// poolHead is what the head of a device must be overwritten with, so that no pool is left to be found.
	poolHead = 1 << 20
)

// device is what a run measures on.
type device struct {
	ring.Devices
	infos []ring.DeviceInfo // with the size of the region
	size  int64             // of the whole device
	what  string
	loop  *loopdev.Device // nil: the caller's device
	dirty bool            // something was written
	told  *notices        // of queues
}

// notices are sentences about what works, but less well than it could; each is kept once.
type notices struct {
	mu   sync.Mutex
	list []string
}

func (n *notices) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.list, text) {
		n.list = append(n.list, text)
	}
}

func (n *notices) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
}

// NewQueue notes what the kernel refused: buffers that could not be registered, for instance, make floor and subject
// slower.
func (d *device) NewQueue(o ring.QueueOptions) (ring.Queue, error) {
	if o.Notice == nil && d.told != nil {
		o.Notice = d.told.add
	}
	return d.Devices.NewQueue(o)
}

// Info shows only the region that may be used.
func (d *device) Info() []ring.DeviceInfo { return d.infos }

func (d *device) info() *ring.DeviceInfo { return &d.infos[0] }
func (d *device) region() int64          { return d.infos[0].Size }

// tail is what pools leave alone at the end of the region, so that a floor can be measured there while a pool is open.
const tail = 4 << 20

// forPool is the region without its tail.
func (d *device) forPool() ring.Devices {
	in := *d.info()
	in.Size -= tail
	return &device{Devices: d.Devices, infos: []ring.DeviceInfo{in}, told: d.told}
}

// openDevice opens or makes the device, and writes the region once.
func openDevice(ctx context.Context, o Options) (d *device, err error) {
	d = &device{told: &notices{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	path := o.Device
	d.what = path
	if o.Loop != "" {
		if err := d.attach(&o); err != nil {
			return d, err
		}
		path = d.loop.Path
	}
	if err := longEnough(path); err != nil {
		return d, err
	}
	if d.Devices, err = ring.Open([]string{path}, ring.OpenOptions{Kind: o.Kind, AllowBuffered: true}); err != nil {
		return d, err
	}
	if err := d.limit(o); err != nil {
		return d, err
	}
	return d, d.fill(ctx)
}

// longEnough refuses a file that is too short, before anything else is said of its length.
func longEnough(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() >= minSize {
		return err
	}
	return tooSmall(path, info.Size())
}

func tooSmall(path string, size int64) error {
	return fmt.Errorf("%s holds %d bytes; at least %d (512 MiB) are needed: name another one, or have one made with --loop", path, size, minSize)
}

// attach makes the loop device. Its file has no name any more once it is attached.
func (d *device) attach(o *Options) error {
	dir := loopdev.Memory
	if o.Loop == loopDisk {
		if dir = o.Dir; dir == "" {
			dir = os.TempDir()
		}
	}
	size := o.Size
	if size == 0 {
		size = defaultLoopSize
	}
	if err := roomFor(dir, size); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "farside-bench-*")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if err := f.Truncate(size); err != nil {
		return err
	}
	if d.loop, err = loopdev.Attach(f.Name(), loopdev.Options{BlockSize: 4096}); err != nil {
		return err
	}
	how := "direct I/O"
	if direct, err := d.loop.Direct(); err != nil {
		return err
	} else if !direct {
		how = "through the page cache: its filesystem refuses direct I/O"
	}
	d.what = fmt.Sprintf("loop device on a file (%s, %s)", o.Loop, how)
	return nil
}

// roomFor refuses a backing file that would fill its filesystem.
func roomFor(dir string, size int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if free := int64(s.Bavail) * s.Bsize; size > free/10*9 {
		return fmt.Errorf("%s has %d MiB free, too few for a device of %d MiB: make room there, or choose a smaller --size, or with --loop disk another folder by the variable TMPDIR",
			dir, free>>20, size>>20)
	}
	return nil
}

func (d *device) limit(o Options) error {
	d.infos = append(d.infos, d.Devices.Info()...)
	in := d.info()
	d.size = in.Size
	limit := o.Size
	if limit == 0 {
		limit = defaultDeviceSize
	}
	if limit > in.Size && o.Size != 0 && d.loop == nil {
		return fmt.Errorf("%s holds %d bytes, less than the %d asked for with --size: ask for less, or leave --size out", in.Path, in.Size, limit)
	}
	in.Size = min(in.Size, limit) / engine.BlockSize * engine.BlockSize
	if in.Size < minSize {
		return tooSmall(in.Path, in.Size)
	}
	return nil
}

// fill writes the region once, so that no later measurement includes a first touch.
func (d *device) fill(ctx context.Context) error {
	d.dirty = true
	_, err := drive(ctx, d, load{op: ring.OpWrite, size: sequentialPiece, depth: sequentialDepth, once: true}, 0)
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: the filesystem of its file is full: make room there, or choose a smaller --size", err)
	}
	if err != nil {
		return fmt.Errorf("write %s once in full: %w", d.what, err)
	}
	return nil
}

// close leaves no pool behind, and takes back what was made.
func (d *device) close() error {
	var errs []error
	if d.Devices != nil {
		if d.loop == nil && d.dirty {
			errs = append(errs, d.wipe())
		}
		errs = append(errs, d.Devices.Close())
	}
	if d.loop != nil {
		errs = append(errs, d.loop.Detach())
	}
	return errors.Join(errs...)
}

// wipe overwrites the superblocks of the pool that was measured. It runs after a cancelled run, too.
func (d *device) wipe() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := drive(ctx, d, load{op: ring.OpWrite, size: sequentialPiece, depth: 4, once: true, end: poolHead}, 0)
	if err != nil {
		return fmt.Errorf("wipe the pool that was measured off %s: %w", d.what, err)
	}
	return nil
}

// stats reads the kernel's block statistics. ok is false for a regular file.
func (d *device) stats() (s loopdev.Stats, ok bool, err error) {
	if !d.info().Block {
		return s, false, nil
	}
	s, err = loopdev.ReadStats(d.info().Path)
	return s, err == nil, err
}
