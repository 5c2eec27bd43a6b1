package sim

import (
	"iter"
	"runtime/debug"
	"slices"
)

// task is something that a secondary's process does step by step, while other things happen: in production a goroutine
// of its own, here a coroutine that runs only when the loop resumes it.
type task struct {
	yield func(struct{}) bool
	next  func() (struct{}, bool)
	stop  func()
}

// gone unwinds a task whose process has ended.
type gone struct{}

// spawn begins a task; done runs after its end, unless the process ended before.
func (s *secondaryNode) spawn(f, done func()) {
	t := &task{}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer func() {
			switch r := recover().(type) {
			case nil, gone:
			case *Violation:
				panic(r)
			default: // said here, where the stack is still the right one
				s.w.fail("panic", "%v\n%s", r, debug.Stack())
			}
		}()
		f()
	})
	s.tasks = append(s.tasks, t)
	s.resume(t, done)
}

// resume runs a task up to its next pause.
func (s *secondaryNode) resume(t *task, done func()) {
	more := false
	alive := s.around(func() {
		s.current = t
		_, more = t.next()
		s.current = nil
		if !more {
			s.tasks = slices.DeleteFunc(s.tasks, func(x *task) bool { return x == t })
		}
	})
	switch {
	case !alive:
	case more:
		s.after(s.between(s.w.cfg.device/4, s.w.cfg.device), func() { s.resume(t, done) })
	case done != nil:
		done()
	}
}

// pause lets other things happen, if what runs is a task. What calls from outside of one runs to its end.
func (s *secondaryNode) pause() {
	if t := s.current; t != nil && !t.yield(struct{}{}) {
		panic(gone{})
	}
}

// dropTasks ends all tasks where they stand.
func (s *secondaryNode) dropTasks() {
	s.current = nil
	for _, t := range s.tasks {
		t.stop()
	}
	s.tasks = nil
}
