package primary

import (
	"log/slog"
	"slices"

	"github.com/farside-storage/farside/wire"
)

// A volume that has left its group may join it again, and its copy may still be there, set aside. That copy is no
// foreign data: it is overwritten without an operator's word (CoreOptions.Overwrite), though as a whole, for nobody
// knows what has changed meanwhile. So the write-intent log remembers which volume of a secondary was the copy of
// which volume here. What is here must be the same too: a copy may be all that is left of a device that another one
// has taken the place of. VolumeSpec.Place tells them apart.

// maxLeft is how many copies of volumes that have left are remembered: the newest.
const maxLeft = 256

// leave remembers the copies of a volume that has left.
func (c *Core) leave(group string, s VolumeSpec, copies []IntentCopy) {
	for _, x := range copies {
		if x.Identity == (wire.UUID{}) || s.Place == "" {
			continue
		}
		c.left = slices.DeleteFunc(c.left, func(l IntentLeft) bool { return l.Group == group && l.Name == s.Name && l.Secondary == x.Secondary })
		c.left = append(c.left, IntentLeft{Group: group, Name: s.Name, Place: s.Place, Size: s.Size, Secondary: x.Secondary, Identity: x.Identity})
	}
	c.left = slices.Delete(c.left, 0, max(0, len(c.left)-maxLeft))
}

// comeBack gives the copies of a volume that joins the identities that they had when it left.
func (c *Core) comeBack(v *volume) {
	for _, r := range v.replicas {
		i := c.leftAt(v.group.name, v.spec, r.conn.secondary)
		if i < 0 {
			continue
		}
		r.identity = c.left[i].Identity
		c.left = slices.Delete(c.left, i, i+1)
		c.notice(slog.LevelInfo, "the volume was in the group before: its copy is known, and is overwritten", "group", v.group.name, "volume", v.spec.Name,
			"secondary", r.conn.secondary, "identity", uuidString(r.identity))
	}
}

func (c *Core) leftAt(group string, s VolumeSpec, secondary string) int {
	return slices.IndexFunc(c.left, func(l IntentLeft) bool {
		return l.Group == group && l.Name == s.Name && l.Place == s.Place && l.Size == s.Size && l.Secondary == secondary
	})
}

// Former is the identity of the copy that a volume had on a secondary before it left its group, zero if none is known.
func (c *Core) Former(group string, s VolumeSpec, secondary string) wire.UUID {
	if i := c.leftAt(group, s, secondary); i >= 0 {
		return c.left[i].Identity
	}
	return wire.UUID{}
}
