package target

import (
	"testing"

	"github.com/farside-storage/farside/wire"
)

// updateLoad sends one frame of single-block updates, again and again: the same blocks of one CG.
type updateLoad struct {
	*primary
	batch  wire.Batch
	credit wire.Credit
}

const loadUpdates = 256

func newUpdateLoad(r *rig) *updateLoad {
	l := &updateLoad{primary: r.attach(1, "other", "c")}
	l.batch.Reset(1)
	for i := range loadUpdates {
		first := i * 7
		data := contents(first, 1, 1)
		check(r.t, l.batch.Add(wire.Update{Block: uint64(first), Count: 1}, sumsOf(data), data))
	}
	return l
}

// send sends the frame; it is behind the acknowledgement by at most lag frames.
func (l *updateLoad) send(lag uint64) {
	l.seq++
	check(l.t, l.conn.WriteUpdates(&l.batch, l.seq))
	for l.acked+lag < l.seq {
		_, body, err := l.conn.Next()
		check(l.t, err)
		check(l.t, wire.DecodeInto(&l.credit, body))
		l.acked = l.credit.Applied
	}
}

// TestP5_NoAllocationPerUpdate counts both ends of the connection, and the writer below.
func TestP5_NoAllocationPerUpdate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	l := newUpdateLoad(newRig(t, 64<<20, nil))
	for range 100 {
		l.send(0) // buffers and tables grow
	}
	perFrame := testing.AllocsPerRun(200, func() { l.send(0) })
	if perFrame >= 1 {
		t.Errorf("%v allocations per frame of %d updates", perFrame, loadUpdates)
	}
}

func BenchmarkUpdates(b *testing.B) {
	l := newUpdateLoad(newRig(b, 256<<20, nil))
	b.SetBytes(loadUpdates * block)
	b.ReportAllocs()
	for b.Loop() {
		l.send(8)
	}
	b.ReportMetric(float64(b.N*loadUpdates)/b.Elapsed().Seconds(), "updates/s")
}
