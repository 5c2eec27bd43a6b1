package engine

import (
	"testing"

	"github.com/farside-storage/farside/ring"
)

// lateQueue is a queue whose first write ends only when nothing else is left to wait for.
type lateQueue struct {
	ring.Queue
	first  ring.Completion
	tag    uint64
	pushed bool // the first write
	kept   bool // it has ended, and nobody was told
	told   bool
}

func (q *lateQueue) Push(r ring.Request) bool {
	ok := q.Queue.Push(r)
	if ok && !q.pushed {
		q.tag, q.pushed = r.Tag, true
	}
	return ok
}

func (q *lateQueue) InFlight() int {
	if q.kept {
		return q.Queue.InFlight() + 1
	}
	return q.Queue.InFlight()
}

func (q *lateQueue) Reap(out []ring.Completion, least int) (n int, err error) {
	for first := true; first || n < least && err == nil; first = false {
		if !first && q.Queue.InFlight() == 0 {
			out[n], q.kept, q.told = q.first, false, true
			return n + 1, nil
		}
		var m int
		m, err = q.Queue.Reap(out[n:], min(least-n, q.Queue.InFlight()))
		for _, c := range out[n : n+m] {
			if c.Tag == q.tag && q.pushed && !q.told && !q.kept {
				q.first, q.kept = c, true
				continue
			}
			out[n] = c
			n++
		}
	}
	return n, err
}

// TestSupersededBlocksAreBounded: what one block's updates supersede waits for the oldest write, which may take long. From a certain number on the writer
// waits for that, instead of keeping more blocks of the pool, and a longer list of them, the longer it takes.
func TestSupersededBlocksAreBounded(t *testing.T) {
	r, v := oneVolume(t, 111, 40)
	late := &lateQueue{Queue: r.w.queue}
	r.w.queue = late
	most := r.w.deadMost + r.pool.opts.WriterBufferBlocks
	if cap(r.w.dead) < most {
		t.Fatalf("room for %d superseded blocks, want %d", cap(r.w.dead), most)
	}
	room := &r.w.dead[:1][0]
	n := uint64(0)
	for ; !late.told; n++ {
		if r.put(v, 1, 7, n); len(r.w.dead) > most {
			t.Fatalf("%d superseded blocks wait after %d updates, want at most %d", len(r.w.dead), n+1, most)
		}
	}
	if n <= uint64(r.w.deadMost) {
		t.Errorf("it waited at %d updates, before %d were superseded", n, r.w.deadMost)
	}
	for last := n + 2*uint64(most); n < last; n++ {
		if r.put(v, 1, 7, n); len(r.w.dead) > most {
			t.Fatalf("%d superseded blocks wait after %d updates, want at most %d", len(r.w.dead), n+1, most)
		}
	}
	if room != &r.w.dead[:1][0] {
		t.Error("the list has grown")
	}
	r.seal(1, v)
	r.commit(v.group, 1)
	r.want(v, 7, n-1)
	if r.used() != 1 {
		t.Errorf("%d blocks are used, want one", r.used())
	}
	r.close()
}
