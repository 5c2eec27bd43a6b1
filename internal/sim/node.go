package sim

import (
	"math/rand/v2"
	"time"

	"github.com/farside-storage/farside/wire"
)

// node is a process on a machine of its own.
type node struct {
	w        *world
	name     string
	up       bool
	run      int           // counts starts; what an earlier run asked for does not happen any more
	hung     time.Duration // the process does nothing before
	backlog  []waiting     // what waits until it goes on, in order
	rng      *rand.Rand
	instance wire.UUID
	ends     []*end // of its connections in this run
}

func (w *world) newNode(name string, stream uint64) *node {
	return &node{w: w, name: name, rng: rand.New(rand.NewPCG(w.seed, stream))}
}

// waiting is something that happens when the process goes on.
type waiting struct {
	run int
	do  func()
}

// after has f happen in this run of the process after d, or when the process goes on: then in the order in which it
// would have happened.
func (n *node) after(d time.Duration, f func()) {
	run := n.run
	n.w.at(n.w.now+d, func() {
		switch {
		case n.run != run || !n.up:
		case n.hung > n.w.now || len(n.backlog) > 0:
			if n.backlog = append(n.backlog, waiting{run, f}); len(n.backlog) == 1 {
				n.w.at(n.hung, n.goOn)
			}
		default:
			f()
		}
	})
}

// goOn does one thing that waited, unless the process hangs again.
func (n *node) goOn() {
	if len(n.backlog) == 0 {
		return
	}
	if n.hung <= n.w.now {
		x := n.backlog[0]
		n.backlog = n.backlog[1:]
		if n.up && n.run == x.run {
			x.do()
		}
	}
	n.w.at(n.hung, n.goOn)
}

// between is a random duration.
func (n *node) between(least, most time.Duration) time.Duration {
	return least + time.Duration(n.rng.Int64N(int64(most-least)+1))
}

// begin starts a run of the process.
func (n *node) begin() {
	n.up, n.hung, n.backlog = true, 0, nil
	n.run++
	n.ends = nil
	for i := range n.instance {
		n.instance[i] = byte(n.rng.Uint32())
	}
}

// end stops the process. Peers see their connections end; if the machine stopped (silent), only when they miss it.
func (n *node) end(silent bool) {
	n.up = false
	n.run++
	for _, e := range n.ends {
		e.die(silent)
	}
	n.ends = nil
}
