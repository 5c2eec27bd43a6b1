package ring_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/ring"
	"golang.org/x/sys/unix"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	odd, empty, dangling := filepath.Join(dir, "odd"), filepath.Join(dir, "empty"), filepath.Join(dir, "gone")
	newFile(t, odd, 10000)
	newFile(t, empty, 0)
	for _, c := range []struct{ path, says string }{
		{dangling, "no such file"},
		{dir, "neither a block device nor a regular file"},
		{os.DevNull, "neither a block device nor a regular file"},
		{odd, "not a multiple of the sector size"},
		{empty, "less than one sector"},
	} {
		devs, err := ring.OpenPlain([]string{c.path}, ring.OpenOptions{AllowBuffered: true})
		if err == nil {
			t.Errorf("%s: opened as %+v", c.path, devs.Info())
		} else if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: error %q does not say %q and the path", c.path, err, c.says)
		}
	}
	if _, err := ring.OpenUring([]string{dangling}, ring.OpenOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := ring.Open(nil, ring.OpenOptions{Kind: ring.Simulated}); err == nil {
		t.Error("simulated devices can be opened")
	}
}

// TestOpenExclusive: what is open cannot be opened again, until it is closed. Then at once,
// even after io_uring had it, which lets go of files late.
func TestOpenExclusive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	t.Run("file", func(t *testing.T) { exclusive(t, file) })
	t.Run("loop", func(t *testing.T) {
		exclusive(t, loopdev.ForTest(t, "", 1<<20, loopdev.Options{}).Path)
	})
}

func exclusive(t *testing.T, path string) {
	arena, err := ring.NewArena(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	for range 20 {
		devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Uring})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Open([]string{path}, ring.OpenOptions{}); !errors.Is(err, ring.ErrInUse) {
			t.Errorf("second open: %v", err)
		}
		shared, err := ring.Open([]string{path}, ring.OpenOptions{Shared: true, ReadOnly: true})
		if err != nil {
			t.Fatalf("shared open: %v", err)
		}
		w, err := ring.NewWorker(devs, ring.QueueOptions{Arenas: []*ring.Arena{arena}})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Do(ring.Request{Op: ring.OpWrite, Buf: arena.Bytes()})
		if err := errors.Join(err, w.Close(), devs.Close(), shared.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseDevice: one of several devices is given up by a worker and closed; it can be opened again while the worker goes on with the others.
func TestCloseDevice(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		t.Run(kind.String(), func(t *testing.T) {
			devs := openFiles(t, t.TempDir(), kind)
			w, err := ring.NewWorker(devs, ring.QueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Do(ring.Request{Op: ring.OpFlush, Device: 1}), w.Do(ring.Request{Op: ring.OpForget, Device: 1}), devs.(ring.DeviceCloser).CloseDevice(1)); err != nil {
				t.Fatal(err)
			}
			path := devs.Info()[1].Path
			var again ring.Devices
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the kernel lets go of it late
				again, err = ring.Open([]string{path}, ring.OpenOptions{Kind: kind, AllowBuffered: true})
				if !errors.Is(err, ring.ErrInUse) || time.Now().After(deadline) {
					break
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Do(ring.Request{Op: ring.OpFlush, Device: 0}), again.Close(), w.Close()); err != nil {
				t.Error(err)
			}
			if err := w.Do(ring.Request{Op: ring.OpForget, Device: 0}); !errors.Is(err, ring.ErrClosed) {
				t.Errorf("the worker was closed: %v", err)
			}
		})
	}
}

func TestOpenMounted(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("mkfs.ext4 is missing: install the Debian package e2fsprogs")
	}
	loop := loopdev.ForTest(t, "", 16<<20, loopdev.Options{})
	if out, err := exec.Command(mkfs, "-q", loop.Path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	at := t.TempDir()
	if err := unix.Mount(loop.Path, at, "ext4", 0, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	_, err = ring.Open([]string{loop.Path}, ring.OpenOptions{})
	if !errors.Is(err, ring.ErrInUse) || !strings.Contains(err.Error(), "mounted on "+at) {
		t.Errorf("open of a mounted device: %v", err)
	}
}

func TestOpenReadOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		devs := open(t, []string{file}, ring.OpenOptions{Kind: kind, ReadOnly: true})
		w, err := ring.NewWorker(devs, ring.QueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8192)[:4096]
		for _, op := range []ring.Op{ring.OpWrite, ring.OpDiscard, ring.OpWriteZeroes} {
			if err := w.Do(ring.Request{Op: op, Buf: buf, Len: 4096}); !errors.Is(err, unix.EROFS) {
				t.Errorf("%v: %v on a read-only device: %v", kind, op, err)
			}
		}
		if err := errors.Join(w.Do(ring.Request{Op: ring.OpRead, Buf: buf}), w.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenWithoutDirect uses ramfs, which does not know O_DIRECT on any kernel.
func TestOpenWithoutDirect(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "ramfs", 0, ""); err != nil {
		t.Skipf("cannot mount ramfs here (it takes root): %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	file := filepath.Join(dir, "f")
	newFile(t, file, 1<<20)
	if _, err := ring.Open([]string{file}, ring.OpenOptions{}); !errors.Is(err, ring.ErrNoDirect) {
		t.Fatalf("open with O_DIRECT: %v", err)
	}
	devs := open(t, []string{file}, ring.OpenOptions{AllowBuffered: true})
	info := devs.Info()[0]
	if info.Direct || info.SectorSize != 4096 || !strings.Contains(info.Notice, "without O_DIRECT") {
		t.Errorf("opened as %+v", info)
	}
	q, err := devs.NewQueue(ring.QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	// ramfs has no fallocate at all: zeros have to be written.
	var out [1]ring.Completion
	buf := make([]byte, 600<<10&^4095)
	for _, r := range []ring.Request{
		{Op: ring.OpWrite, Buf: append(buf[:0:0], strings.Repeat("x", len(buf))...)},
		{Op: ring.OpWriteZeroes, Len: int64(len(buf))},
		{Op: ring.OpRead, Buf: buf},
	} {
		q.Push(r)
		if n, err := q.Reap(out[:], 1); n != 1 || err != nil || out[0].Err != nil {
			t.Fatalf("%v: %d, %v, %v", r.Op, n, err, out[0].Err)
		}
	}
	if strings.Trim(string(buf), "\x00") != "" {
		t.Error("write zeroes left something else")
	}
}

// TestTruncatedFile: a file that shrank under us gives an error, neither a hang nor quiet zeros.
func TestTruncatedFile(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		file := filepath.Join(t.TempDir(), "f")
		newFile(t, file, 1<<20)
		devs := open(t, []string{file}, ring.OpenOptions{Kind: kind})
		w, err := ring.NewWorker(devs, ring.QueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, 8192); err != nil {
			t.Fatal(err)
		}
		err = w.Do(ring.Request{Op: ring.OpRead, Off: 4096, Buf: make([]byte, 32768)})
		var e *ring.Error
		if !errors.Is(err, ring.ErrShort) || !errors.As(err, &e) || e.Off != 4096 || e.Len != 32768 || e.Path != file {
			t.Errorf("%v: read past the new end: %v", kind, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestNothingLeaks opens and closes everything again and again.
func TestNothingLeaks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	cycle := func() {
		for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
			devs, err := ring.Open([]string{file, file}, ring.OpenOptions{Kind: kind, Shared: true})
			if err != nil {
				t.Fatal(err)
			}
			q, err := devs.NewQueue(ring.QueueOptions{Depth: 8})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(q.Close(), devs.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	cycle()
	fds, maps := count(t, "/proc/self/fd"), uringMaps(t)
	for range 20 {
		cycle()
	}
	if f, m := count(t, "/proc/self/fd"), uringMaps(t); f != fds || m != maps {
		t.Errorf("%d descriptors and %d mappings of io_uring, before it was %d and %d", f, m, fds, maps)
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func uringMaps(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "io_uring")
}
