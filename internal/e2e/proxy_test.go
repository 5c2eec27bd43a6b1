package e2e

import (
	"testing"

	"github.com/farside-storage/farside/internal/frameproxy"
)

// newProxy stands between the manager and a secondary until the test ends.
func newProxy(t testing.TB, listen, target string) *frameproxy.Proxy {
	t.Helper()
	p, err := frameproxy.Listen(listen, target)
	check(t, err)
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}
