package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/wire"
)

// services is the border between the commands, which know flags and output, and the packages that
// do the work. Tests put their own in.
type services struct {
	// The roles run until ctx ends, then stop cleanly and return nil. They call ready once, when
	// they serve.
	secondary, primary, manager func(ctx context.Context, node *config.File, log *slog.Logger, ready func()) error

	// status asks the node at the address for its JSON document.
	status func(ctx context.Context, at config.Address) ([]byte, error)

	// format makes a pool. The devices were looked at already.
	format func(ctx context.Context, r formatRequest, report progressFunc) (poolInfo, error)

	// Volumes of a pool that no secondary control has open.
	listVolumes  func(ctx context.Context, p poolRequest) ([]volumeInfo, error)
	createVolume func(ctx context.Context, p poolRequest, v config.Volume) error
	deleteVolume func(ctx context.Context, p poolRequest, group, name string) error

	// check verifies a pool that no secondary control has open. Damage is in the report; an error means that it could
	// not be checked.
	check func(ctx context.Context, r checkRequest, report progressFunc) (checkReport, error)
	// dump prints one structure of a pool readably.
	dump func(ctx context.Context, r dumpRequest, w io.Writer) error

	// bench measures; its result is printed as it is.
	bench func(ctx context.Context, r benchRequest, report progressFunc) (result, error)
	// demo tells what it does line by line.
	demo func(ctx context.Context, r demoRequest, tell func(line string)) (demoResult, error)

	versions func() versionInfo
}

// production returns the real services.
func production() services {
	return services{
		// SEAM: run a secondary control: open the pool (node.Secondary.Devices, IO), create missing
		// volumes, serve wire on node.Node.Listen and NBD, read-only, on node.Secondary.NBD.
		secondary: func(context.Context, *config.File, *slog.Logger, func()) error { return errNotBuilt },
		// SEAM: run a primary control: volumes over NBD, streams to their secondaries, wire on
		// node.Node.Listen, intent log in node.Node.StateDir.
		primary: func(context.Context, *config.File, *slog.Logger, func()) error { return errNotBuilt },
		// SEAM: run a replication manager: decision log at node.Manager.DecisionLog or in
		// node.Node.StateDir, one core for each group, status on node.Node.Listen.
		manager: func(context.Context, *config.File, *slog.Logger, func()) error { return errNotBuilt },
		status:  wireStatus,
		// SEAM: engine.Format over ring.Open.
		format: func(context.Context, formatRequest, progressFunc) (poolInfo, error) { return poolInfo{}, errNotBuilt },
		// SEAM: engine.Open, then the volumes.
		listVolumes:  func(context.Context, poolRequest) ([]volumeInfo, error) { return nil, errNotBuilt },
		createVolume: func(context.Context, poolRequest, config.Volume) error { return errNotBuilt },
		deleteVolume: func(context.Context, poolRequest, string, string) error { return errNotBuilt },
		// SEAM: engine's offline check and dump.
		check: func(context.Context, checkRequest, progressFunc) (checkReport, error) {
			return checkReport{}, errNotBuilt
		},
		dump: func(context.Context, dumpRequest, io.Writer) error { return errNotBuilt },
		// SEAM: package bench.
		bench: func(context.Context, benchRequest, progressFunc) (result, error) { return nil, errNotBuilt },
		// SEAM: two primaries and two secondaries in one process, over files.
		demo:     func(context.Context, demoRequest, func(string)) (demoResult, error) { return demoResult{}, errNotBuilt },
		versions: buildVersions,
	}
}

// errNotBuilt is what a SEAM returns; it goes with the last of them.
var errNotBuilt = errors.New("this part of farside is not built yet")

// formatVersion is the version of the on-disk format.
const formatVersion = 1 // SEAM: engine.FormatVersion

func buildVersions() versionInfo {
	v := versionInfo{
		Version: "(devel)", Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Protocol: wire.Version, Format: formatVersion,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
