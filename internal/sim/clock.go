package sim

import "time"

// clock is virtual time: a queue of what will happen. What is due at the same moment happens in the order
// in which it was asked for.
type clock struct {
	now   time.Duration
	queue events
	seq   uint64
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// events is a heap: the first is the next to happen.
type events []event

func (e events) before(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}

func (e *events) push(x event) {
	q := append(*e, x)
	for i := len(q) - 1; i > 0 && q.before(i, (i-1)/2); i = (i - 1) / 2 {
		q[i], q[(i-1)/2] = q[(i-1)/2], q[i]
	}
	*e = q
}

func (e *events) pop() event {
	q := *e
	first, last := q[0], len(q)-1
	q[0], q[last] = q[last], event{}
	q = q[:last]
	for i := 0; ; {
		least := 2*i + 1
		if least >= last {
			break
		}
		if least+1 < last && q.before(least+1, least) {
			least++
		}
		if !q.before(least, i) {
			break
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
	*e = q
	return first
}

// at has f happen at time t, or now if that has passed.
func (c *clock) at(t time.Duration, f func()) {
	c.seq++
	c.queue.push(event{max(t, c.now), c.seq, f})
}

// step lets the next event happen; false: there is none before limit.
func (c *clock) step(limit time.Duration) bool {
	if len(c.queue) == 0 || c.queue[0].at > limit {
		return false
	}
	e := c.queue.pop()
	c.now = e.at
	e.do()
	return true
}
