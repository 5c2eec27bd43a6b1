package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/wire"
)

// received is what one run over the network came to.
type received struct {
	sentReport
	cpu  time.Duration // of this process, the secondary's, from the start of the sender to its report
	rate float64       // blocks per second
	note string
}

// overWire has another process be the primary of a volume that this process, a secondary, has filled before.
func (r *run) overWire(ctx context.Context, d time.Duration) (x received, err error) {
	err = inOwnThread(func() (err error) {
		x, err = r.overWireHere(ctx, d)
		return err
	})
	return x, err
}

func (r *run) overWireHere(ctx context.Context, d time.Duration) (x received, err error) {
	finals := make(chan uint64, 1024) // more than there are CGs
	s, err := newSession(r.dev, sessionOptions{full: r.o.Full, onFinal: func(cg uint64) { finals <- cg }})
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := errors.Join(s.fill(ctx), s.pool.Checkpoint(ctx), s.closeWriter()); err != nil {
		return x, err
	}
	x, err = s.serve(ctx, d, finals)
	if err != nil {
		return x, err
	}
	copy(s.sample, merge(s.sample, x.Sample))
	if err := s.verify(); err != nil {
		return x, err
	}
	x.rate = float64(x.Blocks) / x.Seconds
	x.note = fmt.Sprintf("volume of %d blocks over a pool %.0f %% full, %d CGs in %.1f s, %d cut late, %d cut early for want of room; a sample of the volume was read back and compared",
		s.blocks, 100*float64(s.blocks)/float64(s.poolBlocks), x.Last, x.Seconds, x.Late, x.Short)
	return x, nil
}

// merge puts what was sent last over what was there before.
func merge(before, sent []uint64) []uint64 {
	out := append([]uint64(nil), before...)
	for i, sum := range sent {
		if sum != 0 && i < len(out) {
			out[i] = sum
		}
	}
	return out
}

// serve is the secondary: the product's own, with its listener on loopback.
func (s *session) serve(ctx context.Context, d time.Duration, finals <-chan uint64) (x received, err error) {
	node, err := target.New(target.Options{Pool: s.pool, Name: "bench", Window: 64 << 20})
	if err != nil {
		return x, err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	defer func() {
		cancel()
		err = errors.Join(err, node.Close(), <-served)
	}()
	l, err := wire.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		served <- nil
		return x, err
	}
	go func() { served <- node.Serve(ctx, l) }()
	cpu := processCPU()
	a, err := assist("send", sendOrder{Address: l.Addr().String(), Group: groupName, Volume: volumeName, Blocks: s.blocks,
		CG: s.cg, Most: s.pool.FreeBlocks() / 3, Seconds: d.Seconds()})
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, a.kill()) }()
	err = s.follow(ctx, a, finals, &x.sentReport)
	x.cpu = processCPU() - cpu
	return x, err
}

// follow passes on which CG is final until the sender reports.
func (s *session) follow(ctx context.Context, a *assistant, finals <-chan uint64, report *sentReport) error {
	heard := make(chan error, 1)
	go func() { heard <- a.hear(ctx, report) }()
	for {
		select {
		case cg := <-finals:
			if err := a.tell(finalNote{cg}); err != nil {
				return errors.Join(err, <-heard)
			}
		case err := <-heard:
			return errors.Join(err, s.err())
		}
	}
}

func runWire(ctx context.Context, r *run) ([]Result, error) {
	var runs []received
	var floor, subject transferCost
	reps, err := r.alternate(ctx, func() (float64, error) {
		m, sender, err := r.receiveAndWrite(ctx, r.floorTime())
		floor.add(m.ops, sender, m.cpu)
		return m.perSecond(), err
	}, func() (float64, error) {
		x, err := r.overWire(ctx, r.duration())
		runs = append(runs, x)
		subject.add(x.Total, x.CPU, x.cpu)
		return x.rate, err
	})
	if err != nil {
		return nil, err
	}
	return []Result{result(Result{Name: "wire", Goal: "P2", Unit: "blocks/s", Target: atLeast(0.80),
		FloorName: "bytes of another process received over TCP on loopback into registered buffers, and written sequentially, 256 KiB at a time, one thread",
		Notes: []string{
			fmt.Sprintf("another process sends random updates of one block, %d in a frame; each block's checksum is verified here; a CG every second, linked and released when it is complete", frameUpdates),
			"counted are blocks that were acknowledged to the sender",
			fmt.Sprintf("processor time for a block, kernel threads not included: sender %.0f ns, receiver %.0f ns; the floor's sender %.0f ns, receiver %.0f ns",
				subject.sent(), subject.received(), floor.sent(), floor.received()),
			runs[len(runs)-1].note,
		}}, reps)}, nil
}

// transferCost is the processor time of both processes, from the start of the sender to its end.
type transferCost struct {
	blocks           uint64
	sender, receiver time.Duration
}

func (c *transferCost) add(blocks uint64, sender, receiver time.Duration) {
	c.blocks += blocks
	c.sender += sender
	c.receiver += receiver
}

// sent and received are nanoseconds for a block.
func (c *transferCost) sent() float64 { return float64(c.sender.Nanoseconds()) / float64(c.blocks) }
func (c *transferCost) received() float64 {
	return float64(c.receiver.Nanoseconds()) / float64(c.blocks)
}
