package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

// maxTools is how many connections of tools are served at a time; more are closed at once.
const maxTools = 64

// serveTools answers Status to whoever dials.
func (n *Node) serveTools(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { n.listener.Close() })
	defer stop()
	var tools sync.WaitGroup
	defer tools.Wait()
	slots := make(chan struct{}, maxTools)
	for {
		nc, err := n.listener.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.log.Error("accepting a tool's connection failed; trying again", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		select {
		case slots <- struct{}{}:
			tools.Go(func() {
				defer func() { <-slots }()
				n.serveTool(ctx, nc)
			})
		default:
			n.log.Warn("too many tools are connected, one was turned away", "limit", maxTools)
			nc.Close()
		}
	}
}

func (n *Node) serveTool(ctx context.Context, nc net.Conn) {
	conn := wire.NewConn(nc, n.opts.Wire)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Answer(n.hello, nil); err != nil {
		n.log.Debug("a tool's greeting failed", "error", err)
		return
	}
	for {
		if err := n.answerTool(ctx, conn); err != nil {
			return // it hung up, or was told why
		}
	}
}

func (n *Node) answerTool(ctx context.Context, conn *wire.Conn) error {
	h, body, err := conn.Next()
	if err != nil {
		return tellWhy(conn, err)
	}
	m, err := wire.Decode(h.Type, body)
	if err == nil && m.Type() != wire.TypeStatus {
		err = fmt.Errorf("manager: %w: a manager answers Status only, not %v", wire.ErrRefused, h.Type)
	}
	if err != nil {
		return errors.Join(err, conn.Abort(wire.Refusal(err, h.Number, "", 0)))
	}
	b, err := n.statusJSON(ctx)
	if err != nil {
		return errors.Join(err, conn.Abort(wire.Refusal(err, h.Number, "", 0)))
	}
	return conn.WriteMessage(&wire.StatusReply{JSON: b})
}

// tellWhy ends a connection on which reading failed; a peer whose frame was wrong is told.
func tellWhy(conn *wire.Conn, err error) error {
	var wrong *wire.FormatError
	if !errors.As(err, &wrong) {
		return err
	}
	return errors.Join(err, conn.Abort(wire.Refusal(err, wrong.Frame, "", 0)))
}
