package engine_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// A pool on a file takes in one consistency group over two volumes, shows it, and takes it back.
func Example() {
	dir, err := os.MkdirTemp("", "farside")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "pool")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		log.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		log.Fatal(err)
	}
	if err := copyOneGroup(path); err != nil {
		log.Fatal(err)
	}
	// Output:
	// linked view: debit 100 credit 100
	// final view:  debit 0 credit 0
	// after the revert: linked view shows CG 0
}

func copyOneGroup(path string) error {
	// Auto falls back to plain reads and writes where io_uring is forbidden; production names ring.Uring.
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Auto, AllowBuffered: true})
	if err != nil {
		return err
	}
	defer devs.Close()
	if _, err := engine.Format(devs, engine.FormatOptions{Name: "example"}); err != nil {
		return err
	}
	complete := make(chan uint64, 1)
	pool, err := engine.Open(devs, engine.Options{OnComplete: func(_ string, cg uint64) { complete <- cg }})
	if err != nil {
		return err
	}
	defer pool.Close()

	ctx := context.Background()
	debit, err := pool.CreateVolume(ctx, "bank", "debit", 1<<30)
	if err != nil {
		return err
	}
	credit, err := pool.CreateVolume(ctx, "bank", "credit", 1<<30)
	if err != nil {
		return err
	}
	if err := receive(pool, 1, debit, credit); err != nil {
		return err
	}
	cg := engine.Command{Epoch: 1, CG: <-complete}

	bank := debit.Group()
	if err := bank.Link(ctx, cg); err != nil {
		return err
	}
	d, c := make([]byte, 3), make([]byte, 3)
	show := func(view string, read func(v *engine.Volume, p []byte) error) error {
		if err := read(debit, d); err != nil {
			return err
		}
		if err := read(credit, c); err != nil {
			return err
		}
		fmt.Printf("%s debit %s credit %s\n", view, number(d), number(c))
		return nil
	}
	if err := show("linked view:", func(v *engine.Volume, p []byte) error { _, err := v.ReadLinkedAt(p, 0); return err }); err != nil {
		return err
	}
	if err := show("final view: ", func(v *engine.Volume, p []byte) error { _, err := v.ReadAt(p, 0); return err }); err != nil {
		return err
	}
	if err := bank.Revert(ctx, cg); err != nil {
		return err
	}
	s := bank.Snapshot(engine.LinkedView)
	defer s.Close()
	fmt.Printf("after the revert: linked view shows CG %d\n", s.CG())
	return nil
}

// receive takes one update of each volume in. A writer belongs to one goroutine.
func receive(pool *engine.Pool, cg uint64, vols ...*engine.Volume) error {
	done := make(chan error)
	go func() { done <- write(pool, cg, vols) }()
	return <-done
}

func write(pool *engine.Pool, cg uint64, vols []*engine.Volume) error {
	w, err := pool.NewWriter()
	if err != nil {
		return err
	}
	defer w.Close()
	for _, v := range vols {
		if err := w.Bind(v); err != nil {
			return err
		}
		block, err := w.Space(1) // payload goes straight to where the device reads it
		if err != nil {
			return err
		}
		clear(block)
		copy(block, "100")
		if err := w.Put(v, cg, 0, []uint64{engine.Sum(block)}); err != nil {
			return err
		}
	}
	return w.Seal(cg, vols...)
}

func number(p []byte) string {
	if p[0] == 0 {
		return "0"
	}
	return string(p)
}
