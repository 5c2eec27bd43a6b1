package ring

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Call is one request handed to a [Worker].
type Call struct {
	Request
	// Err is the outcome, valid once Done is called.
	Err error
	// Done runs on the worker's goroutine when the request has ended. It must not
	// block; it may hand further calls to the worker, this one included.
	Done func(*Call)
	// Owner belongs to the caller. A worker of [NewThroughputWorker] passes calls with an Owner to its function
	// together.
	Owner any

	next *Call // link of the worker's inbox and backlog; the worker's from Go to Done
}

// Worker owns one queue on a goroutine of its own and takes requests for it from any goroutine.
//
// Calls wait in an inbox that has no limit of its own: each caller is limited by the calls that it owns. They start in
// the order in which Go received them, and may end in any order.
type Worker struct {
	// inbox is a list of calls, newest first. Anybody pushes, the worker takes all at
	// once; after the worker's end it is the value &ended for ever.
	inbox atomic.Pointer[Call]
	// asleep: the worker blocks in Reap, or is about to. The worker sets it before it looks at the inbox
	// for the last time; whoever clears it wakes the worker.
	asleep atomic.Bool
	// closing is set once, by Close.
	closing atomic.Bool

	queue Queue
	done  chan struct{}
	// err is why the worker ended, valid after done; nil after Close.
	err error

	waits sync.Pool
	// together, if set, is given calls that ended at the same time.
	together func([]*Call)
}

// ended is the inbox of a worker that takes no more calls.
var ended Call

// NewWorker opens a queue on devs and starts the goroutine that owns it.
func NewWorker(devs Devices, o QueueOptions) (*Worker, error) {
	return startWorker(devs, o, nil)
}

// NewThroughputWorker is NewWorker for many requests in flight, where their total cost matters more than the latency of
// each. While 16 or more requests are in flight, the worker wakes once for an eighth of them instead of once for each.
// Calls with an Owner that ended at the same time are passed to together in one slice, on the worker's goroutine, and
// their Done is not called; the slice is valid until together returns. Done is still called for calls without an Owner,
// and for calls that end because the worker ends.
func NewThroughputWorker(devs Devices, o QueueOptions, together func(calls []*Call)) (*Worker, error) {
	o.Unwoken = true
	return startWorker(devs, o, together)
}

func startWorker(devs Devices, o QueueOptions, together func([]*Call)) (*Worker, error) {
	w := &Worker{done: make(chan struct{}), together: together}
	w.waits.New = func() any { return newWait() }
	opened := make(chan error)
	go func() {
		q, err := devs.NewQueue(o)
		if err != nil {
			opened <- err
			return
		}
		w.queue = q
		opened <- nil
		l := workerLoop{w: w, calls: make([]*Call, q.Depth()), out: make([]Completion, q.Depth())}
		l.main()
	}()
	if err := <-opened; err != nil {
		return nil, fmt.Errorf("start I/O worker: %w", err)
	}
	return w, nil
}

// Go hands calls to the worker; their Done functions are called when they have ended. It never
// blocks and allocates nothing. After Close the calls end with [ErrClosed], and Done is
// called by Go itself.
func (w *Worker) Go(calls ...*Call) {
	if len(calls) == 0 {
		return
	}
	for i, c := range calls {
		c.Err = nil
		if i > 0 {
			c.next = calls[i-1]
		}
	}
	first, last := calls[0], calls[len(calls)-1]
	for {
		head := w.inbox.Load()
		if head == &ended {
			w.refuse(calls)
			return
		}
		first.next = head
		if w.inbox.CompareAndSwap(head, last) {
			break
		}
	}
	w.rouse()
}

func (w *Worker) refuse(calls []*Call) {
	<-w.done
	for _, c := range calls {
		c.next = nil
		c.Err = errors.Join(ErrClosed, w.err)
		c.Done(c)
	}
}

// rouse wakes the worker if it sleeps.
func (w *Worker) rouse() {
	if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
		w.queue.Wake()
	}
}

// wait is a call that somebody blocks on.
type wait struct {
	Call
	ended chan struct{}
}

func newWait() *wait {
	x := &wait{ended: make(chan struct{}, 1)}
	x.Done = func(*Call) { x.ended <- struct{}{} }
	return x
}

// Do runs one request and waits for its end. There is no way to give up before: until then the
// memory belongs to the kernel.
func (w *Worker) Do(r Request) error {
	x := w.waits.Get().(*wait)
	x.Request = r
	w.Go(&x.Call)
	<-x.ended
	err := x.Err
	x.Request, x.Err = Request{}, nil
	w.waits.Put(x)
	return err
}

// Close waits until all calls have ended, then closes the queue. Calls that come later end with [ErrClosed].
// It must not be called from a Done function.
func (w *Worker) Close() error {
	w.closing.Store(true)
	w.rouse()
	<-w.done
	return w.err
}

// workerLoop is what the worker's goroutine alone touches.
type workerLoop struct {
	w *Worker
	// first and last are the backlog: calls taken from the inbox, oldest first, not pushed yet.
	first, last *Call
	// calls[tag] is the call in flight with that tag; free lists the tags not in use.
	calls []*Call
	free  []uint64
	out   []Completion
	ended []*Call // what together is given
}

func (l *workerLoop) main() {
	l.free = make([]uint64, len(l.calls))
	for i := range l.free {
		l.free[i] = uint64(i)
	}
	var err error
	for err == nil && !l.finished() {
		err = l.round()
	}
	l.stop(err)
}

// round takes all of the inbox, pushes what fits, submits once, reaps all, calls back.
func (l *workerLoop) round() error {
	l.takeInbox()
	l.push()
	least := 0
	if l.canSleep() {
		least = l.several()
	}
	n, err := l.w.queue.Reap(l.out, least)
	l.w.asleep.Store(false)
	if l.w.together != nil {
		l.endTogether(l.out[:n])
		return err
	}
	for i := range l.out[:n] {
		c := l.took(&l.out[i])
		c.Done(c)
	}
	return err
}

// several is how many completions to wait for. An eighth of those in flight ends soon, whatever holds up the others.
func (l *workerLoop) several() int {
	if l.w.together == nil {
		return 1
	}
	return max(1, l.w.queue.InFlight()/8)
}

func (l *workerLoop) endTogether(done []Completion) {
	l.ended = l.ended[:0]
	for i := range done {
		if c := l.took(&done[i]); c.Owner == nil {
			c.Done(c)
		} else {
			l.ended = append(l.ended, c)
		}
	}
	if len(l.ended) > 0 {
		l.w.together(l.ended)
	}
}

// canSleep announces that the worker goes to sleep, and looks once more for a reason not to:
// whoever brings one after that look sees the announcement, and wakes the worker.
func (l *workerLoop) canSleep() bool {
	w := l.w
	w.asleep.Store(true)
	if w.inbox.Load() == nil && (!w.closing.Load() || l.w.queue.InFlight() > 0) {
		return true
	}
	w.asleep.Store(false)
	return false
}

// takeInbox appends the inbox to the backlog, oldest first.
func (l *workerLoop) takeInbox() {
	if l.w.inbox.Load() == nil {
		return
	}
	newest := l.w.inbox.Swap(nil)
	var oldest *Call
	for c := newest; c != nil; {
		next := c.next
		c.next = oldest
		oldest, c = c, next
	}
	if l.last == nil {
		l.first = oldest
	} else {
		l.last.next = oldest
	}
	l.last = newest
}

func (l *workerLoop) push() {
	for l.first != nil && len(l.free) > 0 {
		c := l.first
		tag := l.free[len(l.free)-1]
		r := c.Request
		r.Tag = tag
		if !l.w.queue.Push(r) {
			return
		}
		l.free = l.free[:len(l.free)-1]
		l.calls[tag] = c
		if l.first = c.next; l.first == nil {
			l.last = nil
		}
		c.next = nil
	}
}

// took ends a call, but for telling its caller.
func (l *workerLoop) took(done *Completion) *Call {
	c := l.calls[done.Tag]
	l.calls[done.Tag] = nil
	l.free = append(l.free, done.Tag)
	c.Err = done.Err
	return c
}

// finished closes the inbox once there is nothing left to do, and says whether it did.
func (l *workerLoop) finished() bool {
	return l.w.closing.Load() && l.first == nil && l.w.queue.InFlight() == 0 &&
		l.w.inbox.CompareAndSwap(nil, &ended)
}

// stop closes the queue and, if it failed, ends every call with its error.
func (l *workerLoop) stop(cause error) {
	w := l.w
	w.err = errors.Join(cause, w.queue.Close())
	if cause == nil {
		close(w.done)
		return
	}
	l.takeInbox()
	for {
		newest := w.inbox.Load()
		if w.inbox.CompareAndSwap(newest, &ended) {
			l.appendLate(newest)
			break
		}
	}
	close(w.done)
	for tag, c := range l.calls {
		if c != nil {
			l.calls[tag] = nil
			l.fail(c, cause)
		}
	}
	for c := l.first; c != nil; {
		next := c.next
		l.fail(c, cause)
		c = next
	}
}

// appendLate appends calls that came in, newest first, while the worker stopped.
func (l *workerLoop) appendLate(newest *Call) {
	for c := newest; c != nil; {
		next := c.next
		c.next = l.first // their order does not matter any more: all of them fail
		l.first, c = c, next
	}
}

func (l *workerLoop) fail(c *Call, cause error) {
	c.next = nil
	c.Err = fmt.Errorf("the I/O worker stopped: %w", cause)
	c.Done(c)
}
