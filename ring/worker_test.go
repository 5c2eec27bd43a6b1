package ring

import (
	"errors"
	"testing"
)

// scripted is a queue that completes everything at the next Reap, and runs a hook in Push.
type scripted struct {
	t      *testing.T
	onPush func()
	tags   []uint64
	slept  chan int // calls in flight, whenever Reap would have gone to sleep for ever
	wake   chan struct{}
	err    error
}

func (s *scripted) Info() []DeviceInfo                   { return nil }
func (s *scripted) NewQueue(QueueOptions) (Queue, error) { return s, nil }
func (s *scripted) Depth() int                           { return 4 }
func (s *scripted) InFlight() int                        { return len(s.tags) }
func (s *scripted) Submit() error                        { return nil }
func (s *scripted) Close() error                         { return nil }

func (s *scripted) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *scripted) Push(r Request) bool {
	s.tags = append(s.tags, r.Tag)
	if hook := s.onPush; hook != nil {
		s.onPush = nil
		hook()
	}
	return true
}

func (s *scripted) Reap(out []Completion, min int) (int, error) {
	if s.err != nil && len(s.tags) > 0 {
		return 0, s.err
	}
	if min > 0 && len(s.tags) == 0 {
		<-s.wake
	}
	if min > 0 && len(s.tags) > 0 {
		select {
		case s.slept <- len(s.tags):
		default:
		}
	}
	n := len(s.tags)
	for i, tag := range s.tags {
		out[i] = Completion{Tag: tag}
	}
	s.tags = s.tags[:0]
	return n, nil
}

// TestWorkerSeesLateCall: a call that comes in after the worker took its inbox, but before it announced its
// sleep, keeps it awake: nobody would wake it.
func TestWorkerSeesLateCall(t *testing.T) {
	s := &scripted{t: t, slept: make(chan int, 8), wake: make(chan struct{}, 1)}
	w, err := NewWorker(s, QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 2)
	late := &Call{Done: func(*Call) { ended <- "late" }}
	s.onPush = func() { w.Go(late) } // on the worker's goroutine, between taking and sleeping
	w.Go(&Call{Done: func(*Call) {
		select {
		case n := <-s.slept:
			t.Errorf("the worker slept with %d in flight and a call in its inbox", n)
		default:
		}
		ended <- "first"
	}})
	if a, b := <-ended, <-ended; a != "first" || b != "late" {
		t.Errorf("ended: %s, %s", a, b)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWorkerFailure: when the queue itself fails, every call ends with its error, and no later one is lost.
func TestWorkerFailure(t *testing.T) {
	broken := errors.New("broken queue")
	s := &scripted{t: t, slept: make(chan int, 8), wake: make(chan struct{}, 1), err: broken}
	w, err := NewWorker(s, QueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := w.Do(Request{Op: OpFlush}); !errors.Is(err, broken) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
}
