package primary

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/wire"
)

func TestReq14_VolumesJoinAndLeave(t *testing.T) {
	w := synced(t, testOptions())
	p := w.peers[0]
	w.write(0, 3*BlockSize, BlockSize)
	w.settle() // some of the open CG was sent
	w.add("new", p)
	if len(p.handles) != 1 {
		t.Fatalf("%d volumes are attached in the middle of a CG", len(p.handles))
	}
	final := w.final
	w.hold(time.Second)
	w.thaw()
	w.write(0, 5*BlockSize, BlockSize) // is held back
	w.settle()
	if !w.allComplete() || len(p.handles) != 1 {
		t.Fatalf("%d volumes are attached; %+v", len(p.handles), w.core.Status())
	}
	w.finalize()
	if len(p.handles) != 2 || w.final != final+1 || w.lost != 0 {
		t.Fatalf("%d volumes are attached, final is CG %d after %d, lost %d", len(p.handles), w.final, final, w.lost)
	}
	w.settle()
	for _, v := range w.core.Status().Groups[0].Volumes[:2] {
		if c := v.Copies[0]; !c.FirstCopyDone || c.CatchupBlocks != 0 {
			t.Errorf("volume %s has to catch up for another one that joins: %+v", v.Name, c)
		}
	}
	w.write(2, 0, 10*BlockSize)
	w.round()
	if !p.whole[1] {
		t.Fatalf("%+v", w.core.Status())
	}

	w.write(2, 0, BlockSize)
	if err := w.remove("new"); err == nil {
		t.Fatal("removed while a host writes")
	}
	w.settle()
	if err := w.remove("new"); err != nil {
		t.Fatal(err)
	}
	if io := w.write(2, 0, BlockSize); io.Err == nil {
		t.Error("a volume that leaves takes a write")
	}
	w.write(0, 0, BlockSize)
	w.round()
	if w.gone != 1 || len(p.handles) != 1 {
		t.Fatalf("%d volumes have left, %d are attached", w.gone, len(p.handles))
	}
	if !bytes.Equal(p.finalImg[1], w.cuts[w.final]["new"]) {
		t.Error("the copy that was left is not that of its last CG")
	}
	w.write(0, 0, BlockSize)
	w.round()
	if got := len(LoadIntent(w.files).Volumes); got != 2 {
		t.Errorf("the write-intent log has %d volumes", got)
	}
}

// TestVolumeComesBack: one that has left joins again, with other contents. Its copy, which is not whole any more since it rejoined, is known and copied over as a
// whole, also after restarts; that of a volume in another place is not touched.
func TestVolumeComesBack(t *testing.T) {
	for _, restart := range []string{"", "without it", "with it"} {
		for _, place := range []string{"here", "elsewhere", ""} {
			t.Run(restart+place, func(t *testing.T) {
				w := synced(t, testOptions())
				p := w.peers[0]
				w.add("new", p)
				w.round()
				w.write(2, 0, 10*BlockSize)
				w.round()
				if err := w.remove("new"); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					w.write(0, 0, BlockSize)
					w.round()
				}
				if log := LoadIntent(w.files); w.gone != 1 || !p.whole[1] || len(log.Left) != 1 {
					t.Fatalf("%d volumes have left; left in the log: %+v", w.gone, log.Left)
				}
				p.whole[1] = false // it was set aside, and has rejoined
				spec := VolumeSpec{Name: "new", Size: testBlocks * BlockSize, Secondaries: []string{p.name}, Place: place}
				known := place == "here"
				if got := w.core.Former("g", spec, p.name); (got != wire.UUID{}) != known {
					t.Fatalf("the copy is %v", got)
				}
				log := LoadIntent(w.files)
				if restart != "" {
					group := w.spec[0]
					if restart == "with it" {
						group.Volumes = append(slices.Clone(group.Volumes), spec)
					}
					core, err := NewCore(testOptions(), []GroupSpec{group}, log)
					if err != nil {
						t.Fatal(err)
					}
					if restart == "with it" {
						if got := core.volumes[2].replicas[0].identity; (got != wire.UUID{}) != known {
							t.Errorf("after a restart the copy is %v", got)
						}
					} else if got := core.Former("g", spec, p.name); (got != wire.UUID{}) != known {
						t.Errorf("after a restart the copy is %v", got)
					}
					return
				}
				if !known {
					index, err := w.core.AddVolume("g", spec)
					if err != nil || w.core.volumes[index].replicas[0].identity != (wire.UUID{}) {
						t.Errorf("the copy is known; %v", err)
					}
					return
				}
				w.join(spec)
				w.settle() // the log has it before it is attached
				w.hold(time.Second)
				w.thaw()
				w.settle()
				w.finalize()
				w.settle()
				if cn := w.core.conns[p.conn]; cn.unnoted || len(cn.replicas) != 2 {
					t.Fatalf("the connection with %d volumes waits for the log for good", len(cn.replicas))
				}
				for n := 0; n < 10 && !p.whole[1]; n++ {
					w.write(2, uint64(n)*BlockSize, BlockSize)
					w.write(3, uint64(n)*BlockSize, BlockSize)
					w.round()
				}
				if !p.whole[1] || !bytes.Equal(p.finalImg[1], w.cuts[w.final]["new"]) {
					t.Errorf("whole: %t; the copy is not what the volume is; %+v", p.whole[1], w.core.Status())
				}
				w.settle()
				if left := LoadIntent(w.files).Left; len(left) != 0 {
					t.Errorf("left in the log: %+v", left)
				}
			})
		}
	}
}

// A group that is paused has no cuts.
func TestVolumeJoinsWithoutACut(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 3*BlockSize, BlockSize)
	w.settle()
	p := w.peers[0]
	w.add("new", p)
	if d := w.core.Deadline(); d > w.now+membershipPatience {
		t.Fatalf("nothing is due before %v", d)
	}
	w.tick(membershipPatience)
	w.settle()
	if len(p.handles) != 2 || w.lost != 0 {
		t.Fatalf("%d volumes are attached, CG %d is lost", len(p.handles), w.lost)
	}
	w.round()
}

// Marks of a volume that the newest snapshot does not have would be of another one after a crash.
func TestMarksOfAVolumeThatJoined(t *testing.T) {
	w := synced(t, testOptions())
	w.add("x", w.peers[0])
	w.round()
	if err := w.remove("a"); err != nil { // so that numbers differ
		t.Fatal(err)
	}
	w.round()
	w.add("new", w.peers[1])
	w.round()
	w.flushed()
	w.write(3, 4*16*BlockSize, BlockSize)
	for w.intent != nil {
		w.finishIntent(nil)
	}
	var marked []string
	for _, v := range LoadIntent(w.files).Volumes {
		if v.Marks[0] != 0 {
			marked = append(marked, v.Name)
		}
	}
	if d := cmp.Diff([]string{"new"}, marked); d != "" {
		t.Errorf("volumes with marks (-want +got)\n%s", d)
	}
}

func TestAttachOfAnOldList(t *testing.T) {
	w := synced(t, testOptions())
	w.settle()
	w.round()
	p := w.peers[0]
	p.drop(nil)
	if a := w.core.Attach(p.conn, wire.UUID{7}); len(a.Volumes) != 1 {
		t.Fatalf("%+v", a)
	}
	w.add("new", p)
	if err := w.core.Attached(p.conn, wire.Attached{Resumed: true, Applied: p.applied, Window: 1 << 20, Volumes: p.states()}); err != ErrListChanged {
		t.Fatalf("%v", err)
	}
	p.connect()
	w.settle()
	w.round()
}

// TestVolumeLeavesByHalves: one connection leaves the volume out while another one has all of its copy in the open
// CG. The secondary that is told nothing of the volume waits for it, so that this CG would never be complete.
func TestVolumeLeavesByHalves(t *testing.T) {
	spec := testSpec()
	spec[0].Volumes[1].Secondaries = spec[0].Volumes[0].Secondaries
	w := newWorld(t, testOptions(), spec)
	for i := range w.peers[0].whole { // so that the copy is not spread over CGs
		w.peers[0].whole[i] = true
	}
	w.peers[0].connect()
	w.openCG(1)
	w.settle() // all of the copy to one secondary is sent
	if err := w.remove("a"); err != nil {
		t.Fatal(err)
	}
	w.peers[1].connect()
	w.settle()
	w.tick(membershipPatience)
	w.settle()
	if one, other := len(w.peers[0].handles), len(w.peers[1].handles); one != 2 || other != 1 || w.gone != 0 {
		t.Fatalf("%d and %d volumes are attached, %d have left", one, other, w.gone)
	}
	w.hold(time.Second)
	w.settle()
	if !w.thaw() {
		t.Fatal("not cut")
	}
	w.settle()
	if w.lost != w.cut || w.drained == w.cut {
		t.Fatalf("CG %d was cut; lost is %d, drained %d", w.cut, w.lost, w.drained)
	}
	w.abandon()
	w.settle()
	if w.gone != 1 || len(w.peers[0].handles) != 1 {
		t.Fatalf("%d volumes have left; %+v", w.gone, w.core.Status())
	}
	w.write(1, 0, BlockSize)
	w.round()
}

func TestBadVolumesDoNotJoin(t *testing.T) {
	w := synced(t, testOptions())
	for group, v := range map[string]VolumeSpec{
		"g":  {Name: "a", Size: BlockSize},
		"":   {Name: "x", Size: BlockSize},
		"g2": {Name: "x", Size: BlockSize + 1},
		"g3": {Name: "x", Size: BlockSize, Secondaries: []string{"s1", "s1"}},
	} {
		if _, err := w.core.AddVolume(group, v); err == nil {
			t.Errorf("%q: %+v has joined", group, v)
		}
	}
	if s := w.core.Status(); len(s.Groups) != 1 || len(s.Groups[0].Volumes) != 2 || len(s.Groups[0].Connections) != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := w.core.AddVolume("g2", VolumeSpec{Name: "x", Size: BlockSize}); err != nil {
		t.Error(err)
	}
}

// After a failure no snapshot is tried for a while unless hosts need one; a host that writes to a volume which has joined meanwhile does.
func TestVolumeJoinsAfterTheLogFailed(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 0, BlockSize)
	w.finishIntent(errDevice)
	w.write(0, 0, BlockSize)
	w.settle() // the log is sound again
	w.add("new", w.peers[0])
	w.write(2, 0, BlockSize)
	w.settle()
	log := LoadIntent(w.files)
	if log.Problem != "" || len(log.Volumes) != 3 || log.Volumes[2].Marks[0] != 1 {
		t.Fatalf("%+v", log)
	}
}
