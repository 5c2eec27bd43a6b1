package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// InUse asks the kernel who uses the block device or regular file at path: mounts, swap, device mapper and
// md on top of it or of its partitions, loop devices over it.
func InUse(path string) ([]Finding, error) {
	found, err := linux.inUse(path)
	if err != nil {
		return found, fmt.Errorf("who uses %s: %w", path, err)
	}
	return found, nil
}

// kernel is where the kernel tells; tests put files of their own there.
type kernel struct {
	mountinfo, swaps, sys string
	// stat returns what identifies a file, as identify does.
	stat func(path string) (identity, error)
	// excl opens a block device exclusively for a moment.
	excl func(path string) error
}

var linux = kernel{mountinfo: "/proc/self/mountinfo", swaps: "/proc/swaps", sys: "/sys", stat: identify, excl: openExclusive}

// identity tells files apart whatever their path. For block devices: the device's number.
type identity struct {
	block bool
	dev   string // major:minor of the device, or of the filesystem that holds the file
	inode uint64 // of a regular file
}

func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return identity{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return identity{block: true, dev: number(st.Rdev)}, nil
	}
	return identity{dev: number(st.Dev), inode: st.Ino}, nil
}

func number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

func openExclusive(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (k kernel) inUse(path string) ([]Finding, error) {
	target, err := k.stat(path)
	if err != nil {
		return nil, err
	}
	u := users{kernel: k, names: map[identity]string{target: ""}}
	if target.block {
		err = errors.Join(err, u.partitions(target))
	}
	err = errors.Join(err, u.mounts(), u.swap(), u.loops())
	if target.block && len(u.found) == 0 {
		if busy := k.excl(path); errors.Is(busy, unix.EBUSY) {
			u.add("opened exclusively by another program or by the kernel")
		}
	}
	return u.found, err
}

// users collects who uses a device or one of its partitions.
type users struct {
	kernel
	names map[identity]string // the device: "", its partitions: their names
	found []Finding
}

func (u *users) add(format string, args ...any) {
	f := Finding{Kind: Used, Name: fmt.Sprintf(format, args...)}
	for _, have := range u.found {
		if have == f {
			return
		}
	}
	u.found = append(u.found, f)
}

// via says which partition is meant.
func (u *users) via(id identity) string {
	if name := u.names[id]; name != "" {
		return " (partition " + name + ")"
	}
	return ""
}

// partitions notes the partitions of a disk, and what is built on it or on them.
func (u *users) partitions(disk identity) error {
	dir := filepath.Join(u.sys, "dev/block", disk.dev)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no sysfs in this container: the exclusive opening still tells
	}
	if err != nil {
		return err
	}
	err = u.holders(dir, disk)
	for _, e := range entries {
		dev, readErr := os.ReadFile(filepath.Join(dir, e.Name(), "dev"))
		if _, statErr := os.Stat(filepath.Join(dir, e.Name(), "partition")); statErr != nil || readErr != nil {
			continue // not a partition
		}
		id := identity{block: true, dev: strings.TrimSpace(string(dev))}
		u.names[id] = e.Name()
		err = errors.Join(err, u.holders(filepath.Join(dir, e.Name()), id))
	}
	return err
}

func (u *users) holders(dir string, id identity) error {
	entries, err := os.ReadDir(filepath.Join(dir, "holders"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		u.add("part of the device %s%s", e.Name(), u.via(id))
	}
	return err
}

// mounts reads proc_pid_mountinfo(5). The device number of some filesystems (btrfs) is
// not their device's: the source's path tells then.
func (u *users) mounts() error {
	return eachLine(u.mountinfo, func(line string) {
		left, right, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(source) < 2 {
			return
		}
		id := identity{block: true, dev: fields[2]}
		if _, is := u.names[id]; !is {
			id = u.device(unescape(source[1]))
		}
		if _, is := u.names[id]; is {
			u.add("mounted on %s%s", unescape(fields[4]), u.via(id))
		}
	})
}

// device identifies a file by path; what is not there is nobody's.
func (u *users) device(path string) identity {
	if !strings.HasPrefix(path, "/") {
		return identity{}
	}
	id, err := u.stat(path)
	if err != nil {
		return identity{}
	}
	return id
}

func (u *users) swap() error {
	return eachLine(u.swaps, func(line string) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return
		}
		id := u.device(unescape(fields[0]))
		if _, is := u.names[id]; is {
			u.add("used as swap%s", u.via(id))
		}
	})
}

// loops finds the loop devices over a regular file.
func (u *users) loops() error {
	files, err := filepath.Glob(filepath.Join(u.sys, "block/loop*/loop/backing_file"))
	if err != nil {
		return err
	}
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil {
			continue // detached since
		}
		id := u.device(strings.TrimSuffix(string(backing), "\n"))
		if _, is := u.names[id]; is {
			u.add("behind the loop device %s", filepath.Base(filepath.Dir(filepath.Dir(file))))
		}
	}
	return nil
}

// eachLine calls f for each line of a file; a file that is not there has none.
func eachLine(path string, f func(string)) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		f(strings.TrimSuffix(line, "\n"))
	}
	return err
}

// unescape undoes the octal escapes of /proc, such as \040 for a blank.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
