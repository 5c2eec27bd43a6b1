package primary

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// synced makes a world whose first copy is final, and streaming.
func synced(t *testing.T, opt CoreOptions) *world {
	w := newWorld(t, opt, testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	w.settle()
	w.round()
	w.flushed()
	return w
}

// flushed lets the write-intent log clear what it can, once the devices are flushed.
func (w *world) flushed() {
	for range 3 {
		w.tick(w.opt.IntentLinger)
		w.settle()
	}
}

// cutWith cuts a CG whose only change is block 7 of volume a, unsent, with its catch-up bit set.
func cutWith(t *testing.T, w *world) {
	for _, p := range w.peers {
		p.drop(nil)
	}
	w.write(0, 7*BlockSize, BlockSize)
	w.settle()
	w.hold(time.Second)
	if !w.thaw() {
		t.Fatal("not cut")
	}
}

func TestCollisionReadsOldContentsFirst(t *testing.T) {
	w := synced(t, testOptions())
	cutWith(t, w)
	old := bytes.Clone(w.images[0][7*BlockSize : 8*BlockSize])
	w.write(0, 7*BlockSize, BlockSize)
	if len(w.flight) != 1 || w.flight[0].Op != ring.OpRead {
		t.Fatalf("a write over unsent contents began with %+v, want a read", w.flight)
	}
	w.finish(0, nil)
	if len(w.flight) != 1 || w.flight[0].Op != ring.OpWrite {
		t.Fatalf("then came %+v, want the write", w.flight)
	}
	w.settle()
	if bytes.Equal(old, w.images[0][7*BlockSize:8*BlockSize]) {
		t.Fatal("the write did nothing")
	}
	for _, p := range w.peers {
		p.connect()
	}
	w.settle() // peers compare the image with the cut
	if !w.allComplete() {
		t.Fatalf("CG %d did not complete: %+v", w.cut, w.core.Status())
	}
}

func TestCollisionWithoutRoomLosesTheCG(t *testing.T) {
	w := synced(t, testOptions())
	for _, p := range w.peers {
		p.drop(nil)
	}
	const n = 150 // more than twice the queue
	w.write(0, 0, n*BlockSize)
	w.settle()
	w.hold(time.Second)
	w.thaw()
	for b := range uint64(n) {
		w.write(0, b*BlockSize, BlockSize)
		w.settle()
	}
	if w.lost != w.cut || w.hosts != 0 {
		t.Fatalf("lost %d of cut %d, %d host requests wait", w.lost, w.cut, w.hosts)
	}
	if q := w.core.conns[0].queued; q > 2*w.opt.QueueBytes+maxRun*BlockSize {
		t.Fatalf("%d bytes are queued", q)
	}
	w.abandon()
	for _, p := range w.peers {
		p.connect()
	}
	w.settle()
	w.round()
}

func TestCollisionReadErrorLosesTheCGNotTheWrite(t *testing.T) {
	w := synced(t, testOptions())
	cutWith(t, w)
	io := w.write(0, 7*BlockSize, BlockSize)
	w.finish(0, errDevice)
	w.settle()
	if io.Err != nil || w.lost != w.cut {
		t.Fatalf("write: %v; lost %d, cut %d", io.Err, w.lost, w.cut)
	}
}

func TestHoldWaitsForWritesInProgressAndKeepsNewOnesBack(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 0, BlockSize)
	w.settle()
	w.write(0, 0, BlockSize)
	w.hold(50 * time.Millisecond)
	if w.held != 0 {
		t.Fatal("held with a write in progress")
	}
	w.write(1, 0, BlockSize) // its region is not marked yet
	w.write(0, BlockSize, BlockSize)
	if len(w.flight) != 1 {
		t.Fatalf("%d device requests during a hold, want the one from before", len(w.flight))
	}
	w.settle()
	if w.held != w.open || w.hosts != 2 {
		t.Fatalf("held %d, %d requests wait, want 2", w.held, w.hosts)
	}
	w.tick(10 * time.Millisecond)
	if !w.thaw() {
		t.Fatal("not cut")
	}
	w.settle()
	if w.hosts != 0 || !w.allComplete() {
		t.Fatalf("%d requests wait; %+v", w.hosts, w.core.Status())
	}
	if h := w.core.Status().Groups[0].Hold; h.Max != 10*time.Millisecond || h.Holds != 2 {
		t.Fatalf("hold times %+v", h)
	}
	if h := w.core.Status().Groups[0].HoldHistogram; h.Holds() != 2 || h.Quantile(1) != 10240*time.Microsecond {
		t.Fatalf("%d holds in the histogram, the longest up to %v", h.Holds(), h.Quantile(1))
	}
}

func TestHoldTimeoutThawsAndLateThawIsRefused(t *testing.T) {
	w := synced(t, testOptions())
	n := w.open
	w.hold(50 * time.Millisecond)
	w.write(0, 0, BlockSize)
	if d := w.core.Deadline(); d > w.now+50*time.Millisecond {
		t.Fatalf("deadline %v", d)
	}
	w.tick(49 * time.Millisecond)
	w.settle()
	if w.hosts != 1 {
		t.Fatal("the write went on before the timeout")
	}
	w.hold(50 * time.Millisecond) // prolongs it
	w.tick(49 * time.Millisecond)
	w.settle()
	if w.hosts != 1 || w.held != n {
		t.Fatal("a repeated hold did not prolong the first")
	}
	w.tick(time.Millisecond)
	w.settle()
	if w.hosts != 0 {
		t.Fatal("the write waits after the timeout")
	}
	if w.thaw() {
		t.Fatal("a late thaw cut the CG")
	}
	if got := w.core.Status().Groups[0]; got.Open != n || got.Hold.Expired != 1 {
		t.Fatalf("status %+v", got)
	}
	w.round()
}

func TestOpenEndsAHoldWithoutCut(t *testing.T) {
	w := synced(t, testOptions())
	w.hold(time.Hour)
	w.write(0, 0, BlockSize)
	w.openCG(w.open)
	w.settle()
	if w.hosts != 0 {
		t.Fatal("the write still waits")
	}
	if s := w.core.Status().Groups[0]; s.Cut != 0 || s.Held {
		t.Fatalf("status %+v", s)
	}
}

func TestResumeSendsOnlyWhatIsMissing(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[0]
	for range 3 {
		w.write(0, 0, BlockSize)
		for len(w.flight) > 0 || w.intent != nil {
			if w.intent != nil {
				w.finishIntent(nil)
			} else {
				w.finish(0, nil)
			}
		}
		p.send()
	}
	p.receive() // the first of three; its credit gets lost
	sent := p.applied
	p.drop(errDevice)
	if s := w.core.Status().Groups[0].Connections[0]; s.Attached || s.LastError == "" {
		t.Fatalf("status %+v", s)
	}
	p.connect()
	for p.send() {
	}
	if len(p.net) != 2 || p.net[0].seq != sent+1 {
		t.Fatalf("%d frames were sent again, from %d on, want 2 from %d on", len(p.net), p.net[0].seq, sent+1)
	}
	w.settle()
	w.round()
}

func TestNotResumedReadsTheOpenCGAgain(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 3*BlockSize, 2*BlockSize)
	w.settle()
	p := w.peers[0]
	p.drop(nil)
	p.restart()
	p.connect()
	if left := w.core.Status().Groups[0].Connections[0].CatchupBlocks; left != 2 {
		t.Fatalf("%d blocks to catch up, want 2", left)
	}
	if w.lost != 0 {
		t.Fatal("nothing was cut, nothing can be lost")
	}
	w.settle()
	w.round()
}

func TestNotResumedLosesACutCG(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[0]
	w.write(0, 0, BlockSize)
	w.settle()
	w.hold(time.Second)
	w.thaw()
	for p.send() { // the manifest too, but it never arrives
	}
	p.drop(nil)
	p.restart()
	p.connect()
	if w.lost != w.cut {
		t.Fatalf("lost %d, want %d", w.lost, w.cut)
	}
	w.write(0, BlockSize, BlockSize)
	w.settle()
	if p.send() {
		t.Fatal("something is sent although the CG before is lost")
	}
	w.hold(time.Second)
	if e, ok := w.replies[len(w.replies)-1].(*wire.Error); !ok || e.Code != wire.CodeState {
		t.Fatalf("hold after a loss: %v", w.describe())
	}
	w.abandon()
	w.settle()
	w.round()
}

func TestCompleteCGSurvivesASecondarysRestart(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 0, BlockSize)
	w.settle()
	w.hold(time.Second)
	w.thaw()
	w.settle()
	p := w.peers[0]
	p.drop(nil)
	p.restart()
	p.connect()
	if w.lost != 0 {
		t.Fatalf("CG %d is complete there, yet lost", w.lost)
	}
	w.finalize()
	w.round()
}

func TestSecondaryWithoutItsCopyIsCopiedWhole(t *testing.T) {
	w := synced(t, testOptions())
	w.round()
	p := w.peers[0]
	p.drop(nil)
	p.restart()
	p.complete = 0
	clear(p.finalImg[0])
	p.connect()
	if left := w.core.Status().Groups[0].Connections[0].CatchupBlocks; left < testBlocks/2 {
		t.Fatalf("%d blocks to catch up, want all %d but what is being read", left, testBlocks)
	}
	w.settle()
	w.round()
}

func TestEpochsAndRepetitions(t *testing.T) {
	w := synced(t, testOptions())
	w.epoch = 5
	w.manage(&wire.Fence{})
	w.pump()
	w.settle() // the epoch is durable then
	w.epoch = 4
	w.replies = nil
	w.manage(&wire.Hold{Command: wire.Command{CG: w.open}, TimeoutMicros: 1000})
	w.pump()
	if e, ok := w.replies[0].(*wire.Error); !ok || e.Code != wire.CodeStaleEpoch || !strings.Contains(e.Text, "5") {
		t.Fatalf("a stale epoch: %v", w.describe())
	}
	w.epoch = 5
	w.hold(time.Second)
	n := w.open
	w.thaw()
	w.settle()
	w.drained, w.thawed[n], w.replies = 0, false, nil
	w.manage(&wire.Thaw{Command: wire.Command{CG: n}})
	w.pump()
	if !w.thawed[n] || w.drained != n {
		t.Fatalf("a repeated thaw: %v", w.describe())
	}
	w.drained = 0
	w.manage(&wire.Open{Command: wire.Command{CG: n + 1}, Final: n - 1})
	w.pump()
	if w.drained != n {
		t.Fatalf("an open from a manager that came back: %v", w.describe())
	}
	w.manage(&wire.Open{Command: wire.Command{CG: n}, Final: n - 1})
	w.manage(&wire.FinalNote{Command: wire.Command{CG: n + 1}})
	w.replies = nil
	w.pump()
	for _, m := range w.replies {
		if e, ok := m.(*wire.Error); !ok || e.Code != wire.CodeState {
			t.Fatalf("want two refusals: %v", w.describe())
		}
	}
	w.replies = nil
	w.core.Manage(9, &wire.Open{Command: wire.Command{Group: "other", CG: 1}})
	w.pump()
	if e, ok := w.replies[0].(*wire.Error); !ok || e.Code != wire.CodeUnknown || w.acts.Manager[0].Session != 9 {
		t.Fatalf("unknown group: %v", w.describe())
	}
}

func TestOverflowRecordsThenStreamsAgain(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[1] // volume b goes there only
	for b := range uint64(100) {
		w.write(1, b*BlockSize, BlockSize)
		for len(w.flight) > 0 || w.intent != nil {
			if w.intent != nil {
				w.finishIntent(nil)
			} else {
				w.finish(0, nil)
			}
		}
	}
	s := w.core.Status().Groups[0]
	if s.Volumes[1].Copies[0].Mode != ModeRecording || s.Connections[1].QueuedBytes > w.opt.QueueBytes {
		t.Fatalf("status %+v", s)
	}
	if w.hosts != 0 {
		t.Fatal("a full queue kept hosts waiting")
	}
	w.settle()
	if m := w.core.Status().Groups[0].Volumes[1].Copies[0]; m.Mode != ModeStreaming || m.CatchupBlocks != 0 {
		t.Fatalf("after draining: %+v", m)
	}
	w.round()
	_ = p
}

func TestFirstCopyWithHostWritesAndZeros(t *testing.T) {
	w := newWorld(t, testOptions(), testSpec())
	for _, p := range w.peers {
		p.connect()
	}
	w.openCG(1)
	for i := range uint64(200) {
		w.write(int(i%2), (i*37%testBlocks)*BlockSize, BlockSize)
		if len(w.flight) > 3 {
			w.finish(int(i)%len(w.flight), nil)
		}
		if w.intent != nil {
			w.finishIntent(nil)
		}
		p := w.peers[i%2]
		_ = p.send() && p.receive() && p.credit()
	}
	w.settle()
	w.round()
	c := w.core.Status().Groups[0].Connections[1]
	if whole := uint64(2 * testBlocks * BlockSize); c.SentBytes >= whole {
		t.Fatalf("%d bytes sent for %d of volume, two thirds of them zeros", c.SentBytes, whole)
	}
	for _, v := range w.core.Status().Groups[0].Volumes {
		for _, cp := range v.Copies {
			if !cp.FirstCopyDone {
				t.Fatalf("first copy of %s on %s is not done", v.Name, cp.Secondary)
			}
		}
	}
}

func TestGroupWithoutSecondariesDrainsAtOnce(t *testing.T) {
	w := newWorld(t, testOptions(), []GroupSpec{{Name: "g", Volumes: []VolumeSpec{{Name: "a", Size: 1 << 20}}}})
	w.openCG(1)
	w.write(0, 0, BlockSize)
	w.round()
}

func TestBadRequestsAreRefused(t *testing.T) {
	w := synced(t, testOptions())
	size := uint64(testBlocks * BlockSize)
	for _, io := range []*IO{
		{Op: OpWrite, Volume: 2, Len: 1},
		{Op: OpWrite, Volume: 0, Off: size, Len: 1, Payload: allocHeap(4096)},
		{Op: OpWriteZeroes, Volume: 0, Off: ^uint64(0), Len: 2},
		{Op: OpWrite, Volume: 0, Len: 8192, Payload: allocHeap(4096)},
		{Op: opCatchup, Volume: 0, Len: 1},
	} {
		w.submit(io)
		if io.Err == nil {
			t.Errorf("%+v was taken", io)
		}
	}
	for _, spec := range [][]GroupSpec{
		{{Name: ""}},
		{{Name: "g", Volumes: []VolumeSpec{{Name: "a", Size: 5000}}}},
		{{Name: "g", Volumes: []VolumeSpec{{Name: "a", Size: 4096}, {Name: "a", Size: 4096}}}},
		{{Name: "g", Volumes: []VolumeSpec{{Name: "a", Size: 4096, Secondaries: []string{"s", "s"}}}}},
	} {
		if _, err := NewCore(CoreOptions{}, spec, nil); err == nil {
			t.Errorf("%+v was taken", spec)
		}
	}
}

func TestFUAOfZerosFlushes(t *testing.T) {
	w := synced(t, testOptions())
	w.submit(&IO{Op: OpWriteZeroes, FUA: true, Volume: 0, Off: 0, Len: BlockSize})
	if w.intent != nil {
		w.finishIntent(nil)
	}
	w.finish(0, nil)
	if len(w.flight) != 1 || w.flight[0].Op != ring.OpFlush || w.hosts != 1 {
		t.Fatalf("after the zeros: %+v, %d requests wait", w.flight, w.hosts)
	}
	w.settle()
	w.submit(&IO{Op: OpWrite, FUA: true, Volume: 0, Off: 0, Len: BlockSize, Payload: allocHeap(BlockSize)})
	if !w.flight[0].FUA {
		t.Fatal("a write lost its FUA")
	}
}

// TestNextCGCannotStarveTheDrain: what is queued of the open CG must not take the room that the cut one
// needs to be read, for it leaves only when that one has gone.
func TestNextCGCannotStarveTheDrain(t *testing.T) {
	w := synced(t, testOptions())
	for _, p := range w.peers {
		p.drop(nil)
	}
	w.write(1, 0, 100*BlockSize)
	w.settle()
	w.hold(time.Second)
	w.thaw()
	p := w.peers[1]
	p.connect()
	for b := uint64(100); b < testBlocks; b++ {
		w.write(1, b*BlockSize, BlockSize)
		for i := len(w.flight) - 1; i >= 0; i-- {
			if w.flight[i].Op == ring.OpWrite {
				w.finish(i, nil)
			}
		}
		if w.intent != nil {
			w.finishIntent(nil)
		}
	}
	if q := w.core.conns[1].queued; q < w.opt.QueueBytes/2 {
		t.Fatalf("only %d bytes are queued", q)
	}
	w.peers[0].connect()
	w.settle()
	if !w.allComplete() {
		t.Fatalf("CG %d did not complete: %+v", w.cut, w.core.Status())
	}
}

// TestManagerThatBeganAnew: its CG 1 comes after this primary's log knows of a final CG.
func TestManagerThatBeganAnew(t *testing.T) {
	w := synced(t, testOptions())
	w.round()
	w.round()
	w.tick(25 * time.Millisecond) // the log learns of it
	w.settle()
	w.crash(func() int { return 0 }, 0)
	if got := w.core.Status().Groups[0].Final; got != w.final {
		t.Fatalf("the log says final %d, want %d", got, w.final)
	}
	w.final, w.highest = 0, 0
	for _, p := range w.peers {
		p.discard(0)
		p.through = 0
		for _, img := range p.finalImg {
			clear(img)
		}
	}
	w.openCG(1)
	for _, p := range w.peers {
		p.connect()
	}
	w.settle()
	w.round()
	if got := w.core.Status().Groups[0]; got.Final != 1 || !got.Volumes[0].Copies[0].FirstCopyDone {
		t.Fatalf("status %+v", got)
	}
}

func TestTrimLeavesPartsOfBlocksAlone(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 0, 4*BlockSize)
	w.settle()
	want := bytes.Clone(w.images[0])
	clear(want[BlockSize : 3*BlockSize])
	w.zeroes(OpTrim, 0, 512, 3*BlockSize)
	w.settle()
	if !bytes.Equal(want, w.images[0]) {
		t.Fatal("a trim of 512 bytes and three blocks did not make two blocks zero, and no more")
	}
	clear(want[512 : 512+3*BlockSize])
	w.zeroes(OpWriteZeroes, 0, 512, 3*BlockSize)
	w.settle()
	if !bytes.Equal(want, w.images[0]) {
		t.Fatal("a write of zeros missed its range")
	}
	w.round()
}

func TestWindowBoundsWhatIsUnacknowledged(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[1]
	p.drop(nil)
	p.window = 3 * BlockSize
	p.connect()
	w.write(1, 0, BlockSize)
	w.settle()
	for b := range uint64(5) {
		w.write(1, b*BlockSize, BlockSize)
		w.finish(0, nil)
	}
	for p.send() {
	}
	if s := w.core.Status().Groups[0].Connections[1]; s.UnackedBytes != 3*BlockSize {
		t.Fatalf("%d bytes are unacknowledged, the window has %d", s.UnackedBytes, p.window)
	}
	w.settle()
	w.round()
}

func TestCreditForWhatWasNotSentIsRefused(t *testing.T) {
	w := synced(t, testOptions())
	for _, n := range []uint64{w.core.conns[0].seq + 1, w.core.conns[0].acked - 1} {
		if err := w.core.Credit(0, n); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("credit for frame %d of %d: %v", n, w.core.conns[0].seq, err)
		}
	}
	w.peers[0].drop(nil)
	if err := w.core.Credit(0, w.core.conns[0].acked); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("credit without a connection: %v", err)
	}
	if err := w.core.Attached(0, wire.Attached{Resumed: true, Applied: w.core.conns[0].seq + 1, Volumes: w.peers[0].states()}); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("resuming behind the end: %v", err)
	}
}

func TestCutCGOfWhichNothingWasSentIsNotLost(t *testing.T) {
	w := synced(t, testOptions())
	cutWith(t, w)
	for _, p := range w.peers {
		p.restart()
		p.connect()
	}
	if w.lost != 0 {
		t.Fatalf("CG %d is lost although nothing of it was sent", w.lost)
	}
	w.settle()
	if !w.allComplete() {
		t.Fatalf("%+v", w.core.Status())
	}
	w.finalize()
	w.round()
}
