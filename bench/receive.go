package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// pourOrder has an assistant send bytes without end.
type pourOrder struct{ Address string }

// pourPiece is what one write to the socket has: as much as a frame of updates.
const pourPiece = 1 << 20

// pourBytes is the sender of the floor: the same bytes again and again, as fast as they are taken.
func pourBytes(ctx context.Context, a *assignment) error {
	var o pourOrder
	if err := a.in.Decode(&o); err != nil {
		return err
	}
	nc, err := net.Dial("tcp", o.Address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { nc.Close() })
	mem := make([]byte, 8<<20)
	newRandom(5).fill(mem)
	for at := 0; ; at = (at + pourPiece) % len(mem) {
		if _, err := nc.Write(mem[at : at+pourPiece]); err != nil {
			return nil // the other side has seen enough
		}
	}
}

// receiveFloor is receiveAndWrite, the rate alone.
func (r *run) receiveFloor(ctx context.Context, d time.Duration) (measured, error) {
	m, _, err := r.receiveAndWrite(ctx, d)
	return m, err
}

// receiveAndWrite: bytes that another process sends over TCP on loopback are received into registered buffers and
// written one after the other, 256 KiB at a time. It returns the processor time of the other process, too, as if it
// had been as long as this one's.
func (r *run) receiveAndWrite(ctx context.Context, d time.Duration) (m measured, sender time.Duration, err error) {
	l, err := wire.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return m, 0, err
	}
	defer l.Close()
	a, err := assist("pour", pourOrder{l.Addr().String()})
	if err != nil {
		return m, 0, err
	}
	defer func() { err = errors.Join(err, a.kill()) }()
	nc, err := acceptWithin(l, assistantGrace)
	if err != nil {
		return m, 0, a.failed(err)
	}
	defer nc.Close()
	var all uint64
	if err := inOwnThread(func() (err error) {
		m, all, err = r.receive(ctx, nc, d)
		return err
	}); err != nil {
		return m, 0, err
	}
	if err := a.kill(); err != nil {
		return m, 0, err
	}
	s := a.command.ProcessState
	return m, time.Duration(float64(s.UserTime()+s.SystemTime()) * float64(m.ops) / float64(all)), nil
}

func acceptWithin(l net.Listener, d time.Duration) (net.Conn, error) {
	if t, ok := l.(*net.TCPListener); ok {
		if err := t.SetDeadline(time.Now().Add(d)); err != nil {
			return nil, err
		}
	}
	nc, err := l.Accept()
	if err != nil {
		return nil, fmt.Errorf("it did not connect: %w", err)
	}
	return nc, nil
}

// receive returns how many blocks there were in all, too.
func (r *run) receive(ctx context.Context, nc net.Conn, d time.Duration) (m measured, all uint64, err error) {
	arena, err := ring.NewArena(sequentialDepth * sequentialPiece)
	if err != nil {
		return m, 0, err
	}
	defer func() { err = errors.Join(err, arena.Close()) }()
	q, err := r.dev.NewQueue(ring.QueueOptions{Depth: sequentialDepth, Arenas: []*ring.Arena{arena}})
	if err != nil {
		return m, 0, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	p := &pipeline{nc: nc, bare: bare{load: load{op: ring.OpWrite, size: sequentialPiece, depth: sequentialDepth}, q: q, mem: arena.Bytes(),
		places: uint64(r.dev.region()) / sequentialPiece, out: make([]ring.Completion, sequentialDepth)}}
	for i := range uint64(sequentialDepth) {
		p.free = append(p.free, i)
	}
	if err := p.runFor(ctx, d/4); err != nil { // the connection gets going
		return m, 0, err
	}
	before, cpu, start := p.done, processCPU(), time.Now()
	err = p.runFor(ctx, d)
	m = measured{(p.done - before) * pieceBlocks, time.Since(start), processCPU() - cpu}
	return m, p.done * pieceBlocks, err
}

// pipeline receives and writes; it belongs to one goroutine.
type pipeline struct {
	bare
	nc net.Conn
}

// runFor ends with everything written.
func (p *pipeline) runFor(ctx context.Context, d time.Duration) error {
	for start := time.Now(); time.Since(start) < d && ctx.Err() == nil; {
		if err := p.step(); err != nil {
			return err
		}
	}
	return errors.Join(p.drain(), ctx.Err())
}

// step receives one piece and starts its write.
func (p *pipeline) step() error {
	least := 0
	if len(p.free) == 0 {
		least = 1
	}
	if err := p.reap(least); err != nil {
		return err
	}
	tag := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	buf := p.mem[int(tag)*p.size : (int(tag)+1)*p.size]
	if _, err := io.ReadFull(p.nc, buf); err != nil {
		return err
	}
	if !p.q.Push(ring.Request{Op: ring.OpWrite, Off: int64(p.next%p.places) * int64(p.size), Buf: buf, Tag: tag}) {
		return errors.New("the queue refused a request below its depth")
	}
	p.next++
	return p.q.Submit()
}
