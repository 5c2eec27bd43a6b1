package primary

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/farside-storage/farside/wire"
)

// ErrUnknownCopy: the volume on the secondary holds something that this primary did not put there, or no longer knows
// of.
var ErrUnknownCopy = errors.New("the volume on the secondary holds something unknown")

// examine says whether the volumes that a secondary has are ones that this primary may send to (PROTOCOL.md, "Which
// copy this is"). Nothing is changed by it.
func (c *Core) examine(cn *conn, m *wire.Attached) error {
	if len(m.Volumes) != len(cn.replicas) {
		return fmt.Errorf("secondary %q tells of %d volumes, %d are attached: %w", cn.secondary, len(m.Volumes), len(cn.replicas), wire.ErrProtocol)
	}
	for i, r := range cn.replicas {
		there := m.Volumes[i]
		switch {
		case there.Identity == r.identity:
		case m.Resumed:
			cn.resumable = false
			return fmt.Errorf("secondary %q resumes the stream of volume %q with another volume of that name: %w",
				cn.secondary, r.volume.spec.Name, wire.ErrProtocol)
		case there.Holds && !slices.Contains(c.opt.Overwrite, there.Identity):
			return r.unknownCopy(there)
		}
	}
	return nil
}

func (r *replica) unknownCopy(there wire.VolumeState) error {
	known := "this primary has no record of ever having copied to it"
	if r.identity != (wire.UUID{}) {
		known = fmt.Sprintf("this primary has copied to %s", uuidString(r.identity))
	}
	id := uuidString(there.Identity)
	return fmt.Errorf("group %q, volume %q: %w: on %q it is %s and not empty, and %s. Nothing is sent, for that may be the only good copy of "+
		"something. If it is the wrong secondary, correct its address; if it is the wrong primary, stop this one. If the volume here is "+
		"right and the one there is not needed, start this primary with --overwrite-copies %s",
		r.volume.group.name, r.volume.spec.Name, ErrUnknownCopy, r.conn.secondary, id, known, id)
}

// meet takes note of the volumes that the secondary has; a volume that is not the one known so far is copied as a
// whole.
func (c *Core) meet(cn *conn, m *wire.Attached) {
	for i, r := range cn.replicas {
		if there := m.Volumes[i]; there.Identity != r.identity {
			c.firstCopy(r, there, m.Complete)
		} else if r.noted != r.identity { // it was known from before the volume came back
			c.intent.snapshotDue = true
		}
	}
	cn.checkNoted()
}

// firstCopy begins to copy to a volume that this primary has not copied to before.
func (c *Core) firstCopy(r *replica, there wire.VolumeState, complete uint64) {
	g := r.volume.group
	level, why := slog.LevelInfo, "the volume on the secondary is new"
	if r.identity != (wire.UUID{}) {
		level, why = slog.LevelWarn, fmt.Sprintf("the volume on the secondary is not the one that was copied to, %s", uuidString(r.identity))
	}
	if there.Holds {
		level, why = slog.LevelWarn, why+"; what it holds is overwritten, as an operator said"
	}
	before := r.identity
	r.identity, r.synced, r.whole = there.Identity, false, why
	c.intent.snapshotDue = true
	c.notice(level, "first copy: the whole volume is copied", "group", g.name, "volume", r.volume.spec.Name,
		"secondary", r.conn.secondary, "identity", uuidString(there.Identity), "reason", why)
	if before == (wire.UUID{}) {
		return // nothing of it was ever sent: every block is still to be, in the CG that is cut or the open one
	}
	c.copyWhole(r)
	c.loseCut(r, complete)
}

// checkCopy finds out that a secondary lost a copy which it had: an older state of its pool was put back.
func (c *Core) checkCopy(cn *conn, m *wire.Attached) {
	complete := m.Complete
	for i, r := range cn.replicas {
		if complete >= cn.group.final && !(r.synced && !m.Volumes[i].Whole) {
			continue
		}
		if r.synced {
			r.synced, r.whole = false, fmt.Sprintf("the secondary shows CG %d, final is CG %d: it has lost what it had", complete, cn.group.final)
			c.notice(slog.LevelWarn, "the secondary has lost its copy: the volume is copied again as a whole",
				"group", cn.group.name, "volume", r.volume.spec.Name, "secondary", cn.secondary,
				"complete there", complete, "final", cn.group.final)
		}
		if r.fullCG == 0 || r.rest {
			c.copyWhole(r)
			c.loseCut(r, complete)
		}
	}
}

// loseCut gives up a CG that was cut before the whole of a copy became part of the open one: even if nothing of it
// was sent yet, it would make a copy with holes visible.
func (c *Core) loseCut(r *replica, complete uint64) {
	if r.spread && r.conn.cut != nil {
		return // its manifest will say so
	}
	if g := r.volume.group; g.lastCut > max(complete, g.final) {
		c.lose(g, fmt.Sprintf("it lacks most of volume %q, whose first copy to secondary %q begins after its cut", r.volume.spec.Name, r.conn.secondary))
	}
}

// checkNoted keeps the connection back while the log does not say durably to which volumes it leads. Else a first
// copy could become final, and this primary, after a crash, find a volume that it knows nothing of.
func (cn *conn) checkNoted() {
	cn.unnoted = slices.ContainsFunc(cn.replicas, func(r *replica) bool { return r.noted != r.identity })
}

// notedIn: a snapshot of the log is being made.
func (c *Core) notedIn() {
	for _, g := range c.groups {
		g.noting = g.epoch
	}
	for _, v := range c.volumes {
		for _, r := range v.replicas {
			r.noting = r.identity
		}
	}
}

// notedDurably: that snapshot is durable.
func (c *Core) notedDurably() {
	for _, g := range c.groups {
		g.durable = g.noting
		c.giveOut(g)
	}
	for _, cn := range c.conns {
		for _, r := range cn.replicas {
			r.noted = r.noting
		}
		if was := cn.unnoted; was {
			cn.checkNoted()
			c.kick(cn)
		}
	}
}

func uuidString(u wire.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
