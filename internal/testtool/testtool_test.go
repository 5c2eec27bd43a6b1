package testtool

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes how a test was ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// record runs f on a goroutine of its own, because Skipf and Fatalf end it.
func record(f func(t testing.TB)) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestNeedNamesThePackage(t *testing.T) {
	missing := func(t testing.TB) { Need(t, "no-such-program-here", "some-package") }
	t.Setenv(RequireEnv, "")
	r := record(missing)
	if !strings.Contains(r.skipped, "no-such-program-here") || !strings.Contains(r.skipped, "some-package") {
		t.Errorf("skipped with %q, want program and package named", r.skipped)
	}
	if r.failed != "" {
		t.Errorf("failed with %q, want a skip", r.failed)
	}

	t.Setenv(RequireEnv, "1")
	r = record(missing)
	if !strings.Contains(r.failed, "some-package") || r.skipped != "" {
		t.Errorf("with %s=1: failed %q, skipped %q; want a failure that names the package", RequireEnv, r.failed, r.skipped)
	}
}

func TestNeedFindsAProgram(t *testing.T) {
	r := record(func(t testing.TB) {
		if path := Need(t, "sh", "dash"); !strings.HasSuffix(path, "/sh") {
			t.Fatalf("Need returned %q", path)
		}
	})
	if r.failed != "" || r.skipped != "" {
		t.Errorf("failed %q, skipped %q; want neither", r.failed, r.skipped)
	}
}

func TestNeedRoot(t *testing.T) {
	t.Setenv(RequireEnv, "0")
	r := record(func(t testing.TB) { NeedRoot(t) })
	if root := os.Geteuid() == 0; root != (r.skipped == "") {
		t.Errorf("running as root: %v, but skipped with %q", root, r.skipped)
	}
}
