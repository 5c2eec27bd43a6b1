package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// patient keeps the ends of connections from giving each other up while a busy machine does not let one of them run. Tests in which time
// is synctest's take what is the default.
var patient = wire.Options{IdleTimeout: 5 * time.Minute, WriteTimeout: 5 * time.Minute}

// site is a set of fake controls that speak wire. A CG is complete on every secondary once every primary cut it.
type site struct {
	t    *testing.T
	mu   sync.Mutex
	cond *sync.Cond
	late bool // the test took too long

	prim []*fakePrimary
	sec  []*fakeSecondary
	// conns are all connections that managers ever made.
	conns []*wire.Conn
	// see is called with mu held for every message a control takes, before it acts; false: the control does not act.
	see func(control string, m wire.Message) bool
}

type fakePrimary struct {
	name   string
	inst   byte
	open   uint64
	epoch  uint64
	cutCGs map[uint64]bool
	conn   *wire.Conn
}

type fakeSecondary struct {
	name                            string
	inst                            byte
	epoch                           uint64
	final, linked, complete, number uint64
	reverted                        int
	conn                            *wire.Conn
}

func newSite(t *testing.T, nP, nS int) *site {
	s := &site{t: t}
	s.cond = sync.NewCond(&s.mu)
	for i := range nP {
		s.prim = append(s.prim, &fakePrimary{name: fmt.Sprintf("p%d", i+1), cutCGs: map[uint64]bool{}})
	}
	for i := range nS {
		s.sec = append(s.sec, &fakeSecondary{name: fmt.Sprintf("s%d", i+1)})
	}
	return s
}

func (s *site) names() (prim, sec []string) {
	for _, p := range s.prim {
		prim = append(prim, p.name)
	}
	for _, x := range s.sec {
		sec = append(sec, x.name)
	}
	return prim, sec
}

// await waits until pred, which is called with mu held after every message that a control took.
func (s *site) await(what string, pred func() bool) {
	s.t.Helper()
	guard := time.AfterFunc(3*time.Minute, func() {
		s.mu.Lock()
		s.late = true
		s.cond.Broadcast()
		s.mu.Unlock()
	})
	defer guard.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !pred() {
		if s.late {
			s.t.Fatalf("never: %s", what)
		}
		s.cond.Wait()
	}
}

// awaitFinal waits for n more CGs that are final on every secondary.
func (s *site) awaitFinal(n int) {
	s.t.Helper()
	seen, last := 0, uint64(0)
	s.await(fmt.Sprintf("%d more CGs final everywhere", n), func() bool {
		f := s.sec[0].final
		if slices.ContainsFunc(s.sec, func(x *fakeSecondary) bool { return x.final != f }) {
			return false
		}
		if last != f {
			seen, last = seen+1, f
		}
		return seen > n
	})
}

// serve answers managers on l until the test ends.
func (s *site) serve(l net.Listener, name string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.session(wire.NewConn(nc, patient), name) })
		}
	})
	s.t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
}

func (s *site) hello(name string) (wire.Hello, func(*wire.Conn)) {
	for _, p := range s.prim {
		if p.name == name {
			return wire.Hello{Role: wire.RolePrimary, Node: name, Instance: wire.UUID{p.inst}}, func(c *wire.Conn) { p.conn = c }
		}
	}
	for _, x := range s.sec {
		if x.name == name {
			return wire.Hello{Role: wire.RoleSecondary, Node: name, Instance: wire.UUID{x.inst}}, func(c *wire.Conn) { x.conn = c }
		}
	}
	panic(name)
}

func (s *site) session(conn *wire.Conn, name string) {
	defer conn.Close()
	s.mu.Lock()
	hello, own := s.hello(name)
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	if _, err := conn.Answer(hello, nil); err != nil {
		return
	}
	for {
		h, body, err := conn.Next()
		if err != nil {
			return
		}
		m, err := wire.Decode(h.Type, body)
		if err != nil {
			return
		}
		s.mu.Lock()
		acts := s.see == nil || s.see(name, m)
		switch h := m.(wire.Commanded).Head(); {
		case acts && h.Epoch < s.epoch(name):
			conn.WriteMessage(&wire.Error{Code: wire.CodeStaleEpoch, Group: h.Group, Text: "a higher epoch leads"})
		case acts:
			own(conn) // what it reports goes to the manager that leads
			for _, x := range s.take(name, m) {
				x.to.WriteMessage(x.m) // a failure shows as a disconnect
			}
		}
		s.cond.Broadcast()
		s.mu.Unlock()
	}
}

type answer struct {
	to *wire.Conn
	m  wire.Message
}

func (s *site) take(name string, m wire.Message) []answer {
	h := *m.(wire.Commanded).Head()
	for _, p := range s.prim {
		if p.name == name {
			return s.primary(p, h, m)
		}
	}
	for _, x := range s.sec {
		if x.name == name {
			return x.take(h, m)
		}
	}
	return nil
}

// epoch is the highest that a control has seen.
func (s *site) epoch(name string) (epoch uint64) {
	for _, p := range s.prim {
		if p.name == name {
			epoch = p.epoch
		}
	}
	for _, x := range s.sec {
		if x.name == name {
			epoch = x.epoch
		}
	}
	return epoch
}

func (s *site) primary(p *fakePrimary, h wire.Command, m wire.Message) []answer {
	p.epoch = h.Epoch
	switch m := m.(type) {
	case *wire.Open:
		p.open = h.CG
		return []answer{{p.conn, &wire.Opened{Command: h}}}
	case *wire.Hold:
		return []answer{{p.conn, &wire.Held{Command: h}}}
	case *wire.Thaw:
		p.open = h.CG + 1
		p.cutCGs[h.CG] = true
		out := []answer{{p.conn, &wire.Thawed{Command: m.Command, OK: true}}, {p.conn, &wire.Drained{Command: h}}}
		for _, x := range s.sec {
			if s.cutEverywhere(h.CG) && x.conn != nil {
				x.complete = h.CG
				out = append(out, answer{x.conn, &wire.Complete{Command: h}})
			}
		}
		return out
	}
	return nil
}

func (s *site) cutEverywhere(cg uint64) bool {
	return !slices.ContainsFunc(s.prim, func(p *fakePrimary) bool { return !p.cutCGs[cg] })
}

func (x *fakeSecondary) take(h wire.Command, m wire.Message) []answer {
	x.epoch = h.Epoch
	switch m := m.(type) {
	case *wire.Fence, *wire.Query:
		h.CG = x.linked
		return []answer{{x.conn, &wire.State{Command: h, Final: x.final, Linked: x.linked, Complete: x.complete, Receiving: max(x.number, x.complete), Awaited: 1}}}
	case *wire.Link:
		x.linked = h.CG
		return []answer{{x.conn, &wire.Linked{Command: h}}}
	case *wire.Release:
		x.final, x.linked = h.CG, h.CG
		return []answer{{x.conn, &wire.Final{Command: h}}}
	case *wire.Revert:
		if x.linked == h.CG && x.linked > x.final {
			x.linked = x.final
			x.reverted++
		}
		x.complete, x.number = x.final, max(x.number, m.Through)
		return []answer{{x.conn, &wire.Reverted{Command: h}}}
	}
	return nil
}

// options for a node that manages the site as group g, with logs in dir.
func (s *site) options(addrs map[string]string, l Log, a *AuditLog) Options {
	prim, sec := s.names()
	set := DefaultSettings()
	set.Interval, set.CommandTimeout, set.CoordinationTimeout = time.Millisecond, time.Minute, 10*time.Second // no test is about a control that is slow
	o := Options{Name: "m1", Log: l, Audit: a, Logger: slog.New(slog.DiscardHandler), Wire: patient, Groups: []GroupOptions{{Group{"g", prim, sec}, set}}}
	for _, n := range prim {
		o.Controls = append(o.Controls, Control{n, wire.RolePrimary, addrs[n], n})
	}
	for _, n := range sec {
		o.Controls = append(o.Controls, Control{n, wire.RoleSecondary, addrs[n], n})
	}
	return o
}

// listen serves every control on loopback and returns their addresses.
func (s *site) listen() map[string]string {
	addrs := map[string]string{}
	prim, sec := s.names()
	for _, n := range slices.Concat(prim, sec) {
		l, err := wire.Listen(s.t.Context(), "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		addrs[n] = l.Addr().String()
		s.serve(l, n)
	}
	return addrs
}

// start runs a node; stop ends it and waits for that.
func start(t *testing.T, o Options) (n *Node, stop func()) {
	t.Helper()
	n, err := NewNode(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return n, stop
}

func memoryAudit(t *testing.T) *AuditLog {
	a, err := OpenAuditLog("")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// memoryLog is a Log that keeps what it is told as long as the test lives.
type memoryLog struct {
	mu  sync.Mutex
	rec map[string]Recovered
}

func (l *memoryLog) Begin(group string, floor uint64) (Recovered, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rec == nil {
		l.rec = map[string]Recovered{}
	}
	r := l.rec[group]
	r.Epoch = max(r.Epoch+1, floor)
	l.rec[group] = r
	return r, nil
}

func (l *memoryLog) Append(group string, x Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.rec[group]
	if !ok {
		return errors.New("never begun")
	}
	if x.Decided != nil {
		r.Decided, r.Known = *x.Decided, true
	}
	if x.Reserve > 0 {
		r.Reserved, r.Known = x.Reserve, true
	}
	if x.Settings != nil {
		r.Settings = x.Settings
	}
	if x.Paused != nil {
		r.Paused = *x.Paused
	}
	l.rec[group] = r
	return nil
}

func (l *memoryLog) History(string, int) ([]Decision, error) { return nil, nil }
func (l *memoryLog) Close() error                            { return nil }
