package probe

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
)

// fake is a kernel whose files are in a folder of the test. Disk sdx is 8:0, its partition sdx1 8:1.
func fake(t *testing.T, files map[string]string) kernel {
	t.Helper()
	root := t.TempDir()
	files["sys/dev/block/8:0/sdx1/partition"] = "1\n"
	files["sys/dev/block/8:0/sdx1/dev"] = "8:1\n"
	files["sys/dev/block/8:0/queue/dev"] = "not a partition\n"
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	known := map[string]identity{
		"/dev/sdx": {block: true, dev: "8:0"}, "/dev/sdx1": {block: true, dev: "8:1"}, "/dev/sdy": {block: true, dev: "8:16"},
		"/img": {dev: "8:16", inode: 7}, "/other": {dev: "8:16", inode: 8},
	}
	return kernel{
		mountinfo: filepath.Join(root, "mountinfo"), swaps: filepath.Join(root, "swaps"), sys: filepath.Join(root, "sys"),
		stat: func(path string) (identity, error) {
			if id, ok := known[path]; ok {
				return id, nil
			}
			return identity{}, os.ErrNotExist
		},
		excl: func(string) error { return nil },
	}
}

const quiet = "22 1 0:20 / /proc rw - proc proc rw\n23 1 8:16 / / rw,noatime shared:1 - ext4 /dev/sdy rw\n"

func TestInUse(t *testing.T) {
	tests := []struct {
		name, path string
		files      map[string]string
		want       []string
	}{
		{"not used", "/dev/sdx", map[string]string{"mountinfo": quiet, "swaps": "Filename Type Size\n/dev/sdy partition 1 0 -2\n"}, nil},
		{"mounted", "/dev/sdx", map[string]string{"mountinfo": quiet + "24 23 8:0 / /srv/my\\040data rw - xfs /dev/root rw\n"}, []string{"mounted on /srv/my data"}},
		{"partition mounted", "/dev/sdx", map[string]string{"mountinfo": "24 23 8:1 / /srv rw shared:9 - xfs /dev/sdx1 rw\n"}, []string{"mounted on /srv (partition sdx1)"}},
		{"btrfs", "/dev/sdx", map[string]string{"mountinfo": "24 23 0:44 /sub /srv rw - btrfs /dev/sdx rw\n"}, []string{"mounted on /srv"}},
		{"the disk of a mounted partition's neighbour", "/dev/sdx1", map[string]string{"mountinfo": quiet}, nil},
		{"swap", "/dev/sdx", map[string]string{"swaps": "Filename Type Size\n/dev/sdx1 partition 1 0 -2\n"}, []string{"used as swap (partition sdx1)"}},
		{"swap file", "/img", map[string]string{"swaps": "/img file 1 0 -2\n"}, []string{"used as swap"}},
		{"md and dm", "/dev/sdx", map[string]string{"sys/dev/block/8:0/holders/md0": "", "sys/dev/block/8:0/sdx1/holders/dm-3": ""}, []string{
			"part of the device md0", "part of the device dm-3 (partition sdx1)",
		}},
		{"loop", "/img", map[string]string{"sys/block/loop4/loop/backing_file": "/img\n", "sys/block/loop5/loop/backing_file": "/other\n"}, []string{"behind the loop device loop4"}},
		{"mounted twice at one place", "/dev/sdx", map[string]string{"mountinfo": strings.Repeat("24 23 8:0 / /srv rw - xfs /dev/sdx rw\n", 2)}, []string{"mounted on /srv"}},
		{"malformed lines", "/dev/sdx", map[string]string{"mountinfo": "\n- \n8:0 - \n1 2 8:0 - xfs\n", "swaps": "\n \n"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found, err := fake(t, test.files).inUse(test.path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				if f.Kind != Used {
					t.Errorf("kind %q", f.Kind)
				}
				got = append(got, f.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("users (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExclusivelyOpened(t *testing.T) {
	k := fake(t, map[string]string{})
	k.excl = func(string) error { return unix.EBUSY }
	found, err := k.inUse("/dev/sdx")
	if err != nil || len(found) != 1 || !strings.Contains(found[0].Name, "opened exclusively") {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`a\040b`: "a b", `\134`: `\`, `x\04`: `x\04`, `\999`: `\999`, `\`: `\`} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

// A real block device that somebody holds exclusively is in use; afterwards it is not.
func TestBlockDeviceInUse(t *testing.T) {
	testtool.NeedRoot(t)
	dev := loopdev.ForTest(t, "", 4<<20, loopdev.Options{})
	fd, err := unix.Open(dev.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Device(dev.Path)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	if !report.Block || report.Size != 4<<20 || len(report.Findings) != 1 || report.Findings[0].Kind != Used {
		t.Errorf("held exclusively: %+v, want a block device of 4 MiB in use", report)
	}
	report, err = Device(dev.Path)
	if err != nil || len(report.Findings) != 0 {
		t.Errorf("nobody holds it: %v, %v; want no findings", report.Findings, err)
	}
}
