package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/ring"
)

// load is a bare pattern of device I/O over the region.
type load struct {
	op    ring.Op
	size  int // bytes of each request
	depth int
	// random places; otherwise one after the other, round the region.
	random bool
	// flush follows each request, alone: the latency of making one write durable.
	flush bool
	// once: the region is gone through once instead of for a time.
	once bool
	// start and end limit the region; end 0: all of it.
	start, end int64
}

// measured is what a load came to.
type measured struct {
	ops     uint64
	elapsed time.Duration
	cpu     time.Duration // of this process
}

// add makes m the sum of both.
func (m *measured) add(o measured) {
	m.ops += o.ops
	m.elapsed += o.elapsed
	m.cpu += o.cpu
}

func (m measured) perSecond() float64 { return float64(m.ops) / m.elapsed.Seconds() }

// nsPerOp is the wall time of one request.
func (m measured) nsPerOp() float64 { return float64(m.elapsed.Nanoseconds()) / float64(m.ops) }

// cpuPerOp is the processor time of one request, in nanoseconds.
func (m measured) cpuPerOp() float64 { return float64(m.cpu.Nanoseconds()) / float64(m.ops) }

// drive runs a load with one queue, from a thread of its own, with registered buffers and files and batched
// submission.
func drive(ctx context.Context, devs ring.Devices, l load, d time.Duration) (m measured, err error) {
	err = inOwnThread(func() (err error) {
		arena, err := ring.NewArena(l.depth * l.size)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, arena.Close()) }()
		newRandom(1).fill(arena.Bytes())
		q, err := devs.NewQueue(ring.QueueOptions{Depth: l.depth, Arenas: []*ring.Arena{arena}, Unwoken: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, q.Close()) }()
		b := &bare{load: l, q: q, mem: arena.Bytes(), rng: newRandom(uint64(time.Now().UnixNano()))}
		if b.end == 0 {
			b.end = devs.Info()[0].Size
		}
		b.places = uint64(b.end-b.start) / uint64(l.size)
		m, err = b.run(ctx, d)
		return err
	})
	return m, err
}

// inOwnThread runs f on a goroutine of its own: a queue locks its goroutine to a thread.
func inOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// bare runs a load. It belongs to one goroutine.
type bare struct {
	load
	q      ring.Queue
	mem    []byte
	rng    random
	places uint64
	next   uint64 // place, when sequential
	free   []uint64
	out    []ring.Completion
	done   uint64
}

func (b *bare) run(ctx context.Context, d time.Duration) (measured, error) {
	b.out = make([]ring.Completion, b.depth)
	for i := range b.depth {
		b.free = append(b.free, uint64(i))
	}
	cpu, start := processCPU(), time.Now()
	for {
		if err := b.round(); err != nil {
			return measured{}, err
		}
		if b.once && b.next >= b.places || !b.once && time.Since(start) >= d || ctx.Err() != nil {
			break
		}
	}
	err := b.drain()
	return measured{b.done, time.Since(start), processCPU() - cpu}, errors.Join(err, ctx.Err())
}

// round pushes as much as the queue holds and takes in what has ended.
func (b *bare) round() error {
	for len(b.free) > 0 && !(b.once && b.next >= b.places) {
		tag := b.free[len(b.free)-1]
		b.free = b.free[:len(b.free)-1]
		place := b.next % b.places
		b.next++
		if b.random {
			place = b.rng.below(b.places)
		}
		at := int(tag) * b.size
		if !b.q.Push(ring.Request{Op: b.op, Off: b.start + int64(place)*int64(b.size), Buf: b.mem[at : at+b.size], Tag: tag}) {
			return errors.New("the queue refused a request below its depth")
		}
	}
	// Waiting for a part of them keeps the batches large: one system call for many requests.
	if err := b.reap(max(1, min(b.depth/8, b.q.InFlight()))); err != nil {
		return err
	}
	if b.flush {
		return b.doFlush()
	}
	return nil
}

func (b *bare) doFlush() error {
	if !b.q.Push(ring.Request{Op: ring.OpFlush}) {
		return errors.New("the queue refused a flush")
	}
	n, err := b.q.Reap(b.out, 1)
	if err == nil && n == 1 {
		err = b.out[0].Err
	}
	return err
}

func (b *bare) reap(least int) error {
	n, err := b.q.Reap(b.out, least)
	if err != nil {
		return err
	}
	for _, c := range b.out[:n] {
		if c.Err != nil {
			return c.Err
		}
		b.free = append(b.free, c.Tag)
		b.done++
	}
	return nil
}

func (b *bare) drain() error {
	for b.q.InFlight() > 0 {
		if err := b.reap(1); err != nil {
			return err
		}
	}
	return nil
}

// processCPU is the processor time that this process has used, all threads together. The kernel's
// own threads (a loop device's, for instance) are not in it.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("bench: getrusage: %v", err)) // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// random is PCG by its own type and not behind rand.Rand: two nanoseconds for a place instead of five, so that it does
// not show in what is measured.
type random struct{ rand.PCG }

func newRandom(seed uint64) random { return random{*rand.NewPCG(seed, seed)} }

// below returns a number below n.
func (r *random) below(n uint64) uint64 {
	below, _ := bits.Mul64(r.Uint64(), n)
	return below
}

// fill makes contents that do not compress; r does not move on.
func (r random) fill(mem []byte) {
	for i := 0; i+8 <= len(mem); i += 8 {
		binary.LittleEndian.PutUint64(mem[i:], r.Uint64())
	}
}
