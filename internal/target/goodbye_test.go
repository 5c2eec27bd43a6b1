package target

import (
	"fmt"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// TestStreamOfAPrimaryThatEndedIsForgotten: nobody resumes it, so its volumes are free at once.
func TestStreamOfAPrimaryThatEndedIsForgotten(t *testing.T) {
	r := newRig(t, 32<<20, func(o *Options) { o.ResumeTimeout = 24 * time.Hour })
	p := r.attach(1, "shop", "a")
	p.update(1, 0, 0, 1, 1)
	p.settled()
	check(t, p.conn.Abort(wire.Refusal(fmt.Errorf("the primary ends: %w", wire.ErrShuttingDown), 0, "shop", 0)))
	r.awaitLog("stream forgotten")
	if p := r.attach(1, "shop", "a"); p.attached.Resumed {
		t.Errorf("attached %+v", p.attached)
	}
}
