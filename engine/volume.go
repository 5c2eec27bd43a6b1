package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

type volumeKey struct{ group, name string }

// Volume is virtual storage in a group.
type Volume struct {
	pool   *Pool
	group  *Group
	id     uint32
	name   string
	slot   int // in group.volumes and View.vols
	size   uint64
	table  *table
	writer atomic.Pointer[Writer]
	member atomic.Pointer[Membership] // any goroutine may load it; the control loop stores
}

// ID identifies the volume in its pool for ever: a volume that is deleted and created again under its name gets
// another.
func (v *Volume) ID() uint32 { return v.id }

// Holds reports whether a final CG has written to the volume since it was created. If not, all of it reads as zeros.
// Data that was overwritten with zeros since counts too.
func (v *Volume) Holds(ctx context.Context) (bool, error) {
	var holds atomic.Bool // ctx may end while the control loop is answering
	err := v.pool.call(ctx, func(reply func(error)) {
		if vv := v.group.final.Load().of(v); vv != nil {
			holds.Store(len(vv.layers) > 0 || v.table.used())
		}
		reply(v.pool.failed())
	})
	return holds.Load(), err
}

// Name of the volume, unique in its group.
func (v *Volume) Name() string { return v.name }

// Group that the volume belongs to.
func (v *Volume) Group() *Group { return v.group }

// Size in bytes, a multiple of [BlockSize].
func (v *Volume) Size() uint64 { return v.size }

func (v *Volume) checkRange(first VBlock, n uint64) error {
	if all := v.size / BlockSize; uint64(first) > all || n > all-uint64(first) {
		return fmt.Errorf("volume %s: %d blocks from block %d: %w, which has %d", v.name, n, first, ErrPastEnd, all)
	}
	return nil
}

// Group finds a group by name.
func (p *Pool) Group(name string) (*Group, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if g := p.byName[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("group %q: %w; known are %q", name, ErrUnknown, slices.Sorted(maps.Keys(p.byName)))
}

// Groups lists the groups by name.
func (p *Pool) Groups() []*Group {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []*Group
	for _, n := range slices.Sorted(maps.Keys(p.byName)) {
		out = append(out, p.byName[n])
	}
	return out
}

// Volume finds a volume of the group by name.
func (g *Group) Volume(name string) (*Volume, error) {
	p := g.pool
	p.mu.RLock()
	defer p.mu.RUnlock()
	if v := p.vols[volumeKey{g.name, name}]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("volume %q of group %q: %w", name, g.name, ErrUnknown)
}

// Volumes lists the group's volumes by name.
func (g *Group) Volumes() []*Volume {
	g.pool.mu.RLock()
	defer g.pool.mu.RUnlock()
	var out []*Volume
	for k, v := range g.pool.vols {
		if k.group == g.name {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *Volume) int { return cmp.Compare(a.name, b.name) })
	return out
}

func checkName(what, name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fmt.Errorf("%s name of %d bytes: want 1 to %d", what, len(name), MaxNameBytes)
	}
	for _, r := range name {
		if r < 0x21 || r == 0x7f || r == '/' || r == 0xfffd {
			return fmt.Errorf("%s name %q: %q is not allowed", what, name, r)
		}
	}
	return nil
}

// CreateVolume adds a volume of size bytes to a group, and creates the group if there is none of that name. All of the
// volume reads as zeros. The group waits for it from [Group.Join] on, or at once if no CG of
// the group was received or discarded yet.
func (p *Pool) CreateVolume(ctx context.Context, group, name string, size uint64) (*Volume, error) {
	if err := errors.Join(checkName("group", group), checkName("volume", name), checkVolumeSize(size)); err != nil {
		return nil, err
	}
	g, err := p.ensureGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	made := make(chan *Volume, 1)
	var id uint32
	err = p.call(ctx, func(reply func(error)) {
		var failed error
		g.do(groupOp{
			decide: func() (*record, error) {
				if known, err := p.Group(group); err != nil || known != g {
					return nil, fmt.Errorf("group %q: %w: it could not be made", group, ErrUnknown)
				}
				if _, err := g.Volume(name); err == nil {
					return nil, fmt.Errorf("volume %q of group %q: %w: it exists", name, group, ErrState)
				}
				p.nextVolume++
				id = p.nextVolume
				return &record{kind: recVolume, volume: id, size: size, name: name, standing: g.firstStanding()}, nil
			},
			applied: func(r *record) {
				var v *Volume
				if v, failed = p.addVolume(g, r.volume, r.name, r.size, Membership{Standing: r.standing}); failed == nil {
					made <- v
				}
			},
			reply: func(e error) {
				if e != nil && id == p.nextVolume { // refused: the number was not used
					p.nextVolume--
				}
				reply(errors.Join(e, failed))
			},
		})
	})
	if err != nil {
		return nil, err
	}
	return <-made, nil
}

func (p *Pool) ensureGroup(ctx context.Context, name string) (*Group, error) {
	err := p.call(ctx, func(reply func(error)) {
		if _, err := p.Group(name); err == nil {
			reply(p.failed())
			return
		}
		p.nextGroup++
		id := p.nextGroup
		g := p.addGroup(id, name)
		g.do(groupOp{
			decide:  func() (*record, error) { return &record{kind: recGroup, name: name}, nil },
			applied: func(*record) {},
			reply: func(err error) {
				if err != nil {
					p.removeGroup(g)
				}
				reply(err)
			},
		})
	})
	if err != nil {
		return nil, err
	}
	return p.Group(name)
}

// removeGroup takes back a group of which no record was written: a volume of it could not be replayed.
func (p *Pool) removeGroup(g *Group) {
	if p.nextGroup == g.id {
		p.nextGroup--
	}
	p.groups = slices.DeleteFunc(p.groups, func(x *Group) bool { return x == g })
	p.mu.Lock()
	delete(p.byName, g.name)
	p.mu.Unlock()
}

func (p *Pool) addGroup(id uint32, name string) *Group {
	g := &Group{pool: p, id: id, name: name, state: groupState{name: name}}
	v := &View{group: g}
	g.final.Store(v)
	g.linked.Store(v)
	p.groups = append(p.groups, g)
	p.mu.Lock()
	p.byName[name] = g
	p.mu.Unlock()
	return g
}

func (p *Pool) addVolume(g *Group, id uint32, name string, size uint64, m Membership) (*Volume, error) {
	t, err := newTable(size / BlockSize)
	if err != nil {
		return nil, err
	}
	v := &Volume{pool: p, group: g, id: id, name: name, size: size, table: t, slot: len(g.volumes)}
	v.change(m)
	g.volumes = append(g.volumes, v)
	same := g.final.Load() == g.linked.Load()
	g.final.Store(g.final.Load().withVolume(v.slot, v))
	if same {
		g.linked.Store(g.final.Load())
	} else {
		g.linked.Store(g.linked.Load().withVolume(v.slot, v))
	}
	p.mu.Lock()
	p.vols[volumeKey{g.name, name}] = v
	p.mu.Unlock()
	return v, nil
}

// DeleteVolume removes a volume and releases its blocks. The volume must not be bound to a writer. No CG that has
// blocks of it may be between complete and folded; while the group waits for the volume (see [Awaited]), no CG at
// all.
func (p *Pool) DeleteVolume(ctx context.Context, group, name string) error {
	g, err := p.Group(group)
	if err != nil {
		return err
	}
	return p.call(ctx, func(reply func(error)) {
		var v *Volume
		g.do(groupOp{
			decide: func() (*record, error) {
				if v, err = g.Volume(name); err != nil {
					return nil, err
				}
				if v.writer.Load() != nil || g.inProgress(v) {
					return nil, fmt.Errorf("volume %q of group %q: %w: it is being written; stop its primary, and pause the group or set the volume aside, then try again", name, group, ErrState)
				}
				return &record{kind: recVolumeDelete, volume: v.id}, nil
			},
			applied: func(*record) { p.removeVolume(v) },
			reply:   reply,
		})
	})
}

// inProgress says whether a CG that is being completed, or complete and not folded, may be about the volume.
func (g *Group) inProgress(v *Volume) bool {
	if v.Membership().Standing == Awaited {
		// A CG of which some volume is sealed would become complete without this one, though its primary may have
		// sent all of it.
		sealed := func(s *sealedCG) bool { return len(s.volumes) > 0 }
		return len(g.live) > 0 || g.pool.ctl.completing(g) || slices.ContainsFunc(g.sealed, sealed)
	}
	has := func(l *liveCG) bool {
		return slices.ContainsFunc(l.tables, func(t *cgTable) bool { return t.vol == v })
	}
	return slices.ContainsFunc(g.live, has) ||
		slices.ContainsFunc(g.pool.ctl.completions, func(j *completion) bool { return j.g == g && has(j.cg) })
}

// firstStanding is that of a volume made now. In a group that never had a CG, nothing stands still when it waits for
// the volume. Else a CG may be on its way that does not have it. Its primary takes the volume in when that CG is
// final: each would wait for the other. A manager discards something before it has the first CG cut.
func (g *Group) firstStanding() Standing {
	if g.state.complete > 0 || g.state.through > 0 || g.receiving.Load() > 0 {
		return Unattached
	}
	return Awaited
}

func (p *Pool) removeVolume(v *Volume) {
	g := v.group
	g.unseal(v)
	g.volumes[v.slot] = nil
	p.mu.Lock()
	delete(p.vols, volumeKey{g.name, v.name})
	p.mu.Unlock()
	final, same := g.final.Load().withVolume(v.slot, nil), g.final.Load() == g.linked.Load()
	if same {
		g.linked.Store(final)
	} else {
		g.linked.Store(g.linked.Load().withVolume(v.slot, nil))
	}
	g.final.Store(final)
	c := p.ctl
	c.ckpt.drop(v)
	c.whenUnread(func() {
		freed := newFreeing(p.alloc)
		var err error
		v.eachMapped(func(_ VBlock, e entry) { err = errors.Join(err, freed.add(e.block())) })
		if err = errors.Join(err, freed.flush()); err != nil {
			c.fail(fmt.Errorf("delete volume %s: %w", v.name, err))
		}
		v.table.close()
		c.spaceFreed()
	})
}
