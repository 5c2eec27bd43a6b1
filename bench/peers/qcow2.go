package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/farside-storage/farside/internal/nbdclient"
)

const connections = 16 // to each image, one write in flight on each

// qcow2Store writes to qcow2 images through qemu-nbd.
type qcow2Store struct {
	perVolume uint64
	servers   []*exec.Cmd
	workers   []*qcow2Worker // connections for each volume, volume after volume
	flying    sync.WaitGroup
}

// qcow2Worker is one connection. A block always goes to the same one, so that updates of a block keep their order.
type qcow2Worker struct {
	c    *nbdclient.Client
	in   chan blockWrite
	done chan struct{}
	mu   sync.Mutex
	err  error
}

type blockWrite struct {
	off  int64
	data []byte
}

func openQcow2(ctx context.Context, at place) (_ store, err error) {
	s := &qcow2Store{perVolume: at.blocks / volumes}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for i := range volumes {
		image, socket := filepath.Join(at.dir, fmt.Sprintf("volume%d.qcow2", i)), filepath.Join(at.dir, fmt.Sprintf("volume%d.sock", i))
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, fmt.Sprint(s.perVolume*blockSize)); err != nil {
			return nil, err
		}
		cmd := exec.Command("qemu-nbd", "-f", "qcow2", "-k", socket, "-e", fmt.Sprint(connections), "--cache=none", "--aio=native", "-t", image)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // an interrupt is ours to handle
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		s.servers = append(s.servers, cmd)
		if err := s.connect(ctx, socket); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *qcow2Store) connect(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for range connections {
		c, err := dial(ctx, socket)
		if err != nil {
			return err
		}
		w := &qcow2Worker{c: c, in: make(chan blockWrite, 4), done: make(chan struct{})}
		s.workers = append(s.workers, w)
		go w.run(&s.flying)
	}
	return nil
}

// dial waits for the server to listen.
func dial(ctx context.Context, socket string) (*nbdclient.Client, error) {
	for {
		c, err := nbdclient.Dial(ctx, "unix:"+socket, "")
		var refused *net.OpError
		if err == nil || !errors.As(err, &refused) || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (w *qcow2Worker) run(flying *sync.WaitGroup) {
	defer close(w.done)
	for b := range w.in {
		if _, err := w.c.WriteAt(b.data, b.off); err != nil {
			w.mu.Lock()
			w.err = errors.Join(w.err, err)
			w.mu.Unlock()
		}
		flying.Done()
	}
}

func (w *qcow2Worker) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (s *qcow2Store) worker(block uint64) (*qcow2Worker, int64) {
	return s.workers[block/s.perVolume*connections+block%connections], int64(block%s.perVolume) * blockSize
}

func (s *qcow2Store) put(block uint64, data []byte) error {
	w, off := s.worker(block)
	s.flying.Add(1)
	w.in <- blockWrite{off, data}
	return nil
}

func (s *qcow2Store) commit() error {
	s.flying.Wait()
	var errs []error
	for i, w := range s.workers {
		errs = append(errs, w.failure())
		if i%connections == 0 { // one flush is one image's
			errs = append(errs, w.c.Flush())
		}
	}
	return errors.Join(errs...)
}

func (s *qcow2Store) get(block uint64, into []byte) error {
	w, off := s.worker(block)
	_, err := w.c.ReadAt(into, off)
	return err
}

func (s *qcow2Store) close() error {
	var errs []error
	for _, w := range s.workers {
		close(w.in)
		<-w.done
		errs = append(errs, w.c.Close())
	}
	for _, cmd := range s.servers {
		errs = append(errs, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() > 0 {
			errs = append(errs, fmt.Errorf("qemu-nbd: %w", err))
		}
	}
	return errors.Join(errs...)
}
