package alloc

import (
	"errors"
	"flag"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if !set {
		if err := flag.Set("rapid.checks", "500"); err != nil { // a few milliseconds each, under -race ten
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func mustNew(t testing.TB, o Options) *Map {
	t.Helper()
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no blocks":          {},
		"too many":           {Blocks: MaxBlocks + 1},
		"too large":          {Blocks: math.MaxUint64},
		"extent not a power": {Blocks: 100, ExtentBlocks: 192},
		"extent too small":   {Blocks: 100, ExtentBlocks: 32},
		"extent too large":   {Blocks: 100, ExtentBlocks: 2 * MaxExtentBlocks},
	} {
		if m, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
			_ = m.Close()
		}
	}
}

func TestEmptyExtentsGoRoundTheDevice(t *testing.T) {
	m := mustNew(t, Options{Blocks: 5 * 64, ExtentBlocks: 64})
	var x Extent
	for _, want := range []uint64{0, 1, 2, 3, 4, 0, 1} {
		if err := m.Reserve(&x); err != nil || x.index != want {
			t.Fatalf("extent %d, %v; want %d", x.index, err, want)
		}
		m.Return(&x)
	}
}

func TestEmptiestExtentFirst(t *testing.T) {
	m := mustNew(t, Options{Blocks: 4 * 1024})
	for e, used := range []uint64{1024, 900, 100, 500} {
		if err := m.MarkUsed(uint64(e)*1024, used); err != nil {
			t.Fatal(err)
		}
	}
	var x Extent
	for _, want := range []uint64{2, 3, 1} {
		if err := m.Reserve(&x); err != nil || x.index != want {
			t.Fatalf("extent %d, %v; want %d", x.index, err, want)
		}
		for _, n := x.Take(1024); n != 0; _, n = x.Take(1024) {
		}
		m.Return(&x)
	}
	if err := m.Reserve(&x); !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
}

// TestLastFreeBlockIsFound puts the only free block of a large pool anywhere: first, last, and at the
// borders of words and levels.
func TestLastFreeBlockIsFound(t *testing.T) {
	const blocks = 1<<25 + 1025 // 32770 extents: three levels; the last one is short
	m := mustNew(t, Options{Blocks: blocks})
	if err := m.MarkUsed(0, blocks); err != nil {
		t.Fatal(err)
	}
	var x Extent
	for _, b := range []uint64{0, 63, 64, 1023, 1024, 1<<16 - 1, 1 << 16, 1<<22 - 1, 1 << 22, 1 << 25, blocks - 2, blocks - 1, 5} {
		if err := m.Reserve(&x); !errors.Is(err, ErrFull) {
			t.Fatalf("before block %d: error %v, want ErrFull", b, err)
		}
		if err := m.ReleaseOne(b); err != nil {
			t.Fatal(err)
		}
		if err := m.Reserve(&x); err != nil {
			t.Fatalf("block %d is free: %v", b, err)
		}
		if got, n := x.Take(9); got != b || n != 1 {
			t.Fatalf("took %d+%d, want %d+1", got, n, b)
		}
		if got, n := x.Take(9); n != 0 {
			t.Fatalf("took %d+%d of a full extent", got, n)
		}
		m.Return(&x)
	}
	if err := m.verify(); err != nil {
		t.Fatal(err)
	}
}

func TestReleasedIntoAHeldExtentWaitsForTheNextReservation(t *testing.T) {
	m := mustNew(t, Options{Blocks: 64, ExtentBlocks: 64})
	if err := m.MarkUsed(32, 32); err != nil {
		t.Fatal(err)
	}
	var x, y Extent
	if err := m.Reserve(&x); err != nil {
		t.Fatal(err)
	}
	if err := m.Release(32, 32); err != nil {
		t.Fatal(err)
	}
	if first, n := x.Take(64); first != 0 || n != 32 {
		t.Fatalf("took %d+%d, want 0+32", first, n)
	}
	if err := m.Reserve(&y); !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull: the only extent is held", err)
	}
	m.Return(&x)
	if err := m.Reserve(&y); err != nil || y.Free() != 32 {
		t.Fatalf("%d free, %v; want 32", y.Free(), err)
	}
	m.Return(&y)
}

func TestStatsCountReservedAsUsed(t *testing.T) {
	m := mustNew(t, Options{Blocks: 2*64 + 10, ExtentBlocks: 64})
	var x Extent
	if err := m.Reserve(&x); err != nil {
		t.Fatal(err)
	}
	first, n := x.Take(10)
	if err := m.Release(first, uint64(n)); err != nil {
		t.Fatal(err)
	}
	want := Stats{Blocks: 138, Used: 54, Free: 84, Reserved: 64, ExtentBlocks: 64, Extents: 3, ExtentsEmpty: 1, ExtentsHeld: 1}
	if got := m.Stats(); got != want {
		t.Errorf("held: %+v, want %+v", got, want)
	}
	m.Return(&x)
	want = Stats{Blocks: 138, Free: 138, ExtentBlocks: 64, Extents: 3, ExtentsEmpty: 2}
	if got := m.Stats(); got != want {
		t.Errorf("returned: %+v, want %+v", got, want)
	}
}

func TestOutOfRange(t *testing.T) {
	m := mustNew(t, Options{Blocks: 100, ExtentBlocks: 64})
	for _, r := range []run{{100, 1}, {99, 2}, {0, math.MaxUint64}, {math.MaxUint64, 1}, {50, math.MaxUint64 - 10}} {
		want := max(r.first, 100)
		wantBlock(t, m.Retire(r.first, r.n), want, ErrRange)
		if !m.started.Load() {
			wantBlock(t, m.MarkUsed(r.first, r.n), want, ErrRange)
			wantBlock(t, m.MarkUsedOne(want), want, ErrRange)
		}
		if m.Used(want) || m.Retired(want) {
			t.Errorf("block %d is said to be used", want)
		}
	}
	wantBlock(t, m.Release(90, 11), 100, ErrRange)
	wantBlock(t, m.ReleaseOne(127), 127, ErrRange)
	wantBlock(t, m.MarkUsed(5, 1), 5, ErrStarted)
	wantBlock(t, m.MarkUsedOne(5), 5, ErrStarted)
	if s := m.Stats(); s.Free != 100 {
		t.Errorf("%d free, want 100: a refused call did something", s.Free)
	}
}

func TestErrorStopsAtTheBlock(t *testing.T) {
	m := mustNew(t, Options{Blocks: 1000, ExtentBlocks: 64})
	if err := m.MarkUsed(300, 1); err != nil {
		t.Fatal(err)
	}
	wantBlock(t, m.MarkUsed(100, 300), 300, ErrUsed)
	wantBlock(t, m.MarkUsedOne(100), 100, ErrUsed)
	if m.Used(301) || !m.Used(299) {
		t.Error("marked past the block of the error, or not up to it")
	}
	wantBlock(t, m.Release(150, 200), 301, ErrFree)
	if s := m.Stats(); s.Used != 50 {
		t.Errorf("%d used, want 100..149", s.Used)
	}
	wantBlock(t, m.ReleaseOne(300), 300, ErrFree)
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}

func TestMisuse(t *testing.T) {
	m := mustNew(t, Options{Blocks: 1000})
	other := mustNew(t, Options{Blocks: 1000})
	var x Extent
	m.Return(&x) // holds nothing
	if _, n := x.Take(1); n != 0 || x.Held() || x.Free() != 0 {
		t.Error("an Extent that holds nothing gave a block")
	}
	if err := m.Reserve(&x); err != nil {
		t.Fatal(err)
	}
	mustPanic(t, "reserve twice", func() { _ = m.Reserve(&x) })
	mustPanic(t, "return to another map", func() { other.Return(&x) })
	if err := m.Close(); err == nil {
		t.Fatal("closed under a holder")
	}
	m.Return(&x)
}

func TestCloseTwice(t *testing.T) {
	m, err := New(Options{Blocks: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil {
		t.Error("closed twice without an error")
	}
}

// TestLargestMap takes address space, but hardly any memory.
func TestLargestMap(t *testing.T) {
	m, err := New(Options{Blocks: MaxBlocks})
	if errors.Is(err, unix.ENOMEM) {
		t.Skip("the address space is limited (ulimit -v, or vm.overcommit_memory=2):", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.MarkUsedOne(MaxBlocks - 1); err != nil {
		t.Fatal(err)
	}
	if err := m.MarkUsed(0, MaxExtentBlocks); err != nil {
		t.Fatal(err)
	}
	var x Extent
	if err := m.Reserve(&x); err != nil || x.First() != MaxExtentBlocks {
		t.Fatalf("extent at %d, %v; want %d", x.First(), err, MaxExtentBlocks)
	}
	m.Return(&x)
	var got []run
	for first, n := range m.UsedRuns() {
		got = append(got, run{first, n})
	}
	if len(got) != 2 || got[0] != (run{0, MaxExtentBlocks}) || got[1] != (run{MaxBlocks - 1, 1}) {
		t.Fatalf("used runs %v", got)
	}
	for first := range m.UsedRuns() {
		if first != 0 {
			t.Fatal("went on after the loop ended")
		}
		break
	}
}

func TestNoAllocation(t *testing.T) {
	m := mustNew(t, Options{Blocks: 100 * 1024})
	var x Extent
	if err := m.Reserve(&x); err != nil {
		t.Fatal(err)
	}
	m.Return(&x)
	if n := testing.AllocsPerRun(1000, func() {
		if err := m.Reserve(&x); err != nil {
			t.Fatal(err)
		}
		a, n := x.Take(100)
		b, k := x.Take(1)
		m.Return(&x)
		if err := m.Release(a, uint64(n)); err != nil {
			t.Fatal(err)
		}
		if err := m.ReleaseOne(b); err != nil || k != 1 {
			t.Fatal(k, err)
		}
		if s := m.Stats(); s.Used != 0 {
			t.Fatal(s)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// MarkUsedEach does what MarkUsedOne does to each, up to the first that it refuses.
func TestMarkUsedEach(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const blocks = 300
		newMap := func() *Map {
			m, err := New(Options{Blocks: blocks, ExtentBlocks: 64})
			if err == nil {
				err = m.Retire(128, 3)
			}
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		each, one := newMap(), newMap()
		var bs []uint64
		for range rapid.IntRange(0, 20).Draw(t, "runs") {
			first := rapid.Uint64Range(0, blocks).Draw(t, "first")
			for i := range rapid.Uint64Range(1, 70).Draw(t, "n") {
				bs = append(bs, first+i)
			}
		}
		n, err := each.MarkUsedEach(bs)
		for i, b := range bs {
			want := one.MarkUsedOne(b)
			if want == nil {
				continue
			}
			if i != n || err == nil || err.Error() != want.Error() {
				t.Fatalf("block %d, the %d-th: %d were marked, then %v; one by one %v", b, i, n, err, want)
			}
			break
		}
		if err == nil && n != len(bs) {
			t.Fatalf("%d of %d marked", n, len(bs))
		}
		for b := range uint64(blocks) {
			if each.Used(b) != one.Used(b) {
				t.Fatalf("block %d: used %t, one by one %t", b, each.Used(b), one.Used(b))
			}
		}
		if err := errors.Join(each.Close(), one.Close()); err != nil {
			t.Fatal(err)
		}
	})
}
