// Package loopdev makes loop devices for tests and benchmarks, and reads block statistics.
//
// # Invariants
//
//   - No loop device is ever touched that this process did not attach: attaching is one atomic
//     ioctl that fails on a device in use, and everything later goes through the descriptor that did it.
//   - A loop device does not outlive its process: it is attached with "autoclear", so the
//     kernel detaches it with the last close of the descriptor, kill -9 included.
package loopdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Options says how a file is attached. The zero value: sectors of 512 bytes, direct I/O to the
// file where its filesystem can, writable.
type Options struct {
	// BlockSize is the logical sector size in bytes, 512 or 4096; 0 means 512.
	BlockSize int
	// Buffered goes through the page cache of the file, even where it need not.
	Buffered bool
	ReadOnly bool
}

// Device is an attached loop device.
type Device struct {
	// Path is its node, /dev/loopN.
	Path string
	// fd keeps it attached; -1 after Detach.
	fd int
}

// attempts bounds the races with others that attach loop devices at the same time.
const attempts = 100

// Attach makes a loop device of the regular file.
func Attach(file string, o Options) (*Device, error) {
	if o.BlockSize != 0 && o.BlockSize != 512 && o.BlockSize != 4096 {
		return nil, fmt.Errorf("attach %s: sectors of %d bytes: want 512 or 4096", file, o.BlockSize)
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	backing, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer backing.Close() // the kernel has its own reference by then
	for range attempts {
		d, err := attachFree(int(backing.Fd()), o)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) {
			continue // somebody else was faster with this one; or was, and is detaching it by now
		}
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", file, err)
		}
		return d, nil
	}
	return nil, fmt.Errorf("attach %s: others took each of %d free loop devices first", file, attempts)
}

// found is called with a device that is free, before it is taken. For tests.
var found = func(string) {}

func attachFree(backing int, o Options) (*Device, error) {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control (is the loop module loaded, and are you root?): %w", err)
	}
	defer unix.Close(control)
	n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	found(path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := configure(fd, backing, o); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", path, err), unix.Close(fd))
	}
	return &Device{Path: path, fd: fd}, nil
}

// configure binds the file. LOOP_CONFIGURE exists since kernel 5.8.
func configure(fd, backing int, o Options) error {
	c := unix.LoopConfig{Fd: uint32(backing), Size: uint32(o.BlockSize)}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if !o.Buffered {
		c.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if o.ReadOnly {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	err := unix.IoctlLoopConfigure(fd, &c)
	if errors.Is(err, unix.EINVAL) && !o.Buffered {
		// Some kernels refuse where the file cannot do direct I/O, others quietly do without.
		c.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO
		err = unix.IoctlLoopConfigure(fd, &c)
	}
	return err
}

// Detach gives the loop device back. Descriptors that others still hold keep it until they are closed.
func (d *Device) Detach() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	_, err := unix.IoctlRetInt(fd, unix.LOOP_CLR_FD)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("detach %s: %w", d.Path, err)
	}
	return nil
}

// Direct says whether the kernel does direct I/O to the backing file.
func (d *Device) Direct() (bool, error) {
	info, err := unix.IoctlLoopGetStatus64(d.fd)
	if err != nil {
		return false, fmt.Errorf("status of %s: %w", d.Path, err)
	}
	return info.Flags&unix.LO_FLAGS_DIRECT_IO != 0, nil
}

// Stats reads the device's block statistics.
func (d *Device) Stats() (Stats, error) { return ReadStats(d.Path) }
