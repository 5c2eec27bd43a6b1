package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// Primary runs a primary control until ctx ends. ready is called once, when it serves.
func Primary(ctx context.Context, f *config.File, log *slog.Logger, ready func()) (err error) {
	volumes := slices.Clone(f.Primary.Volumes)
	for _, v := range volumes {
		if err := ensureFile(v, log); err != nil {
			return err
		}
	}
	if err := config.CheckDevices("", f); err != nil {
		return err
	}
	// The node counts volumes group by group; the devices stand in the same order.
	slices.SortStableFunc(volumes, func(a, b config.PrimaryVolume) int { return cmp.Compare(a.Group, b.Group) })
	var wanted []wantedDevice
	for _, v := range volumes {
		wanted = append(wanted, wantedDevice{v.Path(), "volume " + v.Export()})
	}
	devs, err := openDevices(ctx, wanted, f.Primary.IO, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	groups, err := primaryGroups(volumes, devs.Info())
	if err != nil {
		return err
	}
	return servePrimary(ctx, f, volumes, groups, devs, log, ready)
}

// ensureFile makes the sparse file of a volume that is kept in one, if it is not there.
func ensureFile(v config.PrimaryVolume, log *slog.Logger) error {
	if v.File == "" {
		return nil
	}
	w, err := os.OpenFile(v.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the file of volume %s: %w", v.Export(), err)
	}
	if err := errors.Join(w.Truncate(int64(v.Size)), w.Sync(), w.Close()); err != nil {
		return errors.Join(fmt.Errorf("create the file of volume %s: %w", v.Export(), err), os.Remove(v.File))
	}
	log.Info("created file", "volume", v.Export(), "file", v.File, "size", v.Size.String())
	return nil
}

// primaryGroups gathers volumes, sorted by group, and settles their sizes.
func primaryGroups(volumes []config.PrimaryVolume, info []ring.DeviceInfo) ([]primary.GroupSpec, error) {
	var groups []primary.GroupSpec
	for i, v := range volumes {
		size := uint64(v.Size)
		if have := uint64(info[i].Size); size == 0 {
			size = have / primary.BlockSize * primary.BlockSize
		} else if size > have {
			return nil, fmt.Errorf("volume %s: %s holds %d bytes, the configuration says %d", v.Export(), info[i].Path, have, size)
		}
		if len(groups) == 0 || groups[len(groups)-1].Name != v.Group {
			groups = append(groups, primary.GroupSpec{Name: v.Group})
		}
		g := &groups[len(groups)-1]
		g.Volumes = append(g.Volumes, primary.VolumeSpec{Name: v.Name, Size: size, Secondaries: []string{v.Secondary.String()}, Place: placeOf(v)})
	}
	return groups, nil
}

func servePrimary(ctx context.Context, f *config.File, volumes []config.PrimaryVolume, groups []primary.GroupSpec, devs ring.Devices, log *slog.Logger, ready func()) error {
	l, err := wire.Listen(ctx, f.Node.Listen.String())
	if err != nil {
		return err
	}
	secondaries := map[string]string{}
	for _, v := range volumes {
		secondaries[v.Secondary.String()] = v.Secondary.String()
	}
	serving, ctx := errgroup.WithContext(ctx)
	r := &reloader{file: f, read: reloadFrom(ctx), serving: serving, log: log, exports: map[config.Address]*hostsAt{}}
	r.ctx, r.stop = context.WithCancel(ctx)
	core := primary.CoreOptions{QueueBytes: int64(f.Primary.Queue), Overwrite: overwrites(f), FirstCopyRate: int64(f.Primary.FirstCopyRate)}
	node, err := primary.Open(primary.Options{Name: f.Node.Name, Groups: groups, Devices: devs, Secondaries: secondaries,
		StateDir: f.Node.StateDir, Listener: l, Wire: wireOptions(f), Core: core, Reload: r.reload, Log: log})
	if err != nil {
		r.stop()
		return errors.Join(err, l.Close())
	}
	err = r.serve(node, exportsByAddress(f.Primary.NBD, volumes))
	serving.Go(func() error { return reportCatchup(ctx, node, log) })
	if err == nil {
		serving.Go(func() error { return r.onHangup(ctx) })
		ready()
		<-ctx.Done()
	}
	errs := append([]error{err}, r.close())
	errs = append(errs, ended(serving.Wait()), node.Close())
	return errors.Join(errs...)
}

func overwrites(f *config.File) (ids []wire.UUID) {
	for _, id := range f.Primary.OverwriteCopies {
		ids = append(ids, wire.UUID(id))
	}
	return ids
}

// exportsByAddress says which volumes are served where.
func exportsByAddress(common config.Address, volumes []config.PrimaryVolume) map[config.Address][]string {
	at := map[config.Address][]string{}
	for _, v := range volumes {
		a := v.NBD
		if a.IsZero() {
			a = common
		}
		at[a] = append(at[a], v.Export())
	}
	return at
}
