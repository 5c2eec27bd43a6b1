package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/manager/etcdlog"
	"github.com/farside-storage/farside/wire"
)

// Files that a manager keeps in its state directory.
const (
	DecisionLogFile = "decisions.db"
	AuditLogFile    = "audit.jsonl"
)

// Manager runs a replication manager until ctx ends. ready is called once, when it serves.
func Manager(ctx context.Context, f *config.File, log *slog.Logger, ready func()) (err error) {
	audit, err := manager.OpenAuditLog(filepath.Join(f.Node.StateDir, AuditLogFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	o := managerOptions(f)
	o.Audit, o.Logger = audit, log
	if in, ok := f.Manager.Etcd(); ok {
		return runCandidate(ctx, f, in, o, ready)
	}
	if o.Log, err = manager.OpenLog(decisionLog(f)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Log.Close()) }()
	n, err := manager.NewNode(ctx, o)
	if err != nil {
		return err
	}
	ready()
	return ended(n.Run(ctx))
}

// runCandidate runs one of several managers whose decision log is in etcd. It serves status at once, and leads when
// it is elected.
func runCandidate(ctx context.Context, f *config.File, in config.EtcdLog, o manager.Options, ready func()) (err error) {
	cluster, err := openCluster(f, in, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	c, err := manager.NewCandidate(ctx, o, cluster)
	if err != nil {
		return err
	}
	ready()
	return ended(c.Run(ctx))
}

// openCluster gives the manager of a file its part in the election.
func openCluster(f *config.File, in config.EtcdLog, o manager.Options) (*etcdlog.Cluster, error) {
	m := f.Manager
	e := etcdlog.Options{
		Endpoints: in.Endpoints, Prefix: in.Prefix, Lease: m.EtcdLease.Std(), Name: o.Name, Listen: o.Listen,
		CA: m.EtcdCA, Cert: m.EtcdCert, Key: m.EtcdKey, User: m.EtcdUser, PasswordFile: m.EtcdPasswordFile, Logger: o.Logger,
	}
	for _, g := range o.Groups {
		e.Groups = append(e.Groups, g.Name)
	}
	return etcdlog.Open(e)
}

// decisionLog is the file of a manager's decision log, or where in etcd it is.
func decisionLog(f *config.File) string {
	if f.Manager.DecisionLog != "" {
		return f.Manager.DecisionLog
	}
	return filepath.Join(f.Node.StateDir, DecisionLogFile)
}

// readLog reads what the decision log says of a group, and changes nothing. Errors are as of manager.ReadLog.
func readLog(ctx context.Context, f *config.File, group string) (rec manager.Recovered, err error) {
	in, ok := f.Manager.Etcd()
	if !ok {
		return manager.ReadLog(decisionLog(f), group)
	}
	cluster, err := openCluster(f, in, managerOptions(f))
	if err != nil {
		return rec, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	return cluster.Peek(ctx, group)
}

// takeLog opens the decision log for this process alone. In etcd that means to lead.
func takeLog(ctx context.Context, f *config.File) (_ manager.Log, release func() error, err error) {
	in, ok := f.Manager.Etcd()
	if !ok {
		l, err := manager.OpenLog(decisionLog(f))
		if err != nil {
			return nil, nil, err
		}
		return l, l.Close, nil
	}
	cluster, err := openCluster(f, in, managerOptions(f))
	if err != nil {
		return nil, nil, err
	}
	if _, err = cluster.Peek(ctx, f.Manager.Groups[0].Name); err == nil {
		term, cerr := cluster.Campaign(ctx)
		if cerr == nil {
			return term, func() error { return errors.Join(term.Close(), cluster.Close()) }, nil
		}
		err = cerr
	}
	return nil, nil, errors.Join(err, cluster.Close())
}

// managerOptions names controls by their addresses, which is how the configuration knows them.
func managerOptions(f *config.File) manager.Options {
	o := manager.Options{Name: f.Node.Name, Listen: f.Node.Listen.String(), Wire: wireOptions(f)}
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
