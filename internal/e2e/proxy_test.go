package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/farside-storage/farside/wire"
)

// proxy stands between the manager and a secondary, and sees each frame.
type proxy struct {
	l      net.Listener
	target string

	mu    sync.Mutex
	watch func(wire.Type, []byte) verdict
	conns map[net.Conn]bool
	ended bool
	wg    sync.WaitGroup
}

// verdict is what happens to a frame.
type verdict int

const (
	pass   verdict = iota
	break_         // the connection is broken, and the frame lost
)

func newProxy(t testing.TB, listen, target string) *proxy {
	t.Helper()
	l, err := net.Listen("unix", strings.TrimPrefix(listen, "unix:"))
	check(t, err)
	p := &proxy{l: l, target: strings.TrimPrefix(target, "unix:"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.cut()
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		p.wg.Wait()
	})
	return p
}

// onFrame has f called with type and body of each frame, before it is passed on, in both directions. It may
// block.
func (p *proxy) onFrame(f func(wire.Type, []byte) verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = f
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) accept() {
	for {
		down, err := p.l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("unix", p.target)
		if err != nil { // the secondary is away
			down.Close()
			continue
		}
		p.mu.Lock()
		if p.ended {
			p.mu.Unlock()
			down.Close()
			up.Close()
			return
		}
		p.conns[down], p.conns[up] = true, true
		p.mu.Unlock()
		for _, way := range [][2]net.Conn{{down, up}, {up, down}} {
			p.wg.Go(func() {
				p.frames(way[0], way[1])
				down.Close()
				up.Close()
			})
		}
	}
}

// frames passes frames on. PROTOCOL.md, "Frame": type at byte 4, length of the body at 8, of the payload at 12.
func (p *proxy) frames(from, to net.Conn) {
	var head [wire.HeaderSize]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		rest := make([]byte, binary.LittleEndian.Uint32(head[8:])+binary.LittleEndian.Uint32(head[12:]))
		if _, err := io.ReadFull(from, rest); err != nil {
			return
		}
		p.mu.Lock()
		watch := p.watch
		p.mu.Unlock()
		body := rest[:binary.LittleEndian.Uint32(head[8:])]
		if watch != nil && watch(wire.Type(head[4]), body) == break_ {
			return
		}
		if _, err := to.Write(append(head[:], rest...)); err != nil {
			return
		}
	}
}
