package ring

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bytes is how many bytes of the device r concerns; 0 for a flush and OpForget.
func (r *Request) Bytes() int64 {
	switch r.Op {
	case OpRead, OpWrite:
		return int64(len(r.Buf))
	case OpDiscard, OpWriteZeroes:
		return r.Len
	}
	return 0
}

// Fail makes the error of request r on the devices described by infos.
func (r *Request) Fail(infos []DeviceInfo, cause error) error {
	path := fmt.Sprintf("device %d", r.Device)
	if r.Device >= 0 && r.Device < len(infos) {
		path = infos[r.Device].Path
	}
	return &Error{Path: path, Op: r.Op, Off: r.Off, Len: r.Bytes(), Err: cause}
}

// Check says whether r may be handed to the devices described by infos: nil, or an *[Error].
// Every implementation of [Queue] asks it, so that all refuse the same requests.
func (r *Request) Check(infos []DeviceInfo) error {
	if cause := r.wrong(infos); cause != nil {
		return r.Fail(infos, cause)
	}
	return nil
}

func (r *Request) wrong(infos []DeviceInfo) error {
	if r.Device < 0 || r.Device >= len(infos) {
		return fmt.Errorf("no such device, there are %d: %w", len(infos), unix.ENODEV)
	}
	d := &infos[r.Device]
	switch r.Op {
	case OpFlush, OpForget:
		return nil
	case OpRead:
	case OpWrite, OpDiscard, OpWriteZeroes:
		if d.ReadOnly {
			return fmt.Errorf("device was opened read-only: %w", unix.EROFS)
		}
		if r.Op == OpDiscard && !d.Discard {
			return fmt.Errorf("device cannot discard: %w", unix.EOPNOTSUPP)
		}
	default:
		return unix.EINVAL
	}
	return r.wrongRange(d)
}

func (r *Request) wrongRange(d *DeviceInfo) error {
	n := r.Bytes()
	mask := int64(d.SectorSize) - 1
	if n <= 0 || (r.Off|n)&mask != 0 {
		return fmt.Errorf("offset or length is not a positive multiple of the sector size %d: %w", d.SectorSize, unix.EINVAL)
	}
	if r.Off < 0 || r.Off > d.Size-n {
		return fmt.Errorf("past the end, the device has %d bytes: %w", d.Size, unix.EINVAL)
	}
	if d.Direct && len(r.Buf) > 0 && uintptr(unsafe.Pointer(&r.Buf[0]))&uintptr(mask) != 0 {
		return fmt.Errorf("memory is not aligned to the sector size %d: %w", d.SectorSize, unix.EINVAL)
	}
	return nil
}
