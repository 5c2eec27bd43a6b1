package target

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// TestReq02_TwoSessionsMakeOneGroup: a CG of two volumes from two primaries becomes visible as a whole, and only when
// both have sent their manifests.
func TestReq02_TwoSessionsMakeOneGroup(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	pa, pb := r.attach(1, "shop", "a"), r.attach(2, "shop", "b")
	pa.update(1, 0, 0, 300, 7) // more than one buffer
	pa.update(1, 0, 10, 1, 8)  // written again
	pa.zero(1, 0, 20, 3)
	pa.manifest(1)
	pa.settled()
	pb.update(1, 0, 5, 2, 9)
	pb.settled()
	if st := m.state("shop"); st.Complete != 0 || st.Receiving != 1 {
		t.Fatalf("complete without the manifest of b: %+v", st)
	}
	pb.manifest(1)
	m.awaitComplete("shop", 1)
	r.same("shop", "a", 0, contents(0, 300, 0))
	m.finish("shop", 1)
	want := contents(0, 300, 7)
	copy(want[10*block:], contents(10, 1, 8))
	clear(want[20*block : 23*block])
	r.same("shop", "a", 0, want)
	r.same("shop", "b", 5, contents(5, 2, 9))

	pa.update(2, 0, 1023, 1, 10)
	pa.manifest(2)
	pb.manifest(2) // no updates
	m.finish("shop", 2)
	r.same("shop", "a", 1023, contents(1023, 1, 10))
	if st := m.state("shop"); st.Final != 2 || st.CG != 2 || st.Instance != r.node.opts.Instance {
		t.Errorf("state %+v", st)
	}
}

func TestOneFrameOfManyUpdates(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	var b wire.Batch
	b.Reset(1)
	want := [2][]byte{contents(0, 1024, 0), contents(0, 1024, 0)}
	for i := range 150 { // of 1 to 5 blocks, in turn on both volumes: no run ends where a buffer does
		u := wire.Update{Volume: uint32(i % 2), Block: uint64(i * 6), Count: uint32(1 + i%5)}
		data := contents(int(u.Block), int(u.Count), uint64(i+1))
		check(t, b.Add(u, sumsOf(data), data))
		p.digests[u.Volume].AddUpdate(u, sumsOf(data))
		copy(want[u.Volume][u.Block*block:], data)
	}
	p.send(&b)
	p.manifest(1)
	m.finish("shop", 1)
	r.same("shop", "a", 0, want[0])
	r.same("shop", "b", 0, want[1])
}

// TestIdleStartsWrites: what is acknowledged is on its way to the device, without a manifest or a full buffer.
func TestIdleStartsWrites(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	p := r.attach(1, "shop", "a")
	for n := range uint64(3) {
		p.update(1, 0, int(n), 1, 1)
		p.settled()
		if got := r.node.Status(t.Context()).Counters.DeviceBlocks; got != n+1 {
			t.Errorf("%d blocks written of %d acknowledged", got, n+1)
		}
	}
}

// TestReq06_BadFramesEndTheSession: an error frame with the right code, and nothing is linked or complete.
func TestReq06_BadFramesEndTheSession(t *testing.T) {
	for _, c := range []struct {
		name string
		code wire.ErrorCode
		says string
		send func(*primary)
	}{
		{"unknown handle", wire.CodeUnknown, "handle 2", func(p *primary) { p.update(2, 2, 0, 1, 1) }},
		{"unknown handle in zeroes", wire.CodeUnknown, "handle 2", func(p *primary) { p.zero(2, 2, 0, 1) }},
		{"past the end", wire.CodeSize, "block 1024", func(p *primary) { p.update(2, 0, 1023, 2, 1) }},
		{"zeroes past the end", wire.CodeSize, "block 1024", func(p *primary) { p.zero(2, 0, 1024, 1) }},
		{"block checksum", wire.CodeChecksum, "block 3", func(p *primary) {
			data := contents(0, 4, 1)
			sums := sumsOf(data)
			sums[3]++
			var b wire.Batch
			b.Reset(2)
			check(p.t, b.Add(wire.Update{Volume: 0, Block: 0, Count: 4}, sums, data))
			p.send(&b)
		}},
		{"sequence repeated", wire.CodeProtocol, "expected 5", func(p *primary) { p.seq--; p.update(2, 0, 0, 1, 1) }},
		{"sequence skipped", wire.CodeProtocol, "expected 5", func(p *primary) { p.seq++; p.update(2, 0, 0, 1, 1) }},
		{"first frame is not the first", wire.CodeProtocol, "expected 1", func(p *primary) { p.seq++; p.update(2, 0, 0, 1, 1) }},
		{"complete CG", wire.CodeProtocol, "CG 1", func(p *primary) { p.update(1, 0, 0, 1, 1) }},
		{"manifest of a complete CG", wire.CodeProtocol, "CG 1", func(p *primary) { p.manifest(1) }},
		{"complete CG on a new stream", wire.CodeProtocol, "CG 1", func(p *primary) { p.update(1, 0, 0, 1, 1) }},
		{"CG before the manifest", wire.CodeProtocol, "before the manifest of CG 2", func(p *primary) { p.update(2, 0, 0, 1, 1); p.update(3, 1, 0, 1, 1) }},
		{"update lost", wire.CodeManifest, "1 blocks in 3 updates", func(p *primary) {
			p.update(2, 0, 0, 1, 1)
			p.digests[0].AddZeroes(wire.Zeroes{Count: 1})
			p.manifest(2)
		}},
		{"manifest lacks a volume", wire.CodeManifest, "1 volumes, 2 are attached", func(p *primary) {
			s := p.summary(2)
			s.Volumes = s.Volumes[:1]
			p.stream(s)
		}},
		{"attached again", wire.CodeProtocol, "Attach frame", func(p *primary) { check(p.t, p.conn.WriteMessage(attachMessage(1, "shop", "a"))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 32<<20, nil)
			m := r.manager(1)
			p := r.attach(1, "shop", "a", "b")
			p.update(1, 0, 0, 4, 5)
			p.update(1, 1, 0, 4, 6)
			p.manifest(1)
			m.finish("shop", 1)
			p.zero(2, 0, 4, 1)
			p.settled()
			p.digests[0] = wire.Digest{}
			p.digests[0].AddZeroes(wire.Zeroes{Block: 4, Count: 1})
			if strings.Contains(c.name, "first") || strings.Contains(c.name, "new stream") {
				p = r.attach(9, "shop", "a", "b")
			}
			c.send(p)
			e := p.refused()
			if e.Code != c.code || !strings.Contains(e.Text, c.says) || e.Frame == 0 {
				t.Errorf("refused with %+v, want %v saying %q", e, c.code, c.says)
			}
			p.ended()
			check(t, p.conn.Close())
			if st := m.state("shop"); st.Complete != 1 || st.Linked != 1 || st.Final != 1 {
				t.Errorf("state after the refusal: %+v", st)
			}
			r.same("shop", "a", 0, contents(0, 4, 5))
			if p := r.attach(1, "shop", "a", "b"); p.attached.Resumed || p.attached.Complete != 1 {
				t.Errorf("after a refusal: %+v, want a new stream", p.attached)
			}
		})
	}
}

// TestManifestOfReorderedUpdates: the same updates in another order are not what was sent.
func TestManifestOfReorderedUpdates(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	p := r.attach(1, "shop", "a")
	p.update(1, 0, 0, 1, 1)
	p.update(1, 0, 1, 1, 1)
	p.digests[0].Reset()
	for _, first := range []int{1, 0} {
		p.digests[0].AddUpdate(wire.Update{Block: uint64(first), Count: 1}, sumsOf(contents(first, 1, 1)))
	}
	p.manifest(1)
	if e := p.refused(); e.Code != wire.CodeManifest || e.CG != 1 || e.Group != "shop" {
		t.Errorf("refused with %+v", e)
	}
}

func TestBadAttach(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	for _, c := range []struct {
		name   string
		attach *wire.Attach
		code   wire.ErrorCode
		says   string
	}{
		{"group", attachMessage(1, "ship", "a"), wire.CodeUnknown, `["other" "shop"]`},
		{"volume", attachMessage(1, "shop", "c"), wire.CodeUnknown, `["a" "b"]`},
		{"size", &wire.Attach{Group: "shop", Stream: stream(1), Volumes: []wire.VolumeRef{{Name: "a", Size: 8192}}}, wire.CodeSize, "8192 bytes, the secondary 4194304"},
		{"twice", attachMessage(1, "shop", "a", "a"), wire.CodeProtocol, "twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dial(wire.RolePrimary, nil)
			check(t, p.conn.WriteMessage(c.attach))
			if e := p.refused(); e.Code != c.code || !strings.Contains(e.Text, c.says) {
				t.Errorf("refused with %+v, want %v saying %q", e, c.code, c.says)
			}
			p.ended()
			check(t, p.conn.Close())
		})
	}
	p := r.dial(wire.RolePrimary, nil)
	check(t, p.conn.WriteStream(&wire.Manifest{CG: 1, Volumes: []wire.VolumeManifest{{}}}, 1))
	if e := p.refused(); e.Code != wire.CodeProtocol {
		t.Errorf("a frame before Attach: %+v", e)
	}
}

// TestResumeInMidFrame cuts the connection inside of a payload, and goes on where the secondary stands.
func TestResumeInMidFrame(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	var cut *cutConn
	p := r.attachOver(func(nc net.Conn) net.Conn { cut = &cutConn{nc, 1 << 30}; return cut }, 1, "shop", "a", "b")
	p.update(1, 0, 0, 8, 1)
	p.update(1, 1, 0, 8, 2)
	p.settled()
	digests := slices.Clone(p.digests)
	data := contents(0, 200, 3)
	var b wire.Batch
	b.Reset(1)
	check(t, b.Add(wire.Update{Volume: 0, Block: 0, Count: 200}, sumsOf(data), data))
	cut.left = 2000 + 100*block
	if err := p.conn.WriteUpdates(&b, 3); err == nil {
		t.Fatal("the cut connection took the frame")
	}
	r.awaitLog("primary left")

	q := r.attach(1, "shop", "a", "b")
	want := wire.Attached{Applied: 2, Resumed: true, Window: 16 << 20, Volumes: p.attached.Volumes}
	if d := cmp.Diff(want, q.attached); d != "" {
		t.Fatal(d)
	}
	q.digests = digests
	q.seq = 2
	q.update(1, 0, 0, 200, 4)
	q.manifest(1)
	q.settled()
	m.finish("shop", 1)
	r.same("shop", "a", 0, contents(0, 200, 4))
	r.same("shop", "b", 0, contents(0, 8, 2))
}

// TestResumeReplacesConnection: the primary comes back before the secondary noticed that the connection is dead.
func TestResumeReplacesConnection(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	p := r.attach(1, "shop", "a")
	p.update(1, 0, 0, 1, 1)
	p.settled()
	q := r.attach(1, "shop", "a")
	if !q.attached.Resumed || q.attached.Applied != 1 {
		t.Errorf("attached %+v", q.attached)
	}
	p.ended()
	q.update(1, 0, 1, 1, 1)
	q.settled()
}

// TestNewStreamForgetsTheOlder: what an older stream sent and no CG was completed with is gone, sealed or not.
func TestNewStreamForgetsTheOlder(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	pa, pb := r.attach(1, "shop", "a"), r.attach(2, "shop", "b")
	pa.update(1, 0, 0, 4, 1)
	pa.manifest(1)
	pa.update(2, 0, 0, 4, 2)
	pa.settled()
	qa := r.attach(3, "shop", "a")
	if qa.attached.Resumed || qa.attached.Applied != 0 {
		t.Fatalf("attached %+v", qa.attached)
	}
	if e := pa.refused(); e.Code != wire.CodeState || !strings.Contains(e.Text, "took over") {
		t.Errorf("the older stream ended with %+v", e)
	}
	pb.manifest(1)
	pb.settled()
	if st := m.state("shop"); st.Complete != 0 {
		t.Fatalf("CG 1 complete with what a forgotten stream sent: %+v", st)
	}
	qa.update(1, 0, 2, 1, 3)
	qa.manifest(1)
	m.finish("shop", 1)
	want := contents(0, 4, 0)
	copy(want[2*block:], contents(2, 1, 3))
	r.same("shop", "a", 0, want)
	// Other volumes under the same stream are another stream.
	if p := r.attach(3, "shop", "a", "b"); p.attached.Resumed {
		t.Errorf("attached %+v", p.attached)
	}
}

func TestStreamIsForgottenAfterResumeTimeout(t *testing.T) {
	r := newRig(t, 32<<20, func(o *Options) { o.ResumeTimeout = time.Millisecond })
	p := r.attach(1, "shop", "a")
	p.update(1, 0, 0, 1, 1)
	p.settled()
	check(t, p.conn.Close())
	r.awaitLog("stream forgotten")
	if p := r.attach(1, "shop", "a"); p.attached.Resumed {
		t.Errorf("attached %+v", p.attached)
	}
}

// fill sends updates of CG cg, 64 blocks each, until the node says that the pool is full.
func (r *rig) fill(p *primary, cg uint64) {
	r.t.Helper()
	full := make(chan struct{})
	go func() {
		defer close(full)
		r.awaitLog("pool is full; a session waits")
	}()
	for i := 0; ; i += 64 {
		p.update(cg, 0, i, 64, uint64(i+1))
		select {
		case <-full:
			return
		default:
		}
		if i == 4096-64 {
			r.t.Fatal("the volume is smaller than the pool")
		}
		// Stay near what the secondary has taken in, or the socket is full before the pool is. While the
		// pool is full the last credit is repeated.
		for p.acked+2 < p.seq {
			select {
			case <-full:
				return
			default:
			}
			c, ok := p.next().(*wire.Credit)
			if !ok {
				r.t.Fatal("want Credit")
			}
			p.acked = c.Applied
		}
	}
}

// TestReq13_FullPoolPushesBackAndResumes: a session that finds no room waits, says so, and goes on by itself when
// a CG of another group becomes final.
func TestReq13_FullPoolPushesBackAndResumes(t *testing.T) {
	r := newRig(t, 20<<20, nil)
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 1000, 1)
	p.manifest(1)
	m.finish("shop", 1)
	p.update(2, 0, 0, 1000, 2)
	p.manifest(2)
	m.awaitComplete("shop", 2)
	q := r.attach(2, "other", "c")
	r.fill(q, 1)
	if st := m.state("other"); !st.PoolFull {
		t.Errorf("state %+v", st)
	}
	if st := m.state("shop"); st.PoolFull {
		t.Errorf("no session of group shop waits: %+v", st)
	}
	status := r.node.Status(t.Context())
	if i := slices.IndexFunc(status.Sessions, func(s SessionStatus) bool { return s.PoolFull }); !status.Pool.Full || i < 0 || status.Sessions[i].Group != "other" {
		t.Errorf("status %+v", status)
	}
	m.finish("shop", 2)
	q.settled()
	q.manifest(1)
	m.finish("other", 1)
	r.same("other", "c", 0, contents64(1))
	r.same("shop", "a", 0, contents(0, 1000, 2))
}

func contents64(version uint64) []byte { return contents(0, 64, version) }

// TestDiscardWhilePoolIsFull: the CG that waits for room is discarded; the session goes on with the next.
func TestDiscardWhilePoolIsFull(t *testing.T) {
	r := newRig(t, 20<<20, func(o *Options) { o.FullRecheck = 20 * time.Millisecond })
	m := r.manager(1)
	p := r.attach(1, "other", "c")
	r.fill(p, 1)
	m.ask(&wire.Revert{Command: m.head("other", 1), Discard: true, Through: 1})
	p.settled()
	p.digests[0].Reset()
	p.update(2, 0, 0, 64, 5)
	p.manifest(2)
	m.finish("other", 2)
	r.same("other", "c", 0, contents64(5))
	r.same("other", "c", 64, contents(64, 64, 0))
}

func TestDiscardWhileReceiving(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 8, 1)
	p.settled()
	if a, ok := m.ask(&wire.Revert{Command: m.head("shop", 1), Discard: true, Through: 3}).(*wire.Reverted); !ok || a.CG != 1 {
		t.Fatalf("reverted %+v", a)
	}
	p.update(1, 0, 8, 8, 1) // dropped, and acknowledged
	p.zero(1, 1, 0, 8)
	p.manifest(1)
	p.update(3, 1, 0, 8, 1)
	p.settled()
	if st := m.state("shop"); st.Complete != 0 {
		t.Fatalf("a discarded CG is complete: %+v", st)
	}
	for i := range p.digests {
		p.digests[i].Reset()
	}
	p.update(4, 0, 4, 2, 2) // without a manifest of 3
	p.manifest(4)
	m.finish("shop", 4)
	want := contents(0, 16, 0)
	copy(want[4*block:], contents(4, 2, 2))
	r.same("shop", "a", 0, want)
	r.same("shop", "b", 0, contents(0, 8, 0))

	// A discard that this session hears of only when the next CG comes.
	p.update(5, 1, 0, 8, 1)
	p.settled()
	m.ask(&wire.Revert{Command: m.head("shop", 5), Discard: true, Through: 5})
	for i := range p.digests {
		p.digests[i].Reset()
	}
	p.update(6, 0, 0, 1, 3)
	p.manifest(6)
	m.finish("shop", 6)
	r.same("shop", "b", 0, contents(0, 8, 0))
}

// TestReq18_CommandsAreIdempotent: each is answered again with the same; a revert shows the CG before.
func TestReq18_CommandsAreIdempotent(t *testing.T) {
	r := newRig(t, 64<<20, nil)
	m := r.manager(1)
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 1, 1)
	p.manifest(1)
	m.awaitComplete("shop", 1)
	head := m.head("shop", 1)
	for _, c := range []struct{ ask, want wire.Message }{
		{&wire.Revert{Command: head}, &wire.Reverted{Command: head}}, // not linked: nothing to do
		{&wire.Link{Command: head}, &wire.Linked{Command: head}},
		{&wire.Link{Command: head}, &wire.Linked{Command: head}},
		{&wire.Revert{Command: head}, &wire.Reverted{Command: head}},
		{&wire.Revert{Command: head}, &wire.Reverted{Command: head}},
		{&wire.Link{Command: head}, &wire.Linked{Command: head}},
		{&wire.Release{Command: head}, &wire.Final{Command: head}},
		{&wire.Release{Command: head}, &wire.Final{Command: head}},
	} {
		if diff := cmp.Diff(c.want, m.ask(c.ask)); diff != "" {
			t.Errorf("%v: %s", c.ask.Type(), diff)
		}
	}
	if e := m.refuse(&wire.Revert{Command: head, Discard: true, Through: 9}); e.Code != wire.CodeState {
		t.Errorf("a final CG was reverted: %+v", e)
	}
	r.same("shop", "a", 0, contents(0, 1, 1))
}

func TestCommandsRefused(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m := r.manager(7)
	for _, c := range []struct {
		name string
		ask  wire.Message
		code wire.ErrorCode
		says string
	}{
		{"unknown group", &wire.Query{Command: wire.Command{Group: "ship", Epoch: 7}}, wire.CodeUnknown, "shop"},
		{"link before complete", &wire.Link{Command: m.head("shop", 3)}, wire.CodeState, "CG 3"},
		{"release before link", &wire.Release{Command: m.head("shop", 3)}, wire.CodeState, "CG 3"},
		{"no CG", &wire.Link{Command: m.head("shop", 0)}, wire.CodeState, "start at 1"},
		{"fence", &wire.Fence{Command: wire.Command{Group: "shop", Epoch: 6}}, wire.CodeStaleEpoch, `epoch 7 is in force: manager "peer" leads`},
		{"query", &wire.Query{Command: wire.Command{Group: "shop", Epoch: 6}}, wire.CodeStaleEpoch, `epoch 7 is in force: manager "peer" leads`},
		{"link", &wire.Link{Command: wire.Command{Group: "shop", Epoch: 6, CG: 1}}, wire.CodeStaleEpoch, `epoch 7 is in force: manager "peer" leads`},
		{"release", &wire.Release{Command: wire.Command{Group: "shop", Epoch: 6, CG: 1}}, wire.CodeStaleEpoch, `epoch 7 is in force: manager "peer" leads`},
		{"revert", &wire.Revert{Command: wire.Command{Group: "shop", Epoch: 6, CG: 1}, Discard: true, Through: 4}, wire.CodeStaleEpoch, `epoch 7 is in force: manager "peer" leads`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := m.refuse(c.ask)
			if e.Code != c.code || !strings.Contains(e.Text, c.says) || e.Group != c.ask.(wire.Commanded).Head().Group || e.Frame == 0 {
				t.Errorf("refused with %+v, want %v saying %q", e, c.code, c.says)
			}
		})
	}
	if st := m.state("shop"); st.Epoch != 7 || st.Linked != 0 {
		t.Errorf("the connection or the state suffered: %+v", st)
	}
}

// TestEveryManagerIsTold: Complete goes to each connection that spoke of the group, and to no other.
func TestEveryManagerIsTold(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m1, m2 := r.manager(1), r.manager(1)
	silent := r.dial(wire.RoleManager, nil)
	p := r.attach(1, "shop", "a", "b")
	p.manifest(1)
	m1.awaitComplete("shop", 1)
	m2.awaitComplete("shop", 1)
	check(t, silent.conn.WriteMessage(&wire.Query{Command: wire.Command{Group: "other", Epoch: 1}}))
	if a := silent.next(); a.Type() != wire.TypeState {
		t.Errorf("a manager that never asked for the group was told %v", a.Type())
	}
}

// TestReq15_FailedPoolIsTold: managers get Lost for the CG in work and see why in State; primaries are refused.
func TestReq15_FailedPoolIsTold(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m := r.manager(4)
	p := r.attach(1, "shop", "a", "b")
	p.update(5, 0, 0, 1, 1)
	p.settled()
	r.broken.Store(true)
	p.manifest(5)
	lost := map[string]*wire.Lost{}
	for len(lost) < 2 {
		_, err := m.take()
		check(t, err)
		if m.lost != nil {
			lost[m.lost.Group] = m.lost
			m.lost = nil
		}
	}
	why := r.pool.Failure().Error()
	want := map[string]*wire.Lost{
		"shop":  {Command: m.head("shop", 5), Reason: why},
		"other": {Command: m.head("other", 1), Reason: why},
	}
	if diff := cmp.Diff(want, lost); diff != "" {
		t.Error(diff)
	}
	if st := m.state("shop"); st.Failed != why || st.Receiving != 5 || st.Complete != 0 {
		t.Errorf("state %+v", st)
	}
	if e := m.refuse(&wire.Link{Command: m.head("shop", 5)}); e.Code != wire.CodeIO {
		t.Errorf("link: %+v", e)
	}
	p.update(6, 0, 0, 1, 1)
	if e := p.refused(); e.Code != wire.CodeIO {
		t.Errorf("update: %+v", e)
	}
	check(t, p.conn.Close())
	q := r.dial(wire.RolePrimary, nil)
	check(t, q.conn.WriteMessage(attachMessage(2, "shop", "a", "b")))
	if e := q.refused(); e.Code != wire.CodeIO {
		t.Errorf("attach: %+v", e)
	}
	if st := r.node.Status(t.Context()); st.Pool.Failure != why {
		t.Errorf("status %+v", st.Pool)
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	m := r.manager(3)
	p := r.attach(1, "shop", "a", "b")
	p.update(1, 0, 0, 100, 1)
	p.zero(1, 1, 0, 1)
	p.manifest(1)
	m.finish("shop", 1)
	p.settled()
	tool := r.dial(wire.RoleTool, nil)
	check(t, tool.conn.WriteMessage(&wire.Status{}))
	reply, ok := tool.next().(*wire.StatusReply)
	if !ok {
		t.Fatal("no StatusReply")
	}
	var st Status
	check(t, json.Unmarshal(reply.JSON, &st))
	if st.Node != "b1" || st.Role != "secondary" || st.Pool.UUID != r.pool.UUID().String() || st.Pool.Bytes == 0 || st.Pool.Error != "" {
		t.Errorf("status %+v", st)
	}
	i := slices.IndexFunc(st.Groups, func(g GroupStatus) bool { return g.Name == "shop" })
	want := GroupStatus{Name: "shop", Epoch: 3, Manager: "peer", Final: 1, Linked: 1, Complete: 1, Receiving: 1,
		Volumes: []VolumeStatus{{Name: "a", Bytes: 1024 * block, Identity: r.identity("shop", "a"), Standing: "awaited", WholeSince: 1},
			{Name: "b", Bytes: 1024 * block, Identity: r.identity("shop", "b"), Standing: "awaited", WholeSince: 1}}}
	if diff := cmp.Diff(want, st.Groups[i]); diff != "" {
		t.Error(diff)
	}
	if len(st.Sessions) != 1 {
		t.Fatalf("sessions %+v", st.Sessions)
	}
	s := st.Sessions[0]
	if s.Peer != "peer" || !s.Connected || s.Bytes != 100*block || s.Updates != 2 || s.Applied != 3 || s.CG != 0 || !slices.Equal(s.Volumes, []string{"a", "b"}) {
		t.Errorf("session %+v", s)
	}
	if c := st.Counters; c.PayloadBytes != 100*block || c.Updates != 2 || c.DeviceBlocks != 100 {
		t.Errorf("counters %+v", c)
	}
	check(t, tool.conn.WriteMessage(&wire.Ping{Token: 1}))
	check(t, m.conn.WriteMessage(&wire.Status{}))
	if a, err := m.take(); err != nil || a.Type() != wire.TypeStatusReply {
		t.Errorf("a manager asked for the status: %v, %v", a, err)
	}
}

// TestCloseInEveryState: sessions that read, wait for their primary, wait for room, and managers end; the rig looks for
// what is left.
func TestCloseInEveryState(t *testing.T) {
	r := newRig(t, 20<<20, nil)
	m := r.manager(1)
	tool := r.dial(wire.RoleTool, nil)
	away := r.attach(1, "shop", "a")
	check(t, away.conn.Close())
	r.awaitLog("primary left")
	idle := r.attach(2, "shop", "b")
	full := r.attach(3, "other", "c")
	r.fill(full, 1)
	early := r.dial(wire.RolePrimary, nil) // never attaches
	half, err := net.Dial("tcp", r.addr)   // never says hello
	check(t, err)
	defer half.Close()
	r.close()
	for _, p := range []*peer{m.peer, tool, idle.peer, full.peer, early} {
		if e := p.refused(); e.Code != wire.CodeShuttingDown {
			t.Errorf("told %+v", e)
		}
	}
}

func TestServeOnClosedNode(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	r.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	if err := r.node.Serve(t.Context(), l); !errors.Is(err, ErrClosed) {
		t.Errorf("serve on a closed node: %v", err)
	}
}

func TestOptions(t *testing.T) {
	pool := &engine.Pool{}
	for _, o := range []Options{{Name: "x"}, {Pool: pool}, {Pool: pool, Name: "x", Window: 4096}, {Pool: pool, Name: "x", ResumeTimeout: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("accepted %+v", o)
		}
	}
}

// TestToolKeepsVolumes: made, used, refused while in use, deleted.
func TestToolKeepsVolumes(t *testing.T) {
	r := newRig(t, 32<<20, nil)
	tool := r.dial(wire.RoleTool, nil)
	ask := func(v wire.Volume) Status {
		t.Helper()
		check(t, tool.conn.WriteMessage(&v))
		var st Status
		reply, ok := tool.next().(*wire.StatusReply)
		if !ok {
			t.Fatal("no StatusReply")
		}
		check(t, json.Unmarshal(reply.JSON, &st))
		return st
	}
	refused := func(v wire.Volume, code wire.ErrorCode) {
		t.Helper()
		check(t, tool.conn.WriteMessage(&v))
		if e := tool.refused(); e.Code != code {
			t.Errorf("%+v: %+v, want %v", v, e, code)
		}
	}
	fresh := wire.Volume{Group: "fresh", Name: "a", Action: wire.VolumeMake, Size: 1024 * block}
	for range 2 { // the second changes nothing
		st := ask(fresh)
		i := slices.IndexFunc(st.Groups, func(g GroupStatus) bool { return g.Name == "fresh" })
		if i < 0 || !cmp.Equal(st.Groups[i].Volumes, []VolumeStatus{{Name: "a", Bytes: 1024 * block, Identity: r.identity("fresh", "a"), Standing: "awaited"}}) {
			t.Fatalf("groups %+v", st.Groups)
		}
	}
	larger := fresh
	larger.Size *= 2
	refused(larger, wire.CodeState)
	gone := wire.Volume{Group: "fresh", Name: "a", Action: wire.VolumeDelete}
	p := r.attach(1, "fresh", "a")
	refused(gone, wire.CodeState)
	p.update(1, 0, 2000, 1, 1) // ends the session, which then holds the volume no more
	if e := p.refused(); e.Code != wire.CodeSize {
		t.Errorf("%+v", e)
	}
	st := ask(gone)
	if i := slices.IndexFunc(st.Groups, func(g GroupStatus) bool { return g.Name == "fresh" }); len(st.Groups[i].Volumes) != 0 {
		t.Errorf("groups %+v", st.Groups)
	}
	refused(gone, wire.CodeUnknown)
}
