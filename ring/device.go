package ring

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openDevice opens one block device or regular file and finds out what it can do.
func openDevice(path string, o OpenOptions) (fd int, info DeviceInfo, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return -1, info, &os.PathError{Op: "open", Path: path, Err: err}
	}
	info = DeviceInfo{Path: path, ReadOnly: o.ReadOnly, Direct: true}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		info.Block = true
	case unix.S_IFREG:
	default:
		return -1, info, fmt.Errorf("open %s: neither a block device nor a regular file", path)
	}
	if fd, err = openFD(&info, o); err != nil {
		return -1, info, err
	}
	if err := describe(fd, &st, &info, o); err != nil {
		return -1, info, errors.Join(err, unix.Close(fd))
	}
	return fd, info, nil
}

// openFD opens info.Path, and clears info.Direct if that had to be given up.
func openFD(info *DeviceInfo, o OpenOptions) (int, error) {
	flags := unix.O_CLOEXEC | unix.O_DIRECT | unix.O_RDWR
	if o.ReadOnly {
		flags = unix.O_CLOEXEC | unix.O_DIRECT | unix.O_RDONLY
	}
	if info.Block && !o.Shared {
		flags |= unix.O_EXCL
	}
	fd, err := openRetry(info.Path, flags)
	if err == unix.EINVAL && !info.Block {
		if !o.AllowBuffered {
			return -1, fmt.Errorf("open %s: %w: put the file on another filesystem, or allow buffered files", info.Path, ErrNoDirect)
		}
		info.Direct = false
		info.addNotice("opened without O_DIRECT, because the file's filesystem refuses it: the page cache is used")
		fd, err = openRetry(info.Path, flags&^unix.O_DIRECT)
	}
	if err == unix.EBUSY {
		return -1, fmt.Errorf("open %s: %w: %s", info.Path, ErrInUse, holder(info.Path))
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: info.Path, Err: err}
	}
	return fd, nil
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// describe fills in what the open device says of itself.
func describe(fd int, before *unix.Stat_t, info *DeviceInfo, o OpenOptions) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: info.Path, Err: err}
	}
	if st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT || st.Rdev != before.Rdev {
		return fmt.Errorf("open %s: another file took its place meanwhile; try again", info.Path)
	}
	if info.Block {
		return describeBlock(fd, &st, info)
	}
	if err := lockFile(fd, info, o); err != nil {
		return err
	}
	return describeFile(fd, &st, info)
}

func describeBlock(fd int, st *unix.Stat_t, info *DeviceInfo) error {
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return &os.PathError{Op: "size of", Path: info.Path, Err: errno}
	}
	sector, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET)
	if err != nil {
		return &os.PathError{Op: "sector size of", Path: info.Path, Err: err}
	}
	info.Size, info.SectorSize = int64(size), int(sector)
	dir := sysfsQueue(st.Rdev)
	zeroes := sysfsNumber(dir+"/write_zeroes_max_bytes") > 0
	info.WriteZeroes = zeroes
	// fallocate(PUNCH_HOLE) on a block device is done as "write zeroes, may unmap" without a
	// fall-back (kernel block/fops.c, blkdev_fallocate), so it takes both capabilities.
	info.Discard = zeroes && sysfsNumber(dir+"/discard_max_bytes") > 0
	return checkGeometry(info)
}

func describeFile(fd int, st *unix.Stat_t, info *DeviceInfo) error {
	info.Size, info.SectorSize = st.Size, 4096
	var sx unix.Statx_t
	// STATX_DIOALIGN since kernel 6.1; without an answer 4096 is safe.
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx)
	if info.Direct && err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 && sx.Dio_offset_align > 0 {
		info.SectorSize = max(512, int(sx.Dio_offset_align), int(sx.Dio_mem_align))
	}
	if !info.ReadOnly {
		// Behind the end of the file there is nothing to punch: this only asks.
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, (st.Size+4095)&^4095, 4096)
		info.Discard = err == nil
		info.WriteZeroes = err == nil
	}
	return checkGeometry(info)
}

func checkGeometry(info *DeviceInfo) error {
	s := int64(info.SectorSize)
	if s != 512 && s != 4096 {
		return fmt.Errorf("open %s: sectors of %d bytes; only 512 and 4096 are supported", info.Path, s)
	}
	if info.Size < s {
		return fmt.Errorf("open %s: its size is %d bytes, less than one sector of %d", info.Path, info.Size, s)
	}
	if info.Size%s != 0 {
		down := info.Size / s * s
		return fmt.Errorf("open %s: its size of %d bytes is not a multiple of the sector size %d; make it %d or %d",
			info.Path, info.Size, s, down, down+s)
	}
	return nil
}

// lockFile keeps two programs from using one regular file as a device: shared for readers.
func lockFile(fd int, info *DeviceInfo, o OpenOptions) error {
	if o.Shared {
		return nil
	}
	how := unix.LOCK_EX
	if o.ReadOnly {
		how = unix.LOCK_SH
	}
	err := unix.Flock(fd, how|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return fmt.Errorf("open %s: %w: another program holds its lock (see lslocks)", info.Path, ErrInUse)
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: info.Path, Err: err}
	}
	return nil
}

func sysfsBlock(rdev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// sysfsQueue is the folder of request queue limits; a partition has that of its disk.
func sysfsQueue(rdev uint64) string {
	own := sysfsBlock(rdev)
	if _, err := os.Stat(own + "/queue"); err == nil {
		return own + "/queue"
	}
	return own + "/../queue"
}

// sysfsNumber is 0 where the attribute does not exist: the capability is then not offered.
func sysfsNumber(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// holder says, as well as can be found out, who keeps the block device from being opened.
func holder(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "find its user with lsblk"
	}
	if at := mountPoint(st.Rdev); at != "" {
		return fmt.Sprintf("it is mounted on %s; unmount it first, or name another device", at)
	}
	if names, err := os.ReadDir(sysfsBlock(st.Rdev) + "/holders"); err == nil && len(names) > 0 {
		return fmt.Sprintf("the kernel device %s is built on it", names[0].Name())
	}
	return "it, or a partition of it, is mounted, is swap space, or another program holds it (see lsblk, fuser)"
}

// mountPoint is where the device is mounted, or "". The format is that of proc(5),
// mountinfo: the third field is major:minor, the fifth the mount point.
func mountPoint(rdev uint64) string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	want := fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if field := strings.Fields(lines.Text()); len(field) > 4 && field[2] == want {
			return field[4]
		}
	}
	return ""
}
