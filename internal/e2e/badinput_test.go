package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
)

// Exit statuses, as "farside help exit-codes" has them.
const (
	failed  = 1
	misused = 2
	refused = 3
)

// wants is what a command must say; nothing may have been written to the files.
func (o output) wants(t testing.TB, code int, says ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("status %d, want %d: %s%s", o.code, code, o.out, o.err)
	}
	for _, s := range says {
		if !strings.Contains(o.err, s) {
			t.Errorf("the error does not say %q: %s", s, o.err)
		}
	}
}

func sparse(t testing.TB, path string, size int64) string {
	t.Helper()
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, os.Truncate(path, size))
	return path
}

// unchanged fails the test if f changes a file.
func unchanged(t testing.TB, files []string, f func()) {
	t.Helper()
	sums := func() (all []uint64) {
		for _, path := range files {
			b, err := os.ReadFile(path)
			check(t, err)
			all = append(all, xxhash.Sum64(b))
		}
		return all
	}
	before := sums()
	f()
	for i, now := range sums() {
		if now != before[i] {
			t.Errorf("%s was written", files[i])
		}
	}
}

func TestFormatRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	mkfs := testtool.Need(t, "mkfs.ext4", "e2fsprogs")
	dir := folder(t)
	disk := sparse(t, filepath.Join(dir, "disk"), 64<<20)
	tool(t, mkfs, "-q", disk)
	unchanged(t, []string{disk}, func() {
		command(t, "format", "--device", disk).wants(t, refused, disk, "ext4", "--force")
	})
	must(t, "format", "--device", disk, "--force", "--pool", "first")
	unchanged(t, []string{disk}, func() {
		command(t, "format", "--device", disk).wants(t, refused, disk, "farside pool", "--force")
	})
	missing := filepath.Join(dir, "missing")
	command(t, "format", "--device", missing).wants(t, misused, missing, "does not exist")
	if o := must(t, "volume", "list", "--device", disk); !strings.Contains(o, "no volumes") {
		t.Errorf("the new pool: %s", o)
	}
}

func TestFormatRefusesMountedDevice(t *testing.T) {
	t.Parallel()
	testtool.NeedRoot(t)
	mkfs := testtool.Need(t, "mkfs.ext4", "e2fsprogs")
	dir := folder(t)
	disk := loopdev.ForTest(t, dir, 32<<20, loopdev.Options{})
	tool(t, mkfs, "-q", disk.Path)
	at := filepath.Join(dir, "mnt")
	check(t, os.Mkdir(at, 0o700))
	check(t, unix.Mount(disk.Path, at, "ext4", unix.MS_RDONLY, ""))
	defer unmountWhenFree(t, at)
	unchanged(t, []string{disk.Path}, func() {
		for _, more := range [][]string{nil, {"--force"}} {
			command(t, append([]string{"format", "--device", disk.Path}, more...)...).wants(t, refused, disk.Path, "mounted on "+at)
		}
	})
}

// TestDamagedOrWrongPools: devices of two pools, a device that is missing, superblocks that are gone. Each is refused with
// the location, by every command that opens a pool, and nothing is written.
func TestDamagedOrWrongPools(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, pool := range []string{"one", "two"} {
		must(t, "format", "--device", at(pool+"a"), "--device", at(pool+"b"), "--create", "16MiB", "--pool", pool)
	}
	must(t, "format", "--device", at("lost"), "--create", "16MiB")
	const stride = 64 * block // engine/FORMAT.md: four superblocks at the head of each device
	for i := range int64(4) {
		scribble(t, at("lost"), i*stride, 512)
	}
	all := []string{at("onea"), at("oneb"), at("twoa"), at("twob"), at("lost")}
	for _, c := range []struct {
		name    string
		devices []string
		says    []string
	}{
		{"wrong pool", []string{at("onea"), at("twob")}, []string{at("onea"), at("twob"), `"one"`, `"two"`}},
		{"missing device", []string{at("onea")}, []string{`pool "one"`, "device 1 of 2", "missing"}},
		{"device not there", []string{at("onea"), at("none")}, []string{at("none"), "no such file"}},
		{"a device too many", []string{at("onea"), at("oneb"), at("twoa")}, []string{at("twoa")}},
		{"a device twice", []string{at("onea"), at("onea")}, []string{at("onea")}},
		{"damaged superblocks", []string{at("lost")}, []string{at("lost"), "superblock"}},
	} {
		devices := strings.Join(c.devices, ",")
		config := at("s.toml")
		check(t, os.WriteFile(config, fmt.Appendf(nil, "[node]\nname = \"s\"\nlisten = \"unix:%s\"\n[secondary]\ndevices = %s\n", at("s.sock"), list(c.devices)), 0o600))
		for _, args := range [][]string{
			{"secondary", "--config", config},
			{"check", "--device", devices},
			{"volume", "list", "--device", devices},
			{"volume", "create", "shop/data", "--size", "1MiB", "--device", devices},
			{"dump", "journal", "--device", devices},
		} {
			unchanged(t, all, func() {
				o := command(t, args...)
				o.err += o.out // check reports damage as its result
				if o.code != failed && o.code != misused && o.code != refused {
					t.Errorf("%s, %s: status %d", c.name, args[0], o.code)
				}
				for _, s := range c.says {
					if !strings.Contains(o.err, s) {
						t.Errorf("%s, %s: %q does not say %q", c.name, args[:2], o.err, s)
					}
				}
				if strings.Contains(o.err, "{Structure") || strings.Contains(o.err, "\n, byte") {
					t.Errorf("%s, %s: the error is not for people: %s", c.name, args[:2], o.err)
				}
			})
		}
	}
	if _, err := os.Stat(at("none")); err == nil {
		t.Error("a missing device was made")
	}
}

func scribble(t testing.TB, path string, off int64, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, n), off)
	check(t, err)
}

func TestBadVolumeSizesAndKeys(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	pool, config := filepath.Join(dir, "pool"), filepath.Join(dir, "s.toml")
	must(t, "format", "--device", pool, "--create", "16MiB")
	write := func(more string) {
		check(t, os.WriteFile(config, fmt.Appendf(nil, "[node]\nname = \"s\"\nlisten = \"unix:%s/s.sock\"\n[secondary]\ndevices = [%q]\n%s", dir, pool, more), 0o600))
	}
	unchanged(t, []string{pool}, func() {
		command(t, "volume", "create", "shop/data", "--size", "10000", "--device", pool).wants(t, misused, "4 KiB", "8192", "12288")
		write("[[secondary.volume]]\nname = \"data\"\ngroup = \"shop\"\nsize = 10000\n")
		command(t, "secondary", "--config", config).wants(t, misused, config, "8192", "12288")
		write("widnow = 5\n")
		command(t, "secondary", "--config", config).wants(t, misused, config+":6", "widnow", "window")
	})
	// The pool must be open to know this; then it has its checkpoints written.
	command(t, "volume", "create", "shop/data", "--size", "512PiB", "--device", pool).wants(t, failed, "volume size", "the largest is")
	if o := must(t, "volume", "list", "--device", pool); !strings.Contains(o, "no volumes") {
		t.Errorf("after the refusal: %s", o)
	}
}
