package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

// maxTools is how many connections of tools are served at a time; more are closed at once.
const maxTools = 64

// changeTimeout bounds the wait for the decision log to take a tool's change.
const changeTimeout = 10 * time.Second

// desk serves tools: Status, and changes of groups.
type desk struct {
	listener net.Listener
	wire     wire.Options
	hello    wire.Hello
	log      *slog.Logger
	// answer takes one message; an error ends the connection.
	answer func(ctx context.Context, conn *wire.Conn, h wire.Header, m wire.Message) error
}

// serve answers whoever dials until ctx ends, and closes the listener then.
func (d *desk) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { d.listener.Close() })
	defer stop()
	var tools sync.WaitGroup
	defer tools.Wait()
	slots := make(chan struct{}, maxTools)
	for {
		nc, err := d.listener.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d.log.Error("accepting a tool's connection failed; trying again", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		select {
		case slots <- struct{}{}:
			tools.Go(func() {
				defer func() { <-slots }()
				d.serveTool(ctx, nc)
			})
		default:
			d.log.Warn("too many tools are connected, one was turned away", "limit", maxTools)
			nc.Close()
		}
	}
}

func (d *desk) serveTool(ctx context.Context, nc net.Conn) {
	conn := wire.NewConn(nc, d.wire)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Answer(d.hello, nil); err != nil {
		d.log.Debug("a tool's greeting failed", "error", err)
		return
	}
	for {
		if err := d.answerNext(ctx, conn); err != nil {
			return // it hung up, or was told why
		}
	}
}

func (d *desk) answerNext(ctx context.Context, conn *wire.Conn) error {
	h, body, err := conn.Next()
	if err != nil {
		return tellWhy(conn, err)
	}
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		return errors.Join(err, conn.Abort(wire.Refusal(err, h.Number, "", 0)))
	}
	switch m.(type) {
	case *wire.Status, *wire.GroupChange:
		return d.answer(ctx, conn, h, m)
	}
	err = fmt.Errorf("manager: %w: a manager answers Status and GroupChange only, not %v", wire.ErrRefused, h.Type)
	return errors.Join(err, conn.Abort(wire.Refusal(err, h.Number, "", 0)))
}

// answerTool carries a change out, and tells the state after it.
func (n *Node) answerTool(ctx context.Context, conn *wire.Conn, h wire.Header, m wire.Message) error {
	if m, ok := m.(*wire.GroupChange); ok {
		if err := n.changeGroup(ctx, conn, m); err != nil {
			return refuseTool(conn, wire.Refusal(err, h.Number, m.Group, 0))
		}
	}
	b, err := n.statusJSON(ctx)
	return answerStatus(conn, h, b, err)
}

// answerStatus sends a status, or why there is none.
func answerStatus(conn *wire.Conn, h wire.Header, status []byte, err error) error {
	if err != nil {
		return errors.Join(err, conn.Abort(wire.Refusal(err, h.Number, "", 0)))
	}
	return conn.WriteMessage(&wire.StatusReply{JSON: status})
}

// changeGroup carries an operator's change out; it returns when the change is durable.
func (n *Node) changeGroup(ctx context.Context, conn *wire.Conn, m *wire.GroupChange) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	var err error
	switch m.Action {
	case wire.GroupPause:
		err = n.Pause(ctx, m.Group)
	case wire.GroupResume:
		err = n.Resume(ctx, m.Group)
	case wire.GroupSet:
		err = n.Tune(ctx, m.Group, m.JSON)
	case wire.GroupAdd, wire.GroupRemove:
		err = n.changeControl(ctx, m)
	}
	log := n.log.With("peer", conn.Peer().Node, "group", m.Group, "action", m.Action.String(), "settings", string(m.JSON))
	if err != nil {
		log.Info("group change refused", "error", err)
	} else {
		log.Info("group changed")
	}
	return err
}

// changeControl adds or removes the control that a tool names.
func (n *Node) changeControl(ctx context.Context, m *wire.GroupChange) error {
	var c wire.GroupControl
	if err := json.Unmarshal(m.JSON, &c); err != nil {
		return fmt.Errorf("manager: %v: %w: %w", m.Action, err, wire.ErrState)
	}
	if m.Action == wire.GroupRemove {
		return n.RemoveControl(ctx, m.Group, c.Control)
	}
	return n.AddControl(ctx, m.Group, c.Control, c.Role)
}

// refuseTool tells a tool of a refusal; an error ends the connection.
func refuseTool(conn *wire.Conn, e *wire.Error) error {
	if e.Code.EndsConnection() {
		return errors.Join(e.Code.Err(), conn.Abort(e))
	}
	return conn.WriteMessage(e)
}

// tellWhy ends a connection on which reading failed; a peer whose frame was wrong is told.
func tellWhy(conn *wire.Conn, err error) error {
	var wrong *wire.FormatError
	if !errors.As(err, &wrong) {
		return err
	}
	return errors.Join(err, conn.Abort(wire.Refusal(err, wrong.Frame, "", 0)))
}
