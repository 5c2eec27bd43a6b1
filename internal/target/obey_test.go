package target

import (
	"testing"

	"github.com/farside-storage/farside/wire"
)

// TestOldConnectionIsNotObeyed: a REVERT that a manager sent over a connection which it has lost since must not take
// back what it decided over the new one.
func TestOldConnectionIsNotObeyed(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	p := r.attach(1, "shop", "a", "b")
	before := r.manager(1)
	if before.state("shop").Linked != 0 {
		t.Fatal("not a new group")
	}
	p.update(1, 0, 0, 1, 1)
	p.manifest(1)
	now := r.manager(1)
	now.awaitComplete("shop", 1)
	if _, ok := now.ask(&wire.Link{Command: now.head("shop", 1)}).(*wire.Linked); !ok {
		t.Fatal("not linked")
	}
	refusal := before.refuse(&wire.Revert{Command: before.head("shop", 1)})
	if refusal.Code != wire.CodeState {
		t.Fatalf("%+v", refusal)
	}
	if s := now.state("shop"); s.Linked != 1 {
		t.Fatalf("the old connection reverted CG 1: %+v", s)
	}
}
