package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/farside-storage/farside/ring/ringtest"
)

// crashed opens what a crash leaves that loses everything volatile.
func (r *rig) crashed() *rig {
	r.t.Helper()
	n := &rig{t: r.t, devs: r.devs.Crash(ringtest.None)}
	n.open()
	return n
}

// TestCheckpointKeepsRecordsInFlight: a checkpoint that begins while a record is being written does not know what the
// record says, so its root must not let a replay begin behind it.
func TestCheckpointKeepsRecordsInFlight(t *testing.T) {
	for _, c := range []struct {
		what  string
		begin func(r *rig, g *Group, done func(error))
		kept  func(r *rig, g *Group) bool
	}{
		{"fence", func(r *rig, g *Group, done func(error)) {
			g.do(groupOp{decide: func() (*record, error) { return g.state.fence(7) }, applied: g.apply, reply: done})
		}, func(r *rig, g *Group) bool { return r.state(g).Epoch == 7 }},
		{"discard of what was received", func(r *rig, g *Group, done func(error)) {
			g.do(groupOp{decide: func() (*record, error) { return g.state.revert(Command{1, 5}, 9) }, applied: g.apply, reply: done})
		}, func(r *rig, g *Group) bool { return r.state(g).Discarded == 9 }},
		{"volume", func(r *rig, g *Group, done func(error)) {
			p := r.pool
			g.do(groupOp{decide: func() (*record, error) {
				p.nextVolume++
				return &record{kind: recVolume, volume: p.nextVolume, size: 100 * BlockSize, name: "w"}, nil
			}, applied: func(x *record) {
				if _, err := p.addVolume(g, x.volume, x.name, x.size, Membership{Standing: x.standing}); err != nil {
					t.Error(err)
				}
			}, reply: done})
		}, func(r *rig, g *Group) bool { _, err := g.Volume("w"); return err == nil }},
		{"deletion", func(r *rig, g *Group, done func(error)) {
			v := r.vol("g", "spare")
			if err := r.w.Unbind(v); err != nil {
				t.Fatal(err)
			}
			g.do(groupOp{decide: func() (*record, error) { return &record{kind: recVolumeDelete, volume: v.id}, nil },
				applied: func(*record) { r.pool.removeVolume(v) }, reply: done})
		}, func(r *rig, g *Group) bool { _, err := g.Volume("spare"); return errors.Is(err, ErrUnknown) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRig(t, 40)
			g := r.volume("g", "v", 100).group
			r.volume("g", "spare", 100)
			acknowledged := false
			c.begin(r, g, func(err error) {
				if err != nil {
					t.Error(err)
				}
				acknowledged = true
			})
			if acknowledged {
				t.Fatal("acknowledged before anything was written")
			}
			if err := r.pool.Checkpoint(context.Background()); err != nil { // begins now, with the record in flight
				t.Fatal(err)
			}
			r.settle()
			if !acknowledged || !c.kept(r, g) {
				t.Fatal("the command was not carried out")
			}
			n := r.crashed()
			g, err := n.pool.Group("g")
			if err != nil {
				t.Fatal(err)
			}
			if !c.kept(n, g) {
				t.Fatal("what was acknowledged is gone after a crash")
			}
			n.close()
		})
	}
}

// TestReplayOfAReusedVolumeName: the journal may reach back to before a volume of the same name was created and deleted.
// The checkpoint's catalog has only the newest of them, and that is what stays.
func TestReplayOfAReusedVolumeName(t *testing.T) {
	r := newRig(t, 41)
	other := r.volume("other", "o", 100)
	r.put(other, 1, 0, 1)
	r.seal(1, other) // complete and never final: the journal's tail stays before it
	ctx := context.Background()
	for range 3 {
		v := r.volume("g", "v", 100)
		if err := errors.Join(r.w.Unbind(v), r.pool.DeleteVolume(ctx, "g", "v")); err != nil {
			t.Fatal(err)
		}
	}
	v := r.volume("g", "v", 200)
	r.put(v, 1, 150, 1)
	r.seal(1, v)
	r.commit(v.group, 1)
	if err := r.pool.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	n := r.crashed()
	v = n.vol("g", "v")
	if v.Size() != 200*BlockSize {
		t.Fatalf("the volume has %d bytes", v.Size())
	}
	n.want(v, 150, 1)
	n.close()
}
