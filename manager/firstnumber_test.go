package manager

import "testing"

// TestFirstNumbersAreNotUsed: whose log knows nothing does not use the numbers that a manager before may have used without a trace, and has them
// dropped wherever they still arrive.
func TestFirstNumbersAreNotUsed(t *testing.T) {
	w := newWorld(t, 2, 2, fastSettings())
	first := uint64(0)
	w.until("a CG is open", func() bool { first = w.core.open; return first != 0 })
	for _, s := range w.sec {
		if s.through != firstUnknown {
			t.Errorf("%s has discarded CGs up to %d, not %d", s.name, s.through, firstUnknown)
		}
	}
	if first <= firstUnknown {
		t.Errorf("CG %d was opened", first)
	}
}
