package target

import (
	"context"
	"fmt"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// changeVolume carries a tool's Volume out; an error ends the connection.
func (n *Node) changeVolume(l *link, h wire.Header, body []byte) error {
	var v wire.Volume
	if err := wire.DecodeInto(&v, body); err != nil {
		return err
	}
	var err error
	switch v.Action {
	case wire.VolumeMake:
		err = n.makeVolume(l.ctx, &v)
	case wire.VolumeDelete:
		err = n.opts.Pool.DeleteVolume(l.ctx, v.Group, v.Name)
	default:
		err = fmt.Errorf("%v of volume %q of group %q: %w: this control cannot do that yet", v.Action, v.Name, v.Group, engine.ErrState)
	}
	n.opts.Logger.Info("volume change", "peer", l.name(), "group", v.Group, "volume", v.Name, "bytes", v.Size, "action", v.Action.String(), "error", err)
	if err == nil {
		return n.replyStatus(l)
	}
	e := wire.Refusal(fromEngine(err), h.Number, v.Group, 0)
	if e.Code.EndsConnection() {
		return fromEngine(err)
	}
	return l.conn.WriteMessage(e)
}

// makeVolume makes a volume unless it is there already.
func (n *Node) makeVolume(ctx context.Context, v *wire.Volume) error {
	if g, err := n.opts.Pool.Group(v.Group); err == nil {
		if have, err := g.Volume(v.Name); err == nil {
			if have.Size() != v.Size {
				return fmt.Errorf("volume %q of group %q has %d bytes, not %d: %w", v.Name, v.Group, have.Size(), v.Size, engine.ErrState)
			}
			return nil
		}
	}
	_, err := n.opts.Pool.CreateVolume(ctx, v.Group, v.Name, v.Size)
	return err
}
