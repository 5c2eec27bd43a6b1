package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// eachMode runs a test with simple and with structured replies.
func eachMode(t *testing.T, f func(t *testing.T, structured bool)) {
	for _, structured := range []bool{false, true} {
		t.Run(fmt.Sprintf("structured=%v", structured), func(t *testing.T) { f(t, structured) })
	}
}

// read asks for a range and returns what the answer contains.
func (c *client) read(structured bool, cookie, off uint64, length uint32) []byte {
	c.t.Helper()
	c.request(0, 0, cookie, off, length)
	if !structured {
		c.wantSimple(cookie, 0)
		return c.recv(int(length))
	}
	kind, data := c.chunk(cookie)
	switch {
	case kind == 1 && binary.BigEndian.Uint64(data) == off:
		return data[8:]
	case kind == 2 && bytes.Equal(data, pack(off, length)):
		return make([]byte, length)
	}
	c.t.Fatalf("read answered with chunk %d, % x", kind, data[:min(len(data), 32)])
	return nil
}

func TestWriteAndRead(t *testing.T) {
	eachMode(t, func(t *testing.T, structured bool) {
		s, _ := serveMemory(t, 64<<20)
		c := s.dial(t)
		c.transmission(structured, false)
		// Lengths below, at and far above what one read of the socket brings.
		for i, n := range []int{1, 511, 4096, 4097, receiveBytes, 1<<20 + 1, 32 << 20} {
			want, off := pattern(n, byte(i)), uint64(i*4096+i)
			go c.send(rawRequest(uint16(i%2), 1, uint64(i), off, uint32(n), want))
			c.wantSimple(uint64(i), 0)
			if got := c.read(structured, 99, off, uint32(n)); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes read differ from what was written", n)
			}
		}
		if got := c.read(structured, 100, 60<<20, 8192); !bytes.Equal(got, make([]byte, 8192)) {
			t.Error("never written range does not read as zeros")
		}
	})
}

// Requests that arrive in pieces, or many in one piece, are all the same.
func TestRequestsInAnyPieces(t *testing.T) {
	for _, piece := range []int{1, 27, 28, 29, 4096, 100_000, 1 << 30} {
		s, _ := serveMemory(t, 1<<20)
		c := s.dial(t)
		c.transmission(false, false)
		var stream []byte
		for i := range uint64(40) {
			stream = append(stream, rawRequest(0, 1, i, i*700, 700, pattern(700, byte(i)))...)
			stream = append(stream, rawRequest(0, 3, 1000+i, 0, 0)...)
		}
		go func() {
			for len(stream) > 0 {
				n := min(piece, len(stream))
				if _, err := c.Write(stream[:n]); err != nil {
					return // the test sees it by what does not arrive
				}
				stream = stream[n:]
			}
		}()
		for i := range uint64(40) { // the memory device answers in order
			c.wantSimple(i, 0)
			c.wantSimple(1000+i, 0)
		}
		for i := range uint64(40) {
			if got := c.read(false, i, i*700, 700); !bytes.Equal(got, pattern(700, byte(i))) {
				t.Fatalf("pieces of %d bytes: write %d is not there", piece, i)
			}
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	const size = 1 << 20
	for _, tc := range []struct {
		name        string
		flags, wire uint16
		off         uint64
		length      uint32
		code        uint32
		readOnly    bool
	}{
		{"read past end", 0, 0, size - 512, 1024, 22, false},
		{"read far past end", 0, 0, 1 << 63, 512, 22, false},
		{"read wrapping around", 0, 0, ^uint64(0) - 511, 1024, 22, false},
		{"write past end", 0, 1, size - 512, 1024, 28, false},
		{"trim past end", 0, 4, size, 512, 22, false},
		{"write zeroes past end", 0, 6, size, 512, 28, false},
		{"misaligned offset", 0, 0, 100, 512, 22, false},
		{"misaligned length", 0, 1, 512, 100, 22, false},
		{"misaligned trim", 0, 4, 512, 100, 22, false},
		{"read too large", 0, 0, 0, 128<<10 + 512, 22, false},
		{"write too large", 0, 1, 0, 128<<10 + 512, 22, false},
		{"write on read-only", 0, 1, 0, 512, 1, true},
		{"trim on read-only", 0, 4, 0, 512, 1, true},
		{"write zeroes on read-only", 0, 6, 0, 512, 1, true},
		{"unknown command", 0, 5, 0, 512, 22, false},
		{"unknown command", 0, 99, 0, 512, 22, false},
		{"unknown flag", 1 << 5, 0, 0, 512, 22, false},
		{"no hole on write", 2, 1, 0, 512, 22, false},
		{"request one on read", 8, 0, 0, 512, 22, false},
		{"block status without context", 0, 7, 0, 512, 22, false},
	} {
		eachMode(t, func(t *testing.T, structured bool) {
			t.Run(tc.name, func(t *testing.T) {
				s, m := serveMemory(t, size)
				m.SetInfo(func(i *Info) { i.MinBlock, i.MaxPayload, i.ReadOnly = 512, 128<<10, tc.readOnly })
				c := s.dial(t)
				c.transmission(structured, false)
				var payload []byte
				if tc.wire == 1 {
					payload = make([]byte, tc.length)
				}
				c.request(tc.flags, tc.wire, 5, tc.off, tc.length, payload)
				c.wantError(structured, 5, tc.code)
				c.read(structured, 6, 0, 512) // the connection is still in step
				if n := s.Counters().RefusedRequests; n != 1 {
					t.Errorf("%d refused requests counted, want 1", n)
				}
			})
		})
	}
}

func TestCommandsThatAreNotOffered(t *testing.T) {
	s, m := serveMemory(t, 1<<20)
	m.SetInfo(func(i *Info) { *i = Info{} })
	c := s.dial(t)
	c.transmission(false, false)
	for i, r := range [][]byte{
		rawRequest(0, 3, 0, 0, 0),
		rawRequest(0, 4, 1, 0, 512),
		rawRequest(0, 6, 2, 0, 512),
		rawRequest(1, 1, 3, 0, 512, make([]byte, 512)), // FUA
		rawRequest(4, 0, 4, 0, 512),                    // DF without structured replies
	} {
		c.send(r)
		c.wantSimple(uint64(i), 22)
	}
}

func TestEmptyRequestsSucceed(t *testing.T) {
	eachMode(t, func(t *testing.T, structured bool) {
		s, _ := serveMemory(t, 1<<20)
		c := s.dial(t)
		c.transmission(structured, structured)
		for _, wire := range []uint16{1, 4, 6} {
			c.request(0, wire, 1, 0, 0)
			c.wantSimple(1, 0)
		}
		c.request(0, 0, 2, 0, 0)
		if structured {
			if kind, data := c.chunk(2); kind != 0 || len(data) != 0 {
				t.Errorf("empty read answered with chunk %d, % x", kind, data)
			}
			c.request(0, 7, 3, 0, 0)
			c.wantError(true, 3, 22)
		} else {
			c.wantSimple(2, 0)
		}
		c.read(structured, 4, 0, 1)
	})
}

func TestBadRequestMagicEndsConnection(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.transmission(false, false)
	c.send(make([]byte, 28))
	c.wantClosed()
	other := s.dial(t) // others never notice
	other.transmission(false, false)
	other.read(false, 1, 0, 512)
}

// What the device is asked to do is what the client sent.
func TestRequestReachesDevice(t *testing.T) {
	info := NewMemory(1 << 20).Info()
	dev := newHeldDevice(info)
	s := serve(t, Options{Exports: exportsOf(dev)})
	c := s.dial(t)
	c.transmission(true, true)
	for _, tc := range []struct {
		raw  []byte
		want Request
	}{
		{rawRequest(4, 0, 1, 4096, 8192), Request{Cmd: CmdRead, Off: 4096, Len: 8192}},
		{rawRequest(1, 1, 1, 512, 3, "abc"), Request{Cmd: CmdWrite, Off: 512, Len: 3, FUA: true}},
		{rawRequest(0, 3, 1, 77, 88), Request{Cmd: CmdFlush}},
		{rawRequest(1, 4, 1, 1, 2), Request{Cmd: CmdTrim, Off: 1, Len: 2, FUA: true}},
		{rawRequest(2, 6, 1, 1, 2), Request{Cmd: CmdWriteZeroes, Off: 1, Len: 2, NoHole: true}},
		{rawRequest(17, 6, 1, 1, 2), Request{Cmd: CmdWriteZeroes, Off: 1, Len: 2, FUA: true, FastZero: true}},
		{rawRequest(8, 7, 1, 1, 2), Request{Cmd: CmdBlockStatus, Off: 1, Len: 2, One: true}},
	} {
		c.send(tc.raw)
		r := <-dev.started
		if r.Cmd != tc.want.Cmd || r.Off != tc.want.Off || r.Len != tc.want.Len || r.FUA != tc.want.FUA ||
			r.NoHole != tc.want.NoHole || r.FastZero != tc.want.FastZero || r.One != tc.want.One {
			t.Errorf("device got %+v, want %+v", r, tc.want)
		}
		if hasData := r.Cmd == CmdRead || r.Cmd == CmdWrite; hasData != (r.Data != nil) {
			t.Errorf("%v: data %v", r.Cmd, r.Data)
		} else if hasData && uint64(len(r.Data.Bytes())) != r.Len {
			t.Errorf("%v: %d bytes of data, want %d", r.Cmd, len(r.Data.Bytes()), r.Len)
		}
		if r.Cmd == CmdWrite && string(r.Data.Bytes()) != "abc" {
			t.Errorf("payload %q", r.Data.Bytes())
		}
		r.Finish(unix.EIO)
		c.wantError(true, 1, 5)
	}
}

func TestAnswersInAnyOrder(t *testing.T) {
	eachMode(t, func(t *testing.T, structured bool) {
		dev := newHeldDevice(Info{Size: 1 << 20})
		s := serve(t, Options{Exports: exportsOf(dev)})
		c := s.dial(t)
		c.transmission(structured, false)
		const n = 20
		var held []*Request
		for i := range uint64(n) {
			c.request(0, 0, 500+i, i*100, 100)
			held = append(held, <-dev.started)
		}
		for i := n - 1; i >= 0; i-- {
			copy(held[i].Data.Bytes(), bytes.Repeat([]byte{byte(i)}, 100))
			held[i].Finish(nil)
			if !structured {
				c.wantSimple(500+uint64(i), 0)
			} else {
				c.want(uint32(0x668e33ef), uint16(1), uint16(1), 500+uint64(i), uint32(108), uint64(i*100))
			}
			c.want(bytes.Repeat([]byte{byte(i)}, 100))
		}
	})
}

func TestErrorCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code uint32
	}{
		{errors.New("anything"), 5},
		{unix.EIO, 5},
		{unix.ENODEV, 5},
		{unix.EPERM, 1},
		{unix.EROFS, 1},
		{unix.ENOMEM, 12},
		{unix.EINVAL, 22},
		{unix.ENOSPC, 28},
		{fmt.Errorf("pool full: %w", unix.ENOSPC), 28},
		{unix.EDQUOT, 28},
		{unix.EOVERFLOW, 75},
		{unix.ENOTSUP, 95},
		{unix.EOPNOTSUPP, 95},
		{unix.ESHUTDOWN, 108},
	} {
		eachMode(t, func(t *testing.T, structured bool) {
			dev := newHeldDevice(Info{Size: 1 << 20})
			s := serve(t, Options{Exports: exportsOf(dev)})
			c := s.dial(t)
			c.transmission(structured, false)
			for _, wire := range []uint16{0, 1} {
				c.request(0, wire, 3, 0, 4, make([]byte, 4*wire))
				(<-dev.started).Finish(tc.err)
				c.wantError(structured, 3, tc.code)
			}
			if n := s.Counters().FailedRequests; n != 2 {
				t.Errorf("%d failed requests counted, want 2", n)
			}
		})
	}
}

func TestLongErrorTextIsCut(t *testing.T) {
	dev := newHeldDevice(Info{Size: 1 << 20})
	s := serve(t, Options{Exports: exportsOf(dev)})
	c := s.dial(t)
	c.transmission(true, false)
	c.request(0, 0, 3, 0, 4)
	(<-dev.started).Finish(errors.New(string(bytes.Repeat([]byte("é"), 5000))))
	kind, data := c.chunk(3)
	if kind != 0x8001 || len(data) != 6+maxText {
		t.Errorf("chunk %#x of %d bytes, want %d", kind, len(data), 6+maxText)
	}
}

func TestZeroesAreAnsweredAsHole(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.transmission(true, false)
	c.request(4, 0, 1, 8192, 65536)
	if kind, data := c.chunk(1); kind != 2 || !bytes.Equal(data, pack(uint64(8192), uint32(65536))) {
		t.Errorf("chunk %d % x, want a hole", kind, data[:min(len(data), 32)])
	}
}

// A device that only says AllZero leaves the buffer as it was: a client without structured
// replies must not see that.
func TestAllZeroClearsData(t *testing.T) {
	dev := newHeldDevice(Info{Size: 1 << 20})
	s := serve(t, Options{Exports: exportsOf(dev)})
	c := s.dial(t)
	c.transmission(false, false)
	c.request(0, 0, 1, 0, 512)
	r := <-dev.started
	copy(r.Data.Bytes(), "another client's data")
	r.AllZero = true
	r.Finish(nil)
	c.wantSimple(1, 0)
	c.want(make([]byte, 512))
}

func TestBlockStatus(t *testing.T) {
	const block = 4096
	for _, tc := range []struct {
		name   string
		flags  uint16
		off    uint64
		length uint32
		runs   []Run
		want   []uint32 // length, state, ...; nil is an error
	}{
		{"one run", 0, 0, 10 * block, []Run{{10 * block, false, false}}, []uint32{10 * block, 0}},
		{"states", 0, 0, 4 * block,
			[]Run{{block, true, true}, {block, false, true}, {block, true, false}, {block, false, false}},
			[]uint32{block, 3, block, 2, block, 1, block, 0}},
		{"neighbours become one", 0, 0, 3 * block,
			[]Run{{block, true, true}, {block, true, true}, {block, false, false}},
			[]uint32{2 * block, 3, block, 0}},
		{"cut at the end", 0, block, 2 * block, []Run{{block, false, false}, {9 * block, true, true}},
			[]uint32{block, 0, block, 3}},
		{"nothing beyond the end", 0, 0, block, []Run{{block, false, false}, {block, true, true}}, []uint32{block, 0}},
		{"one asked for", 8, 0, 4 * block, []Run{{block, true, true}, {block, true, true}, {block, false, false}},
			[]uint32{2 * block, 3}},
		{"empty runs", 0, 0, block, []Run{{}, {block, true, true}, {}}, []uint32{block, 3}},
		{"no runs", 0, 0, block, nil, nil},
		{"4 GiB", 0, 0, 1<<32 - block, []Run{{1 << 40, true, true}}, []uint32{1<<32 - block, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev := newHeldDevice(Info{Size: 1 << 40, BlockStatus: true})
			s := serve(t, Options{Exports: exportsOf(dev)})
			c := s.dial(t)
			c.transmission(true, true)
			c.request(tc.flags, 7, 9, tc.off, tc.length)
			r := <-dev.started
			r.Status = append(r.Status[:0], tc.runs...)
			r.Finish(nil)
			if tc.want == nil {
				c.wantError(true, 9, 5)
				return
			}
			kind, data := c.chunk(9)
			if want := pack(uint32(1), tc.want); kind != 5 || !bytes.Equal(data, want) {
				t.Errorf("chunk %d\n% x, want\n% x", kind, data, want)
			}
		})
	}
}

func TestBlockStatusIsBounded(t *testing.T) {
	dev := newHeldDevice(Info{Size: 1 << 40, BlockStatus: true})
	s := serve(t, Options{Exports: exportsOf(dev)})
	c := s.dial(t)
	c.transmission(true, true)
	c.request(0, 7, 9, 0, 1<<31)
	r := <-dev.started
	for i := range 3 * maxRuns {
		r.Status = append(r.Status, Run{Len: 512, Hole: i%2 == 0})
	}
	r.Finish(nil)
	if kind, data := c.chunk(9); kind != 5 || len(data) != 4+8*maxRuns {
		t.Errorf("chunk %d of %d bytes, want %d runs", kind, len(data), maxRuns)
	}
}

func TestTrimAndWriteZeroes(t *testing.T) {
	s, _ := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.transmission(true, true)
	c.request(0, 1, 1, 0, 40960, pattern(40960, 3))
	c.wantSimple(1, 0)
	c.request(0, 4, 2, 0, 8192) // trim: a hole
	c.wantSimple(2, 0)
	c.request(2, 6, 3, 8192, 8192) // no hole
	c.wantSimple(3, 0)
	c.request(0, 6, 4, 16384, 8192) // may be a hole
	c.wantSimple(4, 0)
	want := pattern(40960, 3)
	clear(want[:24576])
	if got := c.read(true, 5, 0, 40960); !bytes.Equal(got, want) {
		t.Error("contents differ")
	}
	c.request(0, 7, 6, 0, 40960)
	_, data := c.chunk(6)
	if want := pack(uint32(1), []uint32{8192, 3, 8192, 0, 8192, 3, 16384, 0}); !bytes.Equal(data, want) {
		t.Errorf("block status\n% x, want\n% x", data, want)
	}
}

// A write whose payload never came whole is neither done nor answered.
func TestIncompleteWriteIsNotDone(t *testing.T) {
	s, m := serveMemory(t, 1<<20)
	c := s.dial(t)
	c.transmission(false, false)
	c.request(0, 1, 1, 0, 4, "done")
	c.request(0, 1, 2, 4096, 8192, make([]byte, 8000))
	if err := c.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.wantSimple(1, 0)
	c.wantClosed()
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.pages[0] == nil || m.pages[1] != nil {
		t.Errorf("written: first %v, second %v; want only the first", m.pages[0] != nil, m.pages[1] != nil)
	}
}
