package node

import (
	"context"
	"testing"
)

// TestStoppedAsItStarts: a role that is told to stop as soon as it serves ends well, whatever of it had begun by then.
func TestStoppedAsItStarts(t *testing.T) {
	r := newRig(t, place{"g", "v", "p1", "s1"})
	for name, run := range map[string]func(context.Context, func()) error{
		"secondary": func(ctx context.Context, ready func()) error { return Secondary(ctx, r.secondary("s1"), r.log, ready) },
		"primary":   func(ctx context.Context, ready func()) error { return Primary(ctx, r.primary("p1"), r.log, ready) },
		"manager": func(ctx context.Context, ready func()) error {
			return Manager(ctx, r.manager("m1", "1s"), r.log, ready)
		},
	} {
		for range 30 {
			ctx, cancel := context.WithCancel(t.Context())
			if err := run(ctx, cancel); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}
