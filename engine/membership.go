package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/farside-storage/farside/internal/plant"
)

// Standing says whether the group of a volume waits for it.
type Standing uint8

const (
	// Unattached: no primary has attached to the volume yet, or none since it rejoined. CGs become complete without it.
	Unattached Standing = iota
	// Awaited: every CG that becomes complete has it.
	Awaited
	// SetAside: CGs become complete without it. Its copy stays as it is, and takes no update.
	SetAside
)

func (s Standing) String() string {
	names := [...]string{Unattached: "unattached", Awaited: "awaited", SetAside: "set aside"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("standing %d", s)
}

// Membership is the part of a volume in its group, from durable state. It is pure: other code makes records durable,
// and apply and its sisters carry out what a record says. Opening a pool replays records through the same functions.
//
//	UNATTACHED --Join--> AWAITED --SetAside--> SET ASIDE --Rejoin--> UNATTACHED
//
// A volume becomes whole with the first CG in which it was sealed and not partial, once that CG is final. It stays
// whole until it rejoins its group: then a primary may send other contents, over several CGs.
type Membership struct {
	Standing Standing
	// WholeSince is the CG since which the volume is whole; 0: blocks of its first copy may be missing.
	WholeSince uint64
	// AsideAt is the CG that the copy shows, if it is set aside; 0: none was final.
	AsideAt uint64

	turn uint32 // counts changes of standing, so that no record is carried out twice
}

// Whole says whether the volume has all of its first copy.
func (m Membership) Whole() bool { return m.WholeSince > 0 }

func (m Membership) String() string {
	if m.Whole() {
		return fmt.Sprintf("%s, whole since CG %d", m.standing(), m.WholeSince)
	}
	return m.standing() + ", not whole"
}

func (m Membership) standing() string {
	if m.Standing == SetAside {
		return fmt.Sprintf("set aside at CG %d", m.AsideAt)
	}
	return m.Standing.String()
}

// moves makes the record of a change of standing.
func (m Membership) moves(to Standing, cg uint64) *record {
	return &record{kind: recMember, standing: to, turn: m.turn + 1, cg: cg}
}

// apply carries out a change of standing.
func (m Membership) apply(r *record) Membership {
	if r.turn <= m.turn {
		return m
	}
	m.Standing, m.turn, m.AsideAt = r.standing, r.turn, 0
	switch r.standing {
	case SetAside:
		m.AsideAt = r.cg
	case Unattached:
		if !plant.On(plant.RejoinedWhole) {
			m.WholeSince = 0
		}
	}
	return m
}

// madeWhole: CG cg, which has all of the volume and was sealed in that turn, is final. The volume may have been set
// aside since, but if it rejoined, the copy that became whole is not the one that counts.
func (m Membership) madeWhole(cg uint64, turn uint32) Membership {
	if m.WholeSince == 0 && m.turn <= turn+1 {
		m.WholeSince = cg
	}
	return m
}

// discarded: CGs after final were discarded up to through. A volume that was set aside at one of them shows the final
// one.
func (m Membership) discarded(final, through uint64) Membership {
	if m.Standing == SetAside && m.AsideAt > final && m.AsideAt <= through {
		m.AsideAt = final
	}
	return m
}

// Membership of the volume in its group; any goroutine may ask.
func (v *Volume) Membership() Membership { return *v.member.Load() }

// CheckWhole is nil if the volume may be served as a copy: what it shows is consistent with the other volumes of its
// group. Else it wraps [ErrNotWhole] and says why. Reading through the engine is possible all the same.
func (v *Volume) CheckWhole() error {
	if v.member.Load().Whole() {
		return nil
	}
	return fmt.Errorf("volume %q of group %q: %w: it can be read as a copy once a consistency group that completes its first copy is final", v.name, v.group.name, ErrNotWhole)
}

// Join makes the group wait for vols from the next CG on, durably: see [Awaited]. It returns when every complete CG
// without them is final or discarded; so the state of the group tells a primary which CGs have them. Volumes that are
// awaited already are left as they are. The error is [ErrSetAside] if one of them must rejoin first.
func (g *Group) Join(ctx context.Context, vols ...*Volume) error {
	for _, v := range vols {
		if err := g.join(ctx, v, true); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) join(ctx context.Context, v *Volume, wait bool) error {
	if v.Membership().Standing == Awaited {
		return nil
	}
	return g.change(gap{ctx: ctx, vol: v, settled: wait, decide: func(m Membership) (*record, error) {
		switch {
		case m.Standing == Awaited:
			return nil, nil
		case m.Standing == SetAside && !plant.On(plant.AsideAttached):
			return nil, v.refuseAside(m)
		case g.state.complete > g.state.final:
			return nil, fmt.Errorf("volume %q of group %q: %w: CG %d is complete without it; it can join when that is final", v.name, g.name, ErrState, g.state.complete)
		}
		return m.moves(Awaited, 0), nil
	}})
}

func (v *Volume) refuseAside(m Membership) error {
	return fmt.Errorf("volume %q of group %q: %w at CG %d; have it rejoin its group, or leave it out of the primary", v.name, v.group.name, ErrSetAside, m.AsideAt)
}

// SetAside takes the volume out of its group's CGs: from the next CG on, they become complete without it. Its copy
// stays as it is, as of the CG in [Membership].AsideAt. The volume takes no update, and can be deleted, or rejoin its
// group. Durable on return.
//
// The volume must not be bound to a writer. If it is the last one that the group waits for, CGs become complete only by
// [Group.CompleteVacant] from then on.
func (g *Group) SetAside(ctx context.Context, name string) error {
	v, err := g.Volume(name)
	if err != nil {
		return err
	}
	return g.change(gap{ctx: ctx, vol: v, decide: func(m Membership) (*record, error) {
		switch {
		case m.Standing == SetAside:
			return nil, nil
		case v.writer.Load() != nil:
			return nil, fmt.Errorf("volume %q of group %q: %w: a primary is attached to it; stop that, or leave the volume out of it, then try again", name, g.name, ErrState)
		}
		return m.moves(SetAside, g.state.complete), nil
	}})
}

// Rejoin ends [Group.SetAside]: except for its contents, the volume is like one that was just made. It is not whole,
// because a primary may send another copy, and the group does not wait for it before [Group.Join]. Durable on return.
func (g *Group) Rejoin(ctx context.Context, name string) error {
	v, err := g.Volume(name)
	if err != nil {
		return err
	}
	return g.change(gap{ctx: ctx, vol: v, decide: func(m Membership) (*record, error) {
		if m.Standing != SetAside {
			return nil, nil
		}
		return m.moves(Unattached, 0), nil
	}})
}

// CompleteVacant makes CG c.CG complete without any update, if the group waits for no volume here: no update can come,
// and a control that never completes a CG would hold up all others. It returns at once; [Options].OnComplete is called
// when the CG is complete, for which the CG before must be final. It does nothing if the group waits for a volume, or if
// the CG is complete or was discarded.
//
// Call it only when every primary has sent all of the CG. If a volume joins before the CG is complete, the CG waits for
// it like any other.
func (g *Group) CompleteVacant(ctx context.Context, c Command) error {
	return g.command(ctx, func() (*record, error) {
		if err := g.state.checkEpoch(c); err != nil || c.CG <= max(g.state.through, g.state.complete) || g.awaited() > 0 {
			return nil, err
		}
		if j := g.pool.ctl.completions; !slices.ContainsFunc(j, func(j *completion) bool { return j.g == g && j.cg.cg == c.CG }) {
			g.sealedAt(c.CG).asked = true
		}
		return nil, nil
	})
}

// awaited counts the volumes that the group waits for.
func (g *Group) awaited() int {
	n := 0
	for _, v := range g.volumes {
		if v != nil && v.Membership().Standing == Awaited {
			n++
		}
	}
	return n
}

// lacking counts the volumes that the group waits for and that are not whole: now, and once the newest complete CG is
// final.
func (g *Group) lacking() (now, then int) {
	for _, v := range g.volumes {
		if v == nil || v.Membership().Standing != Awaited || v.Membership().Whole() {
			continue
		}
		if now++; !g.makesWhole(g.state.complete, v) {
			then++
		}
	}
	return now, then
}

// makesWhole says whether the volume is whole once CG cg, which is complete, is final.
func (g *Group) makesWhole(cg uint64, v *Volume) bool {
	for _, l := range g.live {
		if l.cg == cg {
			return slices.ContainsFunc(l.whole, func(w wholeMark) bool { return w.vol == v && v.Membership().madeWhole(cg, w.turn).Whole() })
		}
	}
	return false
}

// gap is a change of a volume's standing. It must not fall between the first part of a CG and its COMPLETE: that CG
// was put together without it.
type gap struct {
	ctx     context.Context // of who asked
	vol     *Volume
	settled bool // and not while a CG is complete and not final
	decide  func(Membership) (*record, error)
	reply   func(error)
}

// change has the control loop carry out a change, and waits for that.
func (g *Group) change(x gap) error {
	return g.pool.call(x.ctx, func(reply func(error)) {
		x.reply = reply
		g.gaps = append(g.gaps, x)
		g.takeGaps()
	})
}

// takeGaps begins the changes for which this is the time. Control loop only.
func (g *Group) takeGaps() {
	failed := g.pool.failed() != nil
	if !failed && g.pool.ctl.completing(g) {
		return
	}
	gaps := g.gaps
	g.gaps = nil
	for _, x := range gaps {
		if x.settled && g.state.complete > g.state.final && x.ctx.Err() == nil && !failed {
			g.gaps = append(g.gaps, x)
			continue
		}
		g.do(x.op(g)) // refuses it if the pool has failed
	}
}

func (x gap) op(g *Group) groupOp {
	v := x.vol
	return groupOp{reply: x.reply,
		decide: func() (*record, error) {
			switch {
			case x.ctx.Err() != nil: // nobody waits for it any more
				return nil, x.ctx.Err()
			case g.volumes[v.slot] != v:
				return nil, fmt.Errorf("volume %q of group %q: %w: it was deleted", v.name, g.name, ErrUnknown)
			}
			r, err := x.decide(v.Membership())
			if r != nil {
				r.volume = v.id
			}
			return r, err
		},
		applied: func(r *record) {
			v.change(v.Membership().apply(r))
			if r.standing != Awaited {
				g.unseal(v)
			}
		}}
}

// change replaces the membership of the volume. Control loop only.
func (v *Volume) change(to Membership) { v.member.Store(&to) }
