package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// hang is after how long a test that waits for its peer is given up; some connections live as long as their test.
const hang = 3 * time.Minute

// patient keeps peers from giving each other up for being silent while a busy machine does not let them run. Without it a manager's
// connection that is left alone for a few seconds was found closed at the next command, as a broken pipe.
var patient = wire.Options{IdleTimeout: hang, WriteTimeout: hang}

const block = engine.BlockSize

// rig is a node over a pool in a temporary file, on loopback TCP. Group "shop" has volumes "a" and "b" of 1024
// blocks, group "other" has "c" of 4096.
type rig struct {
	t      testing.TB
	devs   ring.Devices
	pool   *engine.Pool
	events *Events
	node   *Node
	addr   string
	logged chan string // messages of the node's log
	serve  chan error
	closed bool
	broken atomic.Bool // the pool's own I/O fails; closing it then fails too
}

// breakable is devices whose first queue, the pool's own, fails all that ends after broken was set.
type breakable struct {
	ring.Devices
	broken *atomic.Bool
	queues atomic.Int32
}

type breakableQueue struct {
	ring.Queue
	broken *atomic.Bool
}

func (d *breakable) NewQueue(o ring.QueueOptions) (ring.Queue, error) {
	q, err := d.Devices.NewQueue(o)
	if err != nil || d.queues.Add(1) > 1 {
		return q, err
	}
	return &breakableQueue{q, d.broken}, nil
}

func (q *breakableQueue) Reap(out []ring.Completion, least int) (int, error) {
	n, err := q.Queue.Reap(out, least)
	for i := range out[:n] {
		if q.broken.Load() {
			out[i].Err = unix.EIO
		}
	}
	return n, err
}

type logTo struct {
	slog.Handler
	to chan string
	t  testing.TB
}

func (h logTo) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" && a.Value.Any() != nil {
			h.t.Logf("node: %s: %v", r.Message, a.Value)
		}
		return true
	})
	select {
	case h.to <- r.Message:
	default: // nobody waits for that many
	}
	return nil
}
func (h logTo) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h logTo) Enabled(context.Context, slog.Level) bool { return true }

func newRig(t testing.TB, size int64, change func(*Options)) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pool")
	f, err := os.Create(path)
	check(t, errors.Join(err, f.Truncate(size), f.Close()))
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Auto, AllowBuffered: true})
	check(t, err)
	_, err = engine.Format(devs, engine.FormatOptions{Name: "pool", ExtentBlocks: 64, JournalBytes: 4 << 20, VirtualBytes: max(64<<20, size/2)})
	check(t, err)
	r := &rig{t: t, devs: devs, events: &Events{}, logged: make(chan string, 1000), serve: make(chan error, 1)}
	r.pool, err = engine.Open(&breakable{Devices: devs, broken: &r.broken}, engine.Options{OnComplete: r.events.Complete, OnFailure: r.events.Failure, WriterBuffers: 4})
	check(t, err)
	for _, v := range []struct {
		group, name string
		blocks      uint64
	}{{"shop", "a", 1024}, {"shop", "b", 1024}, {"other", "c", 4096}} {
		_, err := r.pool.CreateVolume(t.Context(), v.group, v.name, v.blocks*block)
		check(t, err)
	}
	o := Options{Pool: r.pool, Name: "b1", Events: r.events, Logger: slog.New(logTo{to: r.logged, t: t}), Wire: patient}
	if change != nil {
		change(&o)
	}
	r.node, err = New(o)
	check(t, err)
	l, err := wire.Listen(t.Context(), "127.0.0.1:0")
	check(t, err)
	r.addr = l.Addr().String()
	go func() { r.serve <- r.node.Serve(context.Background(), l) }()
	t.Cleanup(r.close)
	return r
}

// close checks that the node lets go of everything: the pool refuses to close while a writer is open.
func (r *rig) close() {
	if r.closed {
		return
	}
	r.closed = true
	if err := r.node.Close(); err != nil {
		r.t.Errorf("close node: %v", err)
	}
	if err := <-r.serve; err != nil && !errors.Is(err, ErrClosed) { // closed before it was served
		r.t.Errorf("serve: %v", err)
	}
	if err := r.pool.Close(); (err != nil) != r.broken.Load() {
		r.t.Errorf("close pool: %v", err)
	}
	if err := r.devs.Close(); err != nil {
		r.t.Errorf("close devices: %v", err)
	}
	r.noGoroutines()
}

// noGoroutines waits for goroutines that have done their last deed to be gone.
func (r *rig) noGoroutines() {
	buf := make([]byte, 1<<20)
	for until := time.Now().Add(hang); ; runtime.Gosched() {
		all := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(all, "internal/target.(*Node)") && !strings.Contains(all, "internal/target.(*session)") &&
			!strings.Contains(all, "internal/target.(*obedience)") {
			return
		}
		if time.Now().After(until) {
			r.t.Errorf("goroutines are left:\n%s", all)
			return
		}
	}
}

// awaitLog waits for a message of the node's log.
func (r *rig) awaitLog(message string) {
	r.t.Helper()
	late := time.After(hang)
	for {
		select {
		case m := <-r.logged:
			if m == message {
				return
			}
		case <-late:
			r.t.Fatalf("the log never said %q", message)
		}
	}
}

// read returns n blocks of the final view.
func (r *rig) read(group, name string, first, n int) []byte {
	r.t.Helper()
	g, err := r.pool.Group(group)
	check(r.t, err)
	v, err := g.Volume(name)
	check(r.t, err)
	b := make([]byte, n*block)
	_, err = v.ReadAt(b, int64(first)*block)
	check(r.t, err)
	return b
}

// identity of a volume, as the status writes it.
func (r *rig) identity(group, name string) string {
	r.t.Helper()
	g, err := r.pool.Group(group)
	check(r.t, err)
	v, err := g.Volume(name)
	check(r.t, err)
	return uuidString(identity(r.pool, v))
}

func (r *rig) same(group, name string, first int, want []byte) {
	r.t.Helper()
	if !bytes.Equal(r.read(group, name, first, len(want)/block), want) {
		r.t.Errorf("volume %s/%s differs from block %d on", group, name, first)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents makes n blocks of a version; version 0 is zeros.
func contents(first, n int, version uint64) []byte {
	b := make([]byte, n*block)
	for i := range n {
		if version != 0 {
			binary.LittleEndian.PutUint64(b[i*block:], uint64(first+i))
			binary.LittleEndian.PutUint64(b[i*block+2048:], version)
		}
	}
	return b
}

func sumsOf(data []byte) []uint64 {
	var sums []uint64
	for i := 0; i < len(data); i += block {
		sums = append(sums, engine.Sum(data[i:i+block]))
	}
	return sums
}

// peer is the other end of a connection with the node.
type peer struct {
	t    testing.TB
	conn *wire.Conn
}

func (r *rig) dial(role wire.Role, wrap func(net.Conn) net.Conn) *peer {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	check(r.t, err)
	if wrap != nil {
		nc = wrap(nc)
	}
	c := wire.NewConn(nc, patient)
	_, err = c.Handshake(wire.Hello{Role: role, Node: "peer", Instance: wire.UUID{1}})
	check(r.t, err)
	watchdog := time.AfterFunc(hang, func() { c.Close() })
	r.t.Cleanup(func() { watchdog.Stop(); c.Close() })
	return &peer{r.t, c}
}

// next returns the next message.
func (p *peer) next() wire.Message {
	p.t.Helper()
	h, body, err := p.conn.Next()
	check(p.t, err)
	m, err := wire.Decode(h.Type, body)
	check(p.t, err)
	return m
}

// refused waits for an Error frame, passing over what comes before.
func (p *peer) refused() wire.Error {
	p.t.Helper()
	for {
		_, _, err := p.conn.Next()
		if e, ok := errors.AsType[*wire.RemoteError](err); ok {
			return e.Message
		}
		check(p.t, err)
	}
}

// ended waits for the end of the connection.
func (p *peer) ended() {
	p.t.Helper()
	for {
		_, _, err := p.conn.Next()
		if _, ok := errors.AsType[*wire.RemoteError](err); ok || err == nil {
			continue
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, wire.ErrSilent) {
			p.t.Fatalf("the node did not end the connection: %v", err)
		}
		return
	}
}

// primary sends a stream.
type primary struct {
	*peer
	seq      uint64
	acked    uint64
	digests  []wire.Digest
	attached wire.Attached
}

func stream(n byte) wire.UUID { return wire.UUID{n} }

func (r *rig) attach(id byte, group string, volumes ...string) *primary {
	r.t.Helper()
	return r.attachOver(nil, id, group, volumes...)
}

func attachMessage(id byte, group string, volumes ...string) *wire.Attach {
	a := &wire.Attach{Group: group, Stream: stream(id)}
	for _, v := range volumes {
		size := uint64(1024 * block)
		if v == "c" {
			size *= 4
		}
		a.Volumes = append(a.Volumes, wire.VolumeRef{Name: v, Size: size})
	}
	return a
}

func (r *rig) attachOver(wrap func(net.Conn) net.Conn, id byte, group string, volumes ...string) *primary {
	r.t.Helper()
	p := &primary{peer: r.dial(wire.RolePrimary, wrap), digests: make([]wire.Digest, len(volumes))}
	check(r.t, p.conn.WriteMessage(attachMessage(id, group, volumes...)))
	a, ok := p.next().(*wire.Attached)
	if !ok {
		r.t.Fatal("no Attached")
	}
	p.attached, p.seq, p.acked = *a, a.Applied, a.Applied
	return p
}

// update sends one frame with one update.
func (p *primary) update(cg uint64, handle uint32, first, n int, version uint64) {
	p.t.Helper()
	data := contents(first, n, version)
	u := wire.Update{Volume: handle, Block: uint64(first), Count: uint32(n)}
	var b wire.Batch
	b.Reset(cg)
	check(p.t, b.Add(u, sumsOf(data), data))
	if int(handle) < len(p.digests) {
		p.digests[handle].AddUpdate(u, sumsOf(data))
	}
	p.send(&b)
}

func (p *primary) send(b *wire.Batch) {
	p.t.Helper()
	p.seq++
	check(p.t, p.conn.WriteUpdates(b, p.seq))
}

func (p *primary) zero(cg uint64, handle uint32, first, n int) {
	p.t.Helper()
	z := wire.Zeroes{Volume: handle, Block: uint64(first), Count: uint64(n)}
	if int(handle) < len(p.digests) {
		p.digests[handle].AddZeroes(z)
	}
	p.stream(&wire.ZeroRanges{CG: cg, Ranges: []wire.Zeroes{z}})
}

func (p *primary) stream(m wire.Message) {
	p.t.Helper()
	p.seq++
	check(p.t, p.conn.WriteStream(m, p.seq))
}

func (p *primary) summary(cg uint64) *wire.Manifest {
	m := &wire.Manifest{CG: cg}
	for i := range p.digests {
		m.Volumes = append(m.Volumes, p.digests[i].Manifest(uint32(i)))
		p.digests[i].Reset()
	}
	return m
}

func (p *primary) manifest(cg uint64) {
	p.t.Helper()
	p.stream(p.summary(cg))
}

// settled waits until all that was sent is acknowledged.
func (p *primary) settled() {
	p.t.Helper()
	for p.acked < p.seq {
		c, ok := p.next().(*wire.Credit)
		if !ok {
			p.t.Fatal("want Credit")
		}
		p.acked = c.Applied
	}
}

// manager commands.
type manager struct {
	*peer
	epoch    uint64
	complete map[string]uint64
	told     *wire.Complete // the newest
	lost     *wire.Lost
}

func (r *rig) manager(epoch uint64) *manager {
	r.t.Helper()
	m := &manager{peer: r.dial(wire.RoleManager, nil), epoch: epoch, complete: map[string]uint64{}}
	for _, g := range []string{"shop", "other"} {
		// What became complete before the first command is in its answer, and not told again.
		if st, ok := m.ask(&wire.Fence{Command: wire.Command{Group: g, Epoch: epoch}}).(*wire.State); ok {
			m.complete[g] = st.Complete
		}
	}
	return m
}

func (m *manager) head(group string, cg uint64) wire.Command {
	return wire.Command{Group: group, Epoch: m.epoch, CG: cg}
}

// take reads one message: an answer, or nil after noting what came unasked.
func (m *manager) take() (wire.Message, error) {
	h, body, err := m.conn.Next()
	if err != nil {
		return nil, err
	}
	msg, err := wire.Decode(h.Type, body)
	check(m.t, err)
	switch msg := msg.(type) {
	case *wire.Complete:
		m.complete[msg.Group], m.told = msg.CG, msg
	case *wire.Lost:
		m.lost = msg
	default:
		return msg, nil
	}
	return nil, nil
}

func (m *manager) ask(c wire.Message) wire.Message {
	m.t.Helper()
	check(m.t, m.conn.WriteMessage(c))
	for {
		a, err := m.take()
		check(m.t, err)
		if a != nil {
			return a
		}
	}
}

// refuse sends a command and returns its refusal.
func (m *manager) refuse(c wire.Message) wire.Error {
	m.t.Helper()
	check(m.t, m.conn.WriteMessage(c))
	for {
		a, err := m.take()
		if e, ok := errors.AsType[*wire.RemoteError](err); ok {
			return e.Message
		}
		check(m.t, err)
		if a != nil {
			m.t.Fatalf("%v was answered with %v", c.Type(), a.Type())
		}
	}
}

func (m *manager) state(group string) *wire.State {
	m.t.Helper()
	st, ok := m.ask(&wire.Query{Command: m.head(group, 0)}).(*wire.State)
	if !ok {
		m.t.Fatal("no State")
	}
	return st
}

// awaitComplete waits to be told of a complete CG.
func (m *manager) awaitComplete(group string, cg uint64) {
	m.t.Helper()
	for m.complete[group] < cg {
		a, err := m.take()
		check(m.t, err)
		if a != nil {
			m.t.Fatalf("unasked: %v", a.Type())
		}
	}
}

// finish takes a CG from complete to final.
func (m *manager) finish(group string, cg uint64) {
	m.t.Helper()
	m.awaitComplete(group, cg)
	if a, ok := m.ask(&wire.Link{Command: m.head(group, cg)}).(*wire.Linked); !ok || a.CG != cg {
		m.t.Fatalf("link CG %d: %+v", cg, a)
	}
	if a, ok := m.ask(&wire.Release{Command: m.head(group, cg)}).(*wire.Final); !ok || a.CG != cg {
		m.t.Fatalf("release CG %d: %+v", cg, a)
	}
}

// cutConn breaks after so many bytes were written.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:c.left])
	c.left = 0
	return n, errors.Join(err, io.ErrClosedPipe, c.Conn.Close())
}
