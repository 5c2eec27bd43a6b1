package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// TestSuperblockIsRepaired from the other copies, and said.
func TestSuperblockIsRepaired(t *testing.T) {
	r := newRig(t, 24)
	r.close()
	devs := r.devs.Reopen()
	devs.Rot(0, 2*superblockStride*BlockSize+9, 4, 5)
	rep, err := Check(devs, CheckOptions{})
	if err != nil || len(rep.Repairable) != 1 || len(rep.Damage) != 0 {
		t.Fatalf("%+v %v", rep, err)
	}
	devs = devs.Reopen()
	p, err := Open(devs, Options{Manual: true})
	if err != nil || len(p.Repairs()) != 1 {
		t.Fatalf("%v %v", err, p.Repairs())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err = Check(devs.Reopen(), CheckOptions{}); err != nil || !rep.OK() {
		t.Fatalf("after the repair: %+v %v", rep, err)
	}
}

// TestDamagedDataIsNeverReturned: a flipped bit is an error to the reader, and check finds it.
func TestDamagedDataIsNeverReturned(t *testing.T) {
	r, v := oneVolume(t, 25, 100)
	r.final(v, 1, 3, 1)
	_, block := r.pool.locate(v.table.load(3).block())
	r.devs.Rot(0, blocksToBytes(block)+1234, 1, 1)
	var ce *CorruptionError
	if n, err := v.ReadAt(make([]byte, BlockSize), 3*BlockSize); n != 0 || !errors.As(err, &ce) || ce.Offset != blocksToBytes(block) {
		t.Fatalf("%d %v", n, err)
	}
	r.close()
	rep, err := Check(r.devs.Reopen(), CheckOptions{Data: true})
	if err != nil || len(rep.Damage) != 1 || rep.Scanned != 1 {
		t.Fatalf("%+v %v", rep, err)
	}
}

// TestWriteErrorIsPlacedElsewhere, and the bad range is never used again.
func TestWriteErrorIsPlacedElsewhere(t *testing.T) {
	r, v := oneVolume(t, 26, 100)
	bad := r.pool.sb.zones.data + 2
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpWrite, Device: 0, Off: blocksToBytes(bad), Len: BlockSize})
	r.final(v, 1, 0, 20)
	for b := range VBlock(20) {
		r.want(v, b, 1)
	}
	if r.w.Stats().Retired == 0 {
		t.Fatal("nothing was retired: the fault never struck")
	}
	s, err := r.pool.Stats(context.Background())
	if err != nil || s.Retired != r.w.Stats().Retired {
		t.Fatalf("%+v %v", s, err)
	}
	r.devs.Heal()
	r.reopen()
	if s2, err := r.pool.Stats(context.Background()); err != nil || s2.Retired != s.Retired {
		t.Fatalf("after a restart: %+v, was %+v (%v)", s2, s, err)
	}
	r.close()
}

// TestFlushErrorStopsAcknowledging: after a failed flush nothing is acknowledged until the pool is opened again.
func TestFlushErrorStopsAcknowledging(t *testing.T) {
	r, v := oneVolume(t, 27, 100)
	r.put(v, 1, 0, 1)
	r.devs.Inject(ringtest.Fault{Kind: ringtest.Fails, Op: ring.OpFlush, Device: 0})
	if err := r.w.Seal(1, v); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := r.pool.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.group.State(context.Background()); !errors.Is(err, ErrFailed) {
		t.Fatalf("state after a failed flush: %v", err)
	}
	if err := v.group.Link(context.Background(), Command{1, 1}); !errors.Is(err, ErrFailed) {
		t.Fatalf("link after a failed flush: %v", err)
	}
}
