package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/internal/loopdev"
)

// medium is the loop device that all stores use in turn.
type medium struct {
	loop *loopdev.Device
	dir  string // mount points
	kind string
}

// newMedium makes a loop device with 4 KiB sectors on a file whose blocks are all there.
func newMedium(ctx context.Context, kind, dir string, size int64) (m *medium, err error) {
	if kind == "tmpfs" {
		dir = loopdev.Memory
	} else if dir == "" {
		dir = os.TempDir()
	}
	if err := bench.RoomFor(dir, size); err != nil {
		return nil, &cannot{err}
	}
	f, err := os.CreateTemp(dir, "farside-peers-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer os.Remove(f.Name()) // once attached it needs no name
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	m = &medium{kind: kind}
	if m.loop, err = loopdev.Attach(f.Name(), loopdev.Options{BlockSize: blockSize}); err != nil {
		return nil, err
	}
	if m.dir, err = os.MkdirTemp("", "farside-peers-"); err != nil {
		return nil, errors.Join(err, m.loop.Detach())
	}
	if err := m.touch(ctx, size); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// touch writes the device once, so that no store meets the first touch of its file's space.
func (m *medium) touch(ctx context.Context, size int64) (err error) {
	f, err := os.OpenFile(m.loop.Path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zeros := make([]byte, 4<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (m *medium) close() error {
	return errors.Join(m.loop.Detach(), os.Remove(m.dir))
}

// run gives f the device as the peer wants it, and takes it back.
func (m *medium) run(ctx context.Context, p peer, blocks uint64, group int, f func(place) error) (err error) {
	at := place{device: m.loop.Path, blocks: blocks, group: group}
	if p.fs == "" {
		return f(at)
	}
	mkfs := []string{"mkfs." + p.fs, "-q", "-F", at.device}
	if p.fs == "btrfs" {
		mkfs = []string{"mkfs.btrfs", "-q", "-f", "-K", at.device}
	} else {
		mkfs = append(mkfs, "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")
	}
	if err := command(ctx, mkfs...); err != nil {
		return err
	}
	// Not to be interrupted in the middle: it must be known whether there is something to take back.
	if err := command(context.WithoutCancel(ctx), "mount", "-o", "noatime", at.device, m.dir); err != nil {
		return err
	}
	at.dir = m.dir
	defer func() { err = errors.Join(err, command(context.Background(), "umount", m.dir)) }()
	return f(at)
}

// missing says which programs of a peer are not there.
func (p peer) missing() error {
	for program, pkg := range p.needs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s needs %s: apt-get install %s", p.name, program, pkg)
		}
	}
	return nil
}

// command runs a program; what it prints is in the error. An interrupt from the keyboard is not for it, but for this
// process, which ends what it started in its order.
func command(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// ownMountsVariable is set in a process that has its mounts for itself.
const ownMountsVariable = "FARSIDE_PEERS_OWN_MOUNTS"

// The first thread is main's: what unshare does holds for one thread, and so does the signal at a parent's death.
func init() { runtime.LockOSThread() }

// ownMounts starts this program again in a mount namespace of its own: what it mounts, and with that its loop device,
// goes with it even if it is killed. Where that is not allowed it goes on as it is.
func ownMounts() error {
	if os.Getenv(ownMountsVariable) != "" || os.Geteuid() != 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if syscall.Unshare(syscall.CLONE_NEWNS) != nil || syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") != nil {
		return nil
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), ownMountsVariable+"=1"))
}
