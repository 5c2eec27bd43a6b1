package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// peersFolder holds the module that compares with other stores. It is built from source for each run: this program
// does not depend on what it is compared with.
const peersFolder = "bench/peers"

// runPeers has the peers' own program measure. It makes its loop device itself, with the run's kind, size and times.
func runPeers(ctx context.Context, r *run) (_ []Result, err error) {
	out, err := r.peers(ctx)
	var cannot *peersCannot
	if errors.As(err, &cannot) && !r.alone() { // the others shall not be lost for it
		r.leaveOut("peers: %v", cannot)
		return nil, nil
	}
	return out, err
}

// peersCannot is why the peers cannot be measured on this machine.
type peersCannot struct{ error }

// PeersCannot is the exit status of the peers' program for what it finds before it does anything.
const PeersCannot = 2

func (r *run) peers(ctx context.Context) (_ []Result, err error) {
	source, err := peersSource()
	if err != nil {
		return nil, &peersCannot{err}
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, &peersCannot{fmt.Errorf("the peers are built from source: %w: install Go, of the version in %s/go.mod or newer", err, source)}
	}
	dir, err := os.MkdirTemp("", "farside-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program := filepath.Join(dir, "peers")
	if out, err := exec.CommandContext(ctx, "go", "-C", source, "build", "-o", program, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	return r.callPeers(ctx, program)
}

func (r *run) callPeers(ctx context.Context, program string) ([]Result, error) {
	runtime.LockOSThread() // the kernel sends Pdeathsig when the thread that made the child ends
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, r.peersArguments()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }             // so that it takes its mounts away
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // an interrupt reaches it once, from here
	var out bytes.Buffer
	var said tailBuffer
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(lines(r.o.Progress), &said)
	var rep Report
	if err := cmd.Run(); ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), err)
	} else if err != nil && cmd.ProcessState.ExitCode() == PeersCannot {
		return nil, &peersCannot{errors.New(lastWords(said.String()))}
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", peersFolder, err, lastWords(said.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		return nil, fmt.Errorf("%s: its report: %w", peersFolder, err)
	}
	for _, m := range rep.Missing {
		r.leaveOut("%s", m)
	}
	for i := range rep.Results {
		rep.Results[i].Notes = append(rep.Results[i].Notes, rep.Host.Notices...)
	}
	return rep.Results, nil
}

// lastWords is what the peers' program said last: its error.
func lastWords(said string) string {
	const mark = "peers: "
	return strings.TrimSpace(said[max(0, strings.LastIndex(said, mark)):])
}

func (r *run) peersArguments() []string {
	args := []string{"--output", "json", "--seconds", strconv.Itoa(r.o.Seconds), "--rounds", strconv.Itoa(r.o.Repetitions)}
	if r.o.Quick {
		args = append(args, "--quick")
	}
	if r.o.Loop != "" {
		args = append(args, "--loop", r.o.Loop, "--dir", r.o.Dir)
	}
	if r.o.Size != 0 {
		args = append(args, "--size", fmt.Sprintf("%dB", r.o.Size))
	}
	return args
}

// peersSource finds the module's folder, from the current one upwards.
func peersSource() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		source := filepath.Join(at, peersFolder)
		if _, err := os.Stat(filepath.Join(source, "go.mod")); err == nil {
			return source, nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", fmt.Errorf("the peers are built from source: run this in a checkout of farside, where %s is", peersFolder)
		}
		at = up
	}
}

// lines tells each whole line that is written to it.
type lines func(string)

func (f lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		f("  " + strings.TrimRight(line, "\n"))
	}
	return len(p), nil
}
