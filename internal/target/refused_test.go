package target

import (
	"errors"
	"strings"
	"testing"
)

// TestRefusedCGIsLost: a CG that can never become complete is told to the manager, which must not wait for it.
func TestRefusedCGIsLost(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m := r.manager(1)
	m.state("shop")
	r.events.Refused("shop", 1, errors.New("too large for the journal"))
	if _, err := m.take(); err != nil {
		t.Fatal(err)
	}
	if l := m.lost; l == nil || l.CG != 1 || l.Epoch != 1 || !strings.Contains(l.Reason, "too large") {
		t.Fatalf("%+v", l)
	}
}
