package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/farside-storage/farside/wire"
)

// process is one role: it can be killed and started again.
type process struct {
	t      testing.TB
	name   string // also of its configuration, log and socket
	role   string
	dir    string
	listen string
	cmd    *exec.Cmd     // nil: does not run
	done   chan struct{} // closed when it has ended
	err    error         // how; after done
}

// start writes the configuration and runs the role. It is stopped when the test ends, the last one first.
func start(t testing.TB, dir, role, name, toml string) *process {
	t.Helper()
	p := &process{t: t, name: name, role: role, dir: dir, listen: "unix:" + filepath.Join(dir, name+".sock")}
	check(t, os.WriteFile(p.config(), []byte(toml), 0o600))
	p.launch()
	t.Cleanup(p.stop)
	return p
}

func (p *process) config() string { return filepath.Join(p.dir, p.name+".toml") }

func (p *process) launch() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, p.name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(p.t, err)
	defer log.Close()
	p.cmd = exec.Command(farside, p.role, "--config", p.config())
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	check(p.t, spawn(p.cmd))
	p.done = make(chan struct{})
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
}

// kill ends the process at once.
func (p *process) kill() {
	p.t.Helper()
	check(p.t, p.cmd.Process.Kill())
	<-p.done
	p.cmd = nil
}

// pause stops the process where it is, until resume. The kernel needs a moment: one thread must run to stop
// the others.
func (p *process) pause() {
	p.t.Helper()
	check(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	await(p.t, p.name+" to stand still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, path := range threads {
			stat, rerr := os.ReadFile(path)
			// pid (name) state ...; the kernel's own workers are named iou-...
			at := bytes.LastIndex(stat, []byte(") "))
			if rerr == nil && !bytes.Contains(stat, []byte("(iou-")) && (at < 0 || stat[at+2] != 'T') {
				err = fmt.Errorf("a thread still runs: %s", stat)
			}
		}
		return err
	})
}

func (p *process) resume() {
	p.t.Helper()
	check(p.t, p.cmd.Process.Signal(syscall.SIGCONT))
}

// stop asks the process to end, as an operator does. It must end well.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	if p.t.Failed() {
		p.t.Logf("log of %s:\n%s", p.name, p.tail())
	}
	for _, s := range []syscall.Signal{syscall.SIGCONT, syscall.SIGTERM} {
		if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.t.Error(err)
		}
	}
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Errorf("%s ended badly: %v\n%s", p.name, p.err, p.tail())
		}
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s did not end\n%s", p.name, p.tail())
		p.kill()
	}
	p.cmd = nil
}

func (p *process) tail() string {
	b, err := os.ReadFile(filepath.Join(p.dir, p.name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-3000):])
}

// ended says that the process has ended by itself.
func (p *process) ended() error {
	if p == nil || p.cmd == nil {
		return nil
	}
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended by itself: %v\n%s", p.name, p.err, p.tail())
	default:
		return nil
	}
}

// status asks the process for its state.
func (p *process) status(into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := wire.Dial(ctx, p.listen, wire.Options{})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() }) // a stopped process accepts, but does not answer
	defer stop()
	err = ask(c, into)
	return errors.Join(err, c.Close())
}

func ask(c *wire.Conn, into any) error {
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "e2e"}); err != nil {
		return err
	}
	if err := c.WriteMessage(&wire.Status{}); err != nil {
		return err
	}
	for {
		h, body, err := c.Next()
		if err != nil {
			return err
		}
		if h.Type == wire.TypeStatusReply {
			m, err := wire.Decode(h.Type, body)
			if err != nil {
				return err
			}
			return json.Unmarshal(m.(*wire.StatusReply).JSON, into)
		}
	}
}

// await asks again and again until ok says yes; the error that it returns until then is shown if it never does.
func await(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || errors.As(err, new(hopeless)) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond) // between two questions
	}
}

// hopeless is an error that no waiting mends.
type hopeless struct{ error }

// output is what a command of farside printed.
type output struct {
	code     int
	out, err string
}

// command runs farside to its end.
func command(t testing.TB, args ...string) output {
	t.Helper()
	var out, errs excerpt
	cmd := exec.Command(farside, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, spawn(cmd))
	end := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer end.Stop()
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return output{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must runs farside and wants success.
func must(t testing.TB, args ...string) string {
	t.Helper()
	o := command(t, args...)
	if o.code != 0 {
		t.Fatalf("farside %q: status %d\n%s%s", args, o.code, o.out, o.err)
	}
	return o.out
}

// tool runs another program and wants success.
func tool(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := tryTool(program, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return out
}

func tryTool(program string, args ...string) (string, error) {
	var out excerpt
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := spawn(cmd); err != nil {
		return "", err
	}
	end := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer end.Stop()
	err := cmd.Wait()
	return out.String(), err
}
