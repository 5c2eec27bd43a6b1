package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// Files that a manager keeps in its state directory.
const (
	DecisionLogFile = "decisions.db"
	AuditLogFile    = "audit.jsonl"
)

// Manager runs a replication manager until ctx ends. ready is called once, when it serves.
func Manager(ctx context.Context, f *config.File, log *slog.Logger, ready func()) (err error) {
	decisions, err := manager.OpenLog(decisionLog(f))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, decisions.Close()) }()
	audit, err := manager.OpenAuditLog(filepath.Join(f.Node.StateDir, AuditLogFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	o := managerOptions(f)
	o.Log, o.Audit, o.Logger = decisions, audit, log
	n, err := manager.NewNode(ctx, o)
	if err != nil {
		return err
	}
	ready()
	return ended(n.Run(ctx))
}

// decisionLog is the file of a manager's decision log.
func decisionLog(f *config.File) string {
	if f.Manager.DecisionLog != "" {
		return f.Manager.DecisionLog
	}
	return filepath.Join(f.Node.StateDir, DecisionLogFile)
}

// managerOptions names controls by their addresses, which is how the configuration knows them.
func managerOptions(f *config.File) manager.Options {
	o := manager.Options{Name: f.Node.Name, Listen: f.Node.Listen.String()}
	seen := map[string]bool{}
	add := func(role wire.Role, addresses []config.Address) (names []string) {
		for _, a := range addresses {
			name := a.String()
			names = append(names, name)
			if !seen[name] {
				seen[name] = true
				o.Controls = append(o.Controls, manager.Control{Name: name, Role: role, Addr: name})
			}
		}
		return names
	}
	for _, g := range f.Manager.Groups {
		o.Groups = append(o.Groups, manager.GroupOptions{
			Group: manager.Group{Name: g.Name, Primaries: add(wire.RolePrimary, g.Primaries), Secondaries: add(wire.RoleSecondary, g.Secondaries)},
			Settings: manager.Settings{Interval: time.Duration(g.Interval), CoordinationTimeout: time.Duration(g.CoordinationTimeout),
				DrainTimeout: time.Duration(g.DrainTimeout), CommandTimeout: time.Duration(g.CommandTimeout), RPOAlert: time.Duration(g.RPOAlert)},
		})
	}
	return o
}
