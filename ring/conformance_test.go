package ring_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest/conformance"
)

func TestConformanceFile(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		t.Run(kind.String(), func(t *testing.T) {
			conformance.Run(t, func(t *testing.T) ring.Devices { return openFiles(t, t.TempDir(), kind) })
		})
	}
}

// TestConformanceMemoryFile is for a filesystem with fewer abilities: no ZERO_RANGE, on older kernels no O_DIRECT.
func TestConformanceMemoryFile(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		t.Run(kind.String(), func(t *testing.T) {
			conformance.Run(t, func(t *testing.T) ring.Devices {
				return openFiles(t, memoryDir(t), kind)
			})
		})
	}
}

func TestConformanceLoop(t *testing.T) {
	for _, kind := range []ring.Kind{ring.Uring, ring.Plain} {
		for _, sector := range []int{512, 4096} {
			t.Run(fmt.Sprintf("%v/sector=%d", kind, sector), func(t *testing.T) {
				conformance.Run(t, func(t *testing.T) ring.Devices { return openLoop(t, kind, sector) })
			})
		}
	}
}

// TestConformanceOldKernels runs the suite with each set of setup flags that an older kernel would leave us.
func TestConformanceOldKernels(t *testing.T) {
	for n := 1; n < ring.SetupSteps; n++ {
		t.Run(fmt.Sprintf("steps=%d", n), func(t *testing.T) {
			conformance.Run(t, func(t *testing.T) ring.Devices {
				return ring.StepDown(openFiles(t, memoryDir(t), ring.Uring), n)
			})
		})
	}
}

// memoryDir is a temporary folder in memory, or on disk where there is none.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(loopdev.Memory, "farside-ring-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openFiles(t *testing.T, dir string, kind ring.Kind) ring.Devices {
	t.Helper()
	var paths []string
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		newFile(t, path, 8<<20)
		paths = append(paths, path)
	}
	return open(t, paths, ring.OpenOptions{Kind: kind, AllowBuffered: true})
}

func openLoop(t *testing.T, kind ring.Kind, sector int) ring.Devices {
	t.Helper()
	loop := loopdev.ForTest(t, loopdev.Memory, 8<<20, loopdev.Options{BlockSize: sector})
	return open(t, []string{loop.Path}, ring.OpenOptions{Kind: kind})
}

func open(t *testing.T, paths []string, o ring.OpenOptions) ring.Devices {
	t.Helper()
	devs, err := ring.Open(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := devs.Close(); err != nil {
			t.Error(err)
		}
	})
	return devs
}

func newFile(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}
