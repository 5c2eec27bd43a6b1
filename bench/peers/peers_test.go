package main

import (
	"testing"

	"github.com/farside-storage/farside/internal/testtool"
)

// TestEveryStoreKeepsWhatItTook runs each store shortly; work reads a sample back and compares.
func TestEveryStoreKeepsWhatItTook(t *testing.T) {
	testtool.NeedRoot(t)
	for _, p := range peers {
		for program, pkg := range p.needs {
			testtool.Need(t, program, pkg)
		}
	}
	m, err := newMedium("tmpfs", "", 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, p := range append([]peer{{name: "farside", open: openFarside}}, peers...) {
		o, err := one(t.Context(), m, p, 8<<10, settings{group: 2 << 10, seconds: 1})
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		if o.updates == 0 || o.updates%(2<<10) != 0 || o.amplification <= 0 {
			t.Errorf("%s: %+v", p.name, o)
		}
		t.Logf("%s: %.0f updates/s, %.2f device bytes per payload byte", p.name, o.rate(), o.amplification)
	}
}

// TestLostBlockIsAnError: verify finds a block that is not what was put last.
func TestLostBlockIsAnError(t *testing.T) {
	s := memory{}
	w := newWork(3 * sampleEvery)
	w.s = s
	if err := w.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(); err != nil {
		t.Fatal(err)
	}
	s[sampleEvery] = s[sampleEvery+1]
	if err := w.verify(); err == nil {
		t.Error("a block that was lost is not noticed")
	}
}

// memory is a store that keeps everything, and can be made to lose.
type memory map[uint64][]byte

func (m memory) put(b uint64, data []byte) error { m[b] = data; return nil }
func (m memory) commit() error                   { return nil }
func (m memory) close() error                    { return nil }
func (m memory) get(b uint64, into []byte) error { copy(into, m[b]); return nil }
