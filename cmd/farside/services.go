package main

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
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

	// group asks the manager at the address to change a group, with nil only for its state. The state is that after
	// the change.
	group func(ctx context.Context, at config.Address, change *wire.GroupChange) (manager.NodeStatus, error)

	// tell sends a message to the control at the address, as a tool, and gives its state, which is the answer.
	tell func(ctx context.Context, at config.Address, m wire.Message) ([]byte, error)

	// planRecovery says what a recovery of a manager's groups would do; recoverGroups does it.
	planRecovery  func(ctx context.Context, f *config.File, o node.RecoveryOptions) ([]node.GroupRecovery, error)
	recoverGroups func(ctx context.Context, f *config.File, planned []node.GroupRecovery, log *slog.Logger) ([]manager.Status, error)

	// format makes a pool. The devices were looked at already.
	format func(ctx context.Context, r formatRequest, report progressFunc) (poolInfo, error)

	// Volumes of a pool that no secondary control has open.
	listVolumes  func(ctx context.Context, p poolRequest) ([]volumeInfo, error)
	createVolume func(ctx context.Context, p poolRequest, v config.Volume) error
	// poolVolume changes one that exists, and says how it is then; controlVolume asks a secondary control that runs.
	poolVolume    func(ctx context.Context, p poolRequest, change *wire.Volume) (volumeInfo, error)
	controlVolume func(ctx context.Context, at config.Address, change *wire.Volume) (volumeInfo, error)

	// check verifies a pool that no secondary control has open. Damage is in the report; an error means that it could
	// not be checked.
	check func(ctx context.Context, r checkRequest, report progressFunc) (checkReport, error)
	// dump prints one structure of a pool readably.
	dump func(ctx context.Context, r dumpRequest, w io.Writer) error

	// bench measures; its result is printed as it is.
	bench func(ctx context.Context, o bench.Options) (result, error)
	// demo tells what it does line by line.
	demo func(ctx context.Context, r demoRequest, tell func(line string)) (demoResult, error)

	versions func() versionInfo
}

// production returns the real services.
func production() services {
	return services{
		secondary: node.Secondary, primary: node.Primary, manager: node.Manager,
		status: wireStatus, group: wireGroup, tell: wireTell,
		planRecovery: node.PlanRecovery, recoverGroups: node.Recover,
		format: formatPool, listVolumes: listVolumes, createVolume: createVolume,
		poolVolume: changePoolVolume, controlVolume: wireVolume,
		check: checkPool, dump: dumpPool,
		bench: runBench, demo: runDemo,
		versions: buildVersions,
	}
}

func buildVersions() versionInfo {
	v := versionInfo{
		Version: "(devel)", Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Protocol: wire.Version, Format: engine.FormatVersion,
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
