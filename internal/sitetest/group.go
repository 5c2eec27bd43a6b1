package sitetest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/farside-storage/farside/manager"
)

// Group is the one group of a manager, which ask asks for its status; a manager that stands by is an error.
func Group(name string, ask func(into any) error) (manager.Status, error) {
	var s manager.NodeStatus
	if err := ask(&s); err != nil {
		return manager.Status{}, err
	}
	if s.Leadership != nil && len(s.Groups) == 0 {
		return manager.Status{}, fmt.Errorf("%s stands by: %+v", name, *s.Leadership)
	}
	if len(s.Groups) != 1 {
		return manager.Status{}, Hopeless(fmt.Errorf("%s reports %d groups", name, len(s.Groups)))
	}
	return s.Groups[0], nil
}

// AwaitGroup asks for the state of a group until ok.
func AwaitGroup(t testing.TB, what string, ask func() (manager.Status, error), ok func(manager.Status) bool) (s manager.Status) {
	t.Helper()
	Await(t, what, func() (err error) {
		if s, err = ask(); err == nil && !ok(s) {
			text, _ := json.Marshal(s)
			err = fmt.Errorf("last answer %s", text)
		}
		return err
	})
	return s
}

// AwaitCount waits until a count has grown by n from what it is now, and returns what it then must be at least.
func AwaitCount(t testing.TB, what string, now func() uint64, n uint64) (want uint64) {
	t.Helper()
	want = now() + n
	Await(t, what, func() error {
		if is := now(); is < want {
			return fmt.Errorf("%d, want %d", is, want)
		}
		return nil
	})
	return want
}
