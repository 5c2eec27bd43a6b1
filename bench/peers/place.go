package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/farside-storage/farside/internal/loopdev"
)

// medium is the loop device that all stores use in turn.
type medium struct {
	loop *loopdev.Device
	dir  string // mount points
	kind string
}

// newMedium makes a loop device with 4 KiB sectors on a file whose blocks are all there.
func newMedium(kind, dir string, size int64) (m *medium, err error) {
	if kind == "tmpfs" {
		dir = loopdev.Memory
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
	return m, m.touch(size)
}

// touch writes the device once, so that no store meets the first touch of its file's space.
func (m *medium) touch(size int64) error {
	f, err := os.OpenFile(m.loop.Path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	zeros := make([]byte, 4<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
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
func (m *medium) run(ctx context.Context, p peer, blocks uint64, f func(place) error) (err error) {
	at := place{device: m.loop.Path, blocks: blocks}
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
	if err := command(ctx, "mount", "-o", "noatime", at.device, m.dir); err != nil {
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

// command runs a program; what it prints is in the error.
func command(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
