package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// btrfsStore holds volumes as files of one subvolume, which is snapshot for each group.
type btrfsStore struct {
	ctx       context.Context
	dir       string
	files     []*os.File
	perVolume uint64
	n         int
}

func openBtrfs(ctx context.Context, at place) (_ store, err error) {
	s := &btrfsStore{ctx: ctx, dir: at.dir, perVolume: at.blocks / volumes}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := command(ctx, "btrfs", "subvolume", "create", s.live()); err != nil {
		return nil, err
	}
	for i := range volumes {
		f, err := os.OpenFile(filepath.Join(s.live(), fmt.Sprintf("volume%d", i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, f)
		if err := f.Truncate(int64(s.perVolume) * blockSize); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *btrfsStore) live() string { return filepath.Join(s.dir, "live") }
func (s *btrfsStore) snapshot(n int) string {
	return filepath.Join(s.dir, fmt.Sprintf("group%d", n))
}

func (s *btrfsStore) at(block uint64) (*os.File, int64) {
	return s.files[block/s.perVolume], int64(block%s.perVolume) * blockSize
}

func (s *btrfsStore) put(block uint64, data []byte) error {
	f, off := s.at(block)
	_, err := f.WriteAt(data, off)
	return err
}

// commit makes a snapshot, which holds what was written before it, and has it reach the device.
func (s *btrfsStore) commit() error {
	s.n++
	if err := command(s.ctx, "btrfs", "subvolume", "snapshot", "-r", s.live(), s.snapshot(s.n)); err != nil {
		return err
	}
	if err := command(s.ctx, "btrfs", "filesystem", "sync", s.dir); err != nil {
		return err
	}
	if s.n <= 2 {
		return nil
	}
	return command(s.ctx, "btrfs", "subvolume", "delete", s.snapshot(s.n-2))
}

func (s *btrfsStore) get(block uint64, into []byte) error {
	f, off := s.at(block)
	_, err := f.ReadAt(into, off)
	return err
}

func (s *btrfsStore) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
