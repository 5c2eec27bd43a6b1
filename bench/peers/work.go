package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// outcome is what one run of one store came to.
type outcome struct {
	updates uint64
	elapsed time.Duration
	groups  int
	// amplification is device bytes per payload byte, from the first update to the closed store.
	amplification float64
}

func (o outcome) rate() float64 { return float64(o.updates) / o.elapsed.Seconds() }

// work feeds a store. Contents come from a pool of random bytes that never change.
type work struct {
	s      store
	blocks uint64
	rng    *rand.Rand
	pool   []byte
	sample [][]byte // of every sampleEvery-th block: what was put last
}

const poolBytes = 64 << 20

func newWork(blocks uint64) *work {
	w := &work{blocks: blocks, rng: rand.New(rand.NewPCG(1, 1)), pool: make([]byte, poolBytes), sample: make([][]byte, blocks/sampleEvery+1)}
	contentsFrom(1, w.pool)
	return w
}

// contents is a block that no other block holds at 8-byte steps near it.
func (w *work) contents() []byte {
	at := w.rng.Uint64N(poolBytes/512-8) * 512
	return w.pool[at : at+blockSize]
}

func (w *work) update(block uint64) error {
	r, receives := w.s.(receiver)
	if !receives {
		data := w.contents()
		if block%sampleEvery == 0 {
			w.sample[block/sampleEvery] = data
		}
		return w.s.put(block, data)
	}
	mem, err := r.space()
	if err != nil {
		return err
	}
	if block%sampleEvery == 0 {
		w.sample[block/sampleEvery] = bytes.Clone(mem)
	}
	return r.take(block)
}

// checkEvery: after so many updates somebody may want it to end.
const checkEvery = 1024

// fillGroup is how many blocks a group of the first fill has.
const fillGroup = 64 << 10

// fill writes every block once, in order.
func (w *work) fill(ctx context.Context) error {
	for b := range w.blocks {
		if b%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.update(b); err != nil {
			return fmt.Errorf("first fill, block %d: %w", b, err)
		}
		if b%fillGroup == fillGroup-1 || b == w.blocks-1 {
			if err := w.s.commit(); err != nil {
				return fmt.Errorf("first fill, commit at block %d: %w", b, err)
			}
		}
	}
	return nil
}

// run puts random updates in groups of so many for at least d, and ends with a commit.
func (w *work) run(ctx context.Context, group int, d time.Duration) (o outcome, err error) {
	begin := time.Now()
	for o.elapsed < d {
		for i := range group {
			if i%checkEvery == 0 && ctx.Err() != nil {
				return o, ctx.Err()
			}
			if err := w.update(w.rng.Uint64N(w.blocks)); err != nil {
				return o, err
			}
		}
		if err := w.s.commit(); err != nil {
			return o, err
		}
		o.groups++
		o.updates += uint64(group)
		o.elapsed = time.Since(begin)
	}
	return o, nil
}

// verify reads the sample back.
func (w *work) verify() error {
	got := make([]byte, blockSize)
	for i, want := range w.sample {
		if want == nil {
			continue
		}
		b := uint64(i) * sampleEvery
		if err := w.s.get(b, got); err != nil {
			return fmt.Errorf("read block %d back: %w", b, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("block %d is not what was put last", b)
		}
	}
	return nil
}

// contentsFrom fills mem with what does not compress, the same for the same seed.
func contentsFrom(seed uint64, mem []byte) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(mem) // never fails
}
