package e2e

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/internal/sitetest"
)

// process is a role that can be killed and launched again; what goes wrong with it fails the test.
type process struct {
	*proc.Role
	t testing.TB
}

const patience = sitetest.Patience

var (
	check    = sitetest.Check
	await    = sitetest.Await
	hopeless = sitetest.Hopeless
)

// start writes the configuration and runs the role. It is stopped when the test ends, the last one first.
func start(t testing.TB, dir, kind, name, toml string) *process {
	t.Helper()
	p := &process{t: t, Role: &proc.Role{Name: name, Kind: kind, Dir: dir, Farside: []string{farside}, LargestFile: largestFile}}
	check(t, p.Configure(toml))
	p.launch()
	t.Cleanup(p.stop)
	return p
}

func (p *process) launch() {
	p.t.Helper()
	check(p.t, p.Launch())
}

// kill ends the process at once.
func (p *process) kill() {
	p.t.Helper()
	check(p.t, p.Kill())
}

// pause stops the process where it is, until resume.
func (p *process) pause() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check(p.t, p.Pause(ctx))
}

func (p *process) resume() {
	p.t.Helper()
	check(p.t, p.Resume())
}

// stop asks the process to end, as an operator does. It must end well.
func (p *process) stop() {
	p.t.Helper()
	if err := p.Stop(3 * patience); err != nil {
		p.t.Error(err)
	}
	p.tellLog()
}

// status asks the process for its state.
func (p *process) status(into any) error { return p.Status(context.Background(), into) }

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
	check(t, spawn(cmd))
	end := time.AfterFunc(3*patience, func() { cmd.Process.Kill() })
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
	if err := spawn(cmd); err != nil {
		return "", err
	}
	end := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer end.Stop()
	err := cmd.Wait()
	return out.String(), err
}
