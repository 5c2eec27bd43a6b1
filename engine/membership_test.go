package engine

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// grown is a rig with a group of a volume a, of which CG 1 is final, and a volume b that was made since.
func grown(t *testing.T, seed uint64) (r *rig, a, b *Volume) {
	t.Helper()
	r = newRig(t, seed)
	a = r.volume("g", "a", 40)
	r.final(a, 1, 0, 5)
	b, err := r.pool.CreateVolume(context.Background(), "g", "b", 40*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	return r, a, b
}

// TestReq07_AVolumeThatJoinsHoldsNothingBack: a volume made in a running group is not waited for before it joins; from then on every CG has it, whatever
// restarts, until it is set aside.
func TestReq07_AVolumeThatJoinsHoldsNothingBack(t *testing.T) {
	r, a, b := grown(t, 101)
	g := a.group
	r.final(a, 2, 3, 5) // without b
	if m := b.Membership(); m != (Membership{}) {
		t.Fatalf("a volume that nobody has attached is %v", m)
	}
	if err := r.w.Bind(b); err != nil {
		t.Fatal(err)
	}
	r.write(a, 3, 0, 2)
	r.seal(3, a)
	if st := r.state(g); st.Complete != 2 {
		t.Fatalf("CG 3 is complete without a volume that joined before: %+v", st)
	}
	r.reopen()
	a, b, g = r.vol("g", "a"), r.vol("g", "b"), r.vol("g", "a").group
	r.write(a, 3, 0, 2)
	r.seal(3, a)
	if st := r.state(g); st.Complete != 2 {
		t.Fatalf("after a restart CG 3 is complete without it: %+v", st)
	}
	if err := r.w.Unbind(b); err != nil {
		t.Fatal(err)
	}
	if err := g.SetAside(context.Background(), "b"); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if st := r.state(g); st.Complete != 3 {
		t.Fatalf("the group waits for a volume that was set aside: %+v", st)
	}
	r.close()
}

// TestVolumeMadeBeforeTheFirstCGIsComplete: a CG that is on its way when a volume is made does not wait for it, whether some of it was received
// already, or no more is known than that a manager has discarded CGs. Only in a group that never had a CG a volume is waited for at once.
func TestVolumeMadeBeforeTheFirstCGIsComplete(t *testing.T) {
	ctx := context.Background()
	led := func(r *rig, a *Volume) error { return a.group.Discard(ctx, Command{Epoch: 1, CG: 1}, 2) }
	received := func(r *rig, a *Volume) error { r.write(a, 3, 0, 2); return nil }
	for name, before := range map[string]func(*rig, *Volume) error{"led": led, "received": received} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 107)
			a := r.volume("g", "a", 40)
			if m := a.Membership(); m.Standing != Awaited {
				t.Fatalf("the first volume of a group is %v", m)
			}
			if err := before(r, a); err != nil {
				t.Fatal(err)
			}
			b, err := r.pool.CreateVolume(ctx, "g", "b", 40*BlockSize)
			if err != nil {
				t.Fatal(err)
			}
			if m := b.Membership(); m.Standing != Unattached {
				t.Errorf("the second volume is %v", m)
			}
			r.write(a, 3, 2, 4)
			r.seal(3, a)
			if st := r.state(a.group); st.Complete != 3 {
				t.Errorf("CG 3 waits for a volume that its primary cannot take in before it is final: %+v", st)
			}
			r.close()
		})
	}
}

// asks begins something that waits, and says later what came of it.
func (r *rig) asks(f func(reply func(error))) func() (ended bool, err error) {
	done := make(chan error, 1)
	r.pool.ctl.post(func() { f(func(err error) { done <- err }) })
	r.settle()
	return func() (bool, error) {
		select {
		case err := <-done:
			return true, err
		default:
			return false, nil
		}
	}
}

// joins begins to join; joined, if set, looks around when it has.
func (r *rig) joins(ctx context.Context, v *Volume, joined func() error) func() (bool, error) {
	return r.asks(func(reply func(error)) {
		g := v.group
		g.gaps = append(g.gaps, gap{ctx: ctx, vol: v, settled: true, decide: func(m Membership) (*record, error) { return m.moves(Awaited, 0), nil },
			reply: func(err error) {
				if joined != nil {
					err = errors.Join(err, joined())
				}
				reply(err)
			}})
		g.takeGaps()
	})
}

// TestJoinWaitsForTheCGThatIsComplete: whoever sends to a volume must not take a CG for one that has it. So joining ends when a CG that is
// complete without it is final or discarded.
func TestJoinWaitsForTheCGThatIsComplete(t *testing.T) {
	for _, end := range []string{"final", "discarded", "given up", "pool failed"} {
		t.Run(end, func(t *testing.T) {
			r, a, b := grown(t, 102)
			g := a.group
			r.write(a, 2, 0, 5)
			r.seal(2, a)
			if err := r.w.Bind(b); !errors.Is(err, ErrState) {
				t.Fatalf("bound while CG 2 is complete without it: %v", err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := r.joins(ctx, b, nil)
			if done, err := ended(); done {
				t.Fatalf("joined while CG 2 is complete without it: %v", err)
			}
			want := Awaited
			switch end {
			case "final":
				r.commit(g, 2)
			case "discarded":
				r.do(func(ctx context.Context, c Command) error { return g.Discard(ctx, c, 2) }, 2)
			case "given up":
				want = Unattached
				cancel()
				r.commit(g, 2)
			case "pool failed":
				want = Unattached
				r.pool.ctl.post(func() { r.pool.ctl.fail(errors.New("planted")) })
				if _, err := r.pool.Step(); err != nil {
					t.Fatal(err)
				}
			}
			done, err := ended()
			if !done || (err == nil) != (want == Awaited) || b.Membership().Standing != want {
				t.Fatalf("ended %t with %v; it is %v", done, err, b.Membership())
			}
			if end != "pool failed" {
				r.close()
			}
		})
	}
}

// TestJoinWaitsForTheCGThatBecomesComplete: a CG that is being journaled was put together before.
func TestJoinWaitsForTheCGThatBecomesComplete(t *testing.T) {
	r, a, b := grown(t, 105)
	g := a.group
	r.write(a, 2, 0, 5)
	if err := r.w.Seal(2, a); err != nil {
		t.Fatal(err)
	}
	for !r.pool.ctl.completing(g) {
		if _, err := r.pool.Step(); err != nil {
			t.Fatal(err)
		}
	}
	ended := r.joins(context.Background(), b, func() error {
		if g.state.complete != 2 || g.state.final != 2 || r.pool.ctl.completing(g) {
			return errors.New("joined in the midst of a CG")
		}
		return nil
	})
	r.commit(g, 2)
	if done, err := ended(); !done || err != nil {
		t.Fatalf("%t %v", done, err)
	}
	r.close()
}

// TestPartOfAWholeVolumeIsRefused: once a volume is whole, a CG that leaves something of it out is never shown. Before, it may take any number of CGs,
// and what is whole is so from the CG on that is final.
func TestPartOfAWholeVolumeIsRefused(t *testing.T) {
	r := newRig(t, 103)
	var refused []uint64
	r.pool.opts.OnRefused = func(_ string, cg uint64, err error) {
		if !errors.Is(err, ErrState) {
			t.Error(err)
		}
		refused = append(refused, cg)
	}
	a, b := r.volume("g", "a", 40), r.volume("g", "b", 40)
	g := a.group
	cg := func(n uint64, seal func(uint64, ...*Volume) error) {
		t.Helper()
		r.write(b, n, VBlock(n), 3)
		if err := seal(n, b); err != nil {
			t.Fatal(err)
		}
		r.seal(n, a)
	}
	counts := func(what string, lacking, then int) {
		t.Helper()
		if st := r.state(g); st.Awaited != 2 || st.Lacking != lacking || st.LackingThen != then {
			t.Fatalf("%s: %+v", what, st)
		}
	}
	for n := uint64(1); n < 4; n++ {
		cg(n, r.w.SealPartial)
		if n == 1 {
			counts("the first CG is complete", 2, 1)
		}
		r.commit(g, n)
		if b.CheckWhole() == nil || !errors.Is(b.CheckWhole(), ErrNotWhole) || a.CheckWhole() != nil {
			t.Fatalf("CG %d: %v, %v", n, a.Membership(), b.Membership())
		}
	}
	cg(4, r.w.Seal)
	if b.CheckWhole() == nil {
		t.Fatal("whole by a CG that is not final")
	}
	counts("complete", 1, 0)
	r.do(g.Link, 4)
	counts("linked", 1, 0)
	r.commit(g, 4)
	counts("final", 0, 0)
	if want := (Membership{Standing: Awaited, WholeSince: 4}); b.Membership() != want || b.CheckWhole() != nil {
		t.Fatalf("%v", b.Membership())
	}
	cg(5, r.w.SealPartial)
	if st := r.state(g); st.Complete != 4 || len(refused) != 1 || refused[0] != 5 {
		t.Fatalf("refused %v, %+v", refused, st)
	}
	r.do(func(ctx context.Context, c Command) error { return g.Discard(ctx, c, 5) }, 5)
	cg(6, r.w.Seal)
	r.commit(g, 6)
	if b.Membership().WholeSince != 4 {
		t.Fatalf("%v", b.Membership())
	}
	r.close()
}

// TestReq14_VacantGroupKeepsUp: a group of which all volumes were set aside, or deleted, completes the CGs that it is asked to complete, links and releases them, over a
// restart too; and once a volume joins, it waits for that.
func TestReq14_VacantGroupKeepsUp(t *testing.T) {
	r := newRig(t, 104)
	a, b := r.volume("g", "a", 40), r.volume("g", "b", 40)
	g, ctx := a.group, context.Background()
	offer := func(cg, complete uint64) {
		t.Helper()
		r.do(g.CompleteVacant, cg)
		if st := r.state(g); st.Complete != complete {
			t.Fatalf("asked for CG %d: %+v", cg, st)
		}
	}
	r.write(a, 1, 0, 5)
	r.seal(1, a, b)
	r.commit(g, 1)
	const final = 1
	offer(final+1, final) // it waits for two volumes
	r.write(a, final+1, 0, 2)
	r.seal(final+1, a)
	if err := errors.Join(r.w.Unbind(a), r.w.Unbind(b), g.SetAside(ctx, "a"), g.SetAside(ctx, "a"), g.SetAside(ctx, "b"), r.pool.DeleteVolume(ctx, "g", "b")); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if st := r.state(g); st.Awaited != 0 || st.Complete != final { // nor by what it was asked, or got, before
		t.Fatalf("%+v", st)
	}
	offer(final+1, final+1)
	offer(final+1, final+1) // asked again
	offer(final+2, final+1) // not before the one before is final
	r.commit(g, final+1)
	r.settle()
	offer(final+2, final+2)
	r.do(func(ctx context.Context, c Command) error { return g.Discard(ctx, c, final+5) }, final+2)
	offer(final+4, final+1) // it was discarded
	offer(final+6, final+6)
	r.reopen()
	a = r.vol("g", "a")
	g = a.group
	if st := r.state(g); st.Awaited != 0 || st.Complete != final+6 || st.Final != final+1 {
		t.Fatalf("after a restart: %+v", st)
	}
	r.commit(g, final+6)
	if err := r.w.Bind(a); !errors.Is(err, ErrSetAside) {
		t.Fatal(err)
	}
	if err := g.Join(ctx, a); !errors.Is(err, ErrSetAside) {
		t.Fatal(err)
	}
	if err := errors.Join(g.Rejoin(ctx, "a"), r.w.Bind(a)); err != nil {
		t.Fatal(err)
	}
	offer(final+7, final+6) // it waits for a
	r.write(a, final+7, 0, 3)
	r.seal(final+7, a)
	if st := r.state(g); st.Awaited == 0 || st.Complete != final+7 {
		t.Fatalf("%+v", st)
	}
	r.close()
}

// TestMembershipReplays: the records of a volume's part, carried out once more from any of them on, over what later ones led to, lead to
// the same. A checkpoint knows more than the journal at its tail.
func TestMembershipReplays(t *testing.T) {
	type event struct {
		member *record
		whole  uint64 // CG that is final and makes it whole
		turn   uint32
	}
	carry := func(m Membership, e event) Membership {
		if e.member != nil {
			return m.apply(e.member)
		}
		return m.madeWhole(e.whole, e.turn)
	}
	rapid.Check(t, func(t *rapid.T) {
		states := []Membership{{Standing: rapid.SampledFrom([]Standing{Unattached, Awaited}).Draw(t, "first")}}
		var events []event
		sealed := event{}
		for cg := uint64(1); cg < 30; cg++ {
			m := states[len(states)-1]
			var e event
			switch n := rapid.IntRange(0, 2).Draw(t, "event"); {
			case n == 0 && m.Standing == Awaited:
				e.member = m.moves(SetAside, cg)
			case n == 0 && m.Standing == SetAside:
				e.member = m.moves(Unattached, 0)
			case n == 0:
				e.member = m.moves(Awaited, 0)
			case n == 1 && m.Standing == Awaited && !m.Whole(): // a CG with it is complete
				sealed = event{whole: cg, turn: m.turn}
				continue
			case sealed.whole > 0:
				e, sealed = sealed, event{}
			default:
				continue
			}
			events, states = append(events, e), append(states, carry(m, e))
		}
		for known := range states {
			for tail := range known + 1 {
				for folded := range known + 1 {
					got := states[known]
					for i, e := range events[tail:] {
						if e.member == nil && tail+i < folded {
							continue // records of CGs that the table pages have are passed over
						}
						got = carry(got, e)
					}
					if want := states[len(states)-1]; got != want {
						t.Fatalf("known %d, replayed from %d, folded %d of %+v: %+v, want %+v", known, tail, folded, events, got, want)
					}
				}
			}
		}
	})
}
