package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/wire"
)

// TestDeviceIdentity: of a sysfs as kernels make it.
func TestDeviceIdentity(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"nvme/wwid": "eui.0025385b71b0a3c1\n", "nvme/nvme1/start": "2048\n", "nvme/nvme1/partition": "1\n",
		"nvme/nvme1/uevent": "MAJOR=259\nDEVTYPE=partition\nPARTN=1\nPARTUUID=8f0c2a71-01\n",
		"nvme/nvme2/start":  "4096\n", "nvme/nvme2/partition": "2\n", // an older kernel
		"sd/device/wwid": "t10.ATA     Disk  7\n", "sd/device/serial": "7\n",
		"vd/serial": "disk\x00", "dm/dm/uuid": "LVM-abc\n", "dm/dm/name": "vg-lv\n", "md/md/uuid": "1:2:3:4\n",
		"zram/size": "0\n", "zram/zram1/start": "8\n", "zram/zram1/partition": "1\n",
		"odd/serial": "a\xffb\n", "long/serial": strings.Repeat("x", 2000),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]string{
		"nvme":       "wwid eui.0025385b71b0a3c1",
		"nvme/nvme1": "partition 1 at sector 2048 of wwid eui.0025385b71b0a3c1, uuid 8f0c2a71-01",
		"nvme/nvme2": "partition 2 at sector 4096 of wwid eui.0025385b71b0a3c1, uuid ",
		"sd":         "device/wwid t10.ATA     Disk  7, device/serial 7",
		"vd":         "serial disk",
		"dm":         "dm/uuid LVM-abc",
		"md":         "md/uuid 1:2:3:4",
		"odd":        "serial a?b",
		"long":       "", "zram": "", "zram/zram1": "", "none": "",
	} {
		link := filepath.Join(dir, "8:"+strings.ReplaceAll(device, "/", "-"))
		if err := os.Symlink(filepath.Join(dir, device), link); err != nil {
			t.Fatal(err)
		}
		if got := deviceIdentity(link, ""); got != want {
			t.Errorf("%s: %q, want %q", device, got, want)
		}
	}
}

// TestAnotherDeviceUnderTheSamePath: a volume comes back with another device, which has taken the place of the one that was copied. Nothing is sent, as the
// copy may be all that is left of that one.
func TestAnotherDeviceUnderTheSamePath(t *testing.T) {
	one, other := loopdev.ForTest(t, "", rigVolume, loopdev.Options{}), loopdev.ForTest(t, "", rigVolume, loopdev.Options{})
	a, c := place{"g", "a", "p1", "s1"}, place{"g", "c", "p1", "s1"}
	r := newRig(t, a, c)
	name := r.path("disk")
	becomes := func(d *loopdev.Device) {
		t.Helper()
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.Symlink(d.Path, name); err != nil {
			t.Fatal(err)
		}
	}
	becomes(one)
	both := r.primary("p1")
	both.Primary.Volumes[1].File, both.Primary.Volumes[1].Device = "", name
	first := r.primary("p1")
	first.Primary.Volumes = first.Primary.Volumes[:1]
	var now atomic.Pointer[config.File]
	r.start(Secondary, r.secondary("s1"))
	now.Store(both)
	r.start(runReloadable(&now), both)
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(c, 'x')
	r.awaitCut()
	await(r, "p1", func(any) error { return r.reload(&now, first) }) // once the server has noticed that the host is gone
	r.awaitChange("s1", "c", wire.VolumeSetAside)

	becomes(other)
	refusedWith(t, r.reload(&now, both), "set aside", "does not know it for a copy", "volume delete g/c")
	if got := r.shown(c); got != 'x' {
		t.Errorf("the copy that was set aside shows %q", got)
	}
	becomes(one)
	await(r, "p1", func(any) error { return r.reload(&now, both) })
	r.write(c, 'y')
	r.awaitCut()
	if got := r.shown(c); got != 'y' {
		t.Errorf("the copy of the volume that came back shows %q", got)
	}
}
