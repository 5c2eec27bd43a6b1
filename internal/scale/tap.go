package scale

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/farside-storage/farside/wire"
)

// tap listens in front of a control's socket, passes on what comes through in both directions, and counts its frames.
type tap struct {
	l      net.Listener
	target string
	tally  *tally

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	wg     sync.WaitGroup
}

func newTap(listen, target string, t *tally) (*tap, error) {
	l, err := net.Listen("unix", listen)
	if err != nil {
		return nil, err
	}
	p := &tap{l: l, target: target, tally: t, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *tap) accept() {
	for {
		from, err := p.l.Accept()
		if err != nil {
			return // closed
		}
		to, err := net.Dial("unix", p.target)
		if err != nil { // the control is away: so is the caller's connection
			from.Close()
			continue
		}
		if !p.keep(from, to) {
			from.Close()
			to.Close()
			return
		}
		p.wg.Go(func() { p.relay(to, from) })
		p.wg.Go(func() { p.relay(from, to) })
	}
}

func (p *tap) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = !p.closed
	}
	return !p.closed
}

// relay passes frames on until either side ends; then both are closed, and their owners say why.
func (p *tap) relay(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	frame := make([]byte, 4096)
	for {
		head := frame[:wire.HeaderSize]
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		// PROTOCOL.md, "Frame": type at byte 4, length of the body at 8, of the payload at 12.
		body := int(binary.LittleEndian.Uint32(head[8:]))
		size := wire.HeaderSize + body + int(binary.LittleEndian.Uint32(head[12:]))
		if body > wire.MaxBody || size > wire.HeaderSize+wire.MaxBody+wire.MaxPayload {
			return
		}
		if size > len(frame) {
			frame = append(make([]byte, 0, size), head...)[:size]
		}
		if _, err := io.ReadFull(from, frame[wire.HeaderSize:size]); err != nil {
			return
		}
		p.tally.frame(wire.Type(frame[4]), frame[wire.HeaderSize:wire.HeaderSize+body], uint64(size))
		if _, err := to.Write(frame[:size]); err != nil {
			return
		}
	}
}

func (p *tap) close() error {
	p.mu.Lock()
	p.closed = true
	errs := []error{p.l.Close()}
	for c := range p.conns {
		c.Close() // a relay may have closed it
	}
	p.mu.Unlock()
	p.wg.Wait()
	return errors.Join(errs...)
}
