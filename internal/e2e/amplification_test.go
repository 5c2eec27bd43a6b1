package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/ring"
)

var amplificationTime = flag.Duration("e2e.amplification", 10*time.Second, "how long to write random updates when device bytes are compared with payload bytes")

// perCG bounds the updates of a CG, so that few hit a block that the CG has already (which would need no entry in the
// journal), and so that a faster machine does not measure something else.
const perCG = 50_000

// leastCGs bound the work from below: on a slow machine the checkpoints, which cost the same for few updates as for many, must not decide.
const leastCGs = 4

// mostDevicePerPayload is how many bytes the device may be written for each byte of payload.
const mostDevicePerPayload = 1.05

// TestReq04_DeviceBytesPerPayloadByte takes in random updates of 4 KiB, each stored once, with a CG every second, and compares
// what the kernel counted on the loop device with the payload. Counted is all that is written from the first
// update until the pool is closed: data, superseded updates, journal (pointer tables, decisions), a checkpoint in the middle and
// one at the end, which write every pointer-table page that a random update has touched.
func TestReq04_DeviceBytesPerPayloadByte(tt *testing.T) {
	t := begin(tt)
	long(t) // not parallel: it wants the machine for itself
	testtool.NeedRoot(t)
	disk := loopdev.ForTest(t, folder(t), 2<<30, loopdev.Options{BlockSize: 4096})
	devs, err := ring.Open([]string{disk.Path}, ring.OpenOptions{Kind: ring.Auto})
	check(t, err)
	defer func() { check(t, devs.Close()) }()
	_, err = engine.Format(devs, engine.FormatOptions{Name: "amplification"})
	check(t, err)
	complete := make(chan uint64, 16)
	pool, err := engine.Open(devs, engine.Options{OnComplete: func(_ string, cg uint64) { complete <- cg }})
	check(t, err)
	vol, err := pool.CreateVolume(t.Context(), "shop", "data", 1<<30)
	check(t, err)
	first, err := pool.Stats(t.Context())
	check(t, err)
	before, err := disk.Stats()
	check(t, err)

	var updates, last uint64
	work, ctx := errgroup.WithContext(t.Context())
	work.Go(func() (err error) {
		defer close(complete)
		updates, last, err = ingest(ctx, pool, vol, *amplificationTime)
		return err
	})
	work.Go(func() error { return finishAll(ctx, pool, vol, complete) })
	check(t, work.Wait())
	st, err := pool.Stats(t.Context())
	check(t, err)
	if st.Checkpoint <= first.Checkpoint {
		t.Errorf("checkpoint %d at the start and %d at the end: none during the run", first.Checkpoint, st.Checkpoint)
	}
	check(t, pool.Checkpoint(t.Context()))
	if now, err := pool.Stats(t.Context()); err != nil || now.Checkpoint <= st.Checkpoint {
		t.Errorf("checkpoint %d, then %d, %v", st.Checkpoint, now.Checkpoint, err)
	}
	check(t, pool.Close())

	after, err := disk.Stats()
	check(t, err)
	payload, device := updates*block, after.Sub(before).WriteBytes
	ratio := float64(device) / float64(payload)
	t.Logf("%d CGs of together %d updates: %d MiB payload, %d MiB written by the device, ratio %.4f", last, updates, payload>>20, device>>20, ratio)
	if ratio > mostDevicePerPayload || ratio < 1 {
		t.Errorf("%.4f device bytes per payload byte, want 1 to %.2f", ratio, mostDevicePerPayload)
	}
}

// ingest puts random updates for d, and seals a CG every second. It ends when the last one was sealed.
func ingest(ctx context.Context, pool *engine.Pool, vol *engine.Volume, d time.Duration) (updates, cg uint64, err error) {
	w, err := pool.NewWriter()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.Bind(vol); err != nil {
		return 0, 0, err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	blocks := vol.Size() / block
	sums := make([]uint64, 1)
	for begin, cut := time.Now(), time.Now(); ; {
		if time.Since(cut) > time.Second {
			cut = time.Now()
			if err := w.Seal(cg+1, vol); err != nil {
				return updates, cg, err
			}
			if cg++; time.Since(begin) > d && updates >= leastCGs*perCG {
				return updates, cg, awaitFinal(ctx, vol, cg)
			}
		}
		if updates >= (cg+1)*perCG {
			time.Sleep(time.Until(cut.Add(time.Second))) // the interval of CGs
		}
		mem, err := w.Space(1)
		if errors.Is(err, engine.ErrPoolFull) {
			if err = pool.WaitSpace(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return updates, cg, err
		}
		binary.LittleEndian.PutUint64(mem, rng.Uint64())
		sums[0] = engine.Sum(mem)
		if err := w.Put(vol, cg+1, engine.VBlock(rng.Uint64N(blocks)), sums); err != nil {
			return updates, cg, err
		}
		updates++
	}
}

func awaitFinal(ctx context.Context, vol *engine.Volume, cg uint64) error {
	for {
		st, err := vol.Group().State(ctx)
		if err != nil || st.Final == cg {
			return err
		}
		time.Sleep(5 * time.Millisecond) // between two questions
	}
}

// finishAll links and releases each CG, and has a checkpoint written after the second.
func finishAll(ctx context.Context, pool *engine.Pool, vol *engine.Volume, complete <-chan uint64) error {
	for cg := range complete {
		c := engine.Command{Epoch: 1, CG: cg}
		if err := vol.Group().Link(ctx, c); err != nil {
			return fmt.Errorf("link: %w", err)
		}
		if err := vol.Group().Release(ctx, c); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		if cg == 2 {
			if err := pool.Checkpoint(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
