package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// farside is the engine, as the control process uses it: updates of group n+1 arrive while n is made complete, linked
// and released. It verifies the checksum of each block, which would come with it over the wire.
type farside struct {
	ctx       context.Context
	devs      ring.Devices
	pool      *engine.Pool
	group     *engine.Group
	vols      []*engine.Volume
	w         *engine.Writer
	perVolume uint64
	cg        uint64
	sums      map[*byte]uint64 // of what stands in the writer's memory
	mem       []byte
	sum       [1]uint64

	complete chan uint64
	final    chan uint64
	newest   uint64
	failed   atomic.Pointer[error]
	ended    chan struct{}
}

func openFarside(ctx context.Context, at place) (_ store, err error) {
	s := &farside{ctx: ctx, perVolume: at.blocks / volumes, cg: 1, sums: map[*byte]uint64{},
		complete: make(chan uint64, 4), final: make(chan uint64, 4), ended: make(chan struct{})}
	go s.manage()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.devs, err = ring.Open([]string{at.device}, ring.OpenOptions{Kind: ring.Uring}); err != nil {
		return nil, err
	}
	if _, err = engine.Format(s.devs, engine.FormatOptions{Name: "peers"}); err != nil {
		return nil, err
	}
	if s.pool, err = engine.Open(s.devs, engine.Options{OnComplete: func(_ string, cg uint64) { s.complete <- cg }, OnFailure: s.fail}); err != nil {
		return nil, err
	}
	if s.w, err = s.pool.NewWriter(); err != nil {
		return nil, err
	}
	for i := range volumes {
		v, err := s.pool.CreateVolume(ctx, "peers", fmt.Sprintf("volume%d", i), s.perVolume*blockSize)
		if err != nil {
			return nil, err
		}
		s.vols = append(s.vols, v)
		if err := s.w.Bind(v); err != nil {
			return nil, err
		}
	}
	s.group = s.vols[0].Group()
	return s, nil
}

func (s *farside) fail(err error) { s.failed.CompareAndSwap(nil, &err) }

func (s *farside) failure() error {
	if e := s.failed.Load(); e != nil {
		return *e
	}
	return nil
}

// manage does the replication manager's part.
func (s *farside) manage() {
	defer close(s.ended)
	for cg := range s.complete {
		c := engine.Command{Epoch: 1, CG: cg}
		err := s.group.Link(context.Background(), c)
		if err == nil {
			err = s.group.Release(context.Background(), c)
		}
		if err != nil {
			s.fail(err)
		}
		s.final <- cg
	}
}

func (s *farside) space() (mem []byte, err error) {
	for {
		s.mem, err = s.w.Space(1)
		if err == nil {
			s.know()
			return s.mem, nil
		}
		if errors.Is(err, engine.ErrPoolFull) {
			err = s.makeRoom()
		}
		if err != nil {
			return nil, err
		}
	}
}

// know fills memory that is seen for the first time and computes its checksum: the primary would have sent it along.
func (s *farside) know() {
	sum, known := s.sums[&s.mem[0]]
	if !known {
		contentsFrom(uint64(len(s.sums)), s.mem)
		sum = engine.Sum(s.mem)
		s.sums[&s.mem[0]] = sum
	}
	s.sum[0] = sum
}

// makeRoom ends the group early, so that what it displaces comes back.
func (s *farside) makeRoom() error {
	if err := s.commit(); err != nil {
		return err
	}
	if err := s.await(s.cg - 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Millisecond)
	defer cancel()
	if err := s.pool.WaitSpace(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (s *farside) take(block uint64) error {
	return s.w.Put(s.vols[block/s.perVolume], s.cg, engine.VBlock(block%s.perVolume), s.sum[:])
}

func (s *farside) put(uint64, []byte) error { return errors.New("farside receives") }

// commit ends the open group once the one before it is final, and does not wait for its own.
func (s *farside) commit() error {
	if err := s.await(s.cg - 1); err != nil {
		return err
	}
	if err := s.w.Seal(s.cg, s.vols...); err != nil {
		return err
	}
	s.cg++
	return nil
}

func (s *farside) await(cg uint64) error {
	for s.newest < cg {
		select {
		case s.newest = <-s.final:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		if err := s.failure(); err != nil {
			return err
		}
	}
	return s.failure()
}

func (s *farside) get(block uint64, into []byte) error {
	if err := s.await(s.cg - 1); err != nil {
		return err
	}
	_, err := s.vols[block/s.perVolume].ReadAt(into, int64(block%s.perVolume)*blockSize)
	return err
}

func (s *farside) close() error {
	var errs []error
	if s.w != nil {
		errs = append(errs, s.w.Close())
	}
	if s.pool != nil {
		errs = append(errs, s.pool.Close())
	}
	if s.devs != nil {
		errs = append(errs, s.devs.Close())
	}
	close(s.complete)
	<-s.ended
	return errors.Join(errs...)
}
