package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// space is a network namespace, and the thread that is in it.
type space struct {
	tid   int
	calls chan func()
	ended chan struct{}
}

func newSpace() (*space, error) {
	s := &space{calls: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go s.run(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	return s, nil
}

// run keeps a thread in the namespace. It never unlocks it, so that the thread ends with the goroutine.
func (s *space) run(made chan error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // the first thread cannot end, and the process is taken to be where it is
		go s.run(made)
		<-s.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(s.ended)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	s.tid = unix.Gettid()
	made <- nil
	for f := range s.calls {
		f()
	}
}

// do calls f on the thread in the namespace: sockets and processes that it makes are there.
func (s *space) do(f func() error) error {
	result := make(chan error)
	s.calls <- func() { result <- f() }
	return <-result
}

func (s *space) close() {
	close(s.calls)
	<-s.ended
}

// path names the namespace to other programs.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), s.tid) }

// ip runs commands of iproute2's ip, one a line.
func (s *space) ip(program, commands string) error {
	return s.do(func() error {
		cmd := exec.Command(program, "-batch", "-")
		cmd.Stdin = strings.NewReader(commands)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip -batch: %w: %s\n%s", err, out, commands)
		}
		return nil
	})
}

// set writes a setting of the namespace's network.
func (s *space) set(name, value string) error {
	return s.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}
