package target

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/wire"
)

// operator is a tool that changes volumes.
type operator struct{ *peer }

func (r *rig) operator() operator { return operator{r.dial(wire.RoleTool, nil)} }

// change does something with a volume of group shop, and returns what the node then says of it.
func (o operator) change(name string, a wire.VolumeAction) VolumeStatus {
	o.t.Helper()
	v := wire.Volume{Group: "shop", Name: name, Action: a}
	if a == wire.VolumeMake {
		v.Size = 1024 * block
	}
	check(o.t, o.conn.WriteMessage(&v))
	reply, ok := o.next().(*wire.StatusReply)
	if !ok {
		o.t.Fatalf("%v of volume %s: no StatusReply", a, name)
	}
	return volumeOf(o.t, reply.JSON, name)
}

func (o operator) refuse(name string, a wire.VolumeAction, want wire.ErrorCode) {
	o.t.Helper()
	check(o.t, o.conn.WriteMessage(&wire.Volume{Group: "shop", Name: name, Action: a}))
	if e := o.refused(); e.Code != want {
		o.t.Errorf("%v of volume %s: %+v, want %v", a, name, e, want)
	}
}

// look asks for the status of a volume.
func (o operator) look(name string) VolumeStatus {
	o.t.Helper()
	check(o.t, o.conn.WriteMessage(&wire.Status{}))
	return volumeOf(o.t, o.next().(*wire.StatusReply).JSON, name)
}

func volumeOf(t testing.TB, status []byte, name string) VolumeStatus {
	t.Helper()
	var st Status
	check(t, json.Unmarshal(status, &st))
	for _, g := range st.Groups {
		i := slices.IndexFunc(g.Volumes, func(v VolumeStatus) bool { return v.Name == name })
		if g.Name == "shop" && i >= 0 {
			v := g.Volumes[i]
			v.Identity, v.Bytes = "", 0
			return v
		}
	}
	return VolumeStatus{}
}

// partly sends a manifest that says of one volume that more of its first copy is to come.
func (p *primary) partly(cg uint64, handle int) {
	p.t.Helper()
	m := p.summary(cg)
	m.Volumes[handle].Partial = true
	p.stream(m)
}

func same(t *testing.T, what string, got, want VolumeStatus) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: %s", what, d)
	}
}

// TestReq07_AVolumeJoinsARunningGroup: CGs go on without a volume that was made while they did, until a primary attaches to it; then they have it, its first copy
// takes several, and it is whole by the first that has all. From then on a part of it is refused.
func TestReq07_AVolumeJoinsARunningGroup(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m, tool := r.manager(1), r.operator()
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 4, 1)
	p.manifest(1)
	m.finish("shop", 1)
	same(t, "a volume that was in CG 1", tool.look("a"), VolumeStatus{Name: "a", Standing: "awaited", WholeSince: 1})
	same(t, "a new volume", tool.change("n", wire.VolumeMake), VolumeStatus{Name: "n", Standing: "unattached"})
	p.update(2, 0, 2, 4, 2)
	p.manifest(2)
	m.finish("shop", 2) // without it
	check(t, p.conn.Close())

	p = r.attach(2, "shop", "a", "b", "n")
	if v := p.attached.Volumes; !v[0].Whole || !v[1].Whole || v[2].Whole || v[2].Holds || p.attached.Complete != 2 {
		t.Fatalf("attached %+v", p.attached)
	}
	for cg := uint64(3); cg < 5; cg++ {
		p.update(cg, 0, 0, 1, cg)
		p.update(cg, 2, int(cg), 1, 9)
		p.partly(cg, 2)
		m.finish("shop", cg)
		if st := m.state("shop"); st.Awaited != 3 || st.Lacking != 1 || st.LackingThen != 1 {
			t.Errorf("CG %d is final: %+v", cg, st)
		}
		same(t, "first copy in progress", tool.look("n"), VolumeStatus{Name: "n", Standing: "awaited", Holds: true})
	}
	r.same("shop", "a", 0, contents(0, 1, 4)) // what was there before goes on
	p.update(5, 2, 5, 1, 9)
	p.manifest(5)
	if m.told.CG != 4 || m.told.Awaited != 3 || m.told.Lacking != 1 {
		t.Errorf("told of CG 4: %+v", m.told)
	}
	m.awaitComplete("shop", 5)
	if m.told.CG != 5 || m.told.Awaited != 3 || m.told.Lacking != 0 {
		t.Errorf("told of CG 5: %+v", m.told)
	}
	if st := m.state("shop"); st.Awaited != 3 || st.Lacking != 1 || st.LackingThen != 0 {
		t.Errorf("CG 5 is complete: %+v", st)
	}
	m.finish("shop", 5)
	same(t, "first copy complete", tool.look("n"), VolumeStatus{Name: "n", Standing: "awaited", WholeSince: 5})
	r.same("shop", "n", 3, contents(3, 3, 9))
	p.partly(6, 2)
	if e := p.refused(); e.Code != wire.CodeManifest || e.CG != 6 {
		t.Errorf("part of a whole volume: %+v", e)
	}
	p.ended()
	if st := m.state("shop"); st.Complete != 5 {
		t.Errorf("%+v", st)
	}
}

// TestJoiningGivesUpACGThatNobodyCanLink: a CG became complete without a volume to which a primary attaches, which has cut it and not sent its
// part. The primary must not be told that the CG is complete, and the manager waits for the primary: it is told to give the CG up.
func TestJoiningGivesUpACGThatNobodyCanLink(t *testing.T) {
	r := newRig(t, 32<<20, func(o *Options) { o.JoinPatience = time.Millisecond })
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	p.manifest(1)
	m.finish("shop", 1)
	r.operator().change("n", wire.VolumeMake)
	p.manifest(2)
	m.awaitComplete("shop", 2)

	q := &primary{peer: r.dial(wire.RolePrimary, nil), digests: make([]wire.Digest, 1)}
	check(t, q.conn.WriteMessage(attachMessage(2, "shop", "n")))
	for m.lost == nil {
		if a, err := m.take(); err != nil || a != nil {
			t.Fatalf("%v %v", a, err)
		}
	}
	if m.lost.CG != 2 {
		t.Fatalf("%+v", m.lost)
	}
	m.ask(&wire.Revert{Command: m.head("shop", 2), Discard: true, Through: 2, Final: 1})
	a, ok := q.next().(*wire.Attached)
	if !ok || a.Complete != 1 {
		t.Fatalf("attached %+v", a)
	}
	p.manifest(3)
	p.settled()
	if st := m.state("shop"); st.Complete != 1 {
		t.Fatalf("CG 3 is complete without a volume to which a primary has attached: %+v", st)
	}
	q.manifest(3)
	m.finish("shop", 3)
}

// TestAVolumeIsSetAsideAndRejoins: its group goes on without it, its copy stays, and it comes back for another first copy.
func TestAVolumeIsSetAsideAndRejoins(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m, tool := r.manager(1), r.operator()
	p, q := r.attach(1, "shop", "a"), r.attach(2, "shop", "b")
	q.update(1, 0, 7, 2, 1)
	p.manifest(1)
	q.manifest(1)
	m.finish("shop", 1)
	tool.refuse("b", wire.VolumeSetAside, wire.CodeState) // its primary is there
	tool.refuse("x", wire.VolumeSetAside, wire.CodeUnknown)
	tool.refuse("x", wire.VolumeRejoin, wire.CodeUnknown)
	p.update(2, 0, 0, 1, 2)
	p.manifest(2)
	p.settled()
	if st := m.state("shop"); st.Complete != 1 {
		t.Fatalf("%+v", st)
	}
	check(t, q.conn.Close())
	r.awaitLog("primary left")
	aside := VolumeStatus{Name: "b", Standing: "set aside", WholeSince: 1, SetAsideAt: 1}
	for range 2 {
		same(t, "set aside", tool.change("b", wire.VolumeSetAside), aside)
	}
	m.finish("shop", 2) // it was waited for
	tool.refuse("a", wire.VolumeSetAside, wire.CodeState)
	late := r.dial(wire.RolePrimary, nil)
	check(t, late.conn.WriteMessage(attachMessage(3, "shop", "b")))
	if e := late.refused(); e.Code != wire.CodeSetAside {
		t.Errorf("%+v", e)
	}
	r.same("shop", "b", 7, contents(7, 2, 1))
	same(t, "set aside", tool.look("b"), aside)

	for range 2 {
		same(t, "rejoined", tool.change("b", wire.VolumeRejoin), VolumeStatus{Name: "b", Standing: "unattached", Holds: true})
	}
	p.manifest(3)
	m.finish("shop", 3)
	q = r.attach(4, "shop", "b")
	if v := q.attached.Volumes[0]; v.Whole || !v.Holds {
		t.Errorf("attached %+v", q.attached)
	}
	p.manifest(4)
	q.update(4, 0, 7, 1, 4)
	q.manifest(4)
	m.finish("shop", 4)
	same(t, "copied again", tool.look("b"), VolumeStatus{Name: "b", Standing: "awaited", WholeSince: 4})
	check(t, q.conn.Close())
	r.awaitLog("primary left")
	tool.change("b", wire.VolumeSetAside)
	p.manifest(5)
	m.awaitComplete("shop", 5) // not linked, and not about b
	same(t, "deleted", tool.change("b", wire.VolumeDelete), VolumeStatus{})
	m.finish("shop", 5)
}
