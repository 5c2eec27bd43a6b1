package manager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

const (
	redialLeast = 100 * time.Millisecond
	redialMost  = 2 * time.Second
	sendQueue   = 1024 // messages to one peer; far more than are ever outstanding
)

// peer is one control. Its goroutine dials, greets and reads, again and again; what it learns goes to the loop in
// order: connected, messages, disconnected.
type peer struct {
	node *Node
	Control
	groups []*groupRun // in which it takes part
	link   *link       // owned by the loop; nil while not connected
	// instance of the control on this link. Owned by the loop.
	instance wire.UUID
	cancel   context.CancelFunc // ends run; nil before
	// complaint is the last reason logged for there being no connection. Owned by the loop.
	complaint string
}

// link is one connection of a peer.
type link struct {
	conn *wire.Conn
	out  chan wire.Message

	once sync.Once
	why  error // set before closed is closed
	gone chan struct{}
}

// end closes the connection; the first reason counts.
func (l *link) end(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.gone)
		l.conn.Close() // whatever Close says, the connection is of no more use
	})
}

// send queues a message. The loop calls it, so it never waits: a peer that lets the queue run full is dropped.
func (p *peer) send(m wire.Message) {
	if p.link == nil {
		return
	}
	select {
	case p.link.out <- m:
	default:
		p.link.end(fmt.Errorf("%d messages wait to be sent: the control takes none", sendQueue))
	}
}

func (p *peer) drop(why error) {
	if p.link != nil {
		p.link.end(why)
	}
}

func (p *peer) run(ctx context.Context) {
	wait := redialLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := p.session(ctx)
		if ctx.Err() != nil {
			return
		}
		p.node.post(func() {
			p.link = nil
			p.complain(err)
			p.tell(Disconnected{p.Name, err.Error()})
		})
		if time.Since(began) > redialMost {
			wait = redialLeast // it worked for a while
		}
		if !sleep(ctx, wait/2+rand.N(wait/2+1)) {
			return
		}
		wait = min(2*wait, redialMost)
	}
}

// complain logs why there is no connection, once for each reason.
func (p *peer) complain(err error) {
	if text := err.Error(); text != p.complaint {
		p.complaint = text
		p.node.log.Warn("no connection to a control", "control", p.Name, "error", text)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// session is one connection, from dialling to its end; the error says why it ended.
func (p *peer) session(ctx context.Context) error {
	conn, err := p.node.opts.dial(ctx, p.Addr)
	if err != nil {
		return err
	}
	l := &link{conn: conn, out: make(chan wire.Message, sendQueue), gone: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { l.end(ctx.Err()) })
	defer stop()
	hello, err := p.greet(l)
	if err != nil {
		l.end(err)
		return err
	}
	if !p.node.post(func() {
		p.link, p.instance, p.complaint = l, hello.Instance, ""
		p.tell(Connected{p.Name, hello.Instance})
	}) {
		l.end(errEnded)
		return errEnded
	}
	var writer sync.WaitGroup
	writer.Go(func() { l.write() })
	l.end(p.read(l))
	writer.Wait()
	return l.why
}

func (p *peer) greet(l *link) (wire.Hello, error) {
	hello, err := l.conn.Handshake(p.node.hello)
	if err != nil {
		return hello, err
	}
	if hello.Role != p.Role || p.Node != "" && hello.Node != p.Node {
		return hello, fmt.Errorf("manager: at %s is %s %q, expected %s %q: correct the name or the address", p.Addr, hello.Role, hello.Node, p.Role, p.Node)
	}
	return hello, nil
}

func (l *link) write() {
	for {
		select {
		case m := <-l.out:
			if err := l.conn.WriteMessage(m); err != nil {
				l.end(err)
				return
			}
		case <-l.gone:
			return
		}
	}
}

// read hands messages to the loop until the connection ends.
func (p *peer) read(l *link) error {
	for {
		h, body, err := l.conn.Next()
		var refusal *wire.RemoteError
		switch {
		case errors.As(err, &refusal):
			p.node.post(func() { p.refused(&refusal.Message) })
			if refusal.Message.Code.EndsConnection() {
				return err
			}
			continue
		case err != nil:
			return tellWhy(l.conn, err)
		}
		m, err := wire.Decode(h.Type, body)
		if err != nil {
			return tellWhy(l.conn, err)
		}
		if !p.node.post(func() { p.received(l, m) }) {
			return errEnded
		}
	}
}

// tell gives an event to every group that the control takes part in.
func (p *peer) tell(ev Event) {
	for _, g := range p.groups {
		p.node.step(g, ev)
	}
}

func (p *peer) received(l *link, m wire.Message) {
	c, ok := m.(wire.Commanded)
	if !ok {
		l.end(fmt.Errorf("manager: %s sent %v, which nobody asked for", p.Name, m.Type()))
		return
	}
	for _, g := range p.groups {
		if g.name == c.Head().Group {
			p.node.step(g, Received{p.Name, m})
		}
	}
}

// refused hands an error to the group it names, or to all.
func (p *peer) refused(e *wire.Error) {
	for _, g := range p.groups {
		if e.Group == "" || e.Group == g.name {
			p.node.step(g, Received{p.Name, e})
		}
	}
}
