package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// sendOrder has an assistant be the primary of one volume.
type sendOrder struct {
	Address string
	Group   string
	Volume  string
	Blocks  uint64 // of the volume
	CG      uint64 // the open one
	Most    uint64 // updates of one CG
	Seconds float64
}

// finalNote tells the sender which CG is final: it cuts the next one only then, as a manager would have it.
type finalNote struct{ Final uint64 }

// sentReport is what the sender did. It comes when every update is acknowledged.
type sentReport struct {
	Blocks  uint64  // acknowledged in Seconds
	Seconds float64 // from the first cut to the last
	Last    uint64  // CG
	Late    uint64  // CGs that were cut late because the one before was not final
	Short   uint64  // CGs that were cut before their time because they had the most updates
	Sample  []uint64
	Total   uint64        // blocks acknowledged, those before and after Seconds too
	CPU     time.Duration // of the sender, for all of these
}

// frameUpdates is how many updates of one block one frame has.
const frameUpdates = 256

// sender streams random updates.
type sender struct {
	sendOrder
	conn   *wire.Conn
	batch  wire.Batch
	digest wire.Digest
	rng    random
	mem    []byte
	sums   []uint64 // of the blocks of mem
	page   int
	seq    uint64
	put    uint64 // of the open CG
	window uint64
	sample []uint64
	report sentReport

	mu    sync.Mutex
	turn  *sync.Cond // something below changed
	acked uint64     // newest acknowledged frame
	final uint64
	err   error
	ends  []frameEnd // of frames that are not acknowledged
	sent  uint64     // payload bytes
	taken uint64     // of these, acknowledged
}

// frameEnd is how many payload bytes were sent up to a frame.
type frameEnd struct{ seq, bytes uint64 }

func sendUpdates(ctx context.Context, a *assignment) error {
	s := &sender{rng: newRandom(6)}
	s.turn = sync.NewCond(&s.mu)
	if err := a.in.Decode(&s.sendOrder); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.conn.Close()
	context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	s.prepare()
	go s.takeCredits()
	go s.takeNotes(a)
	if err := s.run(); err != nil {
		return err
	}
	s.report.Last, s.report.Sample = s.CG-1, s.sample
	s.report.Total, s.report.CPU = s.takenBytes()/engine.BlockSize, processCPU()
	if err := a.out.Encode(s.report); err != nil {
		return err
	}
	<-ctx.Done() // closing the connection earlier would end the stream before the last CG is final
	return nil
}

func (s *sender) connect(ctx context.Context) (err error) {
	if s.conn, err = wire.Dial(ctx, s.Address, wire.Options{}); err != nil {
		return err
	}
	id := wire.UUID{1}
	if _, err := s.conn.Handshake(wire.Hello{Role: wire.RolePrimary, Node: "bench", Instance: id}); err != nil {
		return err
	}
	attach := wire.Attach{Group: s.Group, Stream: id, Volumes: []wire.VolumeRef{{Name: s.Volume, Size: s.Blocks * engine.BlockSize}}}
	if err := s.conn.WriteMessage(&attach); err != nil {
		return err
	}
	h, body, err := s.conn.Next()
	if err != nil {
		return err
	}
	var attached wire.Attached
	if h.Type != wire.TypeAttached {
		return fmt.Errorf("the secondary answered Attach with %v", h.Type)
	}
	if err := wire.DecodeInto(&attached, body); err != nil {
		return err
	}
	s.window = attached.Window
	return nil
}

// prepare makes the payload: 8 MiB, of which every block has its checksum beside it, as a primary has it from the
// host's write.
func (s *sender) prepare() {
	s.mem = make([]byte, 8<<20)
	r := newRandom(7)
	r.fill(s.mem)
	for at := 0; at < len(s.mem); at += engine.BlockSize {
		s.sums = append(s.sums, engine.Sum(s.mem[at:at+engine.BlockSize]))
	}
	s.sample = make([]uint64, s.Blocks/sampleEvery+1)
}

// fail ends the run; the first reason counts.
func (s *sender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.turn.Broadcast()
}

func (s *sender) takeCredits() {
	var credit wire.Credit
	for {
		h, body, err := s.conn.Next()
		if err == nil && h.Type != wire.TypeCredit {
			err = fmt.Errorf("%v frame where credits are expected", h.Type)
		}
		if err == nil {
			err = wire.DecodeInto(&credit, body)
		}
		if err != nil {
			s.fail(err)
			return
		}
		s.acknowledged(credit.Applied)
	}
}

func (s *sender) acknowledged(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, seq)
	n := 0
	for n < len(s.ends) && s.ends[n].seq <= seq {
		s.taken = s.ends[n].bytes
		n++
	}
	s.ends = append(s.ends[:0], s.ends[n:]...)
	s.turn.Broadcast()
}

func (s *sender) takeNotes(a *assignment) {
	for {
		var n finalNote
		if err := a.in.Decode(&n); err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.final = n.Final
		s.turn.Broadcast()
		s.mu.Unlock()
	}
}

// await waits until done holds, which is called with mu held.
func (s *sender) await(done func() bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && !done() {
		s.turn.Wait()
	}
	return s.err
}

func (s *sender) isFinal(cg uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.final >= cg
}

// run sends one CG to get going, then updates for the time that was ordered.
func (s *sender) run() error {
	if err := s.sendFor(cutEvery); err != nil {
		return err
	}
	begin, before := time.Now(), s.takenBytes()
	if err := s.sendFor(time.Duration(s.Seconds * float64(time.Second))); err != nil {
		return err
	}
	s.report.Seconds = time.Since(begin).Seconds()
	s.report.Blocks = (s.takenBytes() - before) / engine.BlockSize
	return s.await(func() bool { return s.acked == s.seq && s.final >= s.CG-1 })
}

func (s *sender) takenBytes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// sendFor sends updates for at least d, and ends with a cut.
func (s *sender) sendFor(d time.Duration) error {
	begin := time.Now()
	next := begin.Add(min(d, cutEvery))
	for {
		if err := s.frame(); err != nil {
			return err
		}
		now := time.Now()
		full := s.put+frameUpdates > s.Most
		if now.Before(next) && !full {
			continue
		}
		if !s.isFinal(s.CG - 1) {
			if !full {
				if now.After(next.Add(cutEvery / 10)) {
					s.report.Late++
					next = now
				}
				continue
			}
			if err := s.await(func() bool { return s.final >= s.CG-1 }); err != nil {
				return err
			}
		}
		if full && now.Before(next) {
			s.report.Short++
		}
		if err := s.cut(); err != nil {
			return err
		}
		if now.Sub(begin) >= d {
			return nil
		}
		next = now.Add(cutEvery)
	}
}

// frame sends one frame of updates, once the window has room for it.
func (s *sender) frame() error {
	s.batch.Reset(s.CG)
	for range frameUpdates {
		v := s.rng.below(s.Blocks)
		sums := s.sums[s.page : s.page+1]
		u := wire.Update{Block: v, Count: 1}
		if err := s.batch.Add(u, sums, s.mem[s.page*engine.BlockSize:(s.page+1)*engine.BlockSize]); err != nil {
			return err
		}
		s.digest.AddUpdate(u, sums)
		if v%sampleEvery == 0 {
			s.sample[v/sampleEvery] = sums[0]
		}
		s.page = (s.page + 1) % len(s.sums)
	}
	s.put += frameUpdates
	const bytes = frameUpdates * engine.BlockSize
	if err := s.await(func() bool { return s.sent+bytes-s.taken <= s.window }); err != nil {
		return err
	}
	return s.write(bytes, func(seq uint64) error { return s.conn.WriteUpdates(&s.batch, seq) })
}

// write sends the next frame of the stream.
func (s *sender) write(bytes uint64, frame func(seq uint64) error) error {
	s.seq++
	s.mu.Lock()
	s.sent += bytes
	s.ends = append(s.ends, frameEnd{s.seq, s.sent})
	s.mu.Unlock()
	if err := frame(s.seq); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return errors.Join(err, s.err)
	}
	return nil
}

// cut ends the open CG.
func (s *sender) cut() error {
	m := &wire.Manifest{CG: s.CG, Volumes: []wire.VolumeManifest{s.digest.Manifest(0)}}
	if err := s.write(0, func(seq uint64) error { return s.conn.WriteStream(m, seq) }); err != nil {
		return err
	}
	s.digest.Reset()
	s.CG++
	s.put = 0
	return nil
}
