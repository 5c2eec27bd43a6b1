package nbd

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGreetingRefusesClients(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	for _, flags := range []uint32{0, 2, 4, 1 << 31, 7} {
		c := s.dial(t)
		c.greet(flags)
		c.wantClosed()
	}
}

func TestOptionWithBadMagicEndsConnection(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.send("IHAVENOT", uint32(3), uint32(0))
	c.wantClosed()
}

func TestExportName(t *testing.T) {
	for _, noZeroes := range []bool{false, true} {
		s, _ := serveMemory(t, 1<<20)
		c := s.dial(t)
		flags, padding := uint32(1), make([]byte, 124)
		if noZeroes {
			flags, padding = 3, nil
		}
		c.greet(flags)
		c.option(1, "vol")
		// has flags, flush, FUA, trim, write zeroes, multi-conn, fast zero; no DF
		c.want(uint64(1<<20), uint16(1|4|8|32|64|256|2048), padding)
		c.request(0, 0, 7, 0, 512)
		c.wantSimple(7, 0)
		c.want(make([]byte, 512))
	}
}

func TestExportNameUnknownOrTooLong(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	for _, name := range []string{"nobody", strings.Repeat("x", 4097)} {
		c := s.dial(t)
		c.greet(bothFlags)
		c.option(1, name)
		c.wantClosed()
	}
}

func TestAbort(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(2)
	c.wantReply(2, 1)
	c.wantClosed()
}

func TestList(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(3)
	var names []string
	for range 2 {
		data := c.wantReply(3, 2)
		names = append(names, string(data[4:]))
		if n := int(binary.BigEndian.Uint32(data)); n != len(data)-4 {
			t.Errorf("name length %d in %d bytes", n, len(data))
		}
	}
	c.wantReply(3, 1)
	slices.Sort(names)
	if !slices.Equal(names, []string{"", "vol"}) {
		t.Errorf("listed %q", names)
	}
	c.option(3, "data")
	c.wantReply(3, repErrInvalid)
}

func TestUnknownOptionsAreUnsupported(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	for _, option := range []uint32{4, 11, 99, 1 << 31} {
		c.option(option, "some data")
		c.wantReply(option, repErrUnsup)
	}
	c.option(5)
	c.wantReply(5, repErrPolicy) // no TLS here
}

func TestOptionTooBig(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(7, make([]byte, 64<<10+1))
	c.wantReply(7, repErrTooBig)
	c.option(8) // still in step
	c.wantReply(8, 1)
	c.send("IHAVEOPT", uint32(7), uint32(1<<20+1))
	c.wantClosed()
}

func TestTooManyOptions(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	for range maxOptions {
		c.option(8)
		c.wantReply(8, 1)
	}
	c.wantClosed()
}

// infos asks for NBD_OPT_INFO or NBD_OPT_GO and returns the information by type.
func (c *client) infos(option uint32, export string, wanted ...uint16) map[uint16][]byte {
	c.t.Helper()
	c.option(option, str(export), uint16(len(wanted)), pack(wanted))
	got := map[uint16][]byte{}
	for {
		kind, data := c.reply(option)
		if kind == 1 {
			return got
		}
		if kind != 3 {
			c.t.Fatalf("option %d answered with %#x (%q)", option, kind, data)
		}
		got[binary.BigEndian.Uint16(data)] = data[2:]
	}
}

func TestInfoAndGo(t *testing.T) {
	m := NewMemory(1<<20 + 512)
	exports := exportsOf(m)
	s := serve(t, Options{Exports: exports})
	m.SetInfo(func(i *Info) {
		i.MinBlock, i.PreferredBlock, i.MaxPayload = 4096, 65536, 1<<20
		i.ReadOnly, i.Rotational, i.MultiConn, i.Description = true, true, false, "a test"
	})
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(8)
	c.wantReply(8, 1)
	for _, option := range []uint32{6, 7} {
		got := c.infos(option, "vol", 1, 2, 3, 77)
		// size cut to the block size; has flags, read-only, flush, FUA, rotational, DF
		want := map[uint16][]byte{
			0: pack(uint64(1<<20), uint16(1|2|4|8|16|128)),
			1: []byte("vol"),
			2: []byte("a test"),
			3: pack(uint32(4096), uint32(65536), uint32(1<<20)),
		}
		for kind, data := range want {
			if !bytes.Equal(got[kind], data) {
				t.Errorf("option %d, info %d: % x, want % x", option, kind, got[kind], data)
			}
		}
		if len(got) != len(want) {
			t.Errorf("option %d: %d infos, want %d", option, len(got), len(want))
		}
	}
	c.request(0, 0, 1, 0, 4096) // after GO
	c.chunk(1)
	if n := exports.holders(); n != 1 {
		t.Errorf("export is held %d times, want once: INFO gives it back", n)
	}
}

func TestInfoTellsOnlyWhatWasAsked(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	got := c.infos(6, "vol")
	if len(got) != 2 || got[0] == nil || got[3] == nil {
		t.Errorf("infos %v, want export and block sizes", got)
	}
}

func TestInfoMalformed(t *testing.T) {
	exports := exportsOf(NewMemory(1 << 20))
	s := serve(t, Options{Exports: exports})
	c := s.dial(t)
	c.greet(bothFlags)
	for name, data := range map[string][]byte{
		"empty":            {},
		"name past end":    pack(uint32(9), "vol"),
		"huge name length": pack(^uint32(0), "vol", uint16(0)),
		"no count":         str("vol"),
		"count too large":  pack(str("vol"), uint16(3), uint16(0)),
		"trailing":         pack(str("vol"), uint16(0), uint16(0)),
		"long name":        pack(str(strings.Repeat("x", 4097)), uint16(0)),
	} {
		for _, option := range []uint32{6, 7} {
			c.option(option, data)
			if kind, text := c.reply(option); kind != repErrInvalid {
				t.Errorf("%s: option %d answered with %#x %q", name, option, kind, text)
			}
		}
	}
	c.option(7, str("nobody"), uint16(0))
	if text := c.wantReply(7, repErrUnknown); !strings.Contains(string(text), `"nobody"`) {
		t.Errorf("text %q does not name the export", text)
	}
	c.option(2)
	c.wantReply(2, 1)
	c.wantClosed()
	if n := exports.holders(); n != 0 {
		t.Errorf("%d exports are still held", n)
	}
}

func TestStructuredReplyTakesNoData(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(8, "x")
	c.wantReply(8, repErrInvalid)
	c.option(10, str("vol"), uint32(1), str("base:allocation")) // so it is still off
	c.wantReply(10, repErrInvalid)
}

func TestMetaContexts(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	for _, option := range []uint32{9, 10} {
		c.option(option, str("vol"), uint32(1), str("base:allocation"))
		c.wantReply(option, repErrInvalid) // before structured replies
	}
	c.option(8)
	c.wantReply(8, 1)
	for _, tc := range []struct {
		option  uint32
		queries []string
		found   bool
	}{
		{9, nil, true},
		{9, []string{"base:"}, true},
		{9, []string{"base:allocation"}, true},
		{9, []string{"qemu:dirty-bitmap:x"}, false},
		{10, nil, false},
		{10, []string{"base:"}, false},
		{10, []string{"x:y", "base:allocation"}, true},
		{10, []string{"base:allocation2"}, false},
	} {
		data := pack(str("vol"), uint32(len(tc.queries)))
		for _, q := range tc.queries {
			data = append(data, str(q)...)
		}
		c.option(tc.option, data)
		if tc.found {
			got := c.wantReply(tc.option, 4)
			if string(got[4:]) != "base:allocation" {
				t.Errorf("context %q", got[4:])
			}
		}
		c.wantReply(tc.option, 1)
	}
}

func TestMetaContextsMalformed(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.greet(bothFlags)
	c.option(8)
	c.wantReply(8, 1)
	for name, data := range map[string][]byte{
		"empty":           {},
		"no count":        str("vol"),
		"count too large": pack(str("vol"), ^uint32(0), str("base:allocation")),
		"query past end":  pack(str("vol"), uint32(1), uint32(99), "base"),
		"trailing":        pack(str("vol"), uint32(0), "x"),
	} {
		c.option(10, data)
		if kind, text := c.reply(10); kind != repErrInvalid {
			t.Errorf("%s: answered with %#x %q", name, kind, text)
		}
	}
	c.option(10, str("nobody"), uint32(0))
	c.wantReply(10, repErrUnknown)
}

// A selection holds for the export it named only, and the last one counts.
func TestMetaContextBelongsToItsExport(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	for name, selections := range map[string][][]byte{
		"other export": {pack(str(""), uint32(1), str("base:allocation"))},
		"replaced": {
			pack(str("vol"), uint32(1), str("base:allocation")),
			pack(str("vol"), uint32(1), str("x:y")),
		},
	} {
		c := s.dial(t)
		c.greet(bothFlags)
		c.option(8)
		c.wantReply(8, 1)
		for _, data := range selections {
			c.option(10, data)
			for kind := uint32(0); kind != 1; {
				kind, _ = c.reply(10)
			}
		}
		c.infos(7, "vol")
		c.request(0, 7, 1, 0, 4096)
		t.Log(name)
		c.wantError(true, 1, 22)
	}
}

// A client that does not come to the point is disconnected when its time is over.
func TestSlowNegotiatorTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := NewServer(Options{Exports: exportsOf(NewMemory(1 << 20)), NegotiationTimeout: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- srv.Serve(t.Context(), l) }()
		c := &client{t, l.dial()}
		begin := time.Now()
		c.greet(bothFlags)
		c.send("IHAVE") // and no more
		c.wantClosed()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("disconnected after %v, want 3 s", took)
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if n := srv.Counters().NegotiationsFailed; n != 1 {
			t.Errorf("%d failed negotiations counted, want 1", n)
		}
	})
}

// pipeListener accepts connections made in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
