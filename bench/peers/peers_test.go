package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
)

// TestEveryStoreKeepsWhatItTook runs each store shortly; work reads a sample back and compares.
func TestEveryStoreKeepsWhatItTook(t *testing.T) {
	testtool.NeedRoot(t)
	for _, p := range peers {
		for program, pkg := range p.needs {
			testtool.Need(t, program, pkg)
		}
	}
	m, err := newMedium(t.Context(), "tmpfs", "", 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, p := range append([]peer{{name: "farside", open: openFarside}}, peers...) {
		o, err := one(t.Context(), m, p, 8<<10, settings{group: 2 << 10, seconds: 1})
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		if o.updates == 0 || o.updates%(2<<10) != 0 || o.amplification <= 0 {
			t.Errorf("%s: %+v", p.name, o)
		}
		t.Logf("%s: %.0f updates/s, %.2f device bytes per payload byte", p.name, o.rate(), o.amplification)
	}
}

// TestMain lets a test start this binary as the program.
func TestMain(m *testing.M) {
	if dir := os.Getenv(mountVariable); dir != "" {
		if err := mountAndWait(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const mountVariable = "FARSIDE_PEERS_TEST_MOUNT"

// mountAndWait mounts something as peers do, says so and waits for the end of standard input.
func mountAndWait(dir string) error {
	if err := ownMounts(); err != nil {
		return err
	}
	if os.Getenv(ownMountsVariable) == "" {
		fmt.Println("forbidden")
		return nil
	}
	if err := command(context.Background(), "mount", "-t", "tmpfs", "none", dir); err != nil {
		return err
	}
	fmt.Println("mounted")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// TestMountsAreItsOwn: what the program mounts is nowhere else, so that it goes with the program even if that is killed.
func TestMountsAreItsOwn(t *testing.T) {
	testtool.NeedRoot(t)
	dir := t.TempDir()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), mountVariable+"="+dir)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(in.Close(), c.Wait()); err != nil {
			t.Error(err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if line == "forbidden\n" {
		t.Skip("no mount namespace of one's own here")
	}
	for name, want := range map[string]bool{fmt.Sprintf("/proc/%d/mounts", c.Process.Pid): true, "/proc/self/mounts": false} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), " "+dir+" "); got != want {
			t.Errorf("%s has the mount: %t, want %t", name, got, want)
		}
	}
}

// TestMediumLeavesNothing when it cannot be made: no room, or an interrupt while its file is written.
func TestMediumLeavesNothing(t *testing.T) {
	testtool.NeedRoot(t)
	loopdev.ForTest(t, "", 1<<20, loopdev.Options{}) // skips where there are no loop devices
	tmp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newMedium(ctx, "disk", dir, 8<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := newMedium(t.Context(), "disk", dir, 1<<60); status(err) != bench.PeersCannot || !strings.Contains(err.Error(), dir) {
		t.Errorf("no room: %v", err)
	}
	for _, folder := range []string{tmp, dir} {
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", folder, left, err)
		}
	}
}

// TestMissingPrograms: who lacks a program is left out, unless asked for by name.
func TestMissingPrograms(t *testing.T) {
	testtool.NeedRoot(t)
	t.Setenv("PATH", t.TempDir())
	o := settings{loop: "tmpfs", size: "4GiB", seconds: 1, rounds: 1, full: 25, group: 1, output: "text"}
	_, some, missing, err := o.check()
	if err != nil || len(some) != 1 || some[0].name != "journal-then-copy" || len(missing) != len(peers)-1 {
		t.Errorf("%d peers, %q missing, %v", len(some), missing, err)
	}
	o.only = []string{"btrfs"}
	if _, _, _, err := o.check(); status(err) != bench.PeersCannot || !strings.Contains(err.Error(), "btrfs-progs") {
		t.Errorf("asked for by name: %v", err)
	}
}

func TestWrongFlags(t *testing.T) {
	good := settings{loop: "tmpfs", size: "4GiB", seconds: 1, rounds: 1, full: 25, group: 1, output: "text"}
	for name, change := range map[string]func(*settings){
		"seconds": func(o *settings) { o.seconds = 0 },
		"rounds":  func(o *settings) { o.rounds = -1 },
		"size":    func(o *settings) { o.size = "1GiB" },
		"unit":    func(o *settings) { o.size = "4 furlongs" },
		"loop":    func(o *settings) { o.loop = "floppy" },
		"full":    func(o *settings) { o.full = 90 },
		"output":  func(o *settings) { o.output = "xml" },
		"only":    func(o *settings) { o.only = []string{"zfs"} },
	} {
		o := good
		change(&o)
		if _, _, _, err := o.check(); status(err) != bench.PeersCannot || !strings.Contains(err.Error(), "--") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLostBlockIsAnError: verify finds a block that is not what was put last.
func TestLostBlockIsAnError(t *testing.T) {
	s := memory{}
	w := newWork(3 * sampleEvery)
	w.s = s
	if err := w.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(); err != nil {
		t.Fatal(err)
	}
	s[sampleEvery] = s[sampleEvery+1]
	if err := w.verify(); err == nil {
		t.Error("a block that was lost is not noticed")
	}
}

// memory is a store that keeps everything, and can be made to lose.
type memory map[uint64][]byte

func (m memory) put(b uint64, data []byte) error { m[b] = data; return nil }
func (m memory) commit() error                   { return nil }
func (m memory) close() error                    { return nil }
func (m memory) get(b uint64, into []byte) error { copy(into, m[b]); return nil }
