package sim

import (
	"errors"
	"time"
)

var (
	errReset  = errors.New("connection reset")
	errSilent = errors.New("peer is silent")
)

// conn is a connection between two processes. Each direction keeps its order; nothing is kept between
// connections.
type conn struct {
	w      *world
	ends   [2]*end // the dialer's first
	broken bool    // nothing that is sent from now on arrives
}

// end is one side of a connection.
type end struct {
	conn   *conn
	node   *node
	peer   *end
	coming []*item // sent by the peer and not delivered
	last   time.Duration
	dead   bool // closed here, or its end was seen
	// onItem and onEnd run in the node's process.
	onItem func(v any)
	onEnd  func(err error)
}

// item is something on its way.
type item struct {
	v    any // nil: the end of the connection
	err  error
	lost bool
}

// dial makes a connection from a to b, if b can be reached: then met runs in b's process, and after that joined in a's.
// Otherwise joined gets nil.
func (w *world) dial(a, b *node, met func(e *end), joined func(e *end)) {
	a.after(w.delay(a), func() {
		if w.parted(a, b) || !b.up {
			a.after(w.delay(a), func() { joined(nil) })
			return
		}
		c := &conn{w: w}
		c.ends[0], c.ends[1] = &end{conn: c, node: a}, &end{conn: c, node: b}
		c.ends[0].peer, c.ends[1].peer = c.ends[1], c.ends[0]
		a.ends, b.ends = append(a.ends, c.ends[0]), append(b.ends, c.ends[1])
		w.conns = append(w.conns, c)
		b.after(0, func() {
			if c.ends[1].dead {
				return
			}
			met(c.ends[1])
		})
		a.after(w.delay(a), func() {
			if c.ends[0].dead || c.broken {
				joined(nil)
				return
			}
			joined(c.ends[0])
		})
	})
}

// delay is how long a message takes.
func (w *world) delay(n *node) time.Duration {
	d := w.cfg.latency/4 + time.Duration(n.rng.Int64N(int64(w.cfg.latency)))
	if n.rng.IntN(50) == 0 {
		d *= 20
	}
	return d
}

// send sends v to the peer.
func (e *end) send(v any) {
	if e.dead || e.conn.broken {
		return
	}
	e.peer.put(&item{v: v}, e.conn.w.delay(e.node))
}

func (e *end) put(i *item, delay time.Duration) {
	w := e.conn.w
	at := max(w.now+delay, e.last+1, w.stalled(e.node, e.peer.node))
	e.last = at
	e.coming = append(e.coming, i)
	if !e.node.up {
		return
	}
	e.node.after(at-w.now, func() { e.deliver(i) })
}

func (e *end) deliver(i *item) {
	if i.lost || e.dead {
		return
	}
	e.coming = e.coming[1:]
	if i.v != nil {
		e.onItem(i.v)
		return
	}
	e.dead = true
	if e.onEnd != nil {
		e.onEnd(i.err)
	}
}

// close ends the connection from this side; what was sent arrives before its end.
func (e *end) close() {
	if e.dead {
		return
	}
	e.dead = true
	if !e.conn.broken {
		e.conn.broken = true
		e.peer.put(&item{err: errReset}, e.conn.w.delay(e.node))
	}
}

// die is the end of the process at this side.
func (e *end) die(silent bool) {
	if e.dead {
		return
	}
	e.dead = true
	if e.conn.broken {
		return
	}
	e.conn.broken = true
	e.peer.truncate()
	e.peer.put(&item{err: lastWord(silent)}, e.conn.w.silence(silent))
}

func lastWord(silent bool) error {
	if silent {
		return errSilent
	}
	return errReset
}

// silence is how long it takes to notice that a peer is gone.
func (w *world) silence(silent bool) time.Duration {
	if silent {
		return w.cfg.idle
	}
	return w.cfg.latency
}

// cut breaks a connection: of what is on its way a part arrives, the last of it perhaps in part.
func (c *conn) cut(silent bool) {
	if c.broken {
		return
	}
	c.broken = true
	for _, e := range c.ends {
		if e.dead {
			continue
		}
		e.truncate()
		e.put(&item{err: lastWord(silent)}, c.w.silence(silent))
	}
}

// truncate loses the end of what is on its way to e.
func (e *end) truncate() {
	if len(e.coming) == 0 {
		return
	}
	rng := e.node.rng
	keep := rng.IntN(len(e.coming) + 1)
	if keep < len(e.coming) {
		if frame, ok := e.coming[keep].v.(*frame); ok && rng.IntN(2) == 0 {
			frame.bytes, frame.whole = frame.bytes[:rng.IntN(len(frame.bytes))], false
			keep++
		}
	}
	for _, i := range e.coming[keep:] {
		i.lost = true
	}
	e.coming = e.coming[:keep]
}

// frame is an encoded frame of a data connection.
type frame struct {
	bytes []byte
	whole bool
}

// partition keeps two nodes from reaching each other for a while.
type partition struct {
	a, b  string // b "": everybody
	until time.Duration
	stall bool // what is sent waits; else it breaks the connections
}

func (p *partition) between(a, b *node) bool {
	return p.a == a.name && (p.b == "" || p.b == b.name) || p.a == b.name && (p.b == "" || p.b == a.name)
}

func (w *world) parted(a, b *node) bool {
	for _, p := range w.partitions {
		if p.until > w.now && p.between(a, b) {
			return true
		}
	}
	return false
}

// stalled is when a message may arrive at the earliest.
func (w *world) stalled(a, b *node) time.Duration {
	at := time.Duration(0)
	for _, p := range w.partitions {
		if p.stall && p.until > w.now && p.between(a, b) {
			at = max(at, p.until)
		}
	}
	return at
}

// part begins a partition.
func (w *world) part(p *partition) {
	w.partitions = append(w.partitions, p)
	keep := w.conns[:0]
	for _, c := range w.conns {
		if c.broken {
			continue
		}
		keep = append(keep, c)
		if !p.stall && p.between(c.ends[0].node, c.ends[1].node) {
			c.cut(true)
		}
	}
	clear(w.conns[len(keep):])
	w.conns = keep
}
