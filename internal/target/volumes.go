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
	case wire.VolumeSetAside:
		err = n.setAside(l.ctx, &v)
	case wire.VolumeRejoin:
		err = n.rejoin(l.ctx, &v)
	}
	log := n.opts.Logger.With("peer", l.name(), "group", v.Group, "volume", v.Name, "bytes", v.Size, "action", v.Action.String())
	if err == nil {
		log.Info("volume changed")
		return n.replyStatus(l)
	}
	log.Info("volume change refused", "error", err)
	e := wire.Refusal(fromEngine(err), h.Number, v.Group, 0)
	if e.Code.EndsConnection() {
		return fromEngine(err)
	}
	return l.conn.WriteMessage(e)
}

// setAside ends the part of a volume in its group. A primary that is connected is not cut off: it would be refused
// whenever it attaches, with all its other volumes. A stream whose primary is away is forgotten.
func (n *Node) setAside(ctx context.Context, v *wire.Volume) error {
	g, err := n.opts.Pool.Group(v.Group)
	if err != nil {
		return err
	}
	vol, err := g.Volume(v.Name)
	if err != nil {
		return err
	}
	d := n.desk(v.Group)
	d.attaching.Lock() // who attaches meanwhile is refused afterwards
	defer d.attaching.Unlock()
	s := d.holder(vol)
	if s == nil {
		return g.SetAside(ctx, v.Name)
	}
	if peer := s.connected(); peer != "" {
		return fmt.Errorf("volume %q of group %q: %w: primary %q is attached to it; leave it out of the configuration there, then try again", v.Name, v.Group, engine.ErrState, peer)
	}
	s.cancel(refuse(wire.CodeSetAside, "volume %q of group %q is set aside", v.Name, v.Group))
	select {
	case <-s.done:
		return g.SetAside(ctx, v.Name)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rejoin ends setAside.
func (n *Node) rejoin(ctx context.Context, v *wire.Volume) error {
	g, err := n.opts.Pool.Group(v.Group)
	if err != nil {
		return err
	}
	return g.Rejoin(ctx, v.Name)
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
