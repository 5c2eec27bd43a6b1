package primary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

// maxAnswers may wait for a session; a peer that asks without listening is cut off.
const maxAnswers = 1024

// session is a connection of a manager or a tool.
type session struct {
	id   int
	conn *wire.Conn
	kick chan struct{}

	mu       sync.Mutex
	answers  []wire.Message
	overflow bool
}

// push queues a message; it never blocks.
func (s *session) push(m wire.Message) {
	s.mu.Lock()
	if len(s.answers) < maxAnswers {
		s.answers = append(s.answers, m)
	} else {
		s.overflow = true
	}
	s.mu.Unlock()
	signal(s.kick)
}

// accept serves the listener until the node closes.
func (n *Node) accept() {
	for {
		nc, err := n.opt.Listener.Accept()
		if err != nil {
			if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			n.log.Error("cannot accept connections of managers and tools", "error", err)
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // out of descriptors, say: give it time
				continue
			}
		}
		n.running.Go(func() { n.serveSession(wire.NewConn(nc, n.opt.Wire)) })
	}
}

func (n *Node) serveSession(conn *wire.Conn) {
	stop := context.AfterFunc(n.ctx, func() { conn.Close() }) // its error would be that of a dying connection
	defer stop()
	peer, err := conn.Answer(wire.Hello{Role: wire.RolePrimary, Node: n.opt.Name, Instance: n.instance}, nil)
	if err != nil {
		n.log.Warn("a connection was refused", "from", conn.RemoteAddr(), "error", err)
		return
	}
	s := &session{conn: conn, kick: make(chan struct{}, 1)}
	n.mu.Lock()
	n.nextID++
	s.id = n.nextID
	n.sessions[s.id] = s
	n.mu.Unlock()

	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { n.answer(s, ended) })
	err = n.listen(s)
	close(ended)
	n.mu.Lock()
	delete(n.sessions, s.id)
	n.mu.Unlock()
	if code := wire.CodeOf(err, 0); code != 0 && n.ctx.Err() == nil {
		_ = conn.Abort(wire.Refusal(err, 0, "", 0)) // an attempt; err is logged
	}
	_ = conn.Close() // err says why it ended
	writer.Wait()
	if peer.Role == wire.RoleManager {
		n.log.Log(n.ctx, slog.LevelInfo, "a manager's connection has ended", "manager", peer.Node, "reason", err)
	}
}

// listen takes messages until the connection ends.
func (n *Node) listen(s *session) error {
	for {
		h, body, err := s.conn.Next()
		if err != nil {
			if remote, said := errors.AsType[*wire.RemoteError](err); said && !remote.Message.Code.EndsConnection() {
				n.log.Warn("a manager refused a report", "error", err)
				continue
			}
			return err
		}
		m, err := wire.Decode(h.Type, body)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.Status:
			s.push(&wire.StatusReply{JSON: n.statusJSON()})
		case *wire.Reload:
			n.running.Go(func() { n.reload(s) }) // opens devices, and may take its time
		case wire.Commanded:
			n.visit(func(c *Core) {
				c.ledBy(m.Head().Group, m.Head().Epoch, s.conn.Peer().Node)
				c.Manage(s.id, m)
			})
		default:
			return fmt.Errorf("a primary does not take %v: %w", h.Type, wire.ErrProtocol)
		}
	}
}

// answer writes what is pushed, until the session ends.
func (n *Node) answer(s *session, ended chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-s.kick:
		}
		s.mu.Lock()
		out, overflow := s.answers, s.overflow
		s.answers = nil
		s.mu.Unlock()
		for _, m := range out {
			if err := s.conn.WriteMessage(m); err != nil {
				_ = s.conn.Close() // ends listen; err is what it will see
				return
			}
		}
		if overflow {
			n.log.Warn("a peer asks without reading the answers: its connection is closed", "from", s.conn.RemoteAddr())
			_ = s.conn.Close()
			return
		}
	}
}
