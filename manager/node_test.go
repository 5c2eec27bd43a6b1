package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farside-storage/farside/wire"
)

func TestReq14_NodeFormsGroupsOverLoopback(t *testing.T) {
	s := newSite(t, 2, 2)
	dir := t.TempDir()
	audit, err := OpenAuditLog(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(s.listen(), openLog(t, filepath.Join(dir, "log")), audit)
	o.Listen = "127.0.0.1:0"
	n, stop := start(t, o)
	s.awaitFinal(5)
	st := askStatus(t, n.Addr().String())
	if len(st.Groups) != 1 || st.Groups[0].CGsFormed < 4 || st.Groups[0].CGsFailed != 0 || st.Groups[0].RecoveryPoint == nil || len(st.Audit) == 0 {
		t.Fatalf("%+v", st)
	}
	stop()
	if st.Node != "m1" || st.Role != "manager" {
		t.Fatalf("status of %s %q", st.Role, st.Node)
	}
	audit.Close()
}

// askStatus asks as a tool does.
func askStatus(t *testing.T, addr string) (st struct {
	Node, Role string
	Groups     []struct {
		CGsFormed     uint64  `json:"cgs_formed"`
		CGsFailed     uint64  `json:"cgs_failed"`
		RecoveryPoint *uint64 `json:"recovery_point"`
	}
	Audit []Entry
}) {
	t.Helper()
	conn := dialTool(t, addr)
	if err := conn.WriteMessage(&wire.Status{}); err != nil {
		t.Fatal(err)
	}
	h, body, err := conn.Next()
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.(*wire.StatusReply).JSON, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func dialTool(t *testing.T, addr string) *wire.Conn {
	t.Helper()
	conn, err := wire.Dial(t.Context(), addr, patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "cli"}); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestToolsMayOnlyAsk(t *testing.T) {
	s := newSite(t, 1, 1)
	o := s.options(s.listen(), &memoryLog{}, memoryAudit(t))
	o.Listen = "127.0.0.1:0"
	n, _ := start(t, o)
	conn := dialTool(t, n.Addr().String())
	if err := conn.WriteMessage(&wire.Link{Command: wire.Command{Group: "g", Epoch: 1 << 60, CG: 1}}); err != nil {
		t.Fatal(err)
	}
	var refused *wire.RemoteError
	if _, _, err := conn.Next(); !errors.As(err, &refused) {
		t.Fatalf("%v", err)
	}
	o.Listen = "192.0.2.1:7"
	if _, err := NewNode(t.Context(), o); !errors.Is(err, wire.ErrPlain) {
		t.Fatalf("listens beyond loopback: %v", err)
	}
}

// TestReq20_KillAtEachStep ends the node when a control takes a certain message, before it acts and after, with the log present and lost. The
// next node brings every secondary to the same CG and goes on; nothing decided goes back.
func TestReq20_KillAtEachStep(t *testing.T) {
	for _, at := range []struct {
		control string
		typ     wire.Type
	}{
		{"p1", wire.TypeHold}, {"p2", wire.TypeThaw}, {"s1", wire.TypeLink}, {"s2", wire.TypeLink},
		{"s1", wire.TypeRelease}, {"s2", wire.TypeRelease}, {"p1", wire.TypeFinalNote}, {"s1", wire.TypeFence},
		{"s2", wire.TypeRevert}, {"p1", wire.TypeOpen},
	} {
		for _, lost := range []bool{false, true} {
			for _, acts := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v to %s/lost=%v/acts=%v", at.typ, at.control, lost, acts), func(t *testing.T) {
					killAt(t, at.control, at.typ, lost, acts)
				})
			}
		}
	}
}

func killAt(t *testing.T, control string, typ wire.Type, lost, acts bool) {
	s := newSite(t, 2, 2)
	addrs := s.listen()
	dir := t.TempDir()
	log := openLog(t, filepath.Join(dir, "log"))
	first := typ == wire.TypeFence || typ == wire.TypeRevert || typ == wire.TypeOpen // these come at the start only
	hit, seen := false, 0
	var atKill []uint64
	s.see = func(c string, m wire.Message) bool {
		if c == control && m.Type() == typ {
			seen++
			if first || seen == 3 {
				hit = true
				for _, x := range s.sec {
					atKill = append(atKill, x.final)
				}
				return acts
			}
		}
		return !hit || acts // the dead node gets no answers any more
	}
	_, stop := start(t, s.options(addrs, log, memoryAudit(t)))
	s.await("the step", func() bool { return hit })
	stop()
	if lost {
		log = openLog(t, filepath.Join(dir, "another"))
	}
	s.mu.Lock()
	s.see = nil
	s.mu.Unlock()
	n, _ := start(t, s.options(addrs, log, memoryAudit(t)))
	s.awaitFinal(2)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.sec {
		if x.final < atKill[i] {
			t.Fatalf("%s had CG %d final, now %d", x.name, atKill[i], x.final)
		}
	}
	_ = n
}

// TestReq16_NodeRevertsEveryControl: over real connections one secondary refuses to link, all are visited, the next CG is final everywhere.
func TestReq16_NodeRevertsEveryControl(t *testing.T) {
	s := newSite(t, 2, 3)
	refusals := 0
	s.see = func(c string, m wire.Message) bool {
		if c != "s3" || m.Type() != wire.TypeLink || refusals > 0 || s.sec[0].linked != m.(*wire.Link).CG {
			return true
		}
		refusals++
		h := m.(*wire.Link).Command
		s.sec[2].conn.WriteMessage(&wire.Error{Code: wire.CodeIO, Group: h.Group, CG: h.CG, Text: "journal: EIO"})
		return false
	}
	audit := memoryAudit(t)
	n, _ := start(t, s.options(s.listen(), openLog(t, filepath.Join(t.TempDir(), "log")), audit))
	s.await("a refusal", func() bool { return refusals == 1 })
	s.awaitFinal(2)
	st, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g := st.Groups[0]; g.Reverts != 1 || g.LastFailure == nil || g.LastFailure.Cause != CauseIO {
		t.Fatalf("reverts %d, last failure %+v", g.Reverts, g.LastFailure)
	}
	for _, x := range []string{"s1", "s2", "s3"} {
		visited := func(e Entry) bool {
			return e.Kind == EntryReverted && e.Control == x && e.CG == st.Groups[0].LastFailure.CG
		}
		if !slices.ContainsFunc(audit.Tail(auditTail), visited) {
			t.Errorf("%s was not visited", x)
		}
	}
}

func TestNodeChangesAreDurable(t *testing.T) {
	s := newSite(t, 1, 1)
	addrs := s.listen()
	log := openLog(t, filepath.Join(t.TempDir(), "log"))
	n, stop := start(t, s.options(addrs, log, memoryAudit(t)))
	s.awaitFinal(1)
	if err := n.Tune(t.Context(), "g", []byte(`{"interval": "123ms"}`)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // pausing twice is no error
		if err := n.Pause(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Pause(t.Context(), "h"); !errors.Is(err, ErrUnknownGroup) {
		t.Fatalf("unknown group: %v", err)
	}
	if err := n.Tune(t.Context(), "g", []byte(`{"interval": "-1ns"}`)); err == nil {
		t.Fatal("a negative interval was taken")
	}
	stop()
	if err := n.Resume(t.Context(), "g"); err == nil {
		t.Fatal("a stopped node changed something")
	}
	n, _ = start(t, s.options(addrs, log, memoryAudit(t)))
	st, err := n.Status(t.Context())
	if err != nil || !st.Groups[0].Paused || st.Groups[0].Settings.Interval != 123*time.Millisecond {
		t.Fatalf("%v %+v", err, st.Groups)
	}
	if err := n.Resume(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	s.awaitFinal(2)
}

func TestNodeOptionsAreChecked(t *testing.T) {
	s := newSite(t, 1, 1)
	good := s.options(map[string]string{"p1": "127.0.0.1:1", "s1": "127.0.0.1:1"}, &memoryLog{}, memoryAudit(t))
	for name, spoil := range map[string]func(o *Options){
		"no name":      func(o *Options) { o.Name = "" },
		"no log":       func(o *Options) { o.Log = nil },
		"no group":     func(o *Options) { o.Groups = nil },
		"group twice":  func(o *Options) { o.Groups = append(o.Groups, o.Groups[0]) },
		"no address":   func(o *Options) { o.Controls = []Control{{"p1", wire.RolePrimary, "", "p1"}, o.Controls[1]} },
		"wrong role":   func(o *Options) { o.Controls = []Control{{"p1", wire.RoleSecondary, "x", "p1"}, o.Controls[1]} },
		"not there":    func(o *Options) { o.Controls = o.Controls[:1] },
		"bad settings": func(o *Options) { o.Groups = []GroupOptions{{o.Groups[0].Group, Settings{}}} },
	} {
		o := good
		spoil(&o)
		if _, err := NewNode(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// pipeDial connects to the site in memory, so that time can be synctest's.
func (s *site) pipeDial(silent func(name string) bool) func(context.Context, string) (*wire.Conn, error) {
	return func(_ context.Context, addr string) (*wire.Conn, error) {
		near, far := net.Pipe()
		go func() {
			conn := wire.NewConn(far, wire.Options{})
			if silent(addr) {
				s.greetOnly(far, addr)
				return
			}
			s.session(conn, addr)
		}()
		return wire.NewConn(near, wire.Options{}), nil
	}
}

// greetOnly says Hello and then takes everything and says nothing.
func (s *site) greetOnly(nc net.Conn, name string) {
	defer nc.Close()
	r, w := wire.NewReader(nc), wire.NewWriter(nc)
	if _, _, err := r.Next(); err != nil {
		return
	}
	s.mu.Lock()
	hello, _ := s.hello(name)
	s.mu.Unlock()
	hello.Version = wire.Version
	if w.WriteMessage(&hello) != nil {
		return
	}
	for {
		if _, _, err := r.Next(); err != nil {
			return
		}
	}
}

func (s *site) pipeOptions(silent func(string) bool) Options {
	prim, sec := s.names()
	addrs := map[string]string{}
	for _, n := range slices.Concat(prim, sec) {
		addrs[n] = n
	}
	o := s.options(addrs, &memoryLog{}, memoryAudit(s.t))
	o.Groups[0].Settings.Interval = time.Second
	o.dial = s.pipeDial(silent)
	return o
}

// TestReq15_SilentPeerIsNoticedWithin3s: a peer that keeps its connection but says nothing any more. It also shows that Run leaves no goroutine behind.
func TestReq15_SilentPeerIsNoticedWithin3s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1, 2)
		var silent atomic.Bool
		silent.Store(true)
		o := s.pipeOptions(func(name string) bool { return name == "s2" && silent.Load() })
		o.Groups[0].Settings.CommandTimeout = time.Minute // that would notice it too
		n, stop := start(t, o)
		control := func() ControlStatus {
			st, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return st.Groups[0].Controls[2]
		}
		synctest.Wait()
		if c := control(); c.Name != "s2" || !c.Connected {
			t.Fatalf("%+v", c)
		}
		time.Sleep(3*time.Second + time.Millisecond) // synctest's time
		synctest.Wait()
		if c := control(); c.Connected || !strings.Contains(c.Error, "silent") {
			t.Fatalf("%+v", c)
		}
		silent.Store(false)
		time.Sleep(redialMost)
		synctest.Wait()
		if c := control(); !c.Connected || c.Error != "" {
			t.Fatalf("%+v", c)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		st, _ := n.Status(t.Context())
		if g := st.Groups[0]; g.CGsFormed < 3 || g.CGsFailed != 0 {
			t.Fatalf("formed %d, failed %d", g.CGsFormed, g.CGsFailed)
		}
		stop()
	})
}

// TestNodeRefusesTheWrongPeer: the address leads to another node.
func TestNodeRefusesTheWrongPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1, 3)
		o := s.pipeOptions(func(string) bool { return false })
		o.Groups[0].Secondaries = o.Groups[0].Secondaries[:2]
		o.Controls = o.Controls[:3]
		o.Controls[2].Addr = "s3"
		n, stop := start(t, o)
		time.Sleep(time.Second)
		synctest.Wait()
		st, _ := n.Status(t.Context())
		g := st.Groups[0]
		if c := g.Controls[2]; c.Connected || !strings.Contains(c.Error, `expected secondary "s2"`) {
			t.Fatalf("%+v", c)
		}
		if g.State != StateStarting {
			t.Fatalf("state %v with a control missing", g.State)
		}
		stop()
	})
}

// TestIdleNodeIsQuiet: a paused node asks for states once a second, and does nothing else.
func TestIdleNodeIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1, 1)
		o := s.pipeOptions(func(string) bool { return false })
		n, stop := start(t, o)
		if err := n.Pause(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		count := 0
		s.mu.Lock()
		s.see = func(string, wire.Message) bool { count++; return true }
		s.mu.Unlock()
		time.Sleep(100 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		got := count
		s.mu.Unlock()
		if got < 99 || got > 101 {
			t.Fatalf("%d messages in 100 idle seconds", got)
		}
		stop()
	})
}
