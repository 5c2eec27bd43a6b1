package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// keepLogs names a folder that gets the whole logs of the processes of tests that fail.
const keepLogs = "FARSIDE_E2E_LOGS"

// Of a test that fails this much is printed, in bytes: where output is cut to its end, all processes must have their say.
const (
	logEnd       = 800  // of each log
	longestError = 1000 // of each error, when it is told again
	toldAgain    = 4    // errors
)

// tester tells the errors of a test again, after the logs of its processes, which else would be the end of the output.
type tester struct {
	*testing.T
	mu     sync.Mutex
	errors []string
}

// begin must be the first thing that a test with processes does.
func begin(t *testing.T) *tester {
	r := &tester{T: t}
	t.Cleanup(r.sumUp) // registered first, it runs last
	return r
}

func (r *tester) Error(args ...any) {
	r.Helper()
	r.note(fmt.Sprint(args...))
	r.T.Error(args...)
}

func (r *tester) Errorf(format string, args ...any) {
	r.Helper()
	r.note(fmt.Sprintf(format, args...))
	r.T.Errorf(format, args...)
}

func (r *tester) Fatal(args ...any) {
	r.Helper()
	r.note(fmt.Sprint(args...))
	r.T.Fatal(args...)
}

func (r *tester) Fatalf(format string, args ...any) {
	r.Helper()
	r.note(fmt.Sprintf(format, args...))
	r.T.Fatalf(format, args...)
}

func (r *tester) note(text string) {
	if len(text) > longestError {
		text = text[:longestError/2] + " ... " + text[len(text)-longestError/2:]
	}
	text = testLine() + ": " + text
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, text)
}

// testLine says which line of the test function is being run, "" if none: then a helper runs by itself.
func testLine() (at string) {
	pcs := make([]uintptr, 50)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if name := f.Function[strings.LastIndex(f.Function, "/")+1:]; strings.Contains(name, ".Test") {
			at = fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
		}
		if !more {
			return at
		}
	}
}

func (r *tester) sumUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.errors); n > 0 {
		r.Logf("%s failed with %d errors:\n%s", r.Name(), n, strings.Join(r.errors[:min(n, toldAgain)], "\n"))
	}
}

// tellLog prints the end of the log of a process of a failed test, and keeps all of it if that is wanted.
func (p *process) tellLog() {
	p.t.Helper()
	if !p.t.Failed() {
		return
	}
	p.t.Logf("log of %s:\n%s", p.Name, p.LogEnd(logEnd))
	to := os.Getenv(keepLogs)
	if to == "" {
		return
	}
	to = filepath.Join(to, filepath.FromSlash(p.t.Name()))
	b, err := p.Log()
	if err == nil {
		err = os.MkdirAll(to, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, p.Name+".log"), b, 0o644)
	}
	if err != nil {
		p.t.Logf("keep the log of %s: %v", p.Name, err)
	}
}
