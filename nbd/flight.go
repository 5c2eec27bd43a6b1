package nbd

import "sync"

// flight is the account of one connection's requests, from their header being read until their
// answer was sent. Between calls:
//
//   - requests <= maxRequests; bytes <= maxBytes, unless a single request needs more;
//   - every admitted request is with exactly one of: receiver, device, done, sender.
//
// One goroutine receives (admit, abandon, cork, uncork, end), one sends (take, recycle), any
// may finish.
type flight struct {
	maxRequests int
	maxBytes    int64

	mu       sync.Mutex
	room     sync.Cond // the receiver waits for requests to end
	work     sync.Cond // the sender waits for requests to be finished
	free     []*Request
	done     []*Request // finished, not yet taken by the sender
	requests int
	bytes    int64
	corked   bool // the receiver is inside Device.Start: the sender is woken once, afterwards
	idle     bool // the sender waits and was not yet woken
	waiting  bool // the receiver waits
	ended    bool // nothing will be admitted any more
}

func newFlight(maxRequests int, maxBytes int64) *flight {
	f := &flight{maxRequests: maxRequests, maxBytes: maxBytes}
	f.room.L, f.work.L = &f.mu, &f.mu
	return f
}

// admit returns a request charged with cost bytes, or nil if there is no room and wait is false.
func (f *flight) admit(cost int64, wait bool) *Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.requests >= f.maxRequests || (f.bytes > 0 && f.bytes+cost > f.maxBytes) {
		if !wait {
			return nil
		}
		f.waiting = true
		f.room.Wait()
	}
	f.requests++
	f.bytes += cost
	var r *Request
	if last := len(f.free) - 1; last >= 0 {
		r, f.free = f.free[last], f.free[:last]
	} else {
		r = &Request{owner: f}
	}
	r.cost = cost
	r.state = requestRunning
	return r
}

// abandon takes back a request that never reached a device.
func (f *flight) abandon(r *Request) {
	one := [1]*Request{r}
	f.recycle(one[:])
}

func (f *flight) finish(r *Request) {
	f.mu.Lock()
	f.done = append(f.done, r)
	f.wakeSender()
}

// wakeSender wakes the sender if it sleeps on work that there is now. f.mu is held, and
// released.
func (f *flight) wakeSender() {
	wake := f.idle && !f.corked
	if wake {
		f.idle = false
	}
	f.mu.Unlock()
	if wake {
		f.work.Signal()
	}
}

// cork begins a time in which the sender is left asleep, because more requests are about
// to finish: answers of a batch that a device finishes at once leave together.
func (f *flight) cork() {
	f.mu.Lock()
	f.corked = true
	f.mu.Unlock()
}

func (f *flight) uncork() {
	f.mu.Lock()
	f.corked = false
	if len(f.done) == 0 {
		f.mu.Unlock()
		return
	}
	f.wakeSender()
}

// end says that nothing will be admitted any more.
func (f *flight) end() {
	f.mu.Lock()
	f.ended = true
	f.wakeSender()
}

// take waits for finished requests and exchanges them for the empty slice given. It returns
// none when everything admitted was answered and the receiver has ended.
func (f *flight) take(empty []*Request) []*Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.done) == 0 {
		if f.ended && f.requests == 0 {
			return nil
		}
		f.idle = true
		f.work.Wait()
	}
	f.idle = false
	taken := f.done
	f.done = empty[:0]
	return taken
}

// recycle ends requests: their memory goes back, and their room to the receiver.
func (f *flight) recycle(batch []*Request) {
	var cost int64
	for _, r := range batch {
		cost += r.cost
		r.reset()
	}
	f.mu.Lock()
	f.free = append(f.free, batch...)
	f.requests -= len(batch)
	f.bytes -= cost
	wake := f.waiting
	f.waiting = false
	f.mu.Unlock()
	if wake {
		f.room.Signal()
	}
}

// keepScratch is how much memory for block status a request keeps for its next use, in runs.
const keepScratch = 64

// reset empties a request for its next use.
func (r *Request) reset() {
	if r.Data != nil {
		r.Data.Release()
	}
	status, encode := r.Status[:0], r.encode[:0]
	if cap(status) > keepScratch {
		status = nil
	}
	if cap(encode) > keepScratch*runSize {
		encode = nil
	}
	*r = Request{owner: r.owner, Status: status, encode: encode}
}
