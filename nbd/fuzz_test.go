package nbd

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// scriptConn is a connection whose client says what it says and reads everything.
type scriptConn struct {
	in  bytes.Reader
	out bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *scriptConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *scriptConn) Close() error                     { return nil }
func (c *scriptConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *scriptConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

func FuzzNegotiation(f *testing.F) {
	option := func(n uint32, data ...any) []byte {
		d := pack(data...)
		return pack("IHAVEOPT", n, uint32(len(d)), d)
	}
	f.Add(option(1, "vol"))
	f.Add(pack(option(8), option(10, str("vol"), uint32(1), str("base:allocation")), option(7, str("vol"), uint16(1), uint16(3))))
	f.Add(pack(option(3), option(9, str(""), uint32(0)), option(6, str("x"), uint16(0)), option(2)))
	f.Add(pack(option(5), "IHAVEOPT", uint32(7), ^uint32(0)))
	f.Fuzz(func(t *testing.T, script []byte) {
		exports := exportsOf(NewMemory(1 << 16))
		o := Options{Exports: exports}
		o.setDefaults()
		nc := &scriptConn{}
		nc.in.Reset(pack(bothFlags, script))
		n := negotiator{opts: &o, nc: nc}
		exp, err := n.negotiate(t.Context())
		if (exp == nil) == (err == nil) {
			t.Fatalf("export %v and error %v", exp, err)
		}
		if exp != nil {
			exp.release()
		}
		if exports.holders() != 0 {
			t.Fatal("an export is still held")
		}
	})
}

// FuzzTransmission feeds requests to a small export and checks the answers: each begins with
// a known magic, and there are not more than requests.
func FuzzTransmission(f *testing.F) {
	f.Add(true, rawRequest(0, 0, 1, 0, 4096))
	f.Add(false, pack(rawRequest(1, 1, 1, 0, 5, "hello"), rawRequest(0, 0, 2, 0, 5), rawRequest(0, 2, 3, 0, 0)))
	f.Add(true, pack(rawRequest(0, 6, 1, 0, 8192), rawRequest(8, 7, 2, 0, 65536), rawRequest(0, 3, 3, 0, 0)))
	f.Add(true, rawRequest(0, 1, 1, 1<<63, ^uint32(0), "x"))
	const limit = 1 << 17
	f.Fuzz(func(t *testing.T, structured bool, script []byte) {
		before := bufferBytes()
		exports := exportsOf(NewMemory(1 << 16))
		srv, err := NewServer(Options{Exports: exports, MaxInFlight: limit, MaxRequests: 8, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n := negotiator{opts: &srv.opts, structured: structured, context: true, contextName: "vol"}
		exp, err := n.open(t.Context(), "vol")
		if err != nil {
			t.Fatal(err)
		}
		peak := &peakDevice{Device: exp.dev}
		exp.dev = peak
		nc := &scriptConn{}
		nc.in.Reset(script)
		c := newConn(srv, nil, nc, func() {})
		_ = c.transmit(nc, exp) // what ends it is the script's affair
		exp.release()
		if now := bufferBytes(); now != before {
			t.Fatalf("%d bytes of buffers in use, %d before", now, before)
		}
		if most := int64(limit + 8*4096 + 2*receiveBytes); peak.bytes-before > most {
			t.Fatalf("%d bytes of buffers in use at a time, limit %d", peak.bytes-before, most)
		}
		checkAnswers(t, structured, &nc.out, len(script)/requestHeaderSize)
	})
}

// peakDevice notes how much memory was in use when requests arrived.
type peakDevice struct {
	Device
	bytes int64
}

func (d *peakDevice) Start(batch []*Request) {
	now := bufferBytes()
	d.bytes = max(d.bytes, now)
	d.Device.Start(batch)
}

func checkAnswers(t *testing.T, structured bool, out *bytes.Buffer, most int) {
	t.Helper()
	answers := 0
	for out.Len() > 0 {
		c := &client{t, readerConn{out}}
		if !structured { // the length of a simple answer to a read is not in the answer
			c.want(uint32(0x67446698))
			return
		}
		switch magic := c.recv(4); {
		case bytes.Equal(magic, pack(uint32(0x67446698))):
			c.recv(12)
		case bytes.Equal(magic, pack(uint32(0x668e33ef))):
			c.recv(12)
			length := c.recv(4)
			c.recv(int(length[0])<<24 | int(length[1])<<16 | int(length[2])<<8 | int(length[3]))
		default:
			t.Fatalf("answer begins with % x", magic)
		}
		answers++
	}
	if answers > most {
		t.Fatalf("%d answers to at most %d requests", answers, most)
	}
}

// readerConn makes a reader usable by client.
type readerConn struct{ io.Reader }

func (readerConn) Write(p []byte) (int, error)      { return len(p), nil }
func (readerConn) Close() error                     { return nil }
func (readerConn) LocalAddr() net.Addr              { return nil }
func (readerConn) RemoteAddr() net.Addr             { return nil }
func (readerConn) SetDeadline(time.Time) error      { return nil }
func (readerConn) SetReadDeadline(time.Time) error  { return nil }
func (readerConn) SetWriteDeadline(time.Time) error { return nil }
