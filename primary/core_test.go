package primary

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const testBlocks = 160

func testSpec() []GroupSpec {
	return []GroupSpec{{Name: "g", Volumes: []VolumeSpec{
		{Name: "a", Size: testBlocks * BlockSize, Secondaries: []string{"s1", "s2"}},
		{Name: "b", Size: testBlocks * BlockSize, Secondaries: []string{"s2"}},
	}}}
}

func testOptions() CoreOptions {
	return CoreOptions{QueueBytes: 128 << 10, CatchupReads: 2, CatchupBytes: 32 << 10, FirstCopyRest: 8 * BlockSize, IntentRegion: 64 << 10, IntentLinger: 20 * time.Millisecond}
}

// TestCoreModel lets everything happen in any order, and checks at every completed manifest that the
// copy equals the primary at that cut, byte for byte; at the end, that things go on once nothing fails.
func TestCoreModel(t *testing.T) {
	verified, partials := 0, 0
	opt := testOptions()
	opt.FirstCopyShare = 100 * BlockSize
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, opt, testSpec())
		w.openCG(1)
		t.Repeat(modelActions(t, w))
		endModel(t, w)
		verified, partials = verified+w.verified, partials+w.partials
	})
	t.Logf("%d images compared, %d of them with a first copy under way", verified, partials)
}

// TestFirstCopyModel is that with first copies under way most of the time.
func TestFirstCopyModel(t *testing.T) {
	verified, partials := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		opt := testOptions()
		opt.FirstCopyRest = rapid.Int64Range(1, 4*BlockSize).Draw(t, "rest")
		w := newWorld(t, opt, testSpec())
		for _, p := range w.peers {
			p.connect()
		}
		w.openCG(1)
		w.settle()
		w.round()
		actions := modelActions(t, w)
		delete(actions, "settle")
		delete(actions, "finish2")
		actions["CG"] = func(t *rapid.T) { w.tryCG(rapid.IntRange(0, 3).Draw(t, "reads")) }
		actions["CG2"] = actions["CG"]
		actions["anew"] = func(t *rapid.T) {
			p := w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "peer")]
			if p.up {
				p.drop(nil)
			}
			p.remake(rapid.IntRange(0, len(p.made)-1).Draw(t, "handle"))
			p.connect()
		}
		made := 0
		actions["add"] = func(t *rapid.T) {
			if len(w.spec[0].Volumes) < 4 {
				made++
				w.add(fmt.Sprintf("v%d", made), w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "peer")])
			}
		}
		actions["remove"] = func(t *rapid.T) {
			volumes := w.spec[0].Volumes
			v := volumes[rapid.IntRange(0, len(volumes)-1).Draw(t, "volume")]
			if rapid.IntRange(0, 3).Draw(t, "really") == 0 && !w.last(v) {
				_ = w.remove(v.Name) // refused while hosts use it
			}
		}
		t.Repeat(actions)
		endModel(t, w)
		verified, partials = verified+w.verified, partials+w.partials
	})
	t.Logf("%d images compared, %d of them with a first copy under way", verified, partials)
	if partials == 0 {
		t.Error("no first copy was spread")
	}
}

// last says whether a secondary would have no volume without v: then nothing of the group is there.
func (w *world) last(v VolumeSpec) bool {
	for _, s := range v.Secondaries {
		if !slices.ContainsFunc(w.spec[0].Volumes, func(o VolumeSpec) bool { return o.Name != v.Name && slices.Contains(o.Secondaries, s) }) {
			return true
		}
	}
	return false
}

// tryCG forms a CG, if nothing is in the way, after so many catch-up reads.
func (w *world) tryCG(reads int) {
	w.bring(reads)
	switch {
	case w.lost != 0:
		w.abandon()
	case w.cut == 0:
		w.hold(time.Second)
		w.bring(0)
		if w.held == w.open {
			w.thaw()
		}
		w.bring(0)
	}
	if w.allComplete() {
		w.finalize()
	}
}

// endModel lets everything go on, and expects that it does.
func endModel(t *rapid.T, w *world) {
	for _, p := range w.peers {
		if p.up {
			p.drop(nil)
		}
		p.connect()
	}
	w.tick(2 * time.Second) // whatever was to be tried again
	w.settle()
	w.abandon()
	w.crowded = true
	w.round()
	w.write(0, 0, 8192)
	for range 4 * len(w.images) { // a CG has no more than its share of a first copy
		w.settle()
		w.round()
	}
	for _, p := range w.peers {
		for _, slot := range p.handles {
			if !p.whole[slot] {
				t.Fatalf("peer %d: the first copy of volume %s never ends: %+v", p.conn, p.volumes[slot], w.core.Status())
			}
		}
	}
	if w.hosts != 0 {
		t.Fatalf("%d host requests never ended", w.hosts)
	}
}

func modelActions(t *rapid.T, w *world) map[string]func(*rapid.T) {
	peerOf := func(t *rapid.T) *peer { return w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "peer")] }
	rangeOf := func(t *rapid.T) (v int, off, n uint64) {
		v = rapid.IntRange(0, len(w.images)-1).Draw(t, "volume")
		units, unit := uint64(testBlocks), uint64(BlockSize)
		if rapid.IntRange(0, 3).Draw(t, "aligned") == 0 {
			units, unit = units*8, 512
		}
		off = rapid.Uint64Range(0, units-1).Draw(t, "off")
		n = rapid.Uint64Range(1, min(units-off, 40)).Draw(t, "len")
		return v, off * unit, n * unit
	}
	finish := func(t *rapid.T) {
		for n := rapid.IntRange(1, 8).Draw(t, "n"); n > 0 && len(w.flight) > 0; n-- {
			w.finish(rapid.IntRange(0, len(w.flight)-1).Draw(t, "io"), nil)
		}
		if w.intent != nil {
			w.finishIntent(nil)
		}
	}
	network := func(t *rapid.T) {
		p := peerOf(t)
		for n := rapid.IntRange(1, 20).Draw(t, "n"); n > 0 && p.up; n-- {
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				p.send()
			case 1:
				p.receive()
			case 2:
				p.credit()
			}
		}
	}
	write := func(t *rapid.T) {
		v, off, n := rangeOf(t)
		w.write(v, off, n)
	}
	manager := func(t *rapid.T) {
		switch {
		case w.lost != 0:
			w.abandon()
		case w.cut == 0 && w.held == 0:
			w.hold(30 * time.Millisecond)
		case w.cut == 0:
			w.thaw()
		case w.allComplete() && rapid.IntRange(0, 4).Draw(t, "final") > 0:
			w.finalize()
		case rapid.IntRange(0, 15).Draw(t, "abandon") == 0:
			w.abandon()
		}
	}
	settle := func(t *rapid.T) { w.settle() }
	return map[string]func(*rapid.T){
		"write": write, "write2": write, "finish": finish, "finish2": finish, "network": network, "network2": network,
		"manager": manager, "manager2": manager, "settle": settle,
		"zeroes": func(t *rapid.T) {
			v, off, n := rangeOf(t)
			op := rapid.SampledFrom([]Op{OpWriteZeroes, OpTrim}).Draw(t, "op")
			w.zeroes(op, v, off, n)
		},
		"fail": func(t *rapid.T) {
			if len(w.flight) > 0 && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				w.finish(rapid.IntRange(0, len(w.flight)-1).Draw(t, "io"), errDevice)
			} else if w.intent != nil && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				w.finishIntent(errDevice)
			}
		},
		"connection": func(t *rapid.T) {
			switch p := peerOf(t); {
			case !p.up:
				p.connect()
			case rapid.IntRange(0, 3).Draw(t, "drop") == 0:
				p.drop(nil)
				if rapid.Bool().Draw(t, "restart") {
					p.restart()
				}
			}
		},
		"remake": func(t *rapid.T) {
			if p := peerOf(t); !p.up && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				p.remake(rapid.IntRange(0, len(p.made)-1).Draw(t, "handle"))
			}
		},
		"tick": func(t *rapid.T) { w.tick(time.Duration(rapid.IntRange(0, 25).Draw(t, "ms")) * time.Millisecond) },
		"crash": func(t *rapid.T) {
			if rapid.IntRange(0, 5).Draw(t, "really") > 0 {
				return
			}
			keep := rapid.IntRange(0, 1<<14).Draw(t, "keep")
			w.crash(func() int { return rapid.IntRange(0, 1).Draw(t, "outcome") }, keep)
			w.abandon()
		},
	}
}
