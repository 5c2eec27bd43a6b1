package etcdtest

import (
	"net"
	"sync"
	"testing"
)

// Gate forwards connections to a server. A direction that is shut keeps its connections and lets nothing through, as
// a cable that was pulled does; what came meanwhile passes once it is opened.
type Gate struct {
	// Addr is where clients dial.
	Addr string

	to    string
	mu    sync.Mutex
	moved *sync.Cond
	shut  [2]bool // questions, answers
	ended bool
	conns []net.Conn
	wg    sync.WaitGroup
}

// NewGate opens a gate to a server at an address, until the test ends.
func NewGate(t testing.TB, to string) *Gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{Addr: l.Addr().String(), to: to}
	g.moved = sync.NewCond(&g.mu)
	g.wg.Go(func() { g.accept(l) })
	t.Cleanup(func() {
		l.Close()
		g.mu.Lock()
		g.ended = true
		for _, c := range g.conns {
			c.Close()
		}
		g.moved.Broadcast()
		g.mu.Unlock()
		g.wg.Wait()
	})
	return g
}

// Shut stops what goes to the server, and what comes from it.
func (g *Gate) Shut() { g.set(true, true) }

// ShutAnswers stops what comes from the server: it acts, and nobody hears of it.
func (g *Gate) ShutAnswers() { g.set(false, true) }

// Open lets everything through again.
func (g *Gate) Open() { g.set(false, false) }

func (g *Gate) set(questions, answers bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = [2]bool{questions, answers}
	g.moved.Broadcast()
}

func (g *Gate) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", g.to)
		if err != nil {
			near.Close() // the server is down
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, near, far)
		if g.ended {
			near.Close()
			far.Close()
		}
		g.mu.Unlock()
		g.wg.Go(func() { g.forward(far, near, 0) })
		g.wg.Go(func() { g.forward(near, far, 1) })
	}
}

func (g *Gate) forward(to, from net.Conn, direction int) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !g.pass(direction) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return // io.EOF, or a broken connection: the other side sees it closed
		}
	}
}

// pass waits until the direction is open; false if the gate ended.
func (g *Gate) pass(direction int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut[direction] && !g.ended {
		g.moved.Wait()
	}
	return !g.ended
}
