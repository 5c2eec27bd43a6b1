package proc

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// starts are carried out by one goroutine that keeps its thread: the kernel sends Pdeathsig when the thread that made a
// child ends, and Go ends a thread with a goroutine that was locked to it.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// Start starts the command; the kernel kills it when this process ends.
func Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	starts() <- func() { started <- cmd.Start() }
	return <-started
}

// LimitFiles bounds, in bytes, the files that a child makes from now on.
func LimitFiles(cmd *exec.Cmd, size uint64) error {
	err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size}, nil)
	if err != nil && !errors.Is(err, unix.ESRCH) { // ESRCH: it has ended
		return fmt.Errorf("limit the files of %s: %w", cmd.Path, err)
	}
	return nil
}
