package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/ring"
)

const (
	groupName  = "g"
	volumeSize = 256 << 10 // bytes
	poolSize   = 64 << 20
)

// installation is a set of roles in this process, with everything they need in one folder.
type installation struct {
	o     Options
	dir   string
	tally *tally // nil: nothing is counted
	log   *slog.Logger

	stops []func() error
	taps  []*tap

	mu     sync.Mutex
	failed error // of a role that ended by itself
}

func install(ctx context.Context, o Options) (*installation, error) {
	dir, err := os.MkdirTemp(o.Dir, "fs") // short: the path of a socket has 107 bytes
	if err != nil {
		return nil, err
	}
	in := &installation{o: o, dir: dir, log: slog.New(slog.DiscardHandler)}
	if o.Counted {
		in.tally = newTally()
	}
	if err := in.start(ctx); err != nil {
		return nil, errors.Join(err, in.close())
	}
	return in, nil
}

func (in *installation) path(name string) string   { return filepath.Join(in.dir, name) }
func (in *installation) socket(name string) string { return "unix:" + in.path(name) }

// front is the address at which a control is reached by those whose frames are counted.
func (in *installation) front(name string) string {
	if in.tally == nil {
		return in.socket(name)
	}
	return in.socket(name + "t")
}

func (in *installation) start(ctx context.Context) error {
	for i := range in.o.Secondaries {
		f, err := in.secondary(ctx, i)
		if err != nil {
			return err
		}
		if err := in.run(ctx, node.Secondary, f); err != nil {
			return err
		}
	}
	for i := range in.o.Primaries {
		f, err := in.parse(config.RolePrimary, primaryName(i), in.primaryText(i))
		if err != nil {
			return err
		}
		if err := in.run(ctx, node.Primary, f); err != nil {
			return err
		}
	}
	f, err := in.parse(config.RoleManager, "m", in.managerText())
	if err != nil {
		return err
	}
	return in.run(ctx, node.Manager, f)
}

func primaryName(i int) string   { return fmt.Sprintf("p%d", i) }
func secondaryName(i int) string { return fmt.Sprintf("s%d", i) }
func volumeName(i int) string    { return fmt.Sprintf("v%d", i) }

func (in *installation) secondary(ctx context.Context, i int) (*config.File, error) {
	name := secondaryName(i)
	pool := in.path(name + ".pool")
	if err := in.format(pool, name); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[secondary]\nio = %q\ndevices = [%q]\nnbd = %q\n", in.io(), pool, in.socket(name+"n"))
	for v := range in.o.Volumes {
		if _, s := in.o.Of(v); s == i {
			fmt.Fprintf(&b, "[[secondary.volume]]\nname = %q\ngroup = %q\nsize = %d\n", volumeName(v), groupName, volumeSize)
		}
	}
	return in.parse(config.RoleSecondary, name, b.String())
}

func (in *installation) io() string {
	if in.o.Kind == ring.Plain {
		return "plain"
	}
	return "uring"
}

func (in *installation) format(pool, name string) error {
	f, err := os.Create(pool)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(poolSize), f.Close()); err != nil {
		return err
	}
	devs, err := ring.Open([]string{pool}, ring.OpenOptions{Kind: ring.Plain, AllowBuffered: true})
	if err != nil {
		return err
	}
	_, err = engine.Format(devs, engine.FormatOptions{Name: name})
	return errors.Join(err, devs.Close())
}

func (in *installation) primaryText(i int) string {
	var b strings.Builder
	name := primaryName(i)
	fmt.Fprintf(&b, "[primary]\nio = %q\nnbd = %q\n", in.io(), in.socket(name+"n"))
	for v := range in.o.Volumes {
		if p, s := in.o.Of(v); p == i {
			fmt.Fprintf(&b, "[[primary.volume]]\nname = %q\ngroup = %q\nfile = %q\nsize = %d\nsecondary = %q\n",
				volumeName(v), groupName, in.path(volumeName(v)), volumeSize, in.front(secondaryName(s)))
		}
	}
	return b.String()
}

func (in *installation) managerText() string {
	var prim, sec []string
	for i := range in.o.Primaries {
		prim = append(prim, in.front(primaryName(i)))
	}
	for i := range in.o.Secondaries {
		sec = append(sec, in.front(secondaryName(i)))
	}
	return fmt.Sprintf("[[manager.group]]\nname = %q\nprimaries = %s\nsecondaries = %s\ninterval = \"0s\"\ncoordination_timeout = \"10s\"\ncommand_timeout = \"60s\"\ndrain_timeout = \"10m\"\n",
		groupName, quoted(prim), quoted(sec))
}

func quoted(list []string) string {
	b, _ := json.Marshal(list) // strings always marshal
	return string(b)
}

func (in *installation) parse(role config.Role, name, rest string) (*config.File, error) {
	if err := os.MkdirAll(in.path(name+".d"), 0o700); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("[node]\nname = %q\nlisten = %q\nstate_dir = %q\npeer_timeout = \"1m\"\n%s", name, in.socket(name), in.path(name+".d"), rest)
	return config.Parse(name, []byte(text), role)
}

type role func(context.Context, *config.File, *slog.Logger, func()) error

// run starts a role and returns when it serves; with a tap in front of it where frames are counted.
func (in *installation) run(ctx context.Context, run role, f *config.File) error {
	name := f.Node.Name
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := run(ctx, f, in.log, func() { close(ready) })
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			in.mu.Lock()
			in.failed = errors.Join(in.failed, err)
			in.mu.Unlock()
		}
		ended <- err
	}()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		return errors.Join(err, ctx.Err(), fmt.Errorf("%s did not start", name))
	}
	in.stops = append(in.stops, func() error {
		cancel()
		return <-ended
	})
	if in.tally == nil {
		return nil
	}
	t, err := newTap(in.path(name+"t"), in.path(name), in.tally)
	if err != nil {
		return err
	}
	in.taps = append(in.taps, t)
	return nil
}

// trouble is why a role ended by itself, nil if none did.
func (in *installation) trouble() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.failed
}

// close ends the roles, the manager first, and removes everything.
func (in *installation) close() error {
	var errs []error
	for i := range in.stops {
		errs = append(errs, in.stops[len(in.stops)-1-i]())
	}
	for _, t := range in.taps {
		errs = append(errs, t.close())
	}
	return errors.Join(append(errs, os.RemoveAll(in.dir))...)
}
