package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/farside-storage/farside/wire"
)

// process is a program that runs beside the benchmark: a role of farside, or another server.
type process struct {
	name  string
	log   string // file with what it prints
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of its end; valid once ended is closed
}

// launch starts a program. It does not outlive this process, not even if that is killed.
func launch(dir, name string, command ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// An interrupt from the keyboard is for this process, which then stops the others in their order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The death signal comes when the *thread* ends that started the process, so that one is kept for it.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := errors.Join(<-started, log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stopGrace is how long a process that was asked to end may take.
const stopGrace = 20 * time.Second

// stop asks the process to end, and insists after a while. It may be called again.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return p.early()
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.early()
	case <-time.After(stopGrace):
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("%s did not end within %v and was killed\n%s", p.name, stopGrace, p.tail()), err)
	}
}

// early says how the process ended, if not well.
func (p *process) early() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.tail())
}

// tail is the end of what the process printed.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// await asks ok until it has no objection, the process ends or ctx does.
func (p *process) await(ctx context.Context, what string, ok func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w: %w\n%s", what, ctx.Err(), err, p.tail())
		case <-p.ended:
			return fmt.Errorf("waited for %s: it has ended (%v)\n%s", what, p.err, p.tail())
		case <-time.After(20 * time.Millisecond): // between two questions
		}
	}
}

// control is a role of farside.
type control struct {
	*process
	listen string // where it answers status
}

// startControl runs a role from a configuration file that holds toml besides its [node] table, and waits until it
// answers.
func (c *cluster) startControl(ctx context.Context, role, name, listen, toml string) (*control, error) {
	state := filepath.Join(c.dir, name+".d")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("[node]\nname = %q\nlisten = %q\nstate_dir = %q\nlog_level = \"warn\"\n\n%s", name, listen, state, toml)
	path := filepath.Join(c.dir, name+".toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if len(c.o.Command) == 0 {
		return nil, errors.New("this workload runs whole controls, and was not told how to start farside (Options.Command)")
	}
	command := append(append([]string{}, c.o.Command...), role, "--config", path)
	p, err := launch(c.dir, name, command...)
	if err != nil {
		return nil, err
	}
	x := &control{p, listen}
	c.running = append(c.running, x.process)
	return x, p.await(ctx, name, func(ctx context.Context) error { return x.ask(ctx, &wire.Status{}, nil) })
}

// ask sends a message as a tool and decodes the document that answers it; into may be nil.
func (x *control) ask(ctx context.Context, m wire.Message, into any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := wire.Dial(ctx, x.listen, wire.Options{})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // a closed connection ends the reading below
	defer func() {
		if stop() {
			_ = conn.Close() // the answer is here, or an error that tells more
		} else if err != nil {
			err = errors.Join(ctx.Err(), err)
		}
		if err != nil {
			err = fmt.Errorf("ask %s: %w", x.name, err)
		}
	}()
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "farside-bench"}); err != nil {
		return err
	}
	if err := conn.WriteMessage(m); err != nil {
		return err
	}
	for {
		h, body, err := conn.Next()
		if err != nil {
			return err
		}
		if h.Type != wire.TypeStatusReply {
			continue
		}
		reply, err := wire.Decode(h.Type, body)
		if err != nil || into == nil {
			return err
		}
		return json.Unmarshal(reply.(*wire.StatusReply).JSON, into)
	}
}

// freePorts returns addresses on loopback that nobody listens on now. They lie below the range from which the kernel
// takes the ports of outgoing connections: one of those could else be in the way by the time a control listens.
func freePorts(n int) (addrs []string, err error) {
	const lowest, highest, enough = 12000, 31000, 1000
	for tries := 0; len(addrs) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)))
		if err != nil {
			if tries > enough {
				return nil, fmt.Errorf("no free port on loopback: %w", err)
			}
			continue
		}
		defer l.Close() // all together, so that no port comes twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// table writes a TOML table of strings and numbers, one key to a line.
func table(name string, keys ...any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", name)
	for i := 0; i < len(keys); i += 2 {
		switch v := keys[i+1].(type) {
		case string:
			fmt.Fprintf(&b, "%s = %q\n", keys[i], v)
		case []string:
			list, _ := json.Marshal(v) // strings always marshal
			fmt.Fprintf(&b, "%s = %s\n", keys[i], list)
		default:
			fmt.Fprintf(&b, "%s = %v\n", keys[i], v)
		}
	}
	return b.String() + "\n"
}
