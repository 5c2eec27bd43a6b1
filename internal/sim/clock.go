package sim

import (
	"container/heap"
	"time"
)

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

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	q := *e
	x := q[len(q)-1]
	q[len(q)-1] = event{}
	*e = q[:len(q)-1]
	return x
}

// at has f happen at time t, or now if that has passed.
func (c *clock) at(t time.Duration, f func()) {
	c.seq++
	heap.Push(&c.queue, event{max(t, c.now), c.seq, f})
}

// step lets the next event happen; false: there is none before limit.
func (c *clock) step(limit time.Duration) bool {
	if len(c.queue) == 0 || c.queue[0].at > limit {
		return false
	}
	e := heap.Pop(&c.queue).(event)
	c.now = e.at
	e.do()
	return true
}
