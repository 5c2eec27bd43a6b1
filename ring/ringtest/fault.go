package ringtest

import (
	"github.com/farside-storage/farside/ring"
	"golang.org/x/sys/unix"
)

// FaultKind is what goes wrong with a request.
type FaultKind uint8

const (
	// Fails: the request ends with an error (Fault.Err). A write leaves each of its sectors old or
	// new; a failed flush leaves each sector that it should have covered with any version since it was last
	// durable, seen at once or only after the next crash, and a later flush that ends well changes nothing about that.
	Fails FaultKind = iota + 1
	// Short: a read or write moves only a part of its sectors, possibly none, and ends with [ring.ErrShort].
	Short
	// Flips: a read ends well, with one bit wrong. See Devices.Rot for damage that stays.
	Flips
	// Misdirected: a write ends well, but went to Fault.Shift bytes further on.
	Misdirected
	// Vanishes: the device is gone from now on; this and all other requests end with ENXIO.
	Vanishes
	// Lies: the request ends well, and nothing was done. A flush that lies is as good as none: so tests find out what
	// flushes are needed for.
	Lies
)

// Fault makes chosen requests go wrong.
type Fault struct {
	Kind FaultKind
	// Device is the device's index.
	Device int
	// Op is the operation concerned; 0 means any.
	Op ring.Op
	// Off and Len limit it to requests that touch these bytes; Len 0 means anywhere. Flushes touch no bytes, and
	// match whatever the range is.
	Off, Len int64
	// Skip lets that many matching requests pass first; then Count ones go wrong, 0 meaning all.
	Skip, Count int
	// Err is the cause reported by Fails; nil means EIO.
	Err error
	// Shift is for Misdirected: bytes, a multiple of the sector size. Beyond the device the write is just lost.
	Shift int64

	hits int
}

// Inject adds a fault. It is looked up when a request is submitted; the first fault added that matches counts.
func (d *Devices) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, &f)
}

// Heal removes all faults; a device that vanished is back, with its contents.
func (d *Devices) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
	for _, k := range d.disks {
		k.gone = false
	}
}

// Rot flips bits different bits, chosen at random, of the n bytes at off: in every version that the
// device holds of them, so that no crash brings the old ones back.
func (d *Devices) Rot(device int, off, n int64, bits int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	chosen := make(map[int64]bool)
	for len(chosen) < bits && int64(len(chosen)) < n*8 {
		bit := d.rng.Int64N(n * 8)
		if !chosen[bit] {
			chosen[bit] = true
			d.disks[device].flip(off+bit/8, byte(1)<<(bit%8))
		}
	}
}

// flip changes bits of one byte in all versions of its sector.
func (k *disk) flip(off int64, mask byte) {
	s := k.touch(off / int64(k.size))
	at := off % int64(k.size)
	damage := func(v *version) {
		data := make([]byte, k.size)
		copy(data, v.data)
		data[at] ^= mask
		v.data, v.shared = data, false
	}
	damage(&s.base)
	for i := range s.later {
		damage(&s.later[i])
	}
}

// match finds the fault that hits r, if any.
func (d *Devices) match(r *ring.Request) *Fault {
	for _, f := range d.faults {
		if !f.matches(r) {
			continue
		}
		f.hits++
		if f.hits > f.Skip && (f.Count == 0 || f.hits <= f.Skip+f.Count) {
			return f
		}
	}
	return nil
}

func (f *Fault) matches(r *ring.Request) bool {
	if f.Device != r.Device || f.Op != 0 && f.Op != r.Op {
		return false
	}
	return f.Len == 0 || r.Op == ring.OpFlush || r.Off < f.Off+f.Len && f.Off < r.Off+r.Bytes()
}

func (d *Devices) performFaulty(k *disk, r *request, f *Fault) error {
	switch f.Kind {
	case Vanishes:
		k.gone = true
		return r.Fail(d.infos, unix.ENXIO)
	case Lies:
		return nil
	case Short:
		return d.performShort(k, r)
	case Flips:
		r.fault = nil
		err := d.perform(r)
		if r.Op == ring.OpRead {
			r.Buf[d.rng.IntN(len(r.Buf))] ^= 1 << d.rng.IntN(8)
		}
		return err
	case Misdirected:
		r.fault = nil
		if r.Op != ring.OpWrite {
			return d.perform(r)
		}
		if off := r.Off + f.Shift; off >= 0 && off+r.Bytes() <= d.infos[r.Device].Size {
			d.write(k, off, r.Buf, r.FUA)
		}
		return nil
	}
	return d.performFailed(k, r, f)
}

func (d *Devices) performShort(k *disk, r *request) error {
	if r.Op != ring.OpRead && r.Op != ring.OpWrite {
		r.fault = nil
		return d.perform(r)
	}
	n := d.rng.IntN(len(r.Buf)/k.size) * k.size
	if r.Op == ring.OpWrite {
		d.write(k, r.Off, r.Buf[:n], false)
	} else {
		clear(r.Buf[n:])
	}
	return r.Fail(d.infos, ring.ErrShort)
}

func (d *Devices) performFailed(k *disk, r *request, f *Fault) error {
	switch r.Op {
	case ring.OpWrite:
		d.seq++
		for n := 0; n < len(r.Buf); n += k.size {
			if d.rng.Uint32()&1 == 0 {
				k.store((r.Off+int64(n))/int64(k.size), r.Buf[n:n+k.size], d.seq)
			}
		}
	case ring.OpFlush:
		k.lose(r.seq, d.rng)
	}
	cause := f.Err
	if cause == nil {
		cause = unix.EIO
	}
	return r.Fail(d.infos, cause)
}
