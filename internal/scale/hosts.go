package scale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/internal/nbdclient"
)

const (
	blockSize = 4096
	// hostPause is between two writes of a host: there is one host on each primary, which writes to all its volumes
	// in turn.
	hostPause = 4 * time.Millisecond
)

// hosts write until stop is called, which returns their first error.
func (in *installation) hosts(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	for i := range in.o.Primaries {
		g.Go(func() error { return in.host(ctx, i) })
	}
	return func() error {
		cancel()
		return g.Wait()
	}
}

func (in *installation) host(ctx context.Context, i int) (err error) {
	var clients []*nbdclient.Client
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.Close())
		}
	}()
	for v := range in.o.Volumes {
		if p, _ := in.o.Of(v); p != i {
			continue
		}
		c, err := in.open(ctx, primaryName(i), v)
		if errors.Is(err, context.Canceled) {
			return nil // stopped as it began
		}
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	block := make([]byte, blockSize)
	pause := time.NewTicker(hostPause)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		for b := range block {
			block[b] = byte(n + b*i)
		}
		off := rng.Int64N(volumeSize/blockSize) * blockSize
		if _, err := clients[n%len(clients)].WriteAt(block, off); err != nil {
			return fmt.Errorf("host of %s: %w", primaryName(i), err)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	return nil
}

func (in *installation) open(ctx context.Context, control string, volume int) (*nbdclient.Client, error) {
	return nbdclient.Dial(ctx, in.socket(control+"n"), groupName+"/"+volumeName(volume))
}

// verify compares every copy with its volume; nothing may be written meanwhile.
func (in *installation) verify(ctx context.Context) error {
	for v := range in.o.Volumes {
		p, s := in.o.Of(v)
		want, err := in.read(ctx, primaryName(p), v)
		if err != nil {
			return err
		}
		got, err := in.read(ctx, secondaryName(s), v)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("scale: the copy of %s on %s is not what %s has", volumeName(v), secondaryName(s), primaryName(p))
		}
	}
	return nil
}

func (in *installation) read(ctx context.Context, control string, volume int) ([]byte, error) {
	c, err := in.open(ctx, control, volume)
	if err != nil {
		return nil, err
	}
	b := make([]byte, volumeSize)
	_, err = c.ReadAt(b, 0)
	return b, errors.Join(err, c.Close())
}
