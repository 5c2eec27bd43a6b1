package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/wire"
)

// statusTime is how long an answer may take; a paused process accepts connections, but does not answer.
const statusTime = 15 * time.Second

// Status asks it for its state, a JSON document.
func (r *Role) Status(ctx context.Context, into any) error {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	if err := status(ctx, r.Listen(), into); err != nil {
		return fmt.Errorf("status of %s: %w", r.Name, errors.Join(err, ctx.Err()))
	}
	return nil
}

func status(ctx context.Context, address string, into any) error {
	c, err := wire.Dial(ctx, address, wire.Options{IdleTimeout: statusTime})
	if err != nil {
		return err
	}
	return Ask(ctx, c, into)
}

// Ask asks the node at the other end of a new connection for its state, a JSON document, and closes the connection.
func Ask(ctx context.Context, c *wire.Conn, into any) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends reading
	defer func() {
		if stop() {
			err = errors.Join(err, c.Close())
		}
	}()
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "proc"}); err != nil {
		return err
	}
	if err := c.WriteMessage(&wire.Status{}); err != nil {
		return err
	}
	for {
		h, body, err := c.Next()
		if err != nil {
			return err
		}
		if h.Type != wire.TypeStatusReply {
			continue
		}
		m, err := wire.Decode(h.Type, body)
		if err != nil {
			return err
		}
		return json.Unmarshal(m.(*wire.StatusReply).JSON, into)
	}
}
