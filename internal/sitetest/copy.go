package sitetest

import (
	"fmt"
	"testing"

	"github.com/farside-storage/farside/internal/target"
)

// Copy is the one group of a secondary, which ask asks for its status. A pool that failed stays so.
func Copy(name string, ask func(into any) error) (target.GroupStatus, error) {
	var s target.Status
	if err := ask(&s); err != nil {
		return target.GroupStatus{}, err
	}
	if len(s.Groups) != 1 || s.Pool.Failure != "" {
		return target.GroupStatus{}, Hopeless(fmt.Errorf("%s reports %+v", name, s))
	}
	g := s.Groups[0]
	if g.Error != "" {
		return target.GroupStatus{}, fmt.Errorf("%s reports %+v", name, g)
	}
	return g, nil
}

// AwaitCopy asks for the group of a secondary until ok.
func AwaitCopy(t testing.TB, name, what string, ask func() (target.GroupStatus, error), ok func(target.GroupStatus) bool) (g target.GroupStatus) {
	t.Helper()
	Await(t, name+": "+what, func() (err error) {
		if g, err = ask(); err == nil && !ok(g) {
			err = fmt.Errorf("it shows %+v", g)
		}
		return err
	})
	return g
}
