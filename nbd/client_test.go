package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// testExports serves devices by name and counts who holds them.
type testExports struct {
	devices map[string]Device
	mu      sync.Mutex
	held    int
}

func (e *testExports) Lookup(_ context.Context, name string) (Device, func(), error) {
	dev, ok := e.devices[name]
	if !ok {
		return nil, nil, fmt.Errorf("no export is called %q", name)
	}
	e.mu.Lock()
	e.held++
	e.mu.Unlock()
	return dev, func() {
		e.mu.Lock()
		e.held--
		e.mu.Unlock()
	}, nil
}

func (e *testExports) List() []string {
	var names []string
	for name := range e.devices {
		names = append(names, name)
	}
	return names
}

func (e *testExports) holders() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held
}

// exportsOf serves dev under "" and "vol".
func exportsOf(dev Device) *testExports {
	return &testExports{devices: map[string]Device{"": dev, "vol": dev}}
}

// testServer is a server on a Unix socket, closed at the end of the test.
type testServer struct {
	*Server
	path string // of the socket
	done chan error
}

func (s *testServer) uri(export string) string {
	return "nbd+unix:///" + export + "?socket=" + s.path
}

// shortTempDir is a folder whose path leaves room for a socket's name: those are limited
// to 107 bytes.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// patience is how long client and server wait for each other on a busy machine.
const patience = 3 * time.Minute

func serve(t testing.TB, o Options) *testServer {
	t.Helper()
	if o.NegotiationTimeout == 0 { // no test over a socket is about either, unless it says so
		o.NegotiationTimeout = patience
	}
	if o.CloseTimeout == 0 {
		o.CloseTimeout = patience
	}
	srv, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{Server: srv, path: filepath.Join(shortTempDir(t), "s"), done: make(chan error, 1)}
	l, err := ListenAddr("unix:"+s.path, false)
	if err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		if t.Failed() { // a request may have been left unfinished: Close would wait for it
			go func() { _ = srv.Close() }()
			return
		}
		if err := srv.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func serveMemory(t testing.TB, size uint64) (*testServer, *Memory) {
	t.Helper()
	m := NewMemory(size)
	return serve(t, Options{Exports: exportsOf(m)}), m
}

// client speaks the protocol byte by byte, from this file's own numbers where they matter.
type client struct {
	t testing.TB
	net.Conn
}

func (s *testServer) dial(t testing.TB) *client {
	t.Helper()
	nc, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	// Not a timed assertion: only so that a defect does not hang the test run.
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{t, nc}
}

// send writes integers big-endian, and byte slices and strings as they are.
func (c *client) send(values ...any) {
	c.t.Helper()
	if _, err := c.Write(pack(values...)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func pack(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b.WriteString(v)
		case []byte:
			b.Write(v)
		default:
			if err := binary.Write(&b, binary.BigEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return b.Bytes()
}

func (c *client) recv(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return b
}

// want receives exactly what is packed from values.
func (c *client) want(values ...any) {
	c.t.Helper()
	want := pack(values...)
	if got := c.recv(len(want)); !bytes.Equal(got, want) {
		c.t.Fatalf("received\n% x, want\n% x", got, want)
	}
}

// wantClosed checks that the server hangs up and says nothing more.
func (c *client) wantClosed() {
	c.t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("read %d bytes, error %v; want a closed connection", n, err)
	}
}

const bothFlags = uint32(3) // fixed newstyle, no zeroes

func (c *client) greet(flags uint32) {
	c.t.Helper()
	c.want("NBDMAGIC", "IHAVEOPT", uint16(3))
	c.send(flags)
}

func (c *client) option(option uint32, data ...any) {
	c.t.Helper()
	d := pack(data...)
	c.send("IHAVEOPT", option, uint32(len(d)), d)
}

// reply receives an option reply.
func (c *client) reply(option uint32) (kind uint32, data []byte) {
	c.t.Helper()
	c.want(uint64(0x3e889045565a9), option)
	kind = binary.BigEndian.Uint32(c.recv(4))
	return kind, c.recv(int(binary.BigEndian.Uint32(c.recv(4))))
}

func (c *client) wantReply(option, kind uint32) []byte {
	c.t.Helper()
	got, data := c.reply(option)
	if got != kind {
		c.t.Fatalf("option %d answered with %#x (%q), want %#x", option, got, data, kind)
	}
	return data
}

func str(s string) []byte { return pack(uint32(len(s)), s) }

// transmission negotiates up to the transmission phase.
func (c *client) transmission(structured, status bool) {
	c.t.Helper()
	c.greet(bothFlags)
	if structured {
		c.option(8)
		c.wantReply(8, 1)
	}
	if status {
		c.option(10, str("vol"), uint32(1), str("base:allocation"))
		c.wantReply(10, 4)
		c.wantReply(10, 1)
	}
	c.option(7, str("vol"), uint16(0))
	c.wantReply(7, 3)
	c.wantReply(7, 3)
	c.wantReply(7, 1)
}

// request sends a request's header and payload.
func (c *client) request(flags, command uint16, cookie, off uint64, length uint32, payload ...any) {
	c.t.Helper()
	c.send(rawRequest(flags, command, cookie, off, length, payload...))
}

func rawRequest(flags, command uint16, cookie, off uint64, length uint32, payload ...any) []byte {
	return pack(append([]any{uint32(0x25609513), flags, command, cookie, off, length}, payload...)...)
}

func (c *client) wantSimple(cookie uint64, code uint32) {
	c.t.Helper()
	c.want(uint32(0x67446698), code, cookie)
}

// chunk receives a structured reply chunk, which must be the last of its reply.
func (c *client) chunk(cookie uint64) (kind uint16, data []byte) {
	c.t.Helper()
	c.want(uint32(0x668e33ef), uint16(1))
	kind = binary.BigEndian.Uint16(c.recv(2))
	c.want(cookie)
	return kind, c.recv(int(binary.BigEndian.Uint32(c.recv(4))))
}

// wantError receives an error in either form.
func (c *client) wantError(structured bool, cookie uint64, code uint32) {
	c.t.Helper()
	if !structured {
		c.wantSimple(cookie, code)
		return
	}
	kind, data := c.chunk(cookie)
	if kind != 0x8001 || len(data) < 6 {
		c.t.Fatalf("chunk of type %#x (% x), want an error", kind, data)
	}
	if got := binary.BigEndian.Uint32(data); got != code {
		c.t.Fatalf("error %d (%q), want %d", got, data[6:], code)
	}
	if n := int(binary.BigEndian.Uint16(data[4:])); n == 0 || n != len(data)-6 {
		c.t.Fatalf("error text has length %d in %d bytes", n, len(data))
	}
}

// heldDevice leaves requests unfinished until the test finishes them.
type heldDevice struct {
	info    Info
	started chan *Request
}

func newHeldDevice(info Info) *heldDevice {
	return &heldDevice{info: info, started: make(chan *Request, 4096)}
}

func (d *heldDevice) Info() Info { return d.info }
func (d *heldDevice) Start(batch []*Request) {
	for _, r := range batch {
		d.started <- r
	}
}

// pattern fills n bytes that differ from block to block.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i) + byte(i>>8)*7 + 1
	}
	return b
}
