package engine

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/ring"
)

func filePool(t testing.TB, size int64, o Options) (*Pool, ring.Devices) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pool")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	devs, err := ring.Open([]string{path}, ring.OpenOptions{AllowBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := devs.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := Format(devs, FormatOptions{Name: t.Name()}); err != nil {
		t.Fatal(err)
	}
	p, err := Open(devs, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, devs
}

// TestReadersDuringReplication: two writers, a manager's commands and readers at once, on a real file. Each
// snapshot shows the same version in every block of both volumes.
func TestReadersDuringReplication(t *testing.T) {
	complete := make(chan uint64, 16)
	p, _ := filePool(t, 64<<20, Options{OnComplete: func(_ string, cg uint64) { complete <- cg }})
	ctx := t.Context()
	var vols []*Volume
	for _, name := range []string{"a", "b"} {
		v, err := p.CreateVolume(ctx, "g", name, 256*BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		vols = append(vols, v)
	}
	g := vols[0].Group()
	const last = 60
	var wg sync.WaitGroup
	var next [2]chan uint64
	for i, v := range vols {
		next[i] = make(chan uint64, last)
		wg.Go(func() { writeVersions(t, p, v, next[i]) })
	}
	var stop atomic.Bool
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				readVersions(t, g, vols)
			}
		})
	}
	next[0] <- 1
	next[1] <- 1
	for cg := uint64(1); cg <= last; cg++ {
		if got := <-complete; got != cg {
			t.Fatalf("CG %d became complete, want %d", got, cg)
		}
		if cg < last { // n+1 arrives while n is being linked
			next[0] <- cg + 1
			next[1] <- cg + 1
		}
		c := Command{Epoch: 1, CG: cg}
		if err := errors.Join(g.Link(ctx, c), g.Revert(ctx, c), g.Link(ctx, c), g.Release(ctx, c)); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	close(next[0])
	close(next[1])
	wg.Wait()
	readVersions(t, g, vols)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// writeVersions rewrites every block of a volume in each CG it is told to.
func writeVersions(t *testing.T, p *Pool, v *Volume, cgs <-chan uint64) {
	w, err := p.NewWriter()
	if err != nil {
		t.Error(err)
		return
	}
	err = w.Bind(v)
	for cg := range cgs {
		for _, b := range rand.Perm(256) {
			if err == nil {
				err = put(w, v, cg, VBlock(b), pattern(v.name, VBlock(b), cg))
			}
		}
		if err == nil {
			err = w.Seal(cg, v)
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Error(err)
	}
}

func readVersions(t *testing.T, g *Group, vols []*Volume) {
	s := g.Snapshot(FinalView)
	defer s.Close()
	for range 20 {
		v, b := vols[rand.IntN(2)], VBlock(rand.IntN(250))
		buf := make([]byte, 5*BlockSize)
		if _, err := s.ReadAt(v, buf, int64(b)*BlockSize); err != nil {
			t.Error(err)
			return
		}
		for i := range VBlock(5) {
			if got := buf[i*BlockSize : (i+1)*BlockSize]; !bytes.Equal(got, pattern(v.name, b+i, s.CG())) {
				t.Errorf("snapshot of CG %d: volume %s block %d shows version %d", s.CG(), v.name, b+i, le.Uint64(got[72:]))
				return
			}
		}
	}
}

// TestIngestAllocatesNothing: no allocation per update once buffers and table have grown.
func TestIngestAllocatesNothing(t *testing.T) {
	p, _ := filePool(t, 256<<20, Options{})
	v, err := p.CreateVolume(context.Background(), "g", "v", 4096*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Bind(v); err != nil {
		t.Fatal(err)
	}
	sums := []uint64{0}
	n := uint64(0)
	update := func() {
		space, err := w.Space(1)
		if err != nil {
			t.Fatal(err)
		}
		n++
		le.PutUint64(space, n)
		sums[0] = Sum(space)
		if err := w.Put(v, 1, VBlock(n*2654435761%4096), sums); err != nil {
			t.Fatal(err)
		}
	}
	for range 8192 {
		update()
	}
	if got := testing.AllocsPerRun(8192, update); got != 0 {
		t.Fatalf("%v allocations per update", got)
	}
	if err := errors.Join(w.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
}
