package primary

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

const nodeSize = 2 << 20

// testNode is a node over files, with fake secondaries.
type testNode struct {
	*Node
	t           *testing.T
	dir         string
	addr        string
	secondaries []*fakeSecondary
	opt         Options
	openDevices func() (ring.Devices, error)
}

// startNode starts a primary with volumes a and b, each copied to every secondary.
func startNode(t *testing.T, secondaries int, edit func(*Options)) *testNode {
	t.Helper()
	n := &testNode{t: t, dir: t.TempDir()}
	vols := []VolumeSpec{{Name: "a", Size: nodeSize}, {Name: "b", Size: nodeSize}}
	addresses := map[string]string{}
	for i := range secondaries {
		s := newFakeSecondary(t, map[string]uint64{"a": nodeSize, "b": nodeSize})
		n.secondaries = append(n.secondaries, s)
		name := string(rune('p' + i))
		addresses[name] = s.ln.Addr().String()
		for v := range vols {
			vols[v].Secondaries = append(vols[v].Secondaries, name)
		}
	}
	n.opt = Options{Name: "p1", Groups: []GroupSpec{{Name: "g", Volumes: vols}}, Secondaries: addresses, StateDir: n.dir, MaxBackoff: 50 * time.Millisecond, Wire: patient}
	if edit != nil {
		edit(&n.opt)
	}
	for _, name := range []string{"a", "b"} {
		f := bytes.Repeat([]byte(name), nodeSize/2) // the second half is zeros
		if err := os.WriteFile(filepath.Join(n.dir, name), append(f, make([]byte, nodeSize/2)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *testNode) start() {
	n.t.Helper()
	if n.openDevices == nil {
		n.openDevices = func() (ring.Devices, error) {
			return ring.OpenPlain([]string{filepath.Join(n.dir, "a"), filepath.Join(n.dir, "b")}, ring.OpenOptions{AllowBuffered: true})
		}
	}
	devs, err := n.openDevices()
	if err != nil {
		n.t.Fatal(err)
	}
	n.opt.Devices = devs
	if n.opt.Listener, err = wire.Listen(n.t.Context(), "127.0.0.1:0"); err != nil {
		n.t.Fatal(err)
	}
	n.addr = n.opt.Listener.Addr().String()
	if n.Node, err = Open(n.opt); err != nil {
		n.t.Fatal(err)
	}
}

func (n *testNode) stop() {
	if n.Node == nil {
		return
	}
	if err := n.Close(); err != nil {
		n.t.Errorf("Close: %v", err)
	}
	if err := n.opt.Devices.Close(); err != nil {
		n.t.Errorf("close devices: %v", err)
	}
	n.Node = nil
}

func (n *testNode) snapshot() map[string][]byte {
	m := map[string][]byte{}
	for _, v := range n.Volumes() {
		b := make([]byte, v.Size())
		if _, err := v.ReadAt(b, 0); err != nil {
			n.t.Errorf("ReadAt: %v", err)
		}
		m[v.Name()] = b
	}
	return m
}

func (n *testNode) volume(name string) *Volume {
	v, err := n.Volume("g", name)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// TestReq02_AcknowledgedBeforeTheSecondaryHasIt: a write ends although no frame can arrive.
func TestReq02_AcknowledgedBeforeTheSecondaryHasIt(t *testing.T) {
	n := startNode(t, 1, func(o *Options) { o.Secondaries["p"] = "127.0.0.1:1" })
	if _, err := n.volume("a").WriteAt([]byte("hello"), 12345); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := n.volume("a").ReadAt(got, 12345); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestNodeReplicatesUnderLoad(t *testing.T) {
	n := startNode(t, 2, func(o *Options) { o.Core.QueueBytes = 4 << 20 })
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for w := range uint64(3) {
		load.Go(func() { writeRandomly(t, n, rand.New(rand.NewPCG(w, 1)), stop) })
	}
	for cg := uint64(1); cg <= 8; cg++ {
		m.round(n, cg)
		if cg == 4 {
			n.secondaries[0].cutAll() // resumes
		}
	}
	close(stop)
	load.Wait()
	m.round(n, 9)
	s := n.Status()
	for _, v := range s.Groups[0].Volumes {
		for _, c := range v.Copies {
			if !c.FirstCopyDone {
				t.Errorf("first copy of %s on %s is not done", v.Name, c.Secondary)
			}
		}
	}
	if h := s.Groups[0].Hold; h.Holds != 9 || h.Max == 0 || h.P99 > h.Max {
		t.Errorf("hold times %+v", h)
	}
	if h := s.Groups[0].HoldHistogram; h.Holds() != 9 || h.Quantile(1) < s.Groups[0].Hold.Max {
		t.Errorf("histogram %+v", h.Buckets())
	}
}

func writeRandomly(t *testing.T, n *testNode, r *rand.Rand, stop chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-stop:
			return
		default:
		}
		v := n.Volumes()[r.IntN(2)]
		size := r.IntN(len(buf)-1) + 1
		if r.IntN(2) == 0 {
			size = (size + BlockSize - 1) / BlockSize * BlockSize
		}
		off := r.IntN(nodeSize - size)
		if r.IntN(2) == 0 {
			off = off / BlockSize * BlockSize
		}
		var err error
		switch r.IntN(10) {
		case 0:
			err = v.Discard(uint64(off), uint64(size))
		case 1:
			err = v.WriteZeroes(uint64(off), uint64(size))
		case 2:
			err = v.Flush()
		default:
			for i := 0; i < size; i += 8 {
				buf[i] = byte(r.Uint32())
			}
			_, err = v.WriteAt(buf[:size], int64(off))
		}
		if err != nil {
			t.Errorf("host request: %v", err)
			return
		}
	}
}

func TestNodeResumesInTheMiddleOfACG(t *testing.T) {
	n := startNode(t, 1, nil)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.round(n, 1)
	s := n.secondaries[0]
	s.mu.Lock()
	s.cutNext = true
	s.mu.Unlock()
	for i := range 20 {
		if _, err := n.volume("a").WriteAt(bytes.Repeat([]byte{byte(i + 1)}, BlockSize), int64(i)*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	m.round(n, 2)
	if s.resumes == 0 {
		t.Error("the stream was never resumed")
	}
}

func TestNodeLosesACGWhenTheSecondaryForgets(t *testing.T) {
	n := startNode(t, 1, nil)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.round(n, 1)
	s := n.secondaries[0]
	n.volume("a").WriteAt([]byte("x"), 0)
	m.cut(2, nil)
	expect[*wire.Drained](m, 2)
	s.await(2, n.snapshot()) // complete there
	s.mu.Lock()
	s.complete = 1 // but now it never was
	s.mu.Unlock()
	s.forget()
	expect[*wire.Lost](m, 2)
	s.discard(1)
	m.open(4, 1)
	m.round(n, 4)
}

func TestNodeSurvivesARestart(t *testing.T) {
	n := startNode(t, 1, nil)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.round(n, 1)
	m.sync()
	n.volume("b").WriteAt([]byte("changed and not final"), 100)
	n.stop()
	n.start()
	s := n.Status()
	if v := s.Groups[0].Volumes[1]; v.ChangedBlocks == 0 || v.ChangedBlocks > 2*256 {
		t.Errorf("%d blocks are to be sent again, want those of the regions that were written", v.ChangedBlocks)
	}
	if !s.Groups[0].Volumes[0].Copies[0].FirstCopyDone {
		t.Error("the restart forgot the first copy")
	}
	m = dialManager(t, n.addr, 2)
	n.secondaries[0].discard(1)
	m.open(3, 1)
	m.round(n, 3)
}

func TestTwoNodesCannotShareAStateDirectory(t *testing.T) {
	n := startNode(t, 0, nil)
	opt := n.opt
	opt.Listener = nil
	if second, err := Open(opt); err == nil {
		second.Close()
		t.Fatal("opened twice")
	} else if !strings.Contains(err.Error(), "in use") {
		t.Fatal(err)
	}
}

func TestStaleManagerAndStatusOverTheWire(t *testing.T) {
	n := startNode(t, 1, nil)
	old, fresh := dialManager(t, n.addr, 1), dialManager(t, n.addr, 2)
	fresh.open(1, 0)
	old.send(&wire.Hold{TimeoutMicros: 1000}, 1)
	if e, ok := (<-old.in).(*wire.Error); !ok || e.Code != wire.CodeStaleEpoch || !strings.Contains(e.Text, `the current one is 2: manager "m" has taken over`) {
		t.Fatalf("got %+v, want a stale epoch, and who has the group", e)
	}
	conn, err := wire.Dial(t.Context(), n.addr, patient)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "cli"}); err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteMessage(&wire.Status{}); err != nil {
		t.Fatal(err)
	}
	_, body, err := conn.Next()
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.StatusReply
	var s Status
	if err := errors.Join(wire.DecodeInto(&reply, body), json.Unmarshal(reply.JSON, &s)); err != nil {
		t.Fatal(err)
	}
	if s.Node != "p1" || s.Groups[0].Open != 1 || s.Groups[0].Epoch != 2 {
		t.Fatalf("status %+v", s)
	}
}

func TestRefusedAttachShowsInTheStatus(t *testing.T) {
	n := startNode(t, 1, nil)
	n.stop()
	n.secondaries[0].refuse = &wire.Error{Code: wire.CodeSize, Group: "g", Text: "volume a has another size here"}
	lines := make(logLines, 16)
	n.opt.Log = slog.New(slog.NewTextHandler(lines, nil))
	n.start()
	for line := range lines {
		if strings.Contains(line, "no connection to the secondary") {
			break
		}
	}
	if s := n.Status().Groups[0].Connections[0]; !strings.Contains(s.LastError, "another size here") || s.Attached {
		t.Fatalf("%+v", s)
	}
}

// logLines is a log whose lines a test can wait for.
type logLines chan string

func (l logLines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func TestHoldExpiresByTheClock(t *testing.T) {
	n := startNode(t, 0, nil)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.send(&wire.Hold{TimeoutMicros: 20000}, 1)
	expect[*wire.Held](m, 1)
	if _, err := n.volume("a").WriteAt([]byte("x"), 0); err != nil { // ends when the hold does
		t.Fatal(err)
	}
	m.send(&wire.Thaw{}, 1)
	if expect[*wire.Thawed](m, 1).OK {
		t.Fatal("cut after the hold had expired")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		n := startNode(t, 2, nil)
		m := dialManager(t, n.addr, 1)
		m.open(1, 0)
		v := n.volume("a")
		n.stop()
		if _, err := v.WriteAt([]byte("x"), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
		if _, err := v.ReadAt(make([]byte, 1), 0); !errors.Is(err, ring.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	})
	for runtime.NumGoroutine() > before { // the runtime ends them a little later
		runtime.Gosched()
		if t.Context().Err() != nil {
			t.Fatal("goroutines are left")
		}
	}
}

// TestSteadyWriteAllocatesNothing: not in the core, not in the shell around it.
func TestSteadyWriteAllocatesNothing(t *testing.T) {
	n := startNode(t, 0, nil)
	v := n.volume("a")
	data := n.memory.get(BlockSize)
	ended := make(chan struct{}, 1)
	r := &Request{Kind: Write, Len: BlockSize, Data: data, Done: func(*Request, error) { ended <- struct{}{} }}
	batch := []*Request{r}
	allocs := testing.AllocsPerRun(200, func() {
		v.Start(batch)
		<-ended
	})
	if allocs >= 1 && !raceEnabled {
		t.Errorf("%v allocations per write", allocs)
	}
}

// TestNodeOverUring moves everything through the queue that production uses.
func TestNodeOverUring(t *testing.T) {
	n := startNode(t, 1, nil)
	n.stop()
	paths := []string{filepath.Join(n.dir, "a"), filepath.Join(n.dir, "b")}
	n.openDevices = func() (ring.Devices, error) { return ring.OpenUring(paths, ring.OpenOptions{AllowBuffered: true}) }
	if devs, err := n.openDevices(); err != nil {
		t.Skipf("io_uring: %v", err)
	} else if err := devs.Close(); err != nil {
		t.Fatal(err)
	}
	n.start()
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() { writeRandomly(t, n, rand.New(rand.NewPCG(7, 7)), stop) })
	for cg := uint64(1); cg <= 3; cg++ {
		m.round(n, cg)
	}
	close(stop)
	load.Wait()
	m.round(n, 4)
}

// TestCloseWaitsForHostRequests: one that a hold keeps back is answered, not dropped.
func TestCloseWaitsForHostRequests(t *testing.T) {
	n := startNode(t, 0, nil)
	m := dialManager(t, n.addr, 1)
	m.open(1, 0)
	m.send(&wire.Hold{TimeoutMicros: 30000}, 1)
	expect[*wire.Held](m, 1)
	data := n.memory.get(BlockSize)
	var got error = errors.New("not answered")
	n.volume("a").Start([]*Request{{Kind: Write, Len: BlockSize, Data: data, Done: func(_ *Request, err error) { got = err }}})
	n.stop()
	if got != nil {
		t.Fatal(got)
	}
}

func TestOneIntentFileIsInUse(t *testing.T) {
	n := startNode(t, 0, nil)
	for range 2 {
		if _, err := n.volume("a").WriteAt([]byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		n.stop()
		var sizes [2]int
		for i := range sizes {
			b, err := os.ReadFile(filepath.Join(n.dir, "intent."+string(rune('0'+i))))
			if err != nil {
				t.Fatal(err)
			}
			sizes[i] = len(b)
		}
		if (sizes[0] == 0) == (sizes[1] == 0) {
			t.Fatalf("files of %d and %d bytes, want one of them empty", sizes[0], sizes[1])
		}
		n.start()
	}
}
