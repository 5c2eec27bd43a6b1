package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/wire"
)

// hostDepth is how many requests each host has in flight at most.
const hostDepth = 32

// place is an export that a host uses.
type place struct {
	addr, export string
	bytes        int64
}

func (c *cluster) places() (out []place) {
	for i := range c.primaries {
		out = append(out, place{c.hostSocket(i), c.export(i), c.volume})
	}
	return out
}

// hosts are one host for each place, with requests of 4 KiB at random places, over one connection each. A place that
// is given more than once has as many connections, which share the depth.
type hosts struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	done    atomic.Uint64
	mu      sync.Mutex
	took    wire.HoldHistogram // of requests; guarded by mu
	errs    []error            // guarded by mu
}

// startHosts begins a load; rate is that of all hosts together, in requests per second, 0: as fast as answers come.
func startHosts(ctx context.Context, at []place, write bool, rate float64) (*hosts, error) {
	ctx, stop := context.WithCancel(ctx)
	h := &hosts{stop: stop}
	data := make([]byte, 4<<20)
	newRandom(uint64(time.Now().UnixNano())).fill(data)
	depth := hostDepth / (len(at) / distinct(at))
	for i, p := range at {
		client, err := nbdclient.Dial(ctx, p.addr, p.export)
		if err != nil {
			return nil, errors.Join(err, h.end())
		}
		rng := newRandom(uint64(time.Now().UnixNano()) + uint64(i))
		l := nbdclient.Load{Write: write, Depth: depth, Size: engine.BlockSize, Rate: rate / float64(len(at)), Data: data,
			Offset: func() int64 { return int64(rng.below(uint64(p.bytes/engine.BlockSize))) * engine.BlockSize },
			Done:   h.answered}
		h.running.Go(func() {
			err := client.Run(ctx, l)
			if err = errors.Join(err, client.Close()); err != nil {
				h.failed(fmt.Errorf("host of %s: %w", p.export, err))
			}
		})
	}
	return h, nil
}

// distinct counts the places.
func distinct(at []place) int {
	seen := map[place]bool{}
	for _, p := range at {
		seen[p] = true
	}
	return len(seen)
}

func (h *hosts) answered(took time.Duration) {
	h.done.Add(1)
	h.mu.Lock()
	h.took.Add(took)
	h.mu.Unlock()
}

func (h *hosts) failed(err error) {
	h.mu.Lock()
	h.errs = append(h.errs, err)
	h.mu.Unlock()
}

// end stops the hosts, once everything in flight was answered, and says what went wrong.
func (h *hosts) end() error {
	h.stop()
	h.running.Wait()
	return h.err()
}

func (h *hosts) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.errs...)
}

// latency is the histogram so far.
func (h *hosts) latency() wire.HoldHistogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.took
}

// rate counts answers for d, or longer if there were none, in requests per second.
func (h *hosts) rate(ctx context.Context, d time.Duration) (float64, error) {
	begin, before := time.Now(), h.done.Load()
	for {
		if err := errors.Join(sleep(ctx, d), h.err()); err != nil {
			return 0, err
		}
		n, elapsed := h.done.Load()-before, time.Since(begin)
		if n > 0 {
			return float64(n) / elapsed.Seconds(), nil
		}
		if elapsed > d+patience {
			return 0, fmt.Errorf("no host was answered within %v", patience)
		}
	}
}

// rateOf runs a load for d and some time before.
func (c *cluster) rateOf(ctx context.Context, at []place, write bool, d time.Duration) (float64, error) {
	h, err := startHosts(ctx, at, write, 0)
	if err != nil {
		return 0, err
	}
	rate := 0.0
	if err = sleep(ctx, c.settle); err == nil {
		rate, err = h.rate(ctx, d)
	}
	return rate, errors.Join(err, h.end())
}

// sleep lets a load run.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
