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
	rng      *rand.Rand
	instance wire.UUID
	ends     []*end // of its connections in this run
}

func (w *world) newNode(name string, stream uint64) *node {
	return &node{w: w, name: name, rng: rand.New(rand.NewPCG(w.seed, stream))}
}

// after has f happen in this run of the process after d, or when the process goes on.
func (n *node) after(d time.Duration, f func()) {
	run := n.run
	var do func()
	do = func() {
		switch {
		case n.run != run || !n.up:
		case n.hung > n.w.now:
			n.w.at(n.hung, do)
		default:
			f()
		}
	}
	n.w.at(n.w.now+d, do)
}

// between is a random duration.
func (n *node) between(least, most time.Duration) time.Duration {
	return least + time.Duration(n.rng.Int64N(int64(most-least)+1))
}

// begin starts a run of the process.
func (n *node) begin() {
	n.up, n.hung = true, 0
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
