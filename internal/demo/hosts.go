package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/internal/nbdclient"
)

const (
	block = 4096
	// The front of each volume is a ring of slots for the records of the ordered host; the rest is for
	// hosts that write at random.
	slots      = 256
	volumeSize = 32 << 20
)

// slotOf says where record k goes: round the volumes, then round the slots. Each record is written when the
// one before it was answered, so that a copy that shows k must show every one before it.
func slotOf(k uint64, volumes int) (volume int, slot uint64) {
	return int(k % uint64(volumes)), k / uint64(volumes) % slots
}

// newest is the largest record up to last that stands in a slot; 0: none.
func newest(volume int, slot, last uint64, volumes int) uint64 {
	n := uint64(volumes)
	k := slot*n + uint64(volume)
	if k > last {
		return 0
	}
	return k + (last-k)/(n*slots)*(n*slots)
}

func encodeRecord(b []byte, k uint64) {
	for i := 0; i < block; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], k)
	}
	binary.LittleEndian.PutUint64(b[block-8:], xxhash.Sum64(b[:block-8]))
}

// decodeRecord returns the record in a slot, 0 for an empty one.
func decodeRecord(b []byte) (uint64, error) {
	k := binary.LittleEndian.Uint64(b)
	if k == 0 {
		return 0, nil
	}
	if got := binary.LittleEndian.Uint64(b[block-8:]); got != xxhash.Sum64(b[:block-8]) {
		return 0, fmt.Errorf("record %d is torn", k)
	}
	return k, nil
}

// orderedHost writes records until ctx ends. acked is the newest one that was answered.
func orderedHost(ctx context.Context, vols []*volume, acked *atomic.Uint64) (err error) {
	var clients []*nbdclient.Client
	for _, v := range vols {
		c, err := nbdclient.Dial(ctx, v.host, v.export)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		clients = append(clients, c)
	}
	b := make([]byte, block)
	for k := acked.Load() + 1; ctx.Err() == nil; k++ {
		v, slot := slotOf(k, len(vols))
		encodeRecord(b, k)
		if _, err := clients[v].WriteAt(b, int64(slot)*block); err != nil {
			return fmt.Errorf("record %d: %w", k, err)
		}
		acked.Store(k)
	}
	return nil
}

// randomHost writes random blocks behind the slots until ctx ends.
func randomHost(ctx context.Context, v *volume, seed uint64, written *atomic.Uint64) (err error) {
	c, err := nbdclient.Dial(ctx, v.host, v.export)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	rng := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, 8*block)
	for ctx.Err() == nil {
		n := 1 + rng.Uint64N(8)
		for i := uint64(0); i < n*block; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		at := slots + rng.Uint64N(volumeSize/block-slots-n)
		if _, err := c.WriteAt(b[:n*block], int64(at)*block); err != nil {
			return err
		}
		written.Add(n * block)
		// A host that does other things, too: the demonstration is not a benchmark.
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Uint64N(4)) * time.Millisecond):
		}
	}
	return nil
}

// order is what the slots of all copies show together.
type order struct {
	last       uint64 // newest record
	violations uint64 // slots that do not hold what must stand there if every record up to last was written
}

// readOrder reads the slots of all copies, which must stand still.
func readOrder(ctx context.Context, vols []*volume) (o order, err error) {
	found := make([][]uint64, len(vols))
	for i, v := range vols {
		c, err := nbdclient.Dial(ctx, v.copyAt, v.export)
		if err != nil {
			return o, err
		}
		b := make([]byte, slots*block)
		_, err = c.ReadAt(b, 0)
		if err = errors.Join(err, c.Close()); err != nil {
			return o, err
		}
		for s := range slots {
			k, err := decodeRecord(b[s*block : (s+1)*block])
			if err != nil {
				return o, fmt.Errorf("copy of volume %s: %w", v.name, err)
			}
			found[i] = append(found[i], k)
			o.last = max(o.last, k)
		}
	}
	for i := range vols {
		for s, k := range found[i] {
			if k != newest(i, uint64(s), o.last, len(vols)) {
				o.violations++
			}
		}
	}
	return o, nil
}
