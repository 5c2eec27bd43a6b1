package primary

import (
	"testing"
	"time"
)

// joined has a recovery point, and volume a is new on the first secondary: none of it is there.
func joined(t *testing.T) (*world, *peer) {
	t.Helper()
	opt := testOptions()
	opt.FirstCopyRest = 1 // less than a block: a first copy ends when nothing is left
	w := synced(t, opt)
	p := w.peers[0]
	p.drop(nil)
	if !p.remake(0) {
		t.Fatal("not made again")
	}
	p.connect()
	return w, p
}

// reading says whether d is a catch-up read.
func reading(d *DeviceIO) bool { return d.io.Op == opCatchup }

// bring lets so many catch-up reads end, and everything else go on.
func (w *world) bring(reads int) {
	w.drainBut(func(d *DeviceIO) bool {
		if !reading(d) {
			return false
		}
		reads--
		return reads < 0
	})
}

// cutNow cuts, and has the CG become final while no more reads end.
func (w *world) cutNow() {
	w.tb.Helper()
	w.hold(time.Second)
	w.bring(0)
	if !w.thaw() {
		w.tb.Fatalf("CG %d was not cut", w.open)
	}
	w.bring(0)
	if !w.allComplete() {
		w.tb.Fatalf("CG %d is not complete everywhere: %+v", w.cut, w.core.Status())
	}
	w.finalize()
	w.bring(0)
}

// left is what the first copy of volume a lacks.
func left(w *world) uint64 {
	s := copyOf(w)
	if s.FirstCopy == nil || s.FirstCopy.Blocks != testBlocks {
		w.tb.Fatalf("status has no first copy: %+v", s)
	}
	return s.FirstCopy.BlocksLeft
}

func TestFirstCopyIsSpreadOverCGs(t *testing.T) {
	w, p := joined(t)
	for lacks := left(w); lacks > testBlocks/4; lacks = left(w) {
		w.write(0, 3*BlockSize, BlockSize)
		w.write(0, (testBlocks-1)*BlockSize, BlockSize)
		w.write(1, 0, 2*BlockSize)
		w.bring(1)
		before := w.final
		w.cutNow() // the model compares what is whole
		if w.final <= before || p.whole[0] {
			t.Fatalf("CG %d is final after CG %d, %d blocks are left, the copy is whole: %t", w.final, before, left(w), p.whole[0])
		}
		if now := left(w); now >= lacks {
			t.Fatalf("%d blocks are left, %d were before a read", now, lacks)
		}
	}
	if w.final < 4 {
		t.Fatalf("only CG %d is final: the first copy was not spread", w.final)
	}
	w.settle()
	w.round()
	if s := copyOf(w); !p.whole[0] || !s.FirstCopyDone || s.FirstCopy != nil {
		t.Fatalf("whole: %t; %+v", p.whole[0], s)
	}
	w.write(0, 0, testBlocks*BlockSize/2)
	w.round()
}

// fresh is a group of which nothing is final, with a first copy that ends when nothing is left.
func fresh(t *testing.T) *world {
	t.Helper()
	opt := testOptions()
	opt.FirstCopyRest = 1
	w := newWorld(t, opt, testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	return w
}

// The copies of a new group are spread, too: what a CG brought is not sent again once it is final, whatever is given up
// and restarted.
func TestFirstCopyOfANewGroupIsSpread(t *testing.T) {
	w := fresh(t)
	w.bring(4)
	w.cutNow()
	lacks := left(w)
	if w.final != 1 || lacks == 0 || lacks >= testBlocks || w.peers[0].whole[0] {
		t.Fatalf("CG %d is final, %d of %d blocks are left, whole: %t", w.final, lacks, testBlocks, w.peers[0].whole[0])
	}
	w.bring(3)
	w.hold(time.Second)
	w.bring(0)
	w.thaw()
	w.bring(0)
	w.abandon()
	if now := left(w); now != lacks {
		t.Fatalf("%d blocks are left after the abandon, %d were when CG 1 was final", now, lacks)
	}
	w.bring(3)
	w.peers[0].drop(nil)
	w.peers[0].restart()
	w.peers[0].connect()
	if now := left(w); now != lacks {
		t.Fatalf("%d blocks are left after the restart of the secondary, %d were when CG 1 was final", now, lacks)
	}
	w.bring(2)
	w.cutNow()
	if now := left(w); now >= lacks {
		t.Fatalf("%d blocks are left, %d were before", now, lacks)
	}
	w.settle()
	w.round() // the model compares what is whole
	if s := copyOf(w); !w.peers[0].whole[0] || !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
}

// The primary loses power while nothing is final yet, and again later.
func TestPrimaryRestartsInAFirstCopyOfANewGroup(t *testing.T) {
	w := fresh(t)
	w.bring(3)
	for range 2 {
		w.crash(func() int { return 0 }, 0)
		for _, p := range w.peers {
			p.connect()
		}
		w.abandon()
		w.bring(3)
		w.cutNow()
		if w.peers[0].whole[0] {
			t.Fatal("whole after a few reads")
		}
		w.bring(2)
	}
	w.settle()
	w.round()
	if s := copyOf(w); !w.peers[0].whole[0] || !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
}

// What is left may go with one CG, so that the copy ends where hosts write without end.
func TestRestOfAFirstCopyGoesWithOneCG(t *testing.T) {
	w, p := joined(t)
	w.bring(2)
	lacks := left(w)
	w.core.opt.FirstCopyRest = int64(lacks * BlockSize)
	w.hold(time.Second)
	w.bring(0)
	w.thaw()
	w.bring(0)
	if w.allComplete() {
		t.Fatalf("CG %d is complete without %d blocks", w.cut, lacks)
	}
	w.write(0, (testBlocks-20)*BlockSize, 20*BlockSize) // collides with what the CG still has to send
	w.settle()
	if !w.allComplete() {
		t.Fatalf("CG %d is not complete: %+v", w.cut, w.core.Status())
	}
	w.finalize()
	if !p.whole[0] || !copyOf(w).FirstCopyDone {
		t.Fatalf("whole: %t; %+v", p.whole[0], copyOf(w))
	}
	w.round()
}

func TestAbandonRepeatsOnlyWhatTheCGBrought(t *testing.T) {
	w, _ := joined(t)
	w.bring(2)
	w.cutNow()
	lacks := left(w)
	if lacks == testBlocks {
		t.Fatal("nothing was brought")
	}
	w.bring(2)
	if now := left(w); now >= lacks {
		t.Fatalf("%d blocks are left, %d were before", now, lacks)
	}
	w.hold(time.Second)
	w.bring(0)
	w.thaw()
	w.bring(0)
	w.abandon() // complete, and never linked
	if now := left(w); now != lacks {
		t.Fatalf("%d blocks are left after the abandon, %d were when the newest CG became final", now, lacks)
	}
	w.settle()
	w.round()
	if !copyOf(w).FirstCopyDone {
		t.Fatalf("%+v", copyOf(w))
	}
}

func TestSecondaryRestartsInAFirstCopy(t *testing.T) {
	w, p := joined(t)
	w.bring(2)
	w.cutNow()
	lacks := left(w)
	w.bring(1)
	p.drop(nil)
	p.restart()
	p.connect()
	if now := left(w); now != lacks || w.lost != 0 {
		t.Fatalf("%d blocks are left, %d were when the newest CG became final; CG %d is lost", now, lacks, w.lost)
	}
	w.settle()
	w.round()
}

func TestPrimaryRestartGoesOnWithTheFirstCopy(t *testing.T) {
	w, p := joined(t)
	for left(w) > testBlocks/2 {
		w.bring(1)
		w.cutNow()
	}
	for range 4 { // the log learns what is final there, once the device is flushed
		w.tick(w.opt.IntentLinger)
		w.bring(0)
	}
	lacks := left(w)
	w.crash(func() int { return 1 }, 0)
	for _, q := range w.peers {
		q.connect()
	}
	if now := left(w); now < lacks || now > testBlocks*3/4 {
		t.Fatalf("%d blocks are left after the restart, %d were before", now, lacks)
	}
	if s := w.core.Status().Groups[0].Volumes[0].Copies[1]; s.CatchupBlocks != 0 || !s.FirstCopyDone {
		t.Errorf("the other copy has to catch up: %+v", s)
	}
	w.abandon()
	w.bring(1)
	w.cutNow()
	if p.whole[0] {
		t.Fatal("whole after one read")
	}
	w.settle()
	w.round()
	if !p.whole[0] {
		t.Fatalf("%+v", copyOf(w))
	}
}

// The log is from before the last CG: what that brought is sent again to a volume that is whole by now, in one CG.
func TestWholeCopyIsNotSpread(t *testing.T) {
	w, p := joined(t)
	w.bring(1)
	w.cutNow()
	files := w.files
	w.settle()
	w.round()
	if !p.whole[0] {
		t.Fatal("not whole")
	}
	w.files = files
	w.crash(func() int { return 1 }, 0)
	for _, q := range w.peers {
		q.connect()
	}
	w.abandon()
	if s := copyOf(w); s.FirstCopy != nil || s.CatchupBlocks == 0 {
		t.Fatalf("%+v", s)
	}
	w.bring(0)
	w.hold(time.Second)
	w.thaw()
	w.bring(0)
	if w.allComplete() {
		t.Fatal("a CG is complete that lacks most of what the whole copy has to catch up with")
	}
	w.settle()
	if !w.allComplete() {
		t.Fatalf("%+v", w.core.Status())
	}
	w.finalize()
	w.round()
}

// cutRest cuts a CG that has the rest of the first copy.
func cutRest(t *testing.T, w *world) {
	t.Helper()
	w.bring(2)
	w.cutNow()
	w.core.opt.FirstCopyRest = testBlocks * BlockSize
	w.hold(time.Second)
	w.bring(0)
	w.thaw()
}

func TestAbandonedRestIsSentAgain(t *testing.T) {
	w, p := joined(t)
	cutRest(t, w)
	w.core.opt.FirstCopyRest = 1
	lacks := left(w)
	w.settle()
	if !w.allComplete() {
		t.Fatalf("%+v", w.core.Status())
	}
	w.abandon()
	if now := left(w); now != lacks {
		t.Fatalf("%d blocks are left after the abandon, %d were at the cut", now, lacks)
	}
	w.settle()
	w.round()
	if !p.whole[0] {
		t.Fatalf("%+v", copyOf(w))
	}
}

// An older state of the secondary was put back: it lacks what earlier CGs brought, too.
func TestRestIsNotEnoughForASecondaryThatLostMore(t *testing.T) {
	w, p := joined(t)
	cutRest(t, w)
	p.drop(nil)
	p.restart()
	p.complete = 0
	clear(p.finalImg[0])
	p.connect()
	w.core.opt.FirstCopyRest = 1
	if s := copyOf(w); s.FirstCopyDone || s.CatchupBlocks < testBlocks*3/4 {
		t.Fatalf("%+v", s)
	}
	w.settle()
	if w.lost == 0 && (!w.allComplete() || !p.partial[w.cut][0]) {
		t.Fatalf("CG %d is neither lost nor partial: %v, %+v", w.cut, p.partial, w.core.Status())
	}
}

func TestHostWritesAreEnoughOfAFirstCopy(t *testing.T) {
	w, _ := joined(t)
	w.bring(0)
	before := left(w)
	w.write(0, 100*BlockSize, 10*BlockSize)
	w.bring(0)
	if now := left(w); now != before-10 {
		t.Fatalf("%d blocks are left, %d were before ten of them were written", now, before)
	}
}

func TestFirstCopyKeepsToItsRate(t *testing.T) {
	w, _ := joined(t)
	w.settle()
	w.round()                                   // whole
	w.core.SetFirstCopyRate(w.opt.CatchupBytes) // one read a second
	p := w.peers[0]
	p.drop(nil)
	if !p.remake(0) {
		t.Fatal("not made again")
	}
	p.connect()
	w.settle()
	perRead := uint64(w.opt.CatchupBytes / BlockSize)
	if got := left(w); got != testBlocks-perRead {
		t.Fatalf("%d blocks are left at first, want %d", got, testBlocks-perRead)
	}
	w.tick(time.Second - time.Millisecond)
	w.settle()
	if got := left(w); got != testBlocks-perRead {
		t.Fatalf("%d blocks are left too soon", got)
	}
	if d := w.core.Deadline(); d > w.now+time.Millisecond {
		t.Fatalf("nothing is due before %v, it is %v", d, w.now)
	}
	w.tick(time.Millisecond)
	w.settle()
	if got := left(w); got != testBlocks-2*perRead {
		t.Fatalf("%d blocks are left after a second", got)
	}
	w.core.SetFirstCopyRate(0)
	w.pump()
	w.settle()
	if got := left(w); got != 0 {
		t.Fatalf("%d blocks are left without a limit", got)
	}
	w.round()
}

// A CG that nobody cuts takes no more than its share of a first copy, however long it stays open. The copy goes on with
// the next one.
func TestOpenCGTakesItsShareOfAFirstCopy(t *testing.T) {
	const share = 24
	w := fresh(t)
	w.core.opt.FirstCopyShare = share * BlockSize
	slack := uint64(w.opt.CatchupReads) * uint64(w.opt.CatchupBytes) / BlockSize
	for lacks := left(w); lacks > 0; {
		w.settle()
		now := left(w)
		if taken := lacks - now; taken > 2*share+slack || now > 0 && taken > share+slack || taken < min(lacks, share) {
			t.Fatalf("an open CG took %d blocks, %d were left; its share is %d, and what was being read, at most %d", taken, lacks, share, slack)
		}
		if lacks = now; lacks > 0 {
			w.cutNow()
		}
	}
	w.round()
	if s := copyOf(w); !s.FirstCopyDone {
		t.Fatalf("%+v", s)
	}
}
