package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// What a session's pool, group and volume are called.
const (
	poolName   = "farside-bench"
	groupName  = "bench"
	volumeName = "volume"
)

const (
	// cutEvery is the interval of CGs that the goals ask for.
	cutEvery = time.Second
	// sampleEvery: of every so many blocks one is read back and compared at the end.
	sampleEvery = 1021
	// fillCG is how many blocks one CG of the first fill has at most.
	fillCG = 1 << 20
)

// session is a pool with one volume, and the writer that feeds it. It belongs to the goroutine
// that called openSession, but for what the committer does.
type session struct {
	pool  *engine.Pool
	group *engine.Group
	vol   *engine.Volume
	w     *engine.Writer
	// blocks of the volume, and those of the pool that can hold data.
	blocks, poolBlocks uint64
	cg                 uint64 // open
	put                uint64 // updates of the open CG
	rng                random
	pay                payload
	one                [1]uint64
	many               [pieceBlocks]uint64
	runs               [pieceBlocks]engine.Run
	// sample is the checksum that block i*sampleEvery must have; 0: never written.
	sample []uint64

	complete chan uint64   // CGs that became complete
	final    atomic.Uint64 // newest final CG
	turned   chan struct{} // a CG became final, or failed is set
	failed   atomic.Pointer[error]
	ended    chan struct{}
	onFinal  func(cg uint64)
	onBatch  func(now time.Time) // called now and then while updates are put, if set
	hold     atomic.Bool         // complete CGs are not committed from now on
	held     atomic.Bool         // one such became complete

	early, late uint64 // CGs cut before their time for want of room, and after it because the one before was not final
}

// payload knows the checksums of what stands in the writer's buffers, as a primary would have sent
// them along. A buffer's contents are made when it is first seen and stay the same from then on.
type payload struct {
	page [pages]uintptr
	sum  [pages]uint64
	rng  random
}

// pages is how many blocks a writer's buffers hold: they are one run of memory, so that the low bits
// of the page number tell them apart.
const pages = 2048

func (p *payload) sumOf(mem []byte) uint64 {
	page := uintptr(unsafe.Pointer(&mem[0])) / engine.BlockSize
	i := page % pages
	if p.page[i] != page {
		p.rng.Uint64()
		p.rng.fill(mem[:engine.BlockSize])
		p.page[i], p.sum[i] = page, engine.Sum(mem[:engine.BlockSize])
	}
	return p.sum[i]
}

// journalBytes is 2 % of the device, and enough for two CGs of 10^6 updates where that is less than an eighth of it.
func journalBytes(device int64) int64 {
	const two = 64 << 20
	return max(device/50, min(two, device/8)) / engine.BlockSize * engine.BlockSize
}

// sessionOptions say what pool and volume a session has.
type sessionOptions struct {
	blocks uint64 // of the volume; 0: so many that it fills full percent of the pool
	full   int
	// virtual is how many bytes of densely written volumes the table area can describe; 0: what engine chooses.
	virtual int64
	// readInto is memory that reads are made into.
	readInto *ring.Arena
	// onFinal, if set, is told of each CG that became final, by the committer.
	onFinal func(cg uint64)
}

func (o *sessionOptions) arenas() []*ring.Arena {
	if o.readInto == nil {
		return nil
	}
	return []*ring.Arena{o.readInto}
}

// openSession formats the device, opens the pool and makes a volume of so many blocks; 0: so many
// that it fills full percent of the pool.
func openSession(d *device, blocks uint64, full int) (*session, error) {
	return newSession(d, sessionOptions{blocks: blocks, full: full})
}

func newSession(d *device, o sessionOptions) (s *session, err error) {
	devs := d.forPool()
	format := engine.FormatOptions{Name: poolName, JournalBytes: journalBytes(devs.Info()[0].Size), VirtualBytes: o.virtual}
	if _, err := engine.Format(devs, format); err != nil {
		return nil, err
	}
	s = &session{cg: 1, rng: newRandom(3), onFinal: o.onFinal, complete: make(chan uint64, 64),
		turned: make(chan struct{}, 1), ended: make(chan struct{})}
	s.pay.rng = newRandom(4)
	s.pool, err = engine.Open(devs, engine.Options{
		OnComplete: func(_ string, cg uint64) { s.complete <- cg },
		OnFailure:  s.fail,
		ReadArenas: o.arenas(),
	})
	if err != nil {
		return nil, err
	}
	s.poolBlocks = s.pool.FreeBlocks()
	if s.blocks = o.blocks; s.blocks == 0 {
		s.blocks = s.poolBlocks * uint64(o.full) / 100 / pieceBlocks * pieceBlocks
	}
	s.sample = make([]uint64, s.blocks/sampleEvery+1)
	if err := s.openVolume(); err != nil {
		return nil, errors.Join(err, s.pool.Close())
	}
	go s.commit()
	return s, nil
}

func (s *session) openVolume() (err error) {
	if s.vol, err = s.pool.CreateVolume(context.Background(), groupName, volumeName, s.blocks*engine.BlockSize); err != nil {
		return err
	}
	s.group = s.vol.Group()
	if s.w, err = s.pool.NewWriter(); err != nil {
		return err
	}
	if err = s.w.Bind(s.vol); err != nil {
		return errors.Join(err, s.w.Close())
	}
	return nil
}

func (s *session) fail(err error) {
	s.failed.CompareAndSwap(nil, &err)
	s.turn()
}

func (s *session) turn() {
	select {
	case s.turned <- struct{}{}:
	default:
	}
}

// commit does the replication manager's part: what is complete is linked and released.
func (s *session) commit() {
	defer close(s.ended)
	for cg := range s.complete {
		if s.hold.Load() {
			s.held.Store(true)
			s.turn()
			continue
		}
		c := engine.Command{Epoch: 1, CG: cg}
		err := s.group.Link(context.Background(), c)
		if err == nil {
			err = s.group.Release(context.Background(), c)
		}
		if err != nil {
			s.fail(err)
			continue
		}
		s.final.Store(cg)
		s.turn()
		if s.onFinal != nil {
			s.onFinal(cg)
		}
	}
}

func (s *session) err() error {
	if e := s.failed.Load(); e != nil {
		return *e
	}
	return nil
}

// awaitFinal waits until every sealed CG is final.
func (s *session) awaitFinal(ctx context.Context) error {
	for s.final.Load() < s.cg-1 {
		if err := s.err(); err != nil {
			return err
		}
		select {
		case <-s.turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.err()
}

// cut ends the open CG; the one before must be final.
func (s *session) cut() error {
	if err := s.w.Seal(s.cg, s.vol); err != nil {
		return err
	}
	s.cg++
	s.put = 0
	return nil
}

func (s *session) putAt(v engine.VBlock) error {
	mem, err := s.w.Space(1)
	if err != nil {
		return err
	}
	sum := s.pay.sumOf(mem)
	s.one[0] = sum
	if v%sampleEvery == 0 {
		s.sample[v/sampleEvery] = sum
	}
	s.put++
	return s.w.Put(s.vol, s.cg, v, s.one[:])
}

// updates puts up to most random blocks, as many as there is memory for at once, the way a receiver puts what one
// read from its socket brought. It returns how many.
func (s *session) updates(most int) (int, error) {
	return s.putSome(most, func() engine.VBlock { return engine.VBlock(s.rng.below(s.blocks)) })
}

// putSome puts up to most blocks, at most pieceBlocks, where next says.
func (s *session) putSome(most int, next func() engine.VBlock) (int, error) {
	mem, err := s.w.Space(min(most, pieceBlocks))
	if err != nil {
		return 0, err
	}
	n := len(mem) / engine.BlockSize
	for i := range n {
		v := next()
		sum := s.pay.sumOf(mem[i*engine.BlockSize:])
		if v%sampleEvery == 0 {
			s.sample[v/sampleEvery] = sum
		}
		s.runs[i], s.many[i] = engine.Run{Volume: s.vol, First: v, Blocks: 1}, sum
	}
	s.put += uint64(n)
	return n, s.w.PutAll(s.cg, s.runs[:n], s.many[:n])
}

// makeRoom is called when the pool is full: the open CG is cut early, so that what it displaces comes back.
func (s *session) makeRoom(ctx context.Context) error {
	if err := s.awaitFinal(ctx); err != nil {
		return err
	}
	if s.put > 0 {
		s.early++
		if err := s.cut(); err != nil {
			return err
		}
	}
	// Blocks may have come back before the wait begins: look again soon, whatever happens.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if err := s.pool.WaitSpace(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// fill maps every block of the volume, in order.
func (s *session) fill(ctx context.Context) error {
	for v := uint64(0); v < s.blocks; {
		mem, err := s.w.Space(int(min(pieceBlocks, s.blocks-v)))
		if err != nil {
			return fmt.Errorf("first fill at block %d of %d: %w", v, s.blocks, err)
		}
		n := len(mem) / engine.BlockSize
		for i := range n {
			s.many[i] = s.pay.sumOf(mem[i*engine.BlockSize:])
			if b := v + uint64(i); b%sampleEvery == 0 {
				s.sample[b/sampleEvery] = s.many[i]
			}
		}
		if err := s.w.Put(s.vol, s.cg, engine.VBlock(v), s.many[:n]); err != nil {
			return err
		}
		v += uint64(n)
		if s.put += uint64(n); s.put >= fillCG || v == s.blocks {
			if err := errors.Join(s.cut(), s.awaitFinal(ctx)); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// updateFor puts random updates for at least d, and ends with a cut.
func (s *session) updateFor(ctx context.Context, d time.Duration) error {
	begin := time.Now()
	next := begin.Add(min(d, cutEvery))
	for {
		for left := pieceBlocks; left > 0; {
			n, err := s.updates(left)
			if errors.Is(err, engine.ErrPoolFull) {
				err = s.makeRoom(ctx)
			}
			if err != nil {
				return err
			}
			left -= n
		}
		now := time.Now()
		if s.onBatch != nil {
			s.onBatch(now)
		}
		if now.Before(next) {
			continue
		}
		if err := errors.Join(ctx.Err(), s.err()); err != nil {
			return err
		}
		if s.final.Load() < s.cg-1 {
			if now.After(next.Add(cutEvery / 10)) {
				s.late++
				next = now
			}
			continue // the one before is not final yet: the open one goes on
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

// verify reads the sample back and compares.
func (s *session) verify() error {
	buf := make([]byte, engine.BlockSize)
	for i, want := range s.sample {
		if want == 0 {
			continue
		}
		block := uint64(i) * sampleEvery
		if _, err := s.vol.ReadAt(buf, int64(block)*engine.BlockSize); err != nil {
			return err
		}
		if got := engine.Sum(buf); got != want {
			return fmt.Errorf("block %d of the volume is not what was put last: its checksum is %016x, not %016x", block, got, want)
		}
	}
	return nil
}

// closeWriter lets another writer have the volume.
func (s *session) closeWriter() error {
	if s.w == nil {
		return nil
	}
	err := s.w.Close()
	s.w = nil
	return err
}

// close ends the session. What is not sealed is forgotten.
func (s *session) close() error {
	err := errors.Join(s.closeWriter(), s.pool.Close())
	close(s.complete)
	<-s.ended
	return err
}

// mallocs counts the process's heap allocations so far.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
