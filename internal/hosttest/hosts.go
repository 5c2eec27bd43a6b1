// Package hosttest has hosts for tests, which write through NBD, and the judgement of what copies of their volumes
// show.
//
// One host writes numbered records in order round all volumes, each after the one before was answered. So the newest
// record in a set of copies says what every other slot of the records must hold: a copy that shows a record without
// one before it, a torn record, or volumes that do not belong together is found without knowing anything of the
// program. Behind the records, one host for each volume writes at random.
//
// # Invariants
//
//   - Hosts connect again when a primary control was away, and repeat what was not answered: an error of theirs is
//     one of the test.
//   - All hosts of a test have ended when it ends.
package hosttest

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/internal/nbdclient"
)

const (
	block = 4096
	// slots at the front of each volume hold the records of the ordered host.
	slots = 64
)

// Volume is a volume and its copy.
type Volume struct {
	Export        string // on both sides
	Host, Replica string // NBD addresses, as nbdclient.Dial takes them
	Blocks        int64  // more than twice as many as hold records
}

// Hosts write until they are stopped.
type Hosts struct {
	// Acked is the newest record that was answered.
	Acked atomic.Uint64

	writing sync.RWMutex    // each write holds it shared until it is answered and counted; a pause holds it alone
	random  []atomic.Uint64 // answers to the random host of each volume
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	errs    chan error
}

// Start has one host write records in order round all volumes, and one for each volume write at random
// behind them, as the seed says.
func Start(t testing.TB, volumes []Volume, seed uint64) *Hosts {
	ctx, cancel := context.WithCancel(context.Background())
	h := &Hosts{random: make([]atomic.Uint64, len(volumes)), cancel: cancel, errs: make(chan error, 1+len(volumes))}
	h.wg.Go(func() { h.errs <- h.ordered(ctx, volumes) })
	for i, v := range volumes {
		h.wg.Go(func() { h.errs <- h.atRandom(ctx, i, v, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	t.Cleanup(func() { cancel(); h.wg.Wait() })
	return h
}

// Stop ends the hosts, and returns the time at which nothing more was written. It may be called once.
func (h *Hosts) Stop(t testing.TB) time.Time {
	t.Helper()
	h.cancel()
	h.wg.Wait()
	for range cap(h.errs) {
		if err := <-h.errs; err != nil {
			t.Error(err)
		}
	}
	return time.Now()
}

// Pause has the hosts write nothing until Resume. It returns once every write was answered: the time, and the newest
// record.
func (h *Hosts) Pause() (since time.Time, acked uint64) {
	h.writing.Lock()
	return time.Now(), h.Acked.Load()
}

// Resume ends a pause.
func (h *Hosts) Resume() { h.writing.Unlock() }

// Random is how many writes of the random host of a volume were answered; volumes count from 0.
func (h *Hosts) Random(volume int) uint64 { return h.random[volume].Load() }

// patient is a connection that is made again when it breaks.
type patient struct {
	v Volume
	c *nbdclient.Client
}

// write returns when the write was answered, or when ctx ended before.
func (p *patient) write(ctx context.Context, b []byte, off int64) error {
	for ctx.Err() == nil {
		var err error
		if p.c == nil {
			p.c, err = nbdclient.Dial(ctx, p.v.Host, p.v.Export)
		}
		if err == nil {
			if _, err = p.c.WriteAt(b, off); err == nil {
				return nil
			}
			p.c.Close() // it is broken, and this says so again
			p.c = nil
		}
		select { // between two attempts; the primary is away
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// close ends the connection. It may be broken since the last write, as the primary control may have been killed: an
// error says nothing new.
func (p *patient) close() {
	if p.c != nil {
		_ = p.c.Close()
	}
}

// write writes when there is no pause, and counts before there can be one.
func (h *Hosts) write(ctx context.Context, to *patient, b []byte, off int64, count func()) error {
	h.writing.RLock()
	defer h.writing.RUnlock()
	err := to.write(ctx, b, off)
	if err == nil {
		count()
	}
	return err
}

func (h *Hosts) ordered(ctx context.Context, volumes []Volume) error {
	var to []*patient
	for _, v := range volumes {
		p := &patient{v: v}
		defer p.close()
		to = append(to, p)
	}
	b := make([]byte, block)
	for k := uint64(1); ; k++ {
		fill(b, k)
		// A record whose answer was lost with the connection is written again, the same.
		err := h.write(ctx, to[k%uint64(len(to))], b, slotOf(k, len(to))*block, func() { h.Acked.Store(k) })
		if err != nil {
			return ignore(ctx, err)
		}
	}
}

func ignore(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func slotOf(k uint64, volumes int) int64 { return int64(k / uint64(volumes) % slots) }

// fill makes record k: its number everywhere, and a checksum against tearing.
func fill(b []byte, k uint64) {
	for i := 0; i < block; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], k)
	}
	binary.LittleEndian.PutUint64(b[block-8:], xxhash.Sum64(b[:block-8]))
}

func (h *Hosts) atRandom(ctx context.Context, volume int, v Volume, rng *rand.Rand) error {
	p := &patient{v: v}
	defer p.close()
	b := make([]byte, 8*block)
	for {
		n := 1 + rng.Int64N(8)
		for i := int64(0); i < n*block; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		err := h.write(ctx, p, b[:n*block], (slots+rng.Int64N(v.Blocks-slots-n))*block, func() { h.random[volume].Add(1) })
		if err != nil {
			return ignore(ctx, err)
		}
		select { // load, not a benchmark: the records of the other host shall get on, too
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(rng.Int64N(int64(3 * time.Millisecond)))):
		}
	}
}
