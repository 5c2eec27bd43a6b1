package frameproxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/farside-storage/farside/wire"
)

// Verdict is what happens to a frame.
type Verdict int

// Verdicts.
const (
	Pass  Verdict = iota
	Break         // the connection is broken, and the frame lost
)

// Proxy passes connections on to one node.
type Proxy struct {
	l      net.Listener
	target string // path of its socket

	mu     sync.Mutex
	watch  func(kind wire.Type, body []byte) Verdict
	conns  map[net.Conn]bool
	cuts   int // how often all connections were broken
	closed bool
	wg     sync.WaitGroup
}

// Listen takes connections at one address and passes them on to another; both are "unix:/path". One that comes while
// the target is away is closed.
func Listen(at, target string) (*Proxy, error) {
	l, err := net.Listen("unix", strings.TrimPrefix(at, "unix:"))
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, target: strings.TrimPrefix(target, "unix:"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

// OnFrame has f called with type and body of each frame before it is passed on, in both directions, from several
// goroutines. It may block: then only that direction of that connection waits. nil lets everything pass.
func (p *Proxy) OnFrame(f func(kind wire.Type, body []byte) Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = f
}

// Cut breaks all connections; new ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close() // whoever uses it finds out
	}
	clear(p.conns)
	p.cuts++
}

func (p *Proxy) cutsSoFar() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Close breaks all connections and takes no more. A function that blocks in OnFrame must be let go first.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	err := p.l.Close()
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) accept() {
	for {
		down, err := p.l.Accept()
		if err != nil {
			return
		}
		cuts := p.cutsSoFar()
		up, err := net.Dial("unix", p.target)
		if err != nil { // the target is away
			_ = down.Close()
			continue
		}
		if !p.keep(cuts, down, up) {
			continue
		}
		for _, way := range [][2]net.Conn{{down, up}, {up, down}} {
			p.wg.Go(func() {
				p.frames(way[0], way[1])
				p.drop(down, up)
			})
		}
	}
}

// keep notes connections, so that they can be broken, or closes them if that was to be done since.
func (p *Proxy) keep(cuts int, conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.closed || p.cuts != cuts
	for _, c := range conns {
		if late {
			_ = c.Close() // whoever uses it finds out
		} else {
			p.conns[c] = true
		}
	}
	return !late
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
		_ = c.Close() // both directions end here
	}
}

// frames passes frames on. PROTOCOL.md, "Frame": type at byte 4, length of the body at 8, of the payload at 12.
func (p *Proxy) frames(from, to net.Conn) {
	var head [wire.HeaderSize]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		body, payload := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
		if body > wire.MaxBody || payload > wire.MaxPayload {
			return // no frame is that large
		}
		frame := make([]byte, wire.HeaderSize+body+payload)
		copy(frame, head[:])
		if _, err := io.ReadFull(from, frame[wire.HeaderSize:]); err != nil {
			return
		}
		if p.judge(wire.Type(head[4]), frame[wire.HeaderSize:wire.HeaderSize+body]) == Break {
			return
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

func (p *Proxy) judge(kind wire.Type, body []byte) Verdict {
	p.mu.Lock()
	watch := p.watch
	p.mu.Unlock()
	if watch == nil {
		return Pass
	}
	return watch(kind, body)
}
