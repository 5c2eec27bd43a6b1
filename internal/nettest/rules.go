package nettest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Shape is what the network does to frames on every way.
type Shape struct {
	Delay time.Duration // of each frame, in each direction
	Loss  float64       // probability that a frame is lost
}

// Filter looks at what TCP carries between two hosts, segment by segment; retransmissions come again. It returns true
// to have the segment lost, and may call [Traffic] to change what is carried from then on, this segment included.
type Filter func(tr *Traffic, from, to *Host, payload []byte) (lose bool)

// way is one direction between two hosts.
type way struct {
	lost bool
	late chan lateFrame // frames that are delayed, in order
}

// lateFrame is on its way for some time.
type lateFrame struct {
	due   time.Time
	to    *port
	frame []byte
}

// lateFrames is how many frames may be on their way; a network that is slow drops what is too much.
const lateFrames = 4096

// Traffic changes what the switch carries.
type Traffic struct{ n *Net }

// Lose has everything from one host to another get lost.
func (tr *Traffic) Lose(from, to *Host) { tr.n.way(from, to).lost = true }

// Cut has everything between two hosts get lost.
func (tr *Traffic) Cut(a, b *Host) {
	tr.Lose(a, b)
	tr.Lose(b, a)
}

// Isolate cuts hosts off from all others.
func (tr *Traffic) Isolate(hosts ...*Host) {
	for _, h := range hosts {
		for _, other := range tr.n.hosts {
			tr.Cut(h, other)
		}
	}
}

// Heal undoes every loss, and the filter.
func (tr *Traffic) Heal() {
	for _, w := range tr.n.ways {
		w.lost = false
	}
	tr.n.filter = nil
}

// Shape changes what happens to frames on every way.
func (tr *Traffic) Shape(s Shape) { tr.n.shape = s }

// Filter sets the filter; nil: none.
func (tr *Traffic) Filter(f Filter) { tr.n.filter = f }

// Change changes what the switch carries, in one step.
func (n *Net) Change(f func(tr *Traffic)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&Traffic{n})
}

// way finds a direction; n.mu is held.
func (n *Net) way(from, to *Host) *way {
	key := [2]*Host{from, to}
	w := n.ways[key]
	if w == nil {
		w = &way{late: make(chan lateFrame, lateFrames)}
		n.ways[key] = w
		if n.ended {
			close(w.late)
		}
		n.running.Go(w.deliver)
	}
	return w
}

// deliver sends the frames that are delayed, each in its time.
func (w *way) deliver() {
	for f := range w.late {
		time.Sleep(time.Until(f.due)) // this is the network's delay, nothing waits for it
		f.to.send(f.frame)
	}
}

// carry takes what a host sends to where it belongs, until the network ends.
func (n *Net) carry(from *Host, p *port) {
	frame := make([]byte, largestFrame)
	for {
		size, err := p.read(frame)
		if err != nil {
			return // closed, or the host is gone
		}
		if size < virtioHeader+14 {
			continue
		}
		for _, to := range n.route(from, frame[:size]) {
			to.send(frame[:size])
		}
	}
}

// route applies the rules to a frame and returns the ports that it must be sent to at once.
func (n *Net) route(from *Host, frame []byte) (now []*port) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil
	}
	number := destination(frame)
	for i, to := range n.hosts {
		if to == from || to.port == nil || number != 0 && number != i+1 || n.loses(from, to, frame) {
			continue
		}
		if n.shape.Delay == 0 {
			now = append(now, to.port)
			continue
		}
		select {
		case n.way(from, to).late <- lateFrame{time.Now().Add(n.shape.Delay), to.port, slices.Clone(frame)}:
		default: // too many
		}
	}
	return now
}

// loses says whether a frame gets lost; n.mu is held.
func (n *Net) loses(from, to *Host, frame []byte) bool {
	w := n.way(from, to)
	if data := payload(frame); !w.lost && n.filter != nil && data != nil && n.filter(&Traffic{n}, from, to, data) {
		return true
	}
	return w.lost || n.shape.Loss > 0 && rand.Float64() < n.shape.Loss
}
