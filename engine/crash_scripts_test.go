package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// script is a history that leads to one activity of the pool. What prepare did is on the devices, not all of it flushed, when act begins with
// the recovery of it.
type script struct {
	name    string
	prepare func(*history) error
	act     func(*history) error
	// fresh: act begins with devices, not with a pool.
	fresh bool
}

// all does one thing after another, until one fails.
func all(steps ...func() error) error {
	for _, f := range steps {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// someCG writes, and zeroes, in both volumes of the open CG.
func (h *history) someCG() error {
	a, b := h.vol("a"), h.vol("b")
	at := VBlock(h.open * 7 % 38)
	return all(
		func() error { return h.put(a, at, 6) },
		func() error { return h.put(a, historyLarge-10, 3) }, // on the second table page
		func() error { return h.put(b, at, 4) },
		func() error { return h.zero(b, at+2, 20) },
		func() error { return h.put(b, at+10, 1) })
}

// withC leaves a third volume, which has joined and is in no CG yet.
func withC(h *history) error {
	return all(func() error { return linked(h) }, h.release, func() error { return h.join("c", 30) })
}

func (h *history) putC() error    { return h.put(h.vol("c"), 2, 5) }
func (h *history) attachC() error { return h.attach(h.vol("c")) }
func (h *history) asideC() error  { return h.aside(h.vol("c")) }
func (h *history) rejoinC() error { return h.rejoin(h.vol("c")) }

// join makes a volume and binds it.
func (h *history) join(name string, blocks uint64) error {
	return all(func() error { return h.create(name, blocks) }, func() error { return h.attach(h.vol(name)) })
}

// want compares the part of a volume in its group.
func (h *history) want(name string, want Membership) error {
	got := h.vol(name).Membership()
	if got.turn = 0; got != want {
		return fmt.Errorf("volume %s is %v, not %v", name, got, want)
	}
	return nil
}

func (h *history) wholeCG() error { return all(h.someCG, h.commit) }

func nothing(*history) error { return nil }

// linked leaves a CG that is linked, above one that is final.
func linked(h *history) error { return all(h.wholeCG, h.checkpoint, h.someCG, h.seal, h.link) }

var scripts = []script{
	{name: "format over a pool", prepare: linked, fresh: true, act: func(h *history) error {
		h.formatted, h.asked = false, facts{}
		o := historyFormat()
		o.NewUUID = func() UUID { return UUID{9, byte(h.rng.Uint32())} }
		if _, err := Format(h.devs, o); err != nil {
			return err
		}
		h.formatted, h.acked = true, facts{}
		return nil
	}},
	{name: "recovery with damaged superblocks", prepare: func(h *history) error {
		if err := linked(h); err != nil {
			return err
		}
		for _, i := range []int64{0, 2} {
			h.devs.Rot(0, i*superblockStride*BlockSize+50, 8, 3)
			h.devs.Rot(1, i*superblockStride*BlockSize+50, 8, 3)
		}
		return nil
	}, act: nothing},
	{name: "checkpoint", prepare: (*history).wholeCG, act: func(h *history) error {
		return all(h.checkpoint, h.wholeCG, h.checkpoint, h.someCG, h.seal, h.checkpoint)
	}},
	{name: "checkpoint while a CG is folded", prepare: linked, act: func(h *history) error {
		begin := func() error { h.pool.ctl.startCheckpoint(); return nil }
		return all(h.release, begin, h.someCG, h.settle, h.seal, begin, h.link, h.release, h.settle)
	}},
	{name: "fold", prepare: linked, act: func(h *history) error { return all(h.release, h.settle, h.wholeCG, h.settle, h.checkpoint) }},
	{name: "fold after snapshots are let go", prepare: linked, act: func(h *history) error {
		h.hold(FinalView)
		h.hold(LinkedView)
		if err := all(h.release, h.settle, h.wholeCG, h.settle, h.look, h.someCG, h.seal, h.look); err != nil {
			return err
		}
		if len(h.group.live) < 2 {
			return errors.New("the snapshots hold nothing")
		}
		h.unhold()
		return all(h.settle, h.link, h.release, h.settle)
	}},
	{name: "volumes are made and deleted", prepare: (*history).wholeCG, act: func(h *history) error {
		return all(
			func() error { return h.join("c", 30) },
			func() error { return h.put(h.vol("c"), 7, 5) }, h.wholeCG, h.settle, h.checkpoint,
			func() error { return h.remove(h.vol("c")) },
			// The pair of c's page is not for d: the newest root names it until the next one is durable.
			func() error { return h.join("d", 10) }, func() error { return h.put(h.vol("d"), 0, 5) }, h.wholeCG, h.settle, h.checkpoint,
			func() error { return h.join("c", 10) }, h.checkpoint,
			func() error { return h.put(h.vol("c"), 0, 5) }, h.wholeCG)
	}},
	{name: "a volume becomes whole over several CGs", prepare: linked, act: func(h *history) error {
		h.partial["c"] = true
		put := func(n uint64) func() error { return func() error { return h.put(h.vol("c"), VBlock(n), n) } }
		return all(
			func() error { return h.create("c", 30) },
			func() error { return h.attach(h.vol("c")) }, // refused: a CG is complete without it
			h.release, h.wholeCG, // without it
			func() error { return h.attach(h.vol("c")) },
			put(3), h.commit, put(5), h.seal, h.link, h.discard, put(7), h.commit, h.settle, h.checkpoint, put(9), h.commit,
			func() error { h.partial["c"] = false; return nil },
			put(4), h.seal, h.link, h.discard, // this would have made it whole
			put(6), h.someCG, h.seal, h.link, h.revert, h.checkpoint, h.link, h.release, h.checkpoint, put(2), h.commit,
			func() error { return h.want("c", Membership{Standing: Awaited, WholeSince: h.acked.Final - 1}) })
	}},
	{name: "a volume is set aside and rejoins", prepare: withC, act: func(h *history) error {
		return all(h.putC, h.asideC, h.wholeCG, h.checkpoint, h.rejoinC, h.attachC, h.putC, h.commit, h.settle,
			h.putC, h.someCG, h.seal, h.asideC, h.link, h.release, h.commit, // it is part of the CG that is complete
			func() error {
				return h.want("c", Membership{Standing: SetAside, WholeSince: h.acked.Final - 2, AsideAt: h.acked.Final - 1})
			})
	}},
	{name: "a volume is set aside at a CG that is discarded", prepare: withC, act: func(h *history) error {
		return all(h.putC, h.seal, h.checkpoint, h.asideC, h.link, h.discard, h.commit,
			func() error { return h.want("c", Membership{Standing: SetAside, AsideAt: h.acked.Final - 3}) },
			h.someCG, h.seal, h.link, h.rejoinC, h.checkpoint, h.release, // it has no part in that
			func() error { return h.want("c", Membership{}) })
	}},
	{name: "a volume rejoins before the CG that would have made it whole is final", prepare: withC, act: func(h *history) error {
		return all(h.putC, h.seal, h.asideC, h.rejoinC, h.link, h.checkpoint, h.release,
			func() error { return h.want("c", Membership{}) },
			h.attachC, h.putC, h.commit, h.asideC, h.settle, h.someCG, h.seal, h.link,
			func() error { return h.remove(h.vol("c")) }, h.release, h.commit, h.settle, h.checkpoint)
	}},
	{name: "fence", prepare: linked, act: func(h *history) error { return all(h.fence, h.release, h.fence, h.checkpoint, h.fence) }},
	{name: "discard", prepare: linked, act: func(h *history) error {
		return all(h.someCG, h.discard, h.settle, h.wholeCG, h.someCG, h.discard, h.settle, h.someCG, h.seal, h.discard, h.checkpoint, h.wholeCG)
	}},
	{name: "revert", prepare: linked, act: func(h *history) error {
		return all(h.revert, h.link, h.someCG, h.revert, h.checkpoint, h.link, h.release, h.seal)
	}},
	{name: "close", prepare: linked, act: func(h *history) error { return all(h.restart, h.release, h.restart, h.wholeCG, h.restart) }},
	{name: "write errors", prepare: (*history).wholeCG, act: func(h *history) error {
		bad := blocksToBytes(h.pool.sb.zones.data)
		h.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpWrite, Off: bad, Len: 80 * BlockSize, Skip: 1, Count: 3})
		err := all(h.wholeCG, h.checkpoint, h.wholeCG)
		if h.w != nil && h.w.Stats().Retired == 0 && err == nil {
			err = errors.New("no write failed")
		}
		return err
	}},
	{name: "the end of the journal's ring", prepare: func(h *history) error {
		if err := h.wholeCG(); err != nil {
			return err
		}
		for h.pool.ctl.journal.next.block < h.pool.sb.zones.journalLen-2 {
			if err := h.fence(); err != nil {
				return err
			}
		}
		return all(h.checkpoint, h.settle)
	}, act: func(h *history) error {
		for b := range VBlock(25) { // few enough at once to be points: parts of more blocks than are left
			if err := h.zero(h.vol("a"), b*maxPointZeroes, maxPointZeroes); err != nil {
				return err
			}
		}
		if err := all(h.commit, h.settle, h.wholeCG); err != nil {
			return err
		}
		if h.pool.ctl.journal.next.block <= h.pool.sb.zones.journalLen {
			return fmt.Errorf("the journal has only reached block %d of %d", h.pool.ctl.journal.next.block, h.pool.sb.zones.journalLen)
		}
		return nil
	}},
}

// play prepares a script once and gives what plays it up to a crash.
func (s *script) play(seed uint64) (func(ringtest.Event, uint64) (*history, error), error) {
	base := newHistory(seed)
	if err := all(base.start, func() error { return s.prepare(base) }); err != nil {
		return nil, err
	}
	base.unhold()
	base.devs.Uncertain() // the process is killed
	base.leave()
	return func(event ringtest.Event, n uint64) (*history, error) {
		h := base.from(base.devs.Reset(ringtest.All))
		h.crash, h.crashIn = event, n
		h.devs.CrashAt(event, n)
		if s.fresh {
			return h, s.act(h)
		}
		err := h.openPool()
		if err == nil {
			err = s.act(h)
		}
		if err == nil {
			err = h.closePool()
		}
		return h, err
	}, nil
}

// TestCrashInScripts crashes each script at every submission, completion and flush (under the race detector at every fifth of the first two).
func TestCrashInScripts(t *testing.T) {
	for i, s := range scripts {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			play, err := s.play(uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			c := newCrashes()
			if err := c.everywhere(1, scriptStride, play); err != nil {
				t.Fatal(err)
			}
			t.Log(c)
		})
	}
}

// TestRecoveryMustFlush: if recovery does not flush what it shows, the tests above notice.
func TestRecoveryMustFlush(t *testing.T) {
	for i, s := range scripts {
		if s.name != "revert" && s.name != "fence" {
			continue
		}
		play, err := s.play(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		c := newCrashes()
		c.lie = true
		if err := c.everywhere(1, 1, play); err == nil || !strings.Contains(err.Error(), "power failed after recovery had shown") {
			t.Errorf("%s: recovery believes to flush and does not: %v", s.name, err)
		}
	}
}
