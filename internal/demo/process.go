package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/farside-storage/farside/wire"
)

// process is one control or the manager.
type process struct {
	name   string
	role   string
	dir    string
	listen string // where it answers status
	cmd    *exec.Cmd
	ended  chan error
}

// start runs the role from its configuration file; its log goes to a file of its name.
func (d *demo) start(name, role, toml string) (*process, error) {
	p := &process{name: name, role: role, dir: d.dir, listen: d.socket(name)}
	path := filepath.Join(d.dir, name+".toml")
	if err := os.WriteFile(path, []byte(toml), 0o600); err != nil {
		return nil, err
	}
	return p, d.launch(p)
}

func (d *demo) launch(p *process) error {
	log, err := os.OpenFile(filepath.Join(d.dir, p.name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	args := append(append([]string{}, d.o.Command[1:]...), p.role, "--config", filepath.Join(d.dir, p.name+".toml"))
	p.cmd = exec.Command(d.o.Command[0], args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// The demonstration must not leave processes behind, not even when it is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	p.ended = make(chan error, 1)
	go func() {
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
	}()
	if err := errors.Join(<-started, log.Close()); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// kill ends the process at once, as a power failure would.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}

// stop asks the process to end, and insists after a while.
func (p *process) stop() error {
	if p.cmd.ProcessState != nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("%s ended badly: %w\n%s", p.name, err, p.tail())
		}
		return nil
	case <-time.After(15 * time.Second):
		return errors.Join(fmt.Errorf("%s did not end within 15 s\n%s", p.name, p.tail()), p.kill())
	}
}

// tail is the end of the process's log.
func (p *process) tail() string {
	b, err := os.ReadFile(filepath.Join(p.dir, p.name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// status asks the process for its state.
func (p *process) status(ctx context.Context, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := wire.Dial(ctx, p.listen, wire.Options{})
	if err != nil {
		return fmt.Errorf("status of %s: %w", p.name, err)
	}
	err = askStatus(c, into)
	return errors.Join(err, c.Close())
}

func askStatus(c *wire.Conn, into any) error {
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "demo"}); err != nil {
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
		if h.Type != wire.TypeStatusReply {
			continue
		}
		m, err := wire.Decode(h.Type, body)
		if err != nil {
			return err
		}
		return json.Unmarshal(m.(*wire.StatusReply).JSON, into)
	}
}
