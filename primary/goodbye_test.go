package primary

import (
	"errors"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// TestSecondaryIsToldOfTheEnd: else it would keep the volumes for a stream that nobody resumes.
func TestSecondaryIsToldOfTheEnd(t *testing.T) {
	n := startNode(t, 1, nil)
	for late := time.Now().Add(time.Minute); !n.Status().Groups[0].Connections[0].Attached; time.Sleep(time.Millisecond) { // between two questions
		if time.Now().After(late) {
			t.Fatalf("not attached: %+v", n.Status().Groups[0].Connections[0])
		}
	}
	n.stop()
	s := n.secondaries[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 {
		s.changed.Wait()
	}
	if !errors.Is(s.told, wire.ErrShuttingDown) {
		t.Errorf("the secondary was told %v", s.told)
	}
}
