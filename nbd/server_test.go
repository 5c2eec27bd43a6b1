package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestOptionsValidate(t *testing.T) {
	exports := exportsOf(NewMemory(4096))
	for name, o := range map[string]Options{
		"no exports":        {},
		"TLS required":      {Exports: exports, TLSRequired: true},
		"negative limit":    {Exports: exports, MaxRequests: -1},
		"too little memory": {Exports: exports, MaxInFlight: 4096},
		"negative timeout":  {Exports: exports, CloseTimeout: -1},
	} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBadInfoRefusesExport(t *testing.T) {
	for name, info := range map[string]Info{
		"block not a power of two": {Size: 1 << 20, MinBlock: 1000},
		"block too large":          {Size: 1 << 20, MinBlock: 1 << 20},
		"payload below block":      {Size: 1 << 20, MinBlock: 4096, MaxPayload: 512},
		"size too large":           {Size: 1 << 63},
	} {
		exports := exportsOf(newHeldDevice(info))
		s := serve(t, Options{Exports: exports})
		c := s.dial(t)
		c.greet(bothFlags)
		c.option(7, str("vol"), uint16(0))
		if kind, text := c.reply(7); kind != repErrUnknown {
			t.Errorf("%s: answered with %#x %q", name, kind, text)
		}
		if exports.holders() != 0 {
			t.Errorf("%s: export is still held", name)
		}
	}
}

// With its limits used up a connection is not read any more; what ends makes room.
func TestRequestsInFlightAreBounded(t *testing.T) {
	for name, o := range map[string]Options{
		"requests": {MaxRequests: 4},
		"bytes":    {MaxInFlight: 4 << 16},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newHeldDevice(Info{Size: 1 << 30})
			o.Exports = exportsOf(dev)
			s := serve(t, o)
			c := s.dial(t)
			c.transmission(false, false)
			before := bufferBytes()
			const total, limit = 400, 4
			go func() {
				for i := range uint64(total) {
					if _, err := c.Write(rawRequest(0, 0, i, 0, 1<<16)); err != nil {
						return // the test sees it by what does not arrive
					}
				}
			}()
			var held []*Request
			for len(held) < limit {
				held = append(held, <-dev.started)
			}
			for i := range uint64(total) {
				if now := bufferBytes(); now-before > (limit+1)<<16+receiveBytes*2 {
					t.Fatalf("%d bytes of buffers in use", now-before)
				}
				if n := len(held) + len(dev.started); n > limit {
					t.Fatalf("%d requests are with the device, limit %d", n, limit)
				}
				held[0].Finish(nil)
				held = held[1:]
				c.wantSimple(i, 0)
				c.recv(1 << 16)
				if i < total-limit {
					held = append(held, <-dev.started)
				}
			}
		})
	}
}

// A single request may be as large as was announced, even if that is all there is.
func TestLargestPayloadFitsLimit(t *testing.T) {
	s := serve(t, Options{Exports: exportsOf(NewMemory(1 << 20)), MaxInFlight: 64 << 10})
	c := s.dial(t)
	c.greet(bothFlags)
	got := c.infos(7, "vol")
	if want := pack(uint32(1), uint32(4096), uint32(64<<10)); !bytes.Equal(got[3], want) {
		t.Fatalf("block sizes % x, want % x", got[3], want)
	}
	c.request(0, 0, 1, 0, 64<<10)
	c.wantSimple(1, 0)
	c.recv(64 << 10)
	c.request(0, 0, 2, 0, 64<<10+1)
	c.wantSimple(2, 22)
}

func TestKeptPayloadOutlivesAnswer(t *testing.T) {
	dev := newHeldDevice(Info{Size: 1 << 20})
	s := serve(t, Options{Exports: exportsOf(dev), MaxRequests: 1})
	c := s.dial(t)
	c.transmission(false, false)
	var kept []*Buffer
	for i := range uint64(8) {
		c.request(0, 1, i, 0, 4096, bytes.Repeat([]byte{byte(i)}, 4096))
		r := <-dev.started
		r.Data.Retain()
		kept = append(kept, r.Data)
		r.Finish(nil)
		c.wantSimple(i, 0) // the limit of one request does not count what is kept
	}
	for i, b := range kept {
		if !bytes.Equal(b.Bytes(), bytes.Repeat([]byte{byte(i)}, 4096)) {
			t.Errorf("payload %d was overwritten", i)
		}
		b.Release()
	}
}

func TestTooManyConnections(t *testing.T) {
	s := serve(t, Options{Exports: exportsOf(NewMemory(1 << 20)), MaxConnections: 1})
	first := s.dial(t)
	first.transmission(false, false)
	s.dial(t).wantClosed()
	first.read(false, 1, 0, 512)
	if n := s.Counters().Refused; n != 1 {
		t.Errorf("%d refused connections counted, want 1", n)
	}
}

// Close answers what is in flight, then disconnects, and leaves nothing behind.
func TestCloseFinishesRequests(t *testing.T) {
	dev := newHeldDevice(Info{Size: 1 << 20})
	exports := exportsOf(dev)
	s := serve(t, Options{Exports: exports})
	c := s.dial(t)
	c.transmission(false, false)
	c.request(0, 1, 1, 0, 4, "data")
	r := <-dev.started
	negotiating := s.dial(t)
	negotiating.greet(bothFlags)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	negotiating.wantClosed()
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v with a request in flight", err)
	default:
	}
	r.Finish(nil)
	c.wantSimple(1, 0)
	c.wantClosed()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if n := exports.holders(); n != 0 {
		t.Errorf("%d exports are still held", n)
	}
	l, err := ListenAddr("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
}

// A client that does not read its answers cannot hold up Close for longer than CloseTimeout.
func TestCloseIsNotHeldUpByClient(t *testing.T) {
	s := serve(t, Options{Exports: exportsOf(NewMemory(64 << 20)), CloseTimeout: 10 * time.Millisecond})
	c := s.dial(t)
	c.transmission(false, false)
	c.request(0, 0, 1, 0, 32<<20)
	c.wantSimple(1, 0) // the rest does not fit the socket's buffer
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	srv, err := NewServer(Options{Exports: exportsOf(NewMemory(1 << 20))})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ListenAddr("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &client{t, nc}
	c.transmission(false, false)
	cancel()
	c.wantClosed()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// However a connection ends, its goroutines, export and buffers go.
func TestNothingIsLeftBehind(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	held := bufferBytes()
	exports := exportsOf(NewMemory(64 << 20))
	s := serve(t, Options{Exports: exports, CloseTimeout: time.Second})
	ends := map[string]func(c *client){
		"disconnect":  func(c *client) { c.request(0, 2, 0, 0, 0); c.wantClosed() },
		"hang up":     func(c *client) {},
		"mid header":  func(c *client) { c.send(make([]byte, 10)) },
		"mid payload": func(c *client) { c.request(0, 1, 0, 0, 1<<20, make([]byte, 5000)) },
		"mid refused": func(c *client) { c.request(0, 1, 0, 1<<40, 1<<20, make([]byte, 5000)) },
		"unread":      func(c *client) { c.request(0, 0, 0, 0, 32<<20) },
		"bad magic":   func(c *client) { c.send(make([]byte, 28)) },
	}
	for _, end := range ends {
		c := s.dial(t)
		c.transmission(true, true)
		end(c)
		_ = c.Close()
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if n := exports.holders(); n != 0 {
		t.Errorf("%d exports are still held", n)
	}
	if now := bufferBytes(); now != held {
		t.Errorf("%d bytes of buffers in use, %d before", now, held)
	}
	// A goroutine that has done its work may still be on its way out.
	for begin := time.Now(); time.Since(begin) < patience; {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		runtime.Gosched()
	}
	stacks := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
}

func TestListenAddr(t *testing.T) {
	dir := shortTempDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		addr string
		tls  bool
		want string // in the error; "" is success
	}{
		{"127.0.0.1:0", false, ""},
		{"localhost:0", false, ""},
		{"unix:" + filepath.Join(dir, "s"), false, ""},
		{"0.0.0.0:0", false, "TLS"},
		{":0", false, "TLS"},
		{"192.0.2.1:10809", false, "TLS"},
		{"0.0.0.0:0", true, ""},
		{"unix:", false, "missing"},
		{"unix:" + file, false, "not a socket"},
		{"unix:" + dir + "/no/such", false, "no/such"},
		{"127.0.0.1", false, "host:port"},
		{"/path", false, "unix:"},
	} {
		l, err := ListenAddr(tc.addr, tc.tls)
		if err == nil {
			_ = l.Close()
		}
		if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("ListenAddr(%q, %v): %v, want %q", tc.addr, tc.tls, err, tc.want)
		}
		if tc.want == "TLS" && !errors.Is(err, ErrPlainTCP) {
			t.Errorf("ListenAddr(%q): %v is not ErrPlainTCP", tc.addr, err)
		}
	}
}

func TestListenReplacesOnlyStaleSockets(t *testing.T) {
	path := filepath.Join(shortTempDir(t), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := ListenAddr("unix:"+path, false)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	defer l.Close()
	if _, err := ListenAddr("unix:"+path, false); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("socket in use: %v", err)
	}
}

// testTLS makes a certificate for "localhost" and the two sides' configurations.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
		&tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

func TestTLS(t *testing.T) {
	server, config := testTLS(t)
	s := serve(t, Options{Exports: exportsOf(NewMemory(8 << 20)), TLS: server, TLSRequired: true})
	c := s.dial(t)
	c.greet(bothFlags)
	for _, option := range []uint32{3, 6, 7, 8, 9, 10, 99} {
		c.option(option, "data")
		c.wantReply(option, repErrTLSReqd)
	}
	c.option(5, "data")
	c.wantReply(5, repErrInvalid)
	c.option(5)
	c.wantReply(5, 1)
	c.Conn = tls.Client(c.Conn, config)
	c.option(5)
	c.wantReply(5, repErrInvalid) // twice
	c.option(8)
	c.wantReply(8, 1)
	c.infos(7, "vol")
	want := pattern(3<<20, 1)
	c.request(0, 1, 1, 4096, 3<<20, want)
	c.wantSimple(1, 0)
	c.request(0, 3, 2, 0, 0)
	c.wantSimple(2, 0)
	if got := c.read(true, 3, 4096, 3<<20); !bytes.Equal(got, want) {
		t.Error("contents differ")
	}
	c.request(0, 2, 4, 0, 0)
	c.wantClosed()
}

func TestTLSRequiredRefusesExportName(t *testing.T) {
	server, _ := testTLS(t)
	s := serve(t, Options{Exports: exportsOf(NewMemory(1 << 20)), TLS: server, TLSRequired: true})
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(1, "vol")
	c.wantClosed()
}

// What was chosen in plain text, where others could have chosen it, does not hold in TLS.
func TestTLSForgetsPlainChoices(t *testing.T) {
	server, config := testTLS(t)
	s := serve(t, Options{Exports: exportsOf(NewMemory(1 << 20)), TLS: server})
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(8)
	c.wantReply(8, 1)
	c.option(5)
	c.wantReply(5, 1)
	c.Conn = tls.Client(c.Conn, config)
	c.option(10, str("vol"), uint32(0))
	c.wantReply(10, repErrInvalid)
	c.infos(7, "vol")
	c.read(false, 1, 0, 512)
}

// Options slipped in behind STARTTLS in plain text end the connection.
func TestTLSRefusesInjectedOptions(t *testing.T) {
	server, _ := testTLS(t)
	s := serve(t, Options{Exports: exportsOf(NewMemory(1 << 20)), TLS: server})
	c := s.dial(t)
	c.greet(bothFlags)
	c.send("IHAVEOPT", uint32(5), uint32(0), "IHAVEOPT", uint32(8), uint32(0))
	c.wantReply(5, 1)
	answer := make([]byte, 64)
	n, _ := c.Read(answer) // an alert of TLS at most
	if bytes.Contains(answer[:n], pack(uint64(0x3e889045565a9))) {
		t.Error("an option in plain text was answered after STARTTLS")
	}
}
