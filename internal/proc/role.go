package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Role is a role of farside that runs as a child: it can be killed, and launched again. One goroutine at a time may
// launch and end it; any may ask for its status.
type Role struct {
	// Name of the node, and of its files in Dir: configuration, log and socket.
	Name string
	// Kind is the command that runs it: "manager", "primary" or "secondary".
	Kind string
	Dir  string
	// Farside is the program and its first arguments.
	Farside []string
	// LargestFile bounds the files that it may make, in bytes; 0: no limit.
	LargestFile uint64
	// Begin starts the program where it is to run, with Pdeathsig; nil: Start.
	Begin func(*exec.Cmd) error

	cmd   *exec.Cmd     // nil: does not run
	ended chan struct{} // closed when it has ended
	how   error         // it ended; after ended
}

// Socket is the address of a socket of that name in dir.
func Socket(dir, name string) string { return "unix:" + filepath.Join(dir, name+".sock") }

// Listen is where it answers.
func (r *Role) Listen() string { return Socket(r.Dir, r.Name) }

// Config is its configuration file.
func (r *Role) Config() string { return filepath.Join(r.Dir, r.Name+".toml") }

// Configure writes its configuration file.
func (r *Role) Configure(toml string) error { return os.WriteFile(r.Config(), []byte(toml), 0o600) }

// Running says that it was launched, and neither killed nor stopped since.
func (r *Role) Running() bool { return r.cmd != nil }

// Launch runs it. What it prints is added to its log.
func (r *Role) Launch() (err error) {
	log, err := os.OpenFile(r.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	defer func() { err = errors.Join(err, log.Close()) }() // the child has its own
	cmd := exec.Command(r.Farside[0], append(r.Farside[1:len(r.Farside):len(r.Farside)], r.Kind, "--config", r.Config())...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is for this process, which then ends its children in order
	begin := Start
	if r.Begin != nil {
		begin = r.Begin
	}
	if err := begin(cmd); err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	r.cmd, r.ended = cmd, make(chan struct{})
	go func() {
		r.how = cmd.Wait()
		close(r.ended)
	}()
	if r.LargestFile == 0 {
		return nil
	}
	return LimitFiles(cmd, r.LargestFile)
}

// Kill ends it at once, as a power failure would. It is an error if it has ended by itself before.
func (r *Role) Kill() error {
	if !r.Running() {
		return fmt.Errorf("kill %s: it does not run", r.Name)
	}
	err := r.Ended()
	if kerr := r.cmd.Process.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", r.Name, kerr)
	}
	<-r.ended
	if !killed(r.how) && err == nil {
		err = r.endedByItself()
	}
	r.cmd = nil
	return err
}

func killed(how error) bool {
	var exit *exec.ExitError
	if !errors.As(how, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// Ended is an error if it has ended by itself.
func (r *Role) Ended() error {
	if !r.Running() {
		return nil
	}
	select {
	case <-r.ended:
		return r.endedByItself()
	default:
		return nil
	}
}

func (r *Role) endedByItself() error {
	how := "without an error"
	if r.how != nil {
		how = r.how.Error()
	}
	return fmt.Errorf("%s has ended by itself: %s; its log ends:\n%s", r.Name, how, r.LogEnd(logEnd))
}

// Stop asks it to end, as an operator does, also if it is paused. It is an error if it does not end well within
// limit; it is killed then.
func (r *Role) Stop(limit time.Duration) error {
	if !r.Running() {
		return nil
	}
	defer func() { r.cmd = nil }()
	for _, s := range []os.Signal{syscall.SIGCONT, syscall.SIGTERM} {
		if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", r.Name, err)
		}
	}
	select {
	case <-r.ended:
		if r.how != nil {
			return fmt.Errorf("%s ended badly: %w; its log ends:\n%s", r.Name, r.how, r.LogEnd(logEnd))
		}
		return nil
	case <-time.After(limit):
		err := fmt.Errorf("%s did not end within %v; its log ends:\n%s", r.Name, limit, r.LogEnd(logEnd))
		return errors.Join(err, r.Kill())
	}
}

// Pause stops it where it is, until Resume or Stop. It returns when every thread stands still: the kernel needs a
// moment, as one thread must run to stop the others.
func (r *Role) Pause(ctx context.Context) error {
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", r.Name, err)
	}
	for {
		running, err := r.runningThread()
		if err != nil || running == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pause %s: %w; still runs: %s", r.Name, context.Cause(ctx), running)
		case <-time.After(time.Millisecond): // between two looks
		}
	}
}

// Resume lets it go on.
func (r *Role) Resume() error {
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("resume %s: %w", r.Name, err)
	}
	return nil
}

// runningThread describes a thread that is not stopped, "" if all are.
func (r *Role) runningThread() (string, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", r.cmd.Process.Pid))
	for _, path := range threads {
		stat, rerr := os.ReadFile(path)
		// pid (name) state ...; the kernel's own workers are named iou-...
		at := bytes.LastIndex(stat, []byte(") "))
		if rerr == nil && !bytes.Contains(stat, []byte("(iou-")) && (at < 0 || stat[at+2] != 'T') {
			return string(stat), nil
		}
	}
	return "", err
}
