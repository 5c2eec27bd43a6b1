package primary

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/farside-storage/farside/wire"
)

// patient keeps the ends of connections from giving each other up while a busy machine does not let one of them run. No test of a whole node is about that.
var patient = wire.Options{IdleTimeout: 5 * time.Minute, WriteTimeout: 5 * time.Minute}

// fakeSecondary is a secondary control reduced to memory, behind a real socket.
type fakeSecondary struct {
	t      *testing.T
	ln     net.Listener
	done   sync.WaitGroup
	refuse *wire.Error // answers Attach with this
	window uint64

	mu       sync.Mutex
	changed  sync.Cond
	names    []string // of the volumes attached
	stream   wire.UUID
	applied  uint64
	resumes  int
	images   map[string][]byte
	whole    map[string]bool // had a manifest that is not partial
	overlay  map[uint64][]change
	digests  map[uint64][]wire.Digest
	complete uint64
	conns    map[*wire.Conn]bool
	cutNext  bool // end the connection instead of taking the next frame
	told     error
}

func newFakeSecondary(t *testing.T, sizes map[string]uint64) *fakeSecondary {
	ln, err := wire.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeSecondary{t: t, ln: ln, images: map[string][]byte{}, whole: map[string]bool{}, overlay: map[uint64][]change{}, digests: map[uint64][]wire.Digest{},
		conns: map[*wire.Conn]bool{}, window: 4 << 20}
	s.changed.L = &s.mu
	for n, size := range sizes {
		s.images[n] = make([]byte, size)
	}
	s.done.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

func (s *fakeSecondary) close() {
	s.ln.Close()
	s.cutAll()
	s.done.Wait()
}

// cutAll ends the connections, as a network does.
func (s *fakeSecondary) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		go c.Close()
	}
}

// forget is a restart.
func (s *fakeSecondary) forget() {
	s.mu.Lock()
	s.stream, s.applied = wire.UUID{}, 0
	s.forgetReceiving()
	s.mu.Unlock()
	s.cutAll()
}

func (s *fakeSecondary) forgetReceiving() {
	for n := range s.overlay {
		if n > s.complete {
			delete(s.overlay, n)
			delete(s.digests, n)
		}
	}
}

func (s *fakeSecondary) accept() {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.done.Go(func() {
			c := wire.NewConn(nc, patient)
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.changed.Broadcast()
			s.mu.Unlock()
		})
	}
}

func (s *fakeSecondary) serve(c *wire.Conn) {
	if _, err := c.Answer(wire.Hello{Role: wire.RoleSecondary, Node: "s"}, nil); err != nil {
		return
	}
	_, body, err := c.Next()
	if err != nil {
		return
	}
	var a wire.Attach
	if err := wire.DecodeInto(&a, body); err != nil {
		s.t.Errorf("attach: %v", err)
		return
	}
	if s.refuse != nil {
		c.Abort(s.refuse)
		return
	}
	if err := c.WriteMessage(s.attach(&a)); err != nil {
		return
	}
	for s.frame(c) {
	}
}

// identityOf is the identity that fakes give to a volume.
func identityOf(volume string) (u wire.UUID) {
	copy(u[:], volume)
	u[15] = 1
	return u
}

func (s *fakeSecondary) attach(a *wire.Attach) *wire.Attached {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &wire.Attached{Complete: s.complete, Window: s.window}
	s.names = nil
	for _, v := range a.Volumes {
		s.names = append(s.names, v.Name)
		m.Volumes = append(m.Volumes, wire.VolumeState{Identity: identityOf(v.Name), Whole: s.whole[v.Name]})
	}
	if a.Stream == s.stream {
		m.Resumed, m.Applied = true, s.applied
		s.resumes++
	} else {
		s.forgetReceiving()
		s.stream, s.applied = a.Stream, 0
	}
	return m
}

// frame takes one update frame, and credits it.
func (s *fakeSecondary) frame(c *wire.Conn) bool {
	h, body, err := c.Next()
	if remote, told := errors.AsType[*wire.RemoteError](err); told {
		s.mu.Lock()
		s.told = remote
		s.mu.Unlock()
	}
	if err != nil {
		return false
	}
	m := message{seq: h.Sequence}
	switch h.Type {
	case wire.TypeUpdates:
		err = m.updates(c, h, body)
	case wire.TypeZeroes:
		var z wire.ZeroRanges
		err = wire.DecodeInto(&z, body)
		m.cg = z.CG
		for _, r := range z.Ranges {
			m.changes = append(m.changes, change{int(r.Volume), r.Block, r.Count, nil})
		}
	case wire.TypeManifest:
		m.manifest = new(wire.Manifest)
		err = wire.DecodeInto(m.manifest, body)
		m.cg = m.manifest.CG
	}
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutNext {
		s.cutNext = false
		return false
	}
	if h.Sequence != s.applied+1 {
		s.t.Errorf("frame %d after %d", h.Sequence, s.applied)
		return false
	}
	s.applied = h.Sequence
	s.take(m)
	s.changed.Broadcast()
	return c.WriteMessage(&wire.Credit{Applied: s.applied}) == nil
}

func (m *message) updates(c *wire.Conn, h wire.Header, body []byte) error {
	var u wire.Updates
	if err := u.Decode(h, body); err != nil {
		return err
	}
	m.cg = u.CG()
	for d, sums := range u.All() {
		data := make([]byte, d.Count*BlockSize)
		if err := c.Payload(data); err != nil {
			return err
		}
		for i, sum := range sums {
			if got := xxhash.Sum64(data[i*BlockSize : (i+1)*BlockSize]); got != sum {
				return fmt.Errorf("block %d: checksum %x, payload has %x", d.Block+uint64(i), sum, got)
			}
		}
		m.changes = append(m.changes, change{int(d.Volume), d.Block, uint64(d.Count), data})
	}
	return nil
}

func (s *fakeSecondary) take(m message) {
	d := s.digests[m.cg]
	if d == nil {
		d = make([]wire.Digest, len(s.names))
		s.digests[m.cg] = d
	}
	for _, ch := range m.changes {
		if ch.data == nil {
			d[ch.volume].AddZeroes(wire.Zeroes{Volume: uint32(ch.volume), Block: ch.block, Count: ch.count})
		} else {
			d[ch.volume].AddUpdate(wire.Update{Volume: uint32(ch.volume), Block: ch.block, Count: uint32(ch.count)}, (&shared{data: ch.data}).blockSums())
		}
	}
	s.overlay[m.cg] = append(s.overlay[m.cg], m.changes...)
	if m.manifest == nil {
		return
	}
	for h := range d {
		want := d[h].Manifest(uint32(h))
		want.Partial = m.manifest.Volumes[h].Partial
		if want.Partial && s.whole[s.names[h]] {
			s.t.Errorf("CG %d is called partial for volume %q, which is whole", m.cg, s.names[h])
		}
		s.whole[s.names[h]] = !want.Partial
		if m.manifest.Volumes[h] != want {
			s.t.Errorf("manifest of CG %d says %+v, received %+v", m.cg, m.manifest.Volumes[h], want)
		}
	}
	s.complete = m.cg
}

// await waits for a CG to be complete, makes it final, and compares.
func (s *fakeSecondary) await(cg uint64, want map[string][]byte) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.complete < cg {
		s.changed.Wait()
	}
	for _, ch := range s.overlay[cg] {
		dst := s.images[s.names[ch.volume]][ch.block*BlockSize : (ch.block+ch.count)*BlockSize]
		if ch.data == nil {
			clear(dst)
		} else {
			copy(dst, ch.data)
		}
	}
	delete(s.overlay, cg)
	for n, img := range s.images {
		if s.whole[n] && slices.Contains(s.names, n) && !bytes.Equal(img, want[n]) {
			s.t.Errorf("CG %d: the copy of %q differs from the primary at the cut", cg, n)
		}
	}
}

// discard is a Revert with Discard.
func (s *fakeSecondary) discard(final uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.overlay)
	clear(s.digests)
	s.complete = final
}

// fakeManager drives a node over a real socket.
type fakeManager struct {
	t     *testing.T
	conn  *wire.Conn
	epoch uint64
	in    chan wire.Message
}

func dialManager(t *testing.T, addr string, epoch uint64) *fakeManager {
	conn, err := wire.Dial(t.Context(), addr, patient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleManager, Node: "m"}); err != nil {
		t.Fatal(err)
	}
	m := &fakeManager{t: t, conn: conn, epoch: epoch, in: make(chan wire.Message, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(m.in)
		for {
			h, body, err := conn.Next()
			if remote, ok := err.(*wire.RemoteError); ok {
				m.in <- &remote.Message
				continue
			}
			if err != nil {
				return
			}
			msg, err := wire.Decode(h.Type, body)
			if err != nil {
				t.Errorf("from the primary: %v", err)
				return
			}
			m.in <- msg
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return m
}

func (m *fakeManager) send(c wire.Commanded, cg uint64) {
	m.t.Helper()
	*c.Head() = wire.Command{Group: "g", Epoch: m.epoch, CG: cg}
	if err := m.conn.WriteMessage(c); err != nil {
		m.t.Fatal(err)
	}
}

// expect awaits the next message, which must be a T of that CG.
func expect[T wire.Commanded](m *fakeManager, cg uint64) T {
	m.t.Helper()
	got, ok := <-m.in
	if !ok {
		m.t.Fatal("the primary ended the connection")
	}
	want, ok := got.(T)
	if !ok || want.Head().CG != cg {
		m.t.Fatalf("got %T%+v, want %T of CG %d", got, got, want, cg)
	}
	return want
}

func (m *fakeManager) open(cg, final uint64) {
	m.t.Helper()
	m.send(&wire.Open{Final: final}, cg)
	expect[*wire.Opened](m, cg)
}

// cut holds cg, calls held, and thaws.
func (m *fakeManager) cut(cg uint64, held func()) {
	m.t.Helper()
	m.send(&wire.Hold{TimeoutMicros: uint64(time.Minute.Microseconds())}, cg)
	expect[*wire.Held](m, cg)
	if held != nil {
		held()
	}
	m.send(&wire.Thaw{}, cg)
	if got := expect[*wire.Thawed](m, cg); !got.OK {
		m.t.Fatalf("CG %d was not cut", cg)
	}
}

// round forms one CG and compares every copy with the primary at the cut.
func (m *fakeManager) round(n *testNode, cg uint64) {
	m.t.Helper()
	var snap map[string][]byte
	m.cut(cg, func() { snap = n.snapshot() })
	expect[*wire.Drained](m, cg)
	for _, s := range n.secondaries {
		s.await(cg, snap)
	}
	m.send(&wire.FinalNote{}, cg)
}

// sync waits until the primary has dealt with everything sent so far.
func (m *fakeManager) sync() {
	m.t.Helper()
	if err := m.conn.WriteMessage(&wire.Status{}); err != nil {
		m.t.Fatal(err)
	}
	if got, ok := (<-m.in).(*wire.StatusReply); !ok {
		m.t.Fatalf("got %+v, want the status", got)
	}
}
