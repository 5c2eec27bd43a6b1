package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/internal/nbdclient"
)

// slots at the front of each volume hold the records of the ordered host.
const slots = 64

// hosts write until they are stopped, and connect again when a primary was away.
type hosts struct {
	acked  atomic.Uint64 // newest record that was answered
	cancel context.CancelFunc
	wg     sync.WaitGroup
	errs   chan error
}

// startHosts has one host write records in order round all volumes, and one for each volume write at random
// behind them.
func (c *cluster) startHosts(seed uint64) *hosts {
	ctx, cancel := context.WithCancel(context.Background())
	h := &hosts{cancel: cancel, errs: make(chan error, 1+len(c.volumes))}
	h.wg.Go(func() { h.errs <- h.ordered(ctx, c.volumes) })
	for i, v := range c.volumes {
		h.wg.Go(func() { h.errs <- atRandom(ctx, v, c.l.volumeSize/block, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	c.t.Cleanup(func() { cancel(); h.wg.Wait() })
	return h
}

// stop ends the hosts, and returns the time at which nothing more was written.
func (h *hosts) stop(t testing.TB) time.Time {
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

// awaitRecords waits until n more records were answered.
func (h *hosts) awaitRecords(t testing.TB, n uint64) uint64 {
	t.Helper()
	want := h.acked.Load() + n
	await(t, "answers to the host", func() error {
		if now := h.acked.Load(); now < want {
			return fmt.Errorf("record %d was the last, want %d", now, want)
		}
		return nil
	})
	return want
}

// patient is a connection that is made again when it breaks.
type patient struct {
	v *volume
	c *nbdclient.Client
}

// write returns when the write was answered, or when ctx ended before.
func (p *patient) write(ctx context.Context, b []byte, off int64) error {
	for ctx.Err() == nil {
		var err error
		if p.c == nil {
			p.c, err = nbdclient.Dial(ctx, p.v.host, p.v.export)
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

func (p *patient) close() error {
	if p.c == nil {
		return nil
	}
	return p.c.Close()
}

func (h *hosts) ordered(ctx context.Context, vols []*volume) (err error) {
	var to []*patient
	for _, v := range vols {
		p := &patient{v: v}
		defer func() { err = errors.Join(err, p.close()) }()
		to = append(to, p)
	}
	b := make([]byte, block)
	for k := uint64(1); ; k++ {
		fill(b, k)
		// A record whose answer was lost with the connection is written again, the same.
		if err := to[k%uint64(len(to))].write(ctx, b, slotOf(k, len(to))*block); err != nil {
			return ignore(ctx, err)
		}
		h.acked.Store(k)
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

func atRandom(ctx context.Context, v *volume, blocks int64, rng *rand.Rand) (err error) {
	p := &patient{v: v}
	defer func() { err = errors.Join(err, p.close()) }()
	b := make([]byte, 8*block)
	for {
		n := 1 + rng.Int64N(8)
		for i := int64(0); i < n*block; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		if err := p.write(ctx, b[:n*block], (slots+rng.Int64N(blocks-slots-n))*block); err != nil {
			return ignore(ctx, err)
		}
		select { // load, not a benchmark: the records of the other host shall get on, too
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(rng.Int64N(int64(3 * time.Millisecond)))):
		}
	}
}

// image reads a whole export.
func image(address, export string) (data []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := nbdclient.Dial(ctx, address, export)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	data = make([]byte, c.Size())
	_, err = c.ReadAt(data, 0)
	return data, err
}

// images are what the copies show, by volume.
type images [][]byte

func (c *cluster) images() (all images, err error) {
	for _, v := range c.volumes {
		b, err := image(v.replica, v.export)
		if err != nil {
			return nil, fmt.Errorf("copy of %s: %w", v.name, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// differ says where two sets of images differ, "" if nowhere.
func (m images) differ(other images) string {
	for i := range m {
		if !bytes.Equal(m[i], other[i]) {
			for at := range m[i] {
				if m[i][at] != other[i][at] {
					return fmt.Sprintf("volume %d differs at byte %d", i+1, at)
				}
			}
		}
	}
	return ""
}

// order returns the newest record that the images show, or an error if a slot does not hold what it must when
// all records up to that one were written and none after it.
func (m images) order() (newest uint64, err error) {
	n := uint64(len(m))
	found := func(v uint64, slot int64) uint64 { return binary.LittleEndian.Uint64(m[v][slot*block:]) }
	want := make([]byte, block)
	for v := range n {
		for s := range int64(slots) {
			newest = max(newest, found(v, s))
		}
	}
	held := map[[2]uint64]uint64{}
	for k := newest; k > 0 && k+n*slots > newest; k-- { // older ones were written over
		held[[2]uint64{k % n, uint64(slotOf(k, len(m)))}] = k
	}
	for v := range n {
		for s := range int64(slots) {
			k := held[[2]uint64{v, uint64(s)}]
			clear(want)
			if k > 0 {
				fill(want, k)
			}
			if got := m[v][s*block : (s+1)*block]; !bytes.Equal(got, want) {
				err = errors.Join(err, fmt.Errorf("record %d is there, but slot %d of volume %d holds record %d (or a torn one) in place of %d", newest, s, v+1, found(v, s), k))
			}
		}
	}
	return newest, err
}

// compare wants every copy to equal its primary.
func (c *cluster) compare() {
	c.t.Helper()
	for _, v := range c.volumes {
		host, err := image(v.host, v.export)
		check(c.t, err)
		replica, err := image(v.replica, v.export)
		check(c.t, err)
		if d := (images{host}).differ(images{replica}); d != "" {
			c.t.Errorf("%s and its copy: %s", v.name, d)
		}
	}
}

// look reads the copies while they stand still at one CG, by stopping the manager for a moment.
func (c *cluster) look() (cg uint64, m images) {
	c.t.Helper()
	await(c.t, "all secondary controls at the same CG", func() (err error) {
		if err := c.alive(); err != nil {
			return err
		}
		c.manager.pause()
		defer c.manager.resume()
		before, err := c.finals()
		if err != nil {
			return err
		}
		if m, err = c.images(); err != nil {
			return err
		}
		// A command that was on its way may have arrived meanwhile.
		after, err := c.finals()
		if err != nil {
			return err
		}
		for i := range after {
			if before[i] != after[0] || after[i] != after[0] {
				return fmt.Errorf("final CGs are %d, then %d", before, after)
			}
		}
		cg = after[0]
		return nil
	})
	return cg, m
}

// finals asks every secondary for its final CG.
func (c *cluster) finals() (cgs []uint64, err error) {
	for i := range c.secondaries {
		s, err := c.state(i)
		if err != nil {
			return nil, err
		}
		cgs = append(cgs, s.Final)
	}
	return cgs, nil
}

// lookInOrder looks, and wants the records in order.
func (c *cluster) lookInOrder() (cg, newest uint64) {
	c.t.Helper()
	cg, m := c.look()
	newest, err := m.order()
	if err != nil {
		c.t.Errorf("CG %d: %v", cg, err)
	}
	return cg, newest
}
