package target

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

// desk is where primaries attach to one group.
type desk struct {
	attaching sync.Mutex // one Attach at a time: it may have to wait for an older session
	mu        sync.Mutex
	sessions  []*session // that hold volumes; guarded by mu
}

func (n *Node) desk(group string) *desk {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.desks[group]
	if d == nil {
		d = &desk{}
		n.desks[group] = d
	}
	return d
}

// attach reads a primary's Attach and hands the connection to the session of its stream.
func (n *Node) attach(l *link) {
	var a wire.Attach
	h, body, err := l.conn.Next()
	if err == nil && h.Type != wire.TypeAttach {
		err = unexpected(h)
	}
	if err == nil {
		err = wire.DecodeInto(&a, body)
	}
	if err == nil {
		err = n.admit(l, &a)
	}
	if err != nil {
		err = l.reason(err)
		n.opts.Logger.Info("attach refused", "peer", l.name(), "group", a.Group, "error", err)
		l.end(err, h.Number, a.Group, 0)
	}
}

// admit finds or starts the session; on success the link is the session's.
func (n *Node) admit(l *link, a *wire.Attach) error {
	g, err := n.opts.Pool.Group(a.Group)
	if err != nil {
		return n.misfit(l, a, fromEngine(err))
	}
	vols, err := Match(g, a)
	if err != nil {
		return n.misfit(l, a, err)
	}
	d := n.desk(a.Group)
	d.attaching.Lock()
	defer d.attaching.Unlock()
	if s := d.of(a.Stream, vols); s != nil && s.handOver(l) {
		return nil
	}
	if err := n.takeOver(l, d, a, vols); err != nil {
		return err
	}
	s := newSession(n, d, g, a, vols)
	d.mu.Lock()
	d.sessions = append(d.sessions, s)
	s.next = l
	d.mu.Unlock()
	n.running.Add(1) // the connection's goroutine holds another count until this returns
	go func() {
		defer n.running.Done()
		s.run()
	}()
	return nil
}

// misfit says between which two controls something does not fit, and if a volume is in another group here, in which.
func (n *Node) misfit(l *link, a *wire.Attach, err error) error {
	elsewhere := ""
	for _, ref := range a.Volumes {
		for _, g := range n.opts.Pool.Groups() {
			if _, other := g.Volume(ref.Name); other == nil && g.Name() != a.Group && errors.Is(err, wire.ErrUnknown) {
				elsewhere += fmt.Sprintf("; volume %q is in group %q here: a volume is in one group, the same on both sides", ref.Name, g.Name())
			}
		}
	}
	return fmt.Errorf("primary %q does not fit secondary %q: %w%s", l.peer.Node, n.opts.Name, err, elsewhere)
}

// Match finds the volumes that a primary names in Attach.
func Match(g *engine.Group, a *wire.Attach) ([]*engine.Volume, error) {
	vols := make([]*engine.Volume, len(a.Volumes))
	seen := make(map[string]bool, len(a.Volumes))
	for i, ref := range a.Volumes {
		v, err := g.Volume(ref.Name)
		switch {
		case err != nil:
			return nil, fromEngine(fmt.Errorf("%w; known are %q", err, names(g)))
		case seen[ref.Name]:
			return nil, refuse(wire.CodeProtocol, "volume %q of group %q is attached twice", ref.Name, a.Group)
		case v.Size() != ref.Size:
			return nil, refuse(wire.CodeSize, "volume %q of group %q: the primary has %d bytes, the secondary %d; make them equal",
				ref.Name, a.Group, ref.Size, v.Size())
		}
		seen[ref.Name] = true
		if m := v.Membership(); m.Standing == engine.SetAside && !plant.On(plant.AsideAttached) {
			return nil, refuse(wire.CodeSetAside, "volume %q of group %q was set aside at CG %d: leave it out of the primary, or have it rejoin (farside volume rejoin)",
				ref.Name, a.Group, m.AsideAt)
		}
		vols[i] = v
	}
	return vols, nil
}

// Identify tells a primary of the volumes that it attaches to.
func Identify(ctx context.Context, pool *engine.Pool, vols []*engine.Volume) ([]wire.VolumeState, error) {
	out := make([]wire.VolumeState, len(vols))
	for i, v := range vols {
		holds, err := v.Holds(ctx)
		if err != nil {
			return nil, fromEngine(err)
		}
		out[i] = wire.VolumeState{Identity: identity(pool, v), Holds: holds, Whole: v.Membership().Whole()}
	}
	return out, nil
}

// identity of a volume: its pool's, with its number in the pool, which is never given out again, in the last four
// bytes.
func identity(pool *engine.Pool, v *engine.Volume) wire.UUID {
	id := wire.UUID(pool.UUID())
	tail := id[len(id)-4:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)^v.ID())
	return id
}

func names(g *engine.Group) []string {
	var out []string
	for _, v := range g.Volumes() {
		out = append(out, v.Name())
	}
	return out
}

// of finds the session of a stream, if its volumes and their handles are the same.
func (d *desk) of(stream wire.UUID, vols []*engine.Volume) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		if s.stream == stream && s.binds(vols) {
			return s
		}
	}
	return nil
}

// takeOver ends the sessions that hold any of vols and waits until they have let go.
func (n *Node) takeOver(l *link, d *desk, a *wire.Attach, vols []*engine.Volume) error {
	d.mu.Lock()
	var holders []*session
	for _, s := range d.sessions {
		if s.holds(vols) {
			holders = append(holders, s)
		}
	}
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(l.ctx, n.opts.TakeoverTimeout)
	defer cancel()
	for _, s := range holders {
		s.cancel(refuse(wire.CodeState, "stream %x took over volumes of group %q", a.Stream, a.Group))
	}
	for _, s := range holders {
		select {
		case <-s.done:
		case <-ctx.Done():
			if err := context.Cause(l.ctx); err != nil {
				return err
			}
			return refuse(wire.CodeState, "group %q: stream %x did not let go of its volumes within %v, its device may hang; attach again later",
				a.Group, s.stream, n.opts.TakeoverTimeout)
		}
	}
	return nil
}

// holder finds the session that has a volume; nil: none.
func (d *desk) holder(v *engine.Volume) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		if slices.Contains(s.bound, v) {
			return s
		}
	}
	return nil
}

// leave takes the session off the desk, after its writer was closed.
func (d *desk) leave(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, x := range d.sessions {
		if x == s {
			d.sessions = append(d.sessions[:i:i], d.sessions[i+1:]...)
			return
		}
	}
}

// handOver gives the session a newer connection of its stream, which replaces the one it has. False: the session
// is ending.
func (s *session) handOver(l *link) bool {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	if s.closed || s.ctx.Err() != nil {
		return false
	}
	for _, old := range []*link{s.next, s.current} {
		if old != nil {
			old.stop(errMoved)
		}
	}
	if s.next != nil { // nobody reads from it
		dead := s.next
		s.node.running.Add(1) // counted by our caller's connection until then
		go func() {
			defer s.node.running.Done()
			dead.end(errMoved, 0, "", 0)
		}()
	}
	s.next = l
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

// await waits for the next connection of the stream; nil: none came in time, or the session has to end. Then
// none will come.
func (s *session) await(timeout time.Duration) *link {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	late := false
	for {
		s.desk.mu.Lock()
		l := s.next
		s.next = nil
		s.current = l
		s.closed = l == nil && (late || s.ctx.Err() != nil)
		closed := s.closed
		s.desk.mu.Unlock()
		if l != nil || closed {
			return l
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
		case <-timer.C:
			late = true
		}
	}
}

// shut lets no connection in any more, and drops one that waits: its primary attaches again.
func (s *session) shut() {
	s.desk.mu.Lock()
	s.closed = true
	l := s.next
	s.next, s.current = nil, nil
	s.desk.mu.Unlock()
	if l != nil {
		l.end(errMoved, 0, "", 0)
	}
}
