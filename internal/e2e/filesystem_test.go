package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
)

// TestReq05_KernelFilesystem has the kernel keep a filesystem on a primary's volume, and write and sync file after file.
// The copy, taken in the middle of that, is a filesystem with every file that was synced before the cut.
func TestReq05_KernelFilesystem(tt *testing.T) {
	t := begin(tt)
	long(t)
	testtool.NeedRoot(t)
	mkfs, fsck := testtool.Need(t, "mkfs.ext4", "e2fsprogs"), testtool.Need(t, "e2fsck", "e2fsprogs")
	nbdcopy := testtool.Need(t, "nbdcopy", "libnbd-bin")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		testtool.Missing(t, "needs FUSE, for nbdfuse: %v", err)
	}
	t.Parallel()
	c := newCluster(t, layout{primaries: 1, secondaries: 1, volumeSize: 48 << 20})
	dir := folder(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	disk := attach(t, fuse(t, dir, c.volumes[0]))
	tool(t, mkfs, "-q", disk)
	unmount := mount(t, disk, at("host"))
	w := startFiles(t, at("host"))

	for round := range 3 {
		synced := w.awaitFiles(t, 20)
		c.awaitCutAfter(time.Now())
		replica := at(fmt.Sprintf("copy%d", round))
		c.still(func() { // the host goes on
			tool(t, nbdcopy, uri(c.volumes[0].replica, c.volumes[0].export), replica)
		})

		device := attach(t, replica)
		release := mount(t, device, at("look")) // replays the filesystem's own journal
		for i := range synced {
			got, err := os.ReadFile(filepath.Join(at("look"), fileName(i+1)))
			if err != nil || !bytes.Equal(got, fileContents(i+1)) {
				t.Fatalf("copy %d: file %d of %d synced before the cut: %d bytes, %v", round, i+1, synced, len(got), err)
			}
		}
		release()
		tool(t, fsck, "-fn", device)
		t.Logf("copy %d has all %d files; the host has written %d", round, synced, w.synced.Load())
	}
	w.stop()
	unmount()
	c.awaitCutAfter(time.Now())
	c.compare()
}

// still calls f while the copies stand still: again, if a command that was on its way has moved one meanwhile.
func (c *cluster) still(f func()) {
	c.t.Helper()
	c.manager.pause()
	defer c.manager.resume()
	await(c.t, "copies that stand still", func() error {
		before, err := c.finals()
		if err != nil {
			return err
		}
		f()
		after, err := c.finals()
		if err == nil && !slices.Equal(before, after) {
			err = fmt.Errorf("final CGs are %d, then %d", before, after)
		}
		return err
	})
}

// fuse makes the volume a file.
func fuse(t testing.TB, dir string, v *volume) string {
	t.Helper()
	at, file := filepath.Join(dir, "fuse"), filepath.Join(dir, "fuse", "disk")
	check(t, os.Mkdir(at, 0o700))
	cmd := exec.Command(testtool.Need(t, "nbdfuse", "libnbd-bin"), file, uri(v.host, v.export))
	cmd.Stderr = os.Stderr
	check(t, spawn(cmd))
	t.Cleanup(func() {
		unmountWhenFree(t, at) // once the loop device has let go of the file
		check(t, cmd.Wait())
	})
	await(t, "nbdfuse", func() error { _, err := os.Stat(file); return err })
	return file
}

// attach makes a loop device of the file, until the test ends.
func attach(t testing.TB, file string) string {
	t.Helper()
	d, err := loopdev.Attach(file, loopdev.Options{Buffered: true})
	check(t, err)
	t.Cleanup(func() { check(t, d.Detach()) })
	return d.Path
}

// mount mounts an ext4 filesystem, until the function that it returns is called or the test ends.
func mount(t testing.TB, device, at string) (unmount func()) {
	t.Helper()
	check(t, os.MkdirAll(at, 0o700))
	check(t, unix.Mount(device, at, "ext4", 0, ""))
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			unmountWhenFree(t, at)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// unmountWhenFree unmounts, as soon as nobody looks at it any more.
func unmountWhenFree(t testing.TB, at string) {
	t.Helper()
	await(t, "the end of all use of "+at, func() error {
		err := unix.Unmount(at, 0)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return hopeless(err)
		}
		return err
	})
}

// files writes numbered files into a folder, each synced before the next.
type files struct {
	synced atomic.Int64
	stop   func()
}

func startFiles(t testing.TB, dir string) *files {
	ctx, cancel := context.WithCancel(context.Background())
	w, done := &files{}, make(chan error, 1)
	go func() {
		for i := int64(1); ctx.Err() == nil; i++ {
			if err := writeSynced(filepath.Join(dir, fileName(i)), fileContents(i)); err != nil {
				done <- err
				return
			}
			w.synced.Store(i)
		}
		done <- nil
	}()
	stopped := false
	w.stop = func() {
		cancel()
		if !stopped {
			stopped = true
			check(t, <-done)
		}
	}
	t.Cleanup(w.stop)
	return w
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func fileName(i int64) string { return fmt.Sprintf("file-%d", i) }

func fileContents(i int64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "line of file %d\n", i), int(i*37%500)+1)
}

func (w *files) awaitFiles(t testing.TB, n int64) int64 {
	t.Helper()
	want := w.synced.Load() + n
	await(t, "synced files", func() error {
		if now := w.synced.Load(); now < want {
			return fmt.Errorf("%d of %d", now, want)
		}
		return nil
	})
	return want
}
