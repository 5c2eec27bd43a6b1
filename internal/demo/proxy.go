package demo

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/farside-storage/farside/wire"
)

// proxy stands between the manager and a secondary control. When it is armed and a LINK comes by, it calls
// strike before the secondary can get it, and breaks the connection: the moment at which a failure must
// be undone everywhere.
type proxy struct {
	l      net.Listener
	target string // path of the secondary's socket

	mu     sync.Mutex
	strike func()
	conns  map[net.Conn]bool
	closed bool
	wg     sync.WaitGroup
}

func newProxy(listen, target string) (*proxy, error) {
	l, err := net.Listen("unix", strings.TrimPrefix(listen, "unix:"))
	if err != nil {
		return nil, err
	}
	p := &proxy{l: l, target: strings.TrimPrefix(target, "unix:"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

// arm has strike called at the next LINK.
func (p *proxy) arm(strike func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.strike = strike
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
		if p.closed {
			p.mu.Unlock()
			down.Close()
			up.Close()
			return
		}
		p.conns[down], p.conns[up] = true, true
		p.mu.Unlock()
		p.wg.Go(func() {
			io.Copy(down, up) // the other direction reports what matters
			p.drop(down, up)
		})
		p.wg.Go(func() {
			p.commands(up, down)
			p.drop(down, up)
		})
	}
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
		c.Close()
	}
}

// commands passes frames from the manager on, one by one. PROTOCOL.md, "Frame": type at byte 4, length of the
// body at 8, of the payload at 12.
func (p *proxy) commands(up, down net.Conn) {
	frame := make([]byte, wire.HeaderSize, 64<<10)
	for {
		frame = frame[:wire.HeaderSize]
		if _, err := io.ReadFull(down, frame); err != nil {
			return
		}
		n := wire.HeaderSize + int(binary.LittleEndian.Uint32(frame[8:])) + int(binary.LittleEndian.Uint32(frame[12:]))
		if n > cap(frame) {
			return // no command is that large
		}
		frame = frame[:n]
		if _, err := io.ReadFull(down, frame[wire.HeaderSize:]); err != nil {
			return
		}
		if wire.Type(frame[4]) == wire.TypeLink {
			p.mu.Lock()
			strike := p.strike
			p.strike = nil
			p.mu.Unlock()
			if strike != nil {
				strike()
				return
			}
		}
		if _, err := up.Write(frame); err != nil {
			return
		}
	}
}

func (p *proxy) close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	err := p.l.Close()
	p.wg.Wait()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
