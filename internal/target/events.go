package target

import "sync"

// Events carries news from the pool to the managers that are connected. It is made before the pool is
// opened, since engine.Options wants the callbacks, and then given to the Node:
//
//	events := &target.Events{}
//	pool, err := engine.Open(devices, engine.Options{OnComplete: events.Complete, OnFailure: events.Failure,
//		OnRefused: events.Refused})
//	node, err := target.New(target.Options{Pool: pool, Events: events, ...})
//
// The zero value is ready. Its methods never block: they note the news and wake whoever passes
// it on.
type Events struct {
	mu       sync.Mutex
	complete map[string]uint64 // newest complete CG since the pool was opened, by group
	refused  map[string]refusal
	failure  error
	wake     map[chan struct{}]struct{}
}

// Complete notes that CG cg of group is complete; for engine.Options.OnComplete.
func (e *Events) Complete(group string, cg uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.complete == nil {
		e.complete = map[string]uint64{}
	}
	e.complete[group] = cg
	e.wakeAll()
}

// Failure notes that the pool stopped acknowledging; for engine.Options.OnFailure.
func (e *Events) Failure(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure = err
	e.wakeAll()
}

// refusal is the newest CG that can never become complete.
type refusal struct {
	cg  uint64
	why error
}

// Refused notes that CG cg of group can never become complete; for engine.Options.OnRefused.
func (e *Events) Refused(group string, cg uint64, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refused == nil {
		e.refused = map[string]refusal{}
	}
	e.refused[group] = refusal{cg, why}
	e.wakeAll()
}

// newestRefused returns the newest CG of a group that was refused.
func (e *Events) newestRefused(group string) refusal {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused[group]
}

func (e *Events) wakeAll() {
	for c := range e.wake {
		select {
		case c <- struct{}{}:
		default: // it is awake already
		}
	}
}

// subscribe returns a channel that has a value after each event.
func (e *Events) subscribe() chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wake == nil {
		e.wake = map[chan struct{}]struct{}{}
	}
	c := make(chan struct{}, 1)
	e.wake[c] = struct{}{}
	return c
}

func (e *Events) unsubscribe(c chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.wake, c)
}

// newest returns the newest complete CG of a group, 0 if none became complete since the pool was
// opened, and the failure.
func (e *Events) newest(group string) (cg uint64, failure error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.complete[group], e.failure
}
