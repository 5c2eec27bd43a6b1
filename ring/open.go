package ring

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kind is an implementation of [Queue].
type Kind uint8

const (
	// Auto is io_uring, or Plain where io_uring is forbidden; then the notice of every device says so, with the
	// reason. Not for production: a control should not lose most of its speed unnoticed.
	Auto Kind = iota
	// Uring is io_uring, or an error.
	Uring
	// Plain is pread/pwrite on a few threads.
	Plain
	// Simulated devices come from package ringtest; they cannot be opened.
	Simulated
)

// String is the name that options and messages use.
func (k Kind) String() string {
	switch k {
	case Auto:
		return "auto"
	case Uring:
		return "io_uring"
	case Plain:
		return "plain"
	case Simulated:
		return "simulated"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// OpenOptions says how devices are opened. The zero value opens for reading and writing,
// exclusively, with O_DIRECT or not at all.
type OpenOptions struct {
	// Kind is used by Open only.
	Kind Kind
	// ReadOnly: no writes, discards or write-zeroes.
	ReadOnly bool
	// Shared gives up exclusive use. Without it a block device is opened with O_EXCL, so that a
	// mounted one, or one that another program holds, is refused ([ErrInUse]), and a
	// regular file is locked with flock, which keeps out others that do the same.
	Shared bool
	// AllowBuffered: a regular file whose filesystem refuses O_DIRECT is opened without it, and
	// its notice says so. Otherwise that is an error ([ErrNoDirect]).
	AllowBuffered bool
}

// Open opens devices and regular files with the implementation o.Kind.
func Open(paths []string, o OpenOptions) (Devices, error) {
	switch o.Kind {
	case Uring:
		return OpenUring(paths, o)
	case Plain:
		return OpenPlain(paths, o)
	case Auto:
		return openAuto(paths, o)
	}
	return nil, fmt.Errorf("open devices: no way to open them as %v; use %v, %v or %v", o.Kind, Auto, Uring, Plain)
}

func openAuto(paths []string, o OpenOptions) (Devices, error) {
	devs, err := OpenUring(paths, o)
	if !errors.Is(err, ErrUringForbidden) {
		return devs, err
	}
	p, perr := openPlain(paths, o)
	if perr != nil {
		return nil, perr
	}
	for i := range p.infos {
		p.infos[i].addNotice(fmt.Sprintf("plain reads and writes are used, which are slower: %v", err))
	}
	return p, nil
}

// OpenUring opens devices and regular files for io_uring queues. Where io_uring is not
// available the error is [ErrUringForbidden].
func OpenUring(paths []string, o OpenOptions) (Devices, error) {
	if err := probeUring(); err != nil {
		return nil, err
	}
	set, err := openSet(paths, o, Uring)
	if err != nil {
		return nil, err
	}
	return &uringDevices{deviceSet: set, steps: setupSteps}, nil
}

// OpenPlain opens devices and regular files for plain queues.
func OpenPlain(paths []string, o OpenOptions) (Devices, error) {
	p, err := openPlain(paths, o)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func openPlain(paths []string, o OpenOptions) (*plainDevices, error) {
	set, err := openSet(paths, o, Plain)
	if err != nil {
		return nil, err
	}
	return &plainDevices{set}, nil
}

// deviceSet is what both kinds of opened devices share. Immutable after opening, but for the descriptor of a device
// that is closed by itself: nobody may use it then.
type deviceSet struct {
	infos []DeviceInfo
	fds   []int // -1: closed
}

func openSet(paths []string, o OpenOptions, k Kind) (deviceSet, error) {
	var s deviceSet
	for _, path := range paths {
		fd, info, err := openDevice(path, o)
		if err != nil {
			return deviceSet{}, errors.Join(err, s.Close())
		}
		info.Kind = k
		s.fds = append(s.fds, fd)
		s.infos = append(s.infos, info)
	}
	return s, nil
}

// Info describes the devices, in the order of their paths.
func (s *deviceSet) Info() []DeviceInfo { return append([]DeviceInfo(nil), s.infos...) }

// Close closes the devices.
func (s *deviceSet) Close() error {
	var errs []error
	for i := range s.fds {
		errs = append(errs, s.CloseDevice(i))
	}
	s.fds = nil
	return errors.Join(errs...)
}

// CloseDevice implements [DeviceCloser].
func (s *deviceSet) CloseDevice(device int) error {
	fd := s.fds[device]
	if fd < 0 {
		return nil
	}
	s.fds[device] = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close %s: %w", s.infos[device].Path, err)
	}
	return nil
}

func (d *DeviceInfo) addNotice(text string) {
	if d.Notice != "" {
		d.Notice += "; "
	}
	d.Notice += text
}
