package primary

import (
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// A primary that was restarted refuses the manager that was replaced, and names the one that has the group.
func TestEpochSurvivesARestart(t *testing.T) {
	w := synced(t, testOptions())
	w.epoch = 7
	w.core.ledBy("g", 7, "m2")
	w.abandon()
	w.settle()
	w.crash(func() int { return 1 }, 0)
	if e := w.core.Status().Groups[0]; e.Epoch != 7 || e.Manager != "m2" {
		t.Fatalf("after the restart: %+v", e)
	}
	w.replies = nil
	w.epoch = 6
	w.manage(&wire.Open{Command: wire.Command{CG: w.highest + 1}, Final: w.final})
	w.settle()
	if len(w.replies) != 1 {
		t.Fatalf("replies %v", w.describe())
	}
	e, ok := w.replies[0].(*wire.Error)
	if !ok || e.Code != wire.CodeStaleEpoch || !strings.Contains(e.Text, "7") || !strings.Contains(e.Text, `"m2"`) {
		t.Errorf("the manager before was answered %v", w.describe())
	}
}

// Nothing is answered in a new epoch before that is durable: else a manager could count on a primary that obeys its predecessor again
// after a crash.
func TestNoAnswerBeforeTheEpochIsDurable(t *testing.T) {
	w := synced(t, testOptions())
	w.replies = nil
	w.epoch = 7
	w.abandon()
	w.hold(time.Second)
	if len(w.replies) != 0 || w.intent == nil {
		t.Fatalf("answers %v, write of the log %+v", w.describe(), w.intent)
	}
	w.finishIntent(errDevice)
	if len(w.replies) != 0 {
		t.Fatalf("answers %v although the log could not be written", w.describe())
	}
	w.tick(2 * time.Second)
	w.finishIntent(nil)
	if len(w.replies) < 1 {
		t.Fatal("no answers once the log was written")
	}
	if _, ok := w.replies[0].(*wire.Opened); !ok {
		t.Errorf("answers %v", w.describe())
	}
	// A crash before that: the manager before is obeyed again, and the new one has heard nothing.
	w = synced(t, testOptions())
	w.replies, w.epoch = nil, 9
	w.abandon()
	w.crash(func() int { return 1 }, 0)
	if e := w.core.Status().Groups[0].Epoch; len(w.replies) != 0 || e == 9 {
		t.Errorf("epoch %d, answers %v", e, w.describe())
	}
}
