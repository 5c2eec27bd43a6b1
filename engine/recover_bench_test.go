package engine

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
)

// BenchmarkRecover opens a pool whose journal holds eight CGs of 2^17 updates each, over a volume of as many blocks. On files in
// memory, if the machine has such a file system; the stages of a recovery are timed apart.
func BenchmarkRecover(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	devs := crashed(b, 1<<17, 8)
	defer func() {
		if err := devs.Close(); err != nil {
			b.Fatal(err)
		}
	}()
	stages := map[string]time.Duration{}
	n := 0
	for b.Loop() {
		err := offline(devs, func(r *recovery) error {
			for _, s := range []struct {
				name string
				do   func() error
			}{{"roots", r.loadSuperblocks}, {"roots", r.loadRoot}, {"tables", r.loadTables}, {"replay", r.replay}, {"settle", r.settle}, {"bitmap", r.deriveBitmap}} {
				begin := time.Now()
				if err := s.do(); err != nil {
					return err
				}
				stages[s.name] += time.Since(begin)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	for name, d := range stages {
		b.ReportMetric(float64(d.Microseconds())/1e3/float64(n), name+"-ms")
	}
}

// crashed leaves a pool that was not closed: its table pages are of the first CG, the journal holds the others.
func crashed(b *testing.B, blocks uint64, cgs uint64) ring.Devices {
	dir := b.TempDir()
	if d, err := os.MkdirTemp("/dev/shm", "farside-"); err == nil {
		dir = d
		b.Cleanup(func() { _ = os.RemoveAll(d) })
	}
	path := filepath.Join(dir, "pool")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(2 << 30)
	}
	if err != nil {
		b.Fatal(err)
	}
	_ = f.Close()
	devs, err := ring.Open([]string{path}, ring.OpenOptions{AllowBuffered: true})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := Format(devs, FormatOptions{Name: "crashed", JournalBytes: 128 << 20}); err != nil {
		b.Fatal(err)
	}
	p, err := Open(devs, Options{Manual: true})
	if err != nil {
		b.Fatal(err)
	}
	v, err := p.CreateVolume(context.Background(), "g", "v", blocks*BlockSize)
	if err != nil {
		b.Fatal(err)
	}
	w, err := p.NewWriter()
	if err == nil {
		err = w.Bind(v)
	}
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	g, _ := p.Group("g")
	for cg := uint64(1); cg <= cgs+1; cg++ {
		for i := range VBlock(blocks) {
			if cg > 1 {
				i = VBlock(rng.Uint64N(blocks))
			}
			space, err := w.Space(1)
			if err == nil {
				clear(space[:8])
				err = w.Put(v, cg, i, []uint64{Sum(space)})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Seal(cg, v); err != nil {
			b.Fatal(err)
		}
		stepAll(b, p)
		err := g.Link(context.Background(), Command{Epoch: 1, CG: cg})
		if err == nil {
			err = g.Release(context.Background(), Command{Epoch: 1, CG: cg})
		}
		if err != nil {
			b.Fatal(err)
		}
		stepAll(b, p)
		if cg == 1 {
			if err := p.Checkpoint(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		stepAll(b, p)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := p.shut(); err != nil { // as it stands
		b.Fatal(err)
	}
	return devs
}

func stepAll(b *testing.B, p *Pool) {
	for {
		if busy, err := p.Step(); err != nil {
			b.Fatal(err)
		} else if !busy {
			return
		}
	}
}
