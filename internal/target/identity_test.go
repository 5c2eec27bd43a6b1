package target

import (
	"testing"

	"github.com/farside-storage/farside/wire"
)

// TestIdentityOfAVolume: it stays over connections and streams, says when a final CG has put something in, and is another one when the volume
// is made again.
func TestIdentityOfAVolume(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	first := p.attached.Volumes
	if len(first) != 2 || first[0].Identity == first[1].Identity || first[0].Holds || first[1].Holds {
		t.Fatalf("attached %+v", p.attached)
	}
	p.update(1, 0, 0, 1, 1)
	p.manifest(1)
	p.settled()
	check(t, p.conn.Close())
	p = r.attach(1, "shop", "a", "b")
	if p.attached.Volumes[0] != first[0] {
		t.Errorf("%+v with CG 1 complete, not final", p.attached.Volumes)
	}
	m.finish("shop", 1)
	check(t, p.conn.Close())
	p = r.attach(2, "shop", "b", "a")
	first[1].Whole = true // it was in CG 1, as it is
	if a := p.attached.Volumes[1]; a != (wire.VolumeState{Identity: first[0].Identity, Holds: true, Whole: true}) || p.attached.Volumes[0] != first[1] {
		t.Errorf("%+v with CG 1 final, attached in another order", p.attached.Volumes)
	}
	p.update(2, 7, 0, 1, 1) // ends the session, which then holds the volumes no more
	p.refused()
	p.ended()
	tool := r.dial(wire.RoleTool, nil)
	for _, v := range []wire.Volume{{Group: "shop", Name: "a", Action: wire.VolumeDelete}, {Group: "shop", Name: "a", Action: wire.VolumeMake, Size: 1024 * block}} {
		check(t, tool.conn.WriteMessage(&v))
		if _, ok := tool.next().(*wire.StatusReply); !ok {
			t.Fatal("refused")
		}
	}
	p = r.attach(3, "shop", "a", "b")
	if a := p.attached.Volumes[0]; a.Identity == first[0].Identity || a.Identity == first[1].Identity || a.Holds {
		t.Errorf("%+v after the volume was made again; before %+v", a, first)
	}
	if p.attached.Volumes[1] != first[1] {
		t.Errorf("%+v: the other volume", p.attached.Volumes[1])
	}
}
