package loopdev

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/testtool"
)

func TestParseStats(t *testing.T) {
	s, err := parseStats("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n")
	want := Stats{Reads: 1, ReadBytes: 3 * 512, Writes: 5, WriteBytes: 7 * 512, Discards: 12, DiscardedBytes: 14 * 512, Flushes: 16}
	if err != nil || s != want {
		t.Errorf("got %+v, %v; want %+v", s, err, want)
	}
	if s, err = parseStats("1 2 3 4 5 6 7 8 9 10 11"); err != nil || s.Flushes != 0 || s.Writes != 5 {
		t.Errorf("statistics of an old kernel: %+v, %v", s, err)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4 5 6 x 8 9 10 11"} {
		if _, err := parseStats(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestAttachWriteCountDetach(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		d := ForTest(t, "", 1<<20, Options{BlockSize: sector})
		before, err := d.Stats()
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
		if err != nil || got != sector {
			t.Errorf("sector size %d, %v; want %d", got, err, sector)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 8192), 0); err != nil {
			t.Fatal(err)
		}
		after, err := d.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if n := after.Sub(before).WriteBytes; n != 8192 {
			t.Errorf("statistics say %d bytes written, want 8192", n)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Detach(); err != nil {
			t.Fatal(err)
		}
		if err := d.Detach(); err != nil {
			t.Errorf("second detach: %v", err)
		}
	}
}

// TestAttachAmongOthers: another process takes the device that was found free, and is there still or is detaching it. (A kernel before 6.11 lets
// what is being detached be opened, and refuses the file then.)
func TestAttachAmongOthers(t *testing.T) {
	ForTest(t, "", 1<<20, Options{}) // skips where there are no loop devices
	defer func(was func(string)) { found = was }(found)
	file := filepath.Join(t.TempDir(), "f")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<20)); err != nil {
		t.Fatal(err)
	}
	backing, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	var others []*Device
	found = func(path string) {
		if len(others) == 2 {
			return
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			err = configure(fd, int(backing.Fd()), Options{ReadOnly: true})
		}
		if err != nil {
			t.Logf("somebody has %s: %v", path, err)
			_ = unix.Close(fd) // -1, perhaps
			return
		}
		others = append(others, &Device{Path: path, fd: fd})
		if len(others) == 2 { // the kernel detaches it when this descriptor is closed, and does not let anybody open it before
			if _, err := unix.IoctlRetInt(fd, unix.LOOP_CLR_FD); err != nil {
				t.Error(err)
			}
		}
	}
	for tries := 1; len(others) < 2; tries++ { // more than one if another process was there first
		if d, err := Attach(file, Options{}); err != nil {
			t.Error(err)
		} else if err := d.Detach(); err != nil {
			t.Error(err)
		}
		if tries == attempts {
			t.Errorf("others took %d devices, want 2", len(others))
			break
		}
	}
	for i, o := range others {
		if i == 0 {
			err = o.Detach()
		} else {
			err = unix.Close(o.fd)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if _, err := Attach(file, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Attach(file, Options{BlockSize: 1000}); err == nil {
		t.Error("sectors of 1000 bytes: no error")
	}
}

// ending is a test that notes how it was ended.
type ending struct {
	TB
	skipped, failed string
}

func (e *ending) Helper()                          {}
func (e *ending) Skipf(format string, args ...any) { e.skipped = fmt.Sprintf(format, args...) }
func (e *ending) Fatalf(format string, args ...any) {
	e.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestMissingLoopDevices(t *testing.T) {
	if requireEnv != testtool.RequireEnv {
		t.Errorf("this package obeys %s, others %s", requireEnv, testtool.RequireEnv)
	}
	for value, fails := range map[string]bool{"": false, "0": false, "1": true} {
		t.Setenv(requireEnv, value)
		e, done := &ending{}, make(chan struct{})
		go func() {
			defer close(done)
			missing(e, "no %s", "loop")
		}()
		<-done
		if fails != strings.Contains(e.failed, "no loop") || fails == strings.Contains(e.skipped, "no loop") {
			t.Errorf("%s=%s: failed %q, skipped %q", requireEnv, value, e.failed, e.skipped)
		}
	}
}

// TestKilledProcessLeavesNothing kills a process that has a loop device attached.
func TestKilledProcessLeavesNothing(t *testing.T) {
	const child = "FARSIDE_LOOPDEV_CHILD"
	if os.Getenv(child) != "" {
		d := ForTest(t, "", 1<<20, Options{})
		os.Stdout.WriteString("attached " + d.Path + "\n")
		os.Stdin.Read(make([]byte, 1)) // until killed
		return
	}
	testtool.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKilledProcessLeavesNothing$")
	cmd.Env = append(os.Environ(), child+"=1", "TMPDIR="+t.TempDir())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path := ""
	for lines := bufio.NewScanner(out); path == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "attached "); ok {
			path = rest
		}
	}
	backing := filepath.Join("/sys/block", filepath.Base(path), "loop", "backing_file")
	before, err := os.ReadFile(backing)
	if err != nil {
		t.Errorf("%q is not attached: %v", path, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the killed process ended well")
	}
	// Something that watches block devices, or looks for a free one, may hold it open a moment longer.
	for late := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // between two questions
		if now, err := os.ReadFile(backing); err != nil || string(now) != string(before) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s is still attached", path)
		}
	}
}
