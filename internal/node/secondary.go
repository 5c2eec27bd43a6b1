package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/export"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/nbd"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// lingering is how long a device may still be in use by a process that was killed: the kernel ends its io_uring, and
// with it the last reference to the device, some time after the process is gone.
var lingering = 30 * time.Second // changed by tests

// openDevices opens devices or files as the configuration says, and logs what is not as it should be.
func openDevices(ctx context.Context, wanted []wantedDevice, io config.IO, log *slog.Logger) (ring.Devices, error) {
	var paths []string
	for _, d := range wanted {
		paths = append(paths, d.path)
	}
	o := ring.OpenOptions{Kind: ring.Uring, AllowBuffered: true}
	if io == config.IOPlain {
		o.Kind = ring.Plain
	}
	devs, err := ring.Open(paths, o)
	for deadline := time.Now().Add(lingering); errors.Is(err, ring.ErrInUse) && time.Now().Before(deadline); {
		log.Warn("waiting for a device that is in use, perhaps by an earlier run of this control", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		devs, err = ring.Open(paths, o)
	}
	if errors.Is(err, ring.ErrInUse) {
		if who := holders(wanted); who != "" {
			return nil, fmt.Errorf("%w; %s", err, who)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, d := range devs.Info() {
		if d.Notice != "" {
			log.Warn("device", "path", d.Path, "notice", d.Notice)
		}
	}
	return devs, nil
}

// Secondary runs a secondary control until ctx ends. ready is called once, when it serves.
func Secondary(ctx context.Context, f *config.File, log *slog.Logger, ready func()) (err error) {
	c := f.Secondary
	if err := config.CheckDevices("", f); err != nil {
		return err
	}
	var wanted []wantedDevice
	for _, path := range c.Devices {
		wanted = append(wanted, wantedDevice{path, "the pool"})
	}
	devs, err := openDevices(ctx, wanted, c.IO, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()

	events := &target.Events{}
	failed := make(chan error, 1)
	pool, err := engine.Open(devs, engine.Options{OnComplete: events.Complete, OnRefused: events.Refused, Logger: log, OnFailure: func(err error) {
		events.Failure(err)
		failed <- err
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closePool(pool)) }()
	for _, r := range pool.Repairs() {
		log.Warn("damage was found and repaired from a redundant copy", "damage", r)
	}
	if err := ensureVolumes(ctx, pool, c.Volumes, log); err != nil {
		return err
	}
	return serveSecondary(ctx, f, pool, events, failed, log, ready)
}

// closePool closes a pool. One that has failed cannot be checkpointed; that it failed was said before.
func closePool(pool *engine.Pool) error {
	err := pool.Close()
	if pool.Failure() != nil && errors.Is(err, engine.ErrFailed) {
		return nil
	}
	return err
}

func serveSecondary(ctx context.Context, f *config.File, pool *engine.Pool, events *target.Events, failed <-chan error, log *slog.Logger, ready func()) error {
	node, err := target.New(target.Options{Pool: pool, Name: f.Node.Name, Events: events, Logger: log, Window: uint64(f.Secondary.Window), Wire: wireOptions(f)})
	if err != nil {
		return err
	}
	l, err := wire.Listen(ctx, f.Node.Listen.String())
	if err != nil {
		return errors.Join(err, node.Close())
	}
	serving, ctx := errgroup.WithContext(ctx)
	var exports *exportServers
	if !f.Secondary.NBD.IsZero() {
		if exports, err = serveExports(ctx, serving, export.Volumes(pool), []config.Address{f.Secondary.NBD}, log); err != nil {
			return errors.Join(err, l.Close(), node.Close())
		}
	}
	serving.Go(func() error { return node.Serve(ctx, l) })
	serving.Go(func() error {
		select {
		case err := <-failed:
			// Connections stay up so that the manager learns of it; the process ends when it is told to.
			log.Error("the pool stopped acknowledging; restart this control to recover what is durable", "error", err)
		case <-ctx.Done():
		}
		return nil
	})
	ready()
	<-ctx.Done()
	err = errors.Join(exports.close(), node.Close())
	return errors.Join(ended(serving.Wait()), err)
}

// ended is nil for the ways in which serving ends when it was told to, perhaps before it had begun.
func ended(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, nbd.ErrServerClosed) || errors.Is(err, target.ErrClosed) {
		return nil
	}
	return err
}

// ensureVolumes creates the configured volumes that are not there yet.
func ensureVolumes(ctx context.Context, pool *engine.Pool, volumes []config.Volume, log *slog.Logger) error {
	for _, c := range volumes {
		g, err := pool.Group(c.Group)
		var v *engine.Volume
		if err == nil {
			v, err = g.Volume(c.Name)
		}
		switch {
		case errors.Is(err, engine.ErrUnknown):
			if _, err := pool.CreateVolume(ctx, c.Group, c.Name, uint64(c.Size)); err != nil {
				return fmt.Errorf("create volume %s: %w", c.Export(), err)
			}
			log.Info("created volume", "volume", c.Export(), "size", c.Size.String())
		case err != nil:
			return err
		case v.Size() != uint64(c.Size):
			return fmt.Errorf("volume %s has %d bytes, the configuration says %d: set size to what it has, or delete the volume", c.Export(), v.Size(), uint64(c.Size))
		}
	}
	return nil
}
