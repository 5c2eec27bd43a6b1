package primary

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/farside-storage/farside/wire"
)

// Volumes join and leave a group while it runs. An Attach lists the volumes of a connection, and each manifest has an
// entry for each: so the list changes between two CGs only, by a new stream on a new connection. It changes when no
// CG is cut that is not final, and nothing of the open one was sent: from the cut on that follows a change, the open
// CG is held back until the one before is final. What was queued stays queued, and nothing has to be sent again.
// Where no cut comes (a group that is paused), the list changes after membershipPatience all the same, and what was
// sent of the open CG is sent again.

// membershipPatience is how long a cut is awaited.
const membershipPatience = 2 * time.Second

// ErrListChanged ends a connection whose list of volumes is not the one that holds now.
var ErrListChanged = errors.New("the volumes of the connection have changed: it is made anew")

// AddVolume takes a volume into a group while the core runs, and returns its index. The secondaries must have it, or
// they refuse the whole connection. An error changes nothing.
func (c *Core) AddVolume(name string, s VolumeSpec) (int, error) {
	g, known := c.byName[name]
	if !known {
		g = &group{index: len(c.groups), name: name}
	}
	if err := g.admits(s); err != nil {
		return 0, fmt.Errorf("group %q: %w", name, err)
	}
	if !known {
		c.groups = append(c.groups, g)
		c.byName[name] = g
	}
	v := c.makeVolume(g, s)
	v.gens = []generation{{g.open, g.epoch, newBitmap(v.blocks, &c.chunks)}}
	v.initIntent(c)
	c.comeBack(v)
	for _, r := range v.replicas {
		r.apart, r.whole = true, "the volume has joined the group"
		r.lacking.setAll()
		r.open.setAll()
		r.conn.joining = append(r.conn.joining, r)
	}
	c.intent.snapshotDue = true
	c.notice(slog.LevelInfo, "the volume joins the group", "group", name, "volume", s.Name)
	c.regroupVolume(v)
	return v.index, nil
}

// RemoveVolume leaves a volume out of its group. No request of a host may be in progress on it, and none is taken any
// more. Actions.Gone tells when the volume is in no manifest any more and its device is not used.
func (c *Core) RemoveVolume(index int) error {
	v := c.volumes[index]
	if v.leaving {
		return nil
	}
	if v.hosts > 0 {
		return fmt.Errorf("volume %q: %d host requests are in progress", v.spec.Name, v.hosts)
	}
	v.leaving = true
	c.notice(slog.LevelInfo, "the volume leaves the group", "group", v.group.name, "volume", v.spec.Name)
	for _, r := range v.replicas {
		r.conn.joining = slices.DeleteFunc(r.conn.joining, func(j *replica) bool { return j == r })
	}
	c.regroupVolume(v)
	c.checkGone(v)
	return nil
}

// regroupVolume has the lists of a volume's connections change as soon as they may.
func (c *Core) regroupVolume(v *volume) {
	for _, r := range v.replicas {
		r.conn.changing, r.conn.regroupBy = true, c.now+membershipPatience
		c.dueAt(r.conn.regroupBy)
		c.tryRegroup(r.conn)
	}
}

// attaches says whether a connection has volumes to attach.
func (c *Core) attaches(index int) bool { return len(c.conns[index].replicas) > 0 }

// heldBack keeps a connection from beginning the open CG with a list that is about to change.
func (cn *conn) heldBack() bool {
	return cn.changing && (cn.open == nil || !cn.open.begun)
}

// tryRegroup changes the list if nothing is lost by it.
func (c *Core) tryRegroup(cn *conn) {
	if cn.group.lastCut != 0 || !cn.changing {
		return
	}
	if cn.open != nil && cn.open.begun && (c.now < cn.regroupBy || cn.hasWhole()) {
		return
	}
	c.regroup(cn)
}

// hasWhole: the open CG is one that has all of a first copy, which is not sent twice for this.
func (cn *conn) hasWhole() bool {
	return slices.ContainsFunc(cn.replicas, func(r *replica) bool { return !r.synced && r.fullCG == cn.group.open })
}

// regroup changes the list, and has the connection made anew.
func (c *Core) regroup(cn *conn) {
	old := cn.replicas
	cn.replicas = nil
	for _, r := range append(slices.Clone(old), cn.joining...) {
		if r.volume.leaving {
			r.apart = true
			continue
		}
		r.handle = uint32(len(cn.replicas))
		cn.replicas = append(cn.replicas, r)
	}
	if cn.open != nil {
		c.rehandle(cn, old)
	}
	for _, r := range cn.joining {
		r.apart = false
		if cn.group.open != 0 {
			c.inOne(r) // until the secondary has said that it may be spread
		}
	}
	cn.joining, cn.changing = nil, false
	c.forgetSent(cn)
	cn.checkNoted()
	cn.attached, cn.asleep, cn.resumable = false, false, false
	cn.listing++
	c.out.Reattach = append(c.out.Reattach, cn.index)
	for _, r := range old {
		c.checkGone(r.volume)
	}
}

// rehandle gives what is queued of the open CG the new handles. If some of it was sent, it is dropped as a whole once
// the connection is there again, see restartStream.
func (c *Core) rehandle(cn *conn, old []*replica) {
	l := cn.open
	for range l.items.len() {
		it := l.items.pop()
		if r := old[it.handle]; !r.apart {
			it.handle = r.handle
			l.items.push(it)
			continue
		}
		l.bytes -= it.bytes()
		cn.queued -= it.bytes()
		c.payload.release(it.s)
	}
	if !l.begun {
		l.tally = cn.newLane(l.cg).tally
	}
}

// loseHalved gives up the cut CG if a volume that leaves is part of it on one connection and not on another any more, because that
// one was made anew meanwhile. The secondary there still waits for the volume. It would do so until the volume is set aside, and
// that comes after it has left all connections. They all leave it out when the next CG is opened.
func (c *Core) loseHalved(g *group) {
	for _, v := range g.volumes {
		apart := 0
		for _, r := range v.replicas {
			if r.apart {
				apart++
			}
		}
		if v.leaving && apart > 0 && apart < len(v.replicas) {
			c.lose(g, fmt.Sprintf("volume %q leaves the group, and is part of the CG on some of its secondaries only", v.spec.Name))
			return
		}
	}
}

// checkGone reports a volume that has left once nothing uses it any more.
func (c *Core) checkGone(v *volume) {
	if !v.leaving || v.gone || len(v.locks.held) > 0 || v.intent.settling != nil ||
		slices.ContainsFunc(v.replicas, func(r *replica) bool { return !r.apart }) {
		return
	}
	v.gone = true
	c.leave(v.group.name, v.spec, v.intentCopies())
	v.group.volumes = slices.DeleteFunc(v.group.volumes, func(o *volume) bool { return o == v })
	for _, gen := range v.gens {
		gen.changed.reset()
	}
	c.intent.snapshotDue = true
	c.out.Gone = append(c.out.Gone, v.index)
	c.notice(slog.LevelInfo, "the volume has left the group", "group", v.group.name, "volume", v.spec.Name, "final", v.group.final)
}

// SetOverwrite replaces CoreOptions.Overwrite.
func (c *Core) SetOverwrite(ids []wire.UUID) { c.opt.Overwrite = ids }
