package primary

import (
	"testing"
	"time"
)

// A primary leaves the group after it has cut a CG that is then given up, without being told. CGs of the others become
// final, and it joins again under the same manager: its changes are not in any of them.
func TestPrimaryJoinsAgainAfterItsCutWasGivenUp(t *testing.T) {
	for name, sent := range map[string]bool{"sent": true, "not sent": false} {
		t.Run(name, func(t *testing.T) {
			w := synced(t, testOptions())
			if !sent {
				for _, p := range w.peers {
					p.drop(nil)
				}
			}
			w.write(0, 3*BlockSize, BlockSize)
			w.settle()
			w.hold(time.Second)
			if !w.thaw() {
				t.Fatal("not cut")
			}
			w.write(1, 5*BlockSize, BlockSize)
			w.settle()
			for _, p := range w.peers {
				p.discard(w.highest)
			}
			w.final = w.open // the others decided a CG that has the number of the one that is open here
			w.openCG(w.highest + 3)
			if g := w.core.Status().Groups[0]; g.Open != w.open {
				t.Fatalf("CG %d is open, want %d; replies %v", g.Open, w.open, w.describe())
			}
			for _, p := range w.peers {
				if !p.up {
					p.connect()
				}
			}
			w.settle()
			w.round() // compares
		})
	}
}

// The same where the first copy went with the CG that was given up.
func TestPrimaryJoinsAgainBeforeItsFirstCopyIsFinal(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	w.settle()
	for _, p := range w.peers {
		p.discard(w.highest)
	}
	w.final = w.open
	w.openCG(w.highest + 3)
	for _, v := range w.core.Status().Groups[0].Volumes {
		if v.Copies[0].FirstCopyDone {
			t.Errorf("volume %q: the first copy is done by a CG that does not have it", v.Name)
		}
	}
	w.settle()
	w.round()
}
