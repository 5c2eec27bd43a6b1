package primary

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// copyOf is the status of volume a's copy on the first secondary.
func copyOf(w *world) CopyStatus { return w.core.Status().Groups[0].Volumes[0].Copies[0] }

// A volume that was deleted on the secondary and made again under its name lacks everything: it is copied as a whole, and the
// status and the log say so.
func TestVolumeMadeAgainIsCopiedAsAWhole(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 0, BlockSize)
	w.settle()
	w.round()
	p := w.peers[0]
	p.drop(nil)
	if before := copyOf(w); !before.FirstCopyDone || before.WholeCopy != "" || !p.remake(0) {
		t.Fatalf("before: %+v", before)
	}
	p.connect()
	after := copyOf(w)
	if after.FirstCopyDone || !strings.Contains(after.WholeCopy, "not the one that was copied to") || after.Identity != uuidString(p.states()[0].Identity) {
		t.Errorf("status after the volume was made again: %+v", after)
	}
	w.settle()
	w.round() // the model compares the images
	if s := copyOf(w); !s.FirstCopyDone || s.WholeCopy != "" {
		t.Errorf("status after the first copy: %+v", s)
	}
}

// A CG that was cut before the first copy begins says that the volume is not whole: it need not be given up.
func TestCutCGGoesOnWhenAVolumeWasMadeAgain(t *testing.T) {
	w := synced(t, testOptions())
	cutWith(t, w) // nothing of it was sent
	if !w.peers[0].remake(0) {
		t.Fatal("not made again")
	}
	for _, p := range w.peers {
		p.connect()
	}
	w.settle()
	if w.lost != 0 || !w.allComplete() || !w.peers[0].partial[w.cut][0] {
		t.Fatalf("CG %d was cut, %d is lost; manifest %v; %+v", w.cut, w.lost, w.peers[0].partial, w.core.Status())
	}
	w.finalize()
	w.round()
	if s := copyOf(w); !s.FirstCopyDone {
		t.Errorf("%+v", s)
	}
}

// Some of the CG was sent to the volume that is not there any more.
func TestCutCGIsLostWithAVolumeMadeAgain(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	w.settle()
	p := w.peers[0]
	p.drop(nil)
	w.hold(time.Second)
	w.thaw()
	w.settle()
	if !p.remake(0) {
		t.Fatal("not made again")
	}
	p.connect()
	if w.lost != w.cut {
		t.Fatalf("CG %d was cut, %d is lost; %+v", w.cut, w.lost, w.core.Status())
	}
	w.abandon()
	w.settle()
	w.round()
}

// Nothing is sent to a volume that holds something unknown, unless an operator said so.
func TestUnknownCopyIsRefused(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[0]
	p.drop(nil)
	p.made[0]++ // another one, and it holds what the old one held
	a := w.core.Attach(p.conn, wire.UUID{9})
	if a.Stream != p.stream {
		t.Fatal("another stream")
	}
	err := w.core.Attached(p.conn, wire.Attached{Complete: p.complete, Window: p.window, Volumes: p.states()})
	id := uuidString(p.states()[0].Identity)
	for _, part := range []string{`group "g"`, `volume "a"`, `"s1"`, id, copyOf(w).Identity, "--overwrite-copies " + id} {
		if !errors.Is(err, ErrUnknownCopy) || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %s", err, part)
		}
	}
	if f := w.core.TakeFrame(p.conn); f != nil || !copyOf(w).FirstCopyDone {
		t.Errorf("frame %+v, copy %+v after the refusal", f, copyOf(w))
	}
	w.opt.Overwrite = []wire.UUID{p.states()[0].Identity}
	w.crash(func() int { return 1 }, 0)
	for _, p := range w.peers {
		p.connect()
	}
	w.abandon()
	w.settle()
	w.round()
	if s := copyOf(w); !s.FirstCopyDone || s.Identity != id {
		t.Errorf("after the permission: %+v", s)
	}
}

// A primary that has lost its log does not know that the copy is its own.
func TestLostLogIsNoReasonToOverwrite(t *testing.T) {
	w := synced(t, testOptions())
	w.files = [2][]byte{}
	w.crash(func() int { return 1 }, 0)
	p := w.peers[0]
	if err := w.core.Attached(p.conn, wire.Attached{Complete: p.complete, Window: p.window, Volumes: p.states()}); !errors.Is(err, ErrUnknownCopy) {
		t.Errorf("%v", err)
	}
}

// Nothing is sent before the log says durably to which volume; else a crash could leave a copy that its own primary does not know.
func TestNothingIsSentBeforeIdentityIsDurable(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	w.openCG(1)
	for w.intent != nil { // the log as it is without a secondary
		w.finishIntent(nil)
	}
	p := w.peers[0]
	p.connect()
	w.write(0, 0, BlockSize)
	for len(w.flight) > 0 {
		w.finish(0, nil)
	}
	if f := w.core.TakeFrame(p.conn); f != nil {
		t.Fatalf("frame %+v before the log was written", f)
	}
	w.finishIntent(errDevice) // it is tried again
	if f := w.core.TakeFrame(p.conn); f != nil {
		t.Fatalf("frame %+v although the log could not be written", f)
	}
	w.tick(2 * time.Second)
	w.settle()
	if p.applied == 0 {
		t.Fatalf("nothing was sent afterwards: %+v", w.core.Status())
	}
	w.peers[1].connect()
	w.settle()
	w.round()
}

// The secondary has another address since the last run; the identity shows that it is the same.
func TestCopyThatMovedIsKnown(t *testing.T) {
	w := synced(t, testOptions())
	w.spec = testSpec()
	w.spec[0].Volumes[0].Secondaries[0] = "elsewhere"
	w.crash(func() int { return 1 }, 0)
	if s := copyOf(w); s.Secondary != "elsewhere" || !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
	for _, p := range w.peers {
		p.connect()
	}
	w.abandon()
	w.settle()
	w.round()
	if s := copyOf(w); s.WholeCopy != "" || !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
}

func TestAttachedMustTellOfEveryVolume(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[1]
	p.drop(nil)
	m := wire.Attached{Complete: p.complete, Window: p.window, Volumes: p.states()[:1]}
	if err := w.core.Attached(p.conn, m); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("%v", err)
	}
	m.Resumed, m.Volumes = true, p.states()
	m.Volumes[0].Identity[15]++
	if err := w.core.Attached(p.conn, m); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("a stream resumed with another volume: %v", err)
	}
}

// A CG is final that a secondary had lost: it was no member of the group yet. What it got of that CG, its first copy, does not count.
func TestFinalWithoutASecondary(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	w.settle()
	w.hold(time.Second)
	if w.settle(); !w.thaw() {
		t.Fatal("not cut")
	}
	w.settle()
	p := w.peers[0] // it takes part from now on: everything is discarded there, and its connection ends
	p.discard(0)
	p.complete = 0
	p.drop(nil)
	p.restart()
	p.connect()
	w.manage(&wire.FinalNote{Command: wire.Command{CG: 1}}) // of the group as it was
	w.pump()
	if s := copyOf(w); s.FirstCopyDone || !strings.Contains(s.WholeCopy, "joined") || s.CatchupBlocks == 0 {
		t.Fatalf("%+v", s)
	}
	if s := w.core.Status().Groups[0].Volumes[1].Copies[0]; !s.FirstCopyDone {
		t.Errorf("the copy on the other secondary: %+v", s)
	}
}

// The same where the secondary has an older state of its copy.
func TestCutCGIsLostWhenACopyIsOlder(t *testing.T) {
	w := synced(t, testOptions())
	cutWith(t, w) // nothing of it was sent
	p := w.peers[0]
	p.restart()
	p.complete = 0
	for h := range p.finalImg {
		clear(p.finalImg[h])
	}
	for _, p := range w.peers {
		p.connect()
	}
	if w.lost != w.cut {
		t.Fatalf("CG %d was cut, %d is lost; %+v", w.cut, w.lost, w.core.Status())
	}
	w.abandon()
	w.settle()
	w.round()
}
