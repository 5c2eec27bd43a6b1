package loopdev

import (
	"os"
)

// TB is the part of testing.TB that ForTest uses, so that a binary with this package does not
// carry package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	TempDir() string
}

// Memory is a folder in memory, where it exists: the fastest place for backing files.
const Memory = "/dev/shm"

// ForTest attaches a loop device of size bytes to a new sparse file in folder dir ("" means the test's temporary
// folder; so does Memory where it does not exist), and detaches it when the test ends. The file has no name any more,
// so that a killed test leaves nothing. Where loop devices cannot be made the test is skipped, or fails if the
// environment forbids skipping (FARSIDE_REQUIRE_TOOLS=1, as in internal/testtool).
func ForTest(t TB, dir string, size int64, o Options) *Device {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "loop devices need root: run the tests as root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing(t, "no loop devices here; load the module \"loop\": %v", err)
	}
	if dir == Memory {
		if _, err := os.Stat(dir); err != nil {
			dir = ""
		}
	}
	if dir == "" {
		dir = t.TempDir()
	}
	d, err := attachNew(dir, size, o)
	if err != nil {
		t.Fatalf("loop device: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Detach(); err != nil {
			t.Errorf("loop device: %v", err)
		}
	})
	return d
}

// requireEnv is testtool.RequireEnv: programs have this package in them, and must not have that one.
const requireEnv = "FARSIDE_REQUIRE_TOOLS"

// missing ends a test that cannot be run here.
func missing(t TB, format string, args ...any) {
	t.Helper()
	if v := os.Getenv(requireEnv); v != "" && v != "0" {
		t.Fatalf(format+" ("+requireEnv+" is set: skipping is not allowed)", args...)
	}
	t.Skipf(format, args...)
}

func attachNew(dir string, size int64, o Options) (*Device, error) {
	f, err := os.CreateTemp(dir, "farside-loop-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	return Attach(f.Name(), o)
}
