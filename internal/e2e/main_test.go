package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/proc"
)

var (
	scratch string // all files of all tests
	farside string // the program
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	if err := cleanUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return code
}

// prepare makes the folder, has every program put its temporary files there, and builds farside.
func prepare() (err error) {
	home := loopdev.Memory
	if _, err := os.Stat(home); err != nil {
		home = ""
	}
	if scratch, err = os.MkdirTemp(home, "farside-e2e-"); err != nil {
		return err
	}
	farside = filepath.Join(scratch, "farside")
	out, err := exec.Command("go", "build", "-o", farside, "../../cmd/farside").CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("build farside: %w\n%s", err, out), os.RemoveAll(scratch))
	}
	return os.Setenv("TMPDIR", scratch)
}

// cleanUp removes what prepare made, and says what else there was.
func cleanUp() error {
	err := os.Remove(farside)
	left, lerr := os.ReadDir(scratch)
	for _, e := range left {
		err = errors.Join(err, fmt.Errorf("a test has left %s", filepath.Join(scratch, e.Name())))
	}
	return errors.Join(err, lerr, leaks(scratch), os.RemoveAll(scratch))
}

// folder makes a folder for a test, with a name short enough for sockets in it. When the test ends, and after
// all that it registers later is undone, nothing may use the folder.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "t")
	check(t, err)
	t.Cleanup(func() {
		if err := errors.Join(leaks(dir), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// leaks names processes, mounts and loop devices that use dir.
func leaks(dir string) error {
	return errors.Join(processesOf(dir), mountsOf(dir), loopDevicesOf(dir))
}

func processesOf(dir string) (err error) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, rerr := os.ReadFile(f)
		if rerr != nil || filepath.Base(filepath.Dir(f)) == fmt.Sprint(os.Getpid()) {
			continue // it has ended
		}
		if text := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(text+" ", dir+"/") || strings.Contains(text, dir+" ") {
			err = errors.Join(err, fmt.Errorf("process %s still runs: %s", filepath.Base(filepath.Dir(f)), text))
		}
	}
	return err
}

func mountsOf(dir string) (err error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+dir) {
			err = errors.Join(err, fmt.Errorf("still mounted: %s", line))
		}
	}
	return err
}

func loopDevicesOf(dir string) (err error) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if name, rerr := os.ReadFile(f); rerr == nil && strings.HasPrefix(string(name), dir) {
			err = errors.Join(err, fmt.Errorf("still attached: %s to %s", strings.Split(f, "/")[3], name))
		}
	}
	return err
}

// largestFile bounds, in bytes, the files that a child may make. The files are in memory: a program that prints the same
// error for ever would take all of it from the machine.
const largestFile = 1 << 30

// spawn starts a child that dies with this process.
func spawn(cmd *exec.Cmd) error {
	if err := proc.Start(cmd); err != nil {
		return err
	}
	return proc.LimitFiles(cmd, largestFile)
}

// excerpt keeps the first bytes of what a child prints.
type excerpt struct{ text []byte }

func (e *excerpt) Write(p []byte) (int, error) {
	const most = 64 << 10
	e.text = append(e.text, p[:min(len(p), most-len(e.text))]...)
	return len(p), nil
}

func (e *excerpt) String() string { return string(e.text) }

// long skips tests that only run other processes: the race detector sees nothing of them.
func long(t testing.TB) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs the roles as processes of their own, which the race detector does not watch")
	}
	if testing.Short() {
		t.Skip("takes long")
	}
}
