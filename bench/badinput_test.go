package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/ring"
)

// Children of these tests: this binary again, with the name of one of these functions in the environment.
const childVariable = "FARSIDE_BENCH_TEST"

var children = map[string]func() error{
	"run":    runChild,
	"locked": lockedChild,
}

func TestDeviceInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, minSize)); err != nil {
		t.Fatal(err)
	}
	held, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Plain, AllowBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_, err = Run(t.Context(), Options{Device: path, Kind: ring.Plain, Names: []string{"floors"}})
	if !errors.Is(err, ring.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("error for a device in use: %v", err)
	}
	if sparse := allocated(t, path); sparse != 0 {
		t.Errorf("%d bytes were written to a device in use", sparse)
	}
}

// allocated is how much of a sparse file was ever written.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestLoopDeviceInUse(t *testing.T) {
	d := loopdev.ForTest(t, loopdev.Memory, minSize, loopdev.Options{BlockSize: 4096})
	held, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_, err = Run(t.Context(), Options{Device: d.Path, Kind: ring.Plain, Names: []string{"floors"}})
	if !errors.Is(err, ring.ErrInUse) || !strings.Contains(err.Error(), d.Path) {
		t.Errorf("error for a device that another program holds: %v", err)
	}
}

func TestNoRoomForLoopDevice(t *testing.T) {
	dir := t.TempDir()
	err := roomFor(dir, 1<<60)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--size") {
		t.Errorf("error for a device larger than its filesystem: %v", err)
	}
	if err := roomFor(dir, 1<<20); err != nil {
		t.Error(err)
	}
}

// lockedChild drives a load with hardly any locked memory allowed, and prints what it was told.
func lockedChild() error {
	limit := unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	path := os.Args[len(os.Args)-1]
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Uring, AllowBuffered: true})
	if err != nil {
		return err
	}
	d := &device{Devices: devs, infos: devs.Info(), what: path, told: &notices{}}
	m, err := drive(context.Background(), d, load{op: ring.OpWrite, size: sequentialPiece, depth: 4, once: true}, 0)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(struct {
		Writes  uint64
		Notices []string
	}{m.ops, d.told.all()})
}

// TestLockedMemory runs with a limit that is too low for registered buffers: it works all the same, and says what to raise.
func TestLockedMemory(t *testing.T) {
	testtool.NeedRoot(t)                                // to become somebody whom the limit holds for
	dir, err := os.MkdirTemp("", "farside-bench-test-") // not the test's own folder, which is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "device")
	const nobody = 65534
	err = errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<20), os.Chown(path, nobody, nobody), os.Chmod(dir, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "test") // the folder of the test binary may be root's alone
	if err := copyFile(self, os.Args[0]); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, path)
	c.Env = append(os.Environ(), childVariable+"=locked")
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("an ordinary user cannot run programs in %s: %v", dir, err)
	}
	if strings.Contains(stderr.String(), ring.ErrUringForbidden.Error()) {
		t.Skipf("no io_uring for an ordinary user here: %s", &stderr)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var told struct {
		Writes  uint64
		Notices []string
	}
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if told.Writes != 16 || len(told.Notices) != 1 || !strings.Contains(told.Notices[0], "ulimit -l") {
		t.Errorf("%d writes (want 16), notices %q (want one that names the limit)", told.Writes, told.Notices)
	}
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// runChild is a program that measures, as cmd/farside does.
func runChild() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[len(os.Args)-2:]
	_, err := Run(ctx, Options{Loop: loopDisk, Dir: args[0], Size: minSize, Names: args[1:], Seconds: 3600, Kind: ring.Plain,
		Progress: func(line string) { fmt.Println(line) }})
	return err
}

// TestInterruptLeavesNothing ends a run as the keyboard does, and by kill -9, in the middle of workloads that start
// another process or lend the device to one: no loop device, file or process is left.
func TestInterruptLeavesNothing(t *testing.T) {
	loopdev.ForTest(t, "", 1<<20, loopdev.Options{}) // skips where there are no loop devices
	for _, test := range []struct {
		workload string
		signal   syscall.Signal
	}{{"wire", syscall.SIGINT}, {"recovery", syscall.SIGINT}, {"wire", syscall.SIGKILL}, {"recovery", syscall.SIGKILL}} {
		t.Run(fmt.Sprintf("%s by %v", test.workload, test.signal), func(t *testing.T) {
			t.Parallel()
			interrupt(t, test.workload, test.signal)
		})
	}
}

func interrupt(t *testing.T, workload string, signal syscall.Signal) {
	dir := t.TempDir()
	c := exec.Command(os.Args[0], dir, workload)
	marker := "FARSIDE_BENCH_TEST_RUN=" + dir
	c.Env = append(os.Environ(), childVariable+"=run", marker)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr tailBuffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.HasPrefix(lines.Text(), workload+":"); {
	}
	// Now it starts its other process; wait until that is there.
	await(t, "the other process to start", func() bool { return len(processes(t, marker)) > 1 })
	if err := syscall.Kill(-c.Process.Pid, signal); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("an interrupted run ended well")
	}
	await(t, "the other process to end", func() bool { return len(processes(t, marker)) == 0 })
	await(t, "the loop device to go", func() bool { return len(loopsIn(t, dir)) == 0 })
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("files are left: %v, %v", names, err)
	}
	if signal == syscall.SIGINT && !strings.Contains(stderr.String(), context.Canceled.Error()) {
		t.Errorf("it said: %s", &stderr)
	}
}

// await waits for a condition.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// processes have the variable in their environment.
func processes(t *testing.T, variable string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		env, err := os.ReadFile(f) // fails when the process has ended
		if err == nil && bytes.Contains(append(env, 0), append([]byte(variable), 0)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// loopsIn are loop devices whose file is, or was, in dir.
func loopsIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range backing {
		if text, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(text), dir+"/") {
			found = append(found, f)
		}
	}
	return found
}
