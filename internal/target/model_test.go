package target

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"testing"

	"pgregory.net/rapid"

	"github.com/farside-storage/farside/wire"
)

const modelBlocks = 1024

// model drives one primary and one manager at random, and knows what the copy must show.
type model struct {
	*rig
	t       *rapid.T
	m       *manager
	p       *primary
	group   string
	stream  byte
	cg      uint64
	version uint64
	resend  []func(*primary)  // frames of the stream that may have to be sent again; the first has number kept+1
	kept    uint64            // frames before were acknowledged
	final   map[string][]byte // what the last final CG shows
	open    map[string][]byte // and what it will be when cg is final
}

var modelVolumes = []string{"a", "b"}

func (m *model) forgetOpen() {
	for _, v := range modelVolumes {
		m.open[v] = bytes.Clone(m.final[v])
	}
	for i := range m.p.digests {
		m.p.digests[i].Reset()
	}
}

// sends does something with the connection now, and again if the stream is resumed before it was acknowledged.
func (m *model) sends(f func(*primary)) {
	m.resend = append(m.resend, f)
	f(m.p)
}

func (m *model) update() {
	v := rapid.IntRange(0, 1).Draw(m.t, "volume")
	first := rapid.IntRange(0, modelBlocks-1).Draw(m.t, "first")
	n := rapid.IntRange(1, min(100, modelBlocks-first)).Draw(m.t, "blocks")
	m.version++
	cg, version := m.cg, m.version
	m.sends(func(p *primary) { p.update(cg, uint32(v), first, n, version) })
	copy(m.open[modelVolumes[v]][first*block:], contents(first, n, version))
}

func (m *model) zero() {
	v := rapid.IntRange(0, 1).Draw(m.t, "volume")
	first := rapid.IntRange(0, modelBlocks-1).Draw(m.t, "first")
	n := rapid.IntRange(1, modelBlocks-first).Draw(m.t, "blocks")
	cg := m.cg
	m.sends(func(p *primary) { p.zero(cg, uint32(v), first, n) })
	clear(m.open[modelVolumes[v]][first*block : (first+n)*block])
}

// cut makes the open CG final and looks at the copy.
func (m *model) cut() {
	s := m.p.summary(m.cg)
	m.sends(func(p *primary) { p.stream(s) })
	m.m.finish(m.group, m.cg)
	m.cg++
	for _, v := range modelVolumes {
		copy(m.final[v], m.open[v])
		m.same(m.group, v, 0, m.final[v])
	}
}

// discard abandons the open CG; its frames may still be on their way.
func (m *model) discard() {
	through := m.cg + rapid.Uint64Range(0, 2).Draw(m.t, "more")
	head := m.m.head(m.group, m.cg)
	if a, ok := m.m.ask(&wire.Revert{Command: head, Discard: true, Through: through}).(*wire.Reverted); !ok || a.CG != m.cg {
		m.t.Fatalf("reverted %+v", a)
	}
	m.cg = through + 1
	m.forgetOpen()
}

// settle waits for the acknowledgement of everything.
func (m *model) settle() {
	m.p.settled()
	m.kept, m.resend = m.p.seq, nil
}

// reconnect breaks the connection, wherever it stands, and resumes the stream.
func (m *model) reconnect() {
	digests := m.p.digests
	check(m.rig.t, m.p.conn.Close())
	m.p = m.attach(m.stream, m.group, modelVolumes...)
	a := m.p.attached
	if !a.Resumed || a.Applied < m.kept || a.Applied > m.kept+uint64(len(m.resend)) {
		m.t.Fatalf("attached %+v; %d were acknowledged, %d more sent", a, m.kept, len(m.resend))
	}
	for _, f := range m.resend[a.Applied-m.kept:] {
		f(m.p)
	}
	m.p.digests = digests // sending again has counted again
}

// restart is a primary that begins anew: what it had sent is forgotten.
func (m *model) restart() {
	old := m.p.conn
	if rapid.Bool().Draw(m.t, "gone") {
		check(m.rig.t, old.Close())
	}
	m.stream++
	m.p = m.attach(m.stream, m.group, modelVolumes...)
	old.Close() // the node ended it, or waits for that
	if m.p.attached.Resumed {
		m.t.Fatalf("attached %+v", m.p.attached)
	}
	m.kept, m.resend = 0, nil
	m.forgetOpen()
}

// TestModel: whatever happens to connections, streams and CGs, each CG that becomes final shows exactly what was sent of it.
func TestModel(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		check(t, flag.Set(f.Name, "25")) // each waits for the device many times
		defer func() { check(t, flag.Set(f.Name, f.DefValue)) }()
	}
	r := newRig(t, 2<<30, nil) // sparse; each run has a group of its own
	commander := r.manager(1)
	groups := 0
	rapid.Check(t, func(rt *rapid.T) {
		groups++
		m := &model{rig: r, t: rt, m: commander, group: fmt.Sprint("g", groups), stream: 1, cg: 1,
			final: map[string][]byte{}, open: map[string][]byte{}}
		for _, v := range modelVolumes {
			_, err := r.pool.CreateVolume(t.Context(), m.group, v, modelBlocks*block)
			check(t, err)
			m.final[v], m.open[v] = make([]byte, modelBlocks*block), make([]byte, modelBlocks*block)
		}
		commander.state(m.group) // from now on it is told
		m.p = r.attach(m.stream, m.group, modelVolumes...)
		steps := []func(){m.update, m.update, m.update, m.zero, m.cut, m.discard, m.settle, m.reconnect, m.restart}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			rapid.SampledFrom(steps).Draw(rt, "step")()
		}
		m.cut()
		m.p.zero(m.cg, 9, 0, 1) // ends the session, so that not a hundred of them linger
		m.p.refused()
		check(t, m.p.conn.Close())
	})
}

// opaque hides the descriptor of a connection, as TLS does.
type opaque struct{ net.Conn }

type opaqueListener struct{ net.Listener }

func (l opaqueListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return opaque{nc}, nil
}

// TestTransportWithoutDescriptor: what arrived is acknowledged although nobody can ask whether more has.
func TestTransportWithoutDescriptor(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	served := make(chan error, 1)
	go func() { served <- r.node.Serve(t.Context(), opaqueListener{l}) }()
	r.addr = l.Addr().String()
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 300, 1)
	p.settled()
	p.manifest(1)
	m.finish("shop", 1)
	r.same("shop", "a", 0, contents(0, 300, 1))
	r.close()
	if err := <-served; err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
