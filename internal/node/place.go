package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/config"
)

// blockDevices has a link, named by its number, to the folder of each block device: sysfs(5).
const blockDevices = "/sys/dev/block"

// placeOf tells the contents of a volume from those of others: by the path of its device or file, and by what the
// kernel knows of what is there. That is the inode and the birth of a file, for it may have been made again under its name; and
// for a device what deviceIdentity finds. "" if it cannot be found out.
func placeOf(v config.PrimaryVolume) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, v.Path(), 0, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return ""
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return fmt.Sprintf("%s, inode %d of %d.%09d", v.Path(), st.Ino, st.Btime.Sec, st.Btime.Nsec)
	case unix.S_IFBLK:
		folder := filepath.Join(blockDevices, fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor))
		if id := deviceIdentity(folder, v.Path()); id != "" {
			return v.Path() + ", " + id
		}
	}
	return v.Path()
}

// deviceIdentity tells a block device from others that may come to have its path or its number: what the disk says of
// itself, and which part of it this is. It lasts as long as the device, over restarts too, but for a loop device over a file
// system that gets another number. "" if the kernel knows nothing that lasts; then another device under the same path passes for
// the same.
func deviceIdentity(folder, path string) string {
	if _, err := os.Stat(filepath.Join(folder, "partition")); err == nil {
		return partitionIdentity(folder)
	}
	if _, err := os.Stat(filepath.Join(folder, "loop")); err == nil {
		return loopIdentity(path)
	}
	return diskIdentity(folder)
}

// diskIdentity has every name that the disk has: a serial number alone may be of one that a hypervisor gives to all.
func diskIdentity(folder string) string {
	var names []string
	for _, name := range []string{"dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"} {
		if text := attribute(folder, name); text != "" {
			names = append(names, name+" "+text)
		}
	}
	return strings.Join(names, ", ")
}

// partitionIdentity is that of the disk and the place on it. Newer kernels tell the partition's UUID too.
func partitionIdentity(folder string) string {
	of, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return ""
	}
	disk, uuid := diskIdentity(filepath.Dir(of)), ""
	for line := range strings.Lines(attribute(folder, "uevent")) {
		if u, ok := strings.CutPrefix(line, "PARTUUID="); ok {
			uuid = strings.TrimSpace(u)
		}
	}
	if disk == "" && uuid == "" {
		return ""
	}
	return fmt.Sprintf("partition %s at sector %s of %s, uuid %s", attribute(folder, "partition"), attribute(folder, "start"), disk, uuid)
}

// loopIdentity is that of the file behind a loop device.
func loopIdentity(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("loop over inode %d of device %d from %d", info.Inode, info.Device, info.Offset)
}

// attribute is what a file of sysfs says, "" if there is none. It goes into the write-intent log as text.
func attribute(folder, name string) string {
	const most = 1024 // bytes
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil || len(text) > most {
		return ""
	}
	return strings.ToValidUTF8(strings.Trim(string(text), " \t\r\n\x00"), "?")
}
