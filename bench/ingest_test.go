package bench

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// openFile makes a device of a sparse file, reached by pread and pwrite: io_uring may be forbidden here.
func openFile(t testing.TB, size int64) *device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Plain, AllowBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := devs.Close(); err != nil {
			t.Error(err)
		}
	})
	return &device{Devices: devs, infos: devs.Info(), size: size, what: path}
}

// TestIngestAllocatesNothing is goal P5: an update, from Space to the write of full buffers, allocates
// nothing once the tables have grown to the size of a CG.
func TestIngestAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	err := inOwnThread(func() error {
		s, err := openSession(openFile(t, 256<<20), 4096, 0)
		if err != nil {
			return err
		}
		for range 2 { // so that no table grows any more
			for v := range s.blocks {
				if err := s.putAt(engine.VBlock(v)); err != nil {
					return err
				}
			}
			if err := s.cut(); err != nil {
				return err
			}
			if err := s.awaitFinal(t.Context()); err != nil {
				return err
			}
		}
		for v := range s.blocks {
			if err := s.putAt(engine.VBlock(v)); err != nil {
				return err
			}
		}
		const updates = 2000 // more than the writer's buffers hold: all of them are used, written and used again
		// All goroutines are counted, and the control loop may still be folding the CG before: what updates themselves allocate is
		// there every time.
		least := math.Inf(1)
		for try := 0; try < 20 && least > 0; try++ {
			least = min(least, testing.AllocsPerRun(5, func() {
				for put := 0; put < updates; {
					n, err := s.updates(min(updates-put, pieceBlocks))
					if err != nil {
						t.Error(err)
						return
					}
					put += n
				}
			}))
		}
		if least > 0 {
			t.Errorf("%d updates made %v allocations at the least, want none", updates, least)
		}
		return s.close()
	})
	if err != nil {
		t.Fatal(err)
	}
}
