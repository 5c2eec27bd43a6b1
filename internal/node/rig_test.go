package node

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
	"testing"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

const (
	rigVolume = 256 << 10 // bytes
	rigPool   = 64 << 20
	// patience is how long anything may take: the machine may be slow, or stand still for seconds.
	patience = time.Minute
)

// patient are the options of connections of tests.
var patient = wire.Options{IdleTimeout: patience, WriteTimeout: patience}

// place is a volume: GROUP/NAME, on which primary, and on which secondary its copy is.
type place struct{ group, name, primary, secondary string }

// rig is an installation in this process, on files and Unix sockets.
type rig struct {
	t      *testing.T
	dir    string
	places []place
	log    *slog.Logger
}

func newRig(t *testing.T, places ...place) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "fs") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &rig{t: t, dir: dir, places: places, log: slog.New(slog.DiscardHandler)}
}

func (r *rig) path(name string) string   { return filepath.Join(r.dir, name) }
func (r *rig) socket(name string) string { return "unix:" + r.path(name) }

func (r *rig) address(name string) config.Address {
	return config.Address{Network: "unix", Addr: r.path(name)}
}

func (r *rig) parse(role config.Role, name, rest string) *config.File {
	r.t.Helper()
	if err := os.MkdirAll(r.path(name+".d"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	text := fmt.Sprintf("[node]\nname = %q\nlisten = %q\nstate_dir = %q\npeer_timeout = %q\n%s", name, r.socket(name), r.path(name+".d"), patience, rest)
	f, err := config.Parse(name, []byte(text), role)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// secondary makes the pool if there is none, with the volumes of the places unless others are given.
func (r *rig) secondary(name string, volumes ...string) *config.File {
	r.t.Helper()
	pool := r.path(name + ".pool")
	if _, err := os.Stat(pool); errors.Is(err, os.ErrNotExist) {
		r.format(pool, name)
	}
	text := fmt.Sprintf("[secondary]\nio = \"plain\"\ndevices = [%q]\nnbd = %q\n", pool, r.socket(name+"n"))
	for _, p := range r.places {
		if p.secondary == name && len(volumes) == 0 {
			text += fmt.Sprintf("[[secondary.volume]]\nname = %q\ngroup = %q\nsize = %d\n", p.name, p.group, rigVolume)
		}
	}
	return r.parse(config.RoleSecondary, name, text+strings.Join(volumes, "\n"))
}

func (r *rig) format(pool, name string) {
	r.t.Helper()
	f, err := os.Create(pool)
	if err == nil {
		err = errors.Join(f.Truncate(rigPool), f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	devs, err := ring.Open([]string{pool}, ring.OpenOptions{Kind: ring.Plain, AllowBuffered: true})
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = engine.Format(devs, engine.FormatOptions{Name: name})
	if err := errors.Join(err, devs.Close()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) primary(name string) *config.File {
	text := fmt.Sprintf("[primary]\nio = \"plain\"\nnbd = %q\n", r.socket(name+"n"))
	for _, p := range r.places {
		if p.primary == name {
			text += fmt.Sprintf("[[primary.volume]]\nname = %q\ngroup = %q\nfile = %q\nsize = %d\nsecondary = %q\n",
				p.name, p.group, r.path(p.group+"-"+p.name), rigVolume, r.socket(p.secondary))
		}
	}
	return r.parse(config.RolePrimary, name, text)
}

// manager manages every group of the places.
func (r *rig) manager(name, interval string) *config.File {
	text := ""
	seen := map[string]bool{}
	for _, p := range r.places {
		if seen[p.group] {
			continue
		}
		seen[p.group] = true
		var prim, sec []string
		for _, q := range r.places {
			if q.group == p.group {
				prim, sec = add(prim, r.socket(q.primary)), add(sec, r.socket(q.secondary))
			}
		}
		text += fmt.Sprintf("[[manager.group]]\nname = %q\nprimaries = %s\nsecondaries = %s\ninterval = %q\ncoordination_timeout = \"10s\"\ndrain_timeout = %q\ncommand_timeout = %q\n",
			p.group, quoted(prim), quoted(sec), interval, patience, patience)
	}
	return r.parse(config.RoleManager, name, text)
}

func add(list []string, s string) []string {
	for _, x := range list {
		if x == s {
			return list
		}
	}
	return append(list, s)
}

func quoted(list []string) string {
	b, _ := json.Marshal(list) // strings always marshal
	return string(b)
}

type role func(context.Context, *config.File, *slog.Logger, func()) error

// start runs a role until stop is called or the test ends; it returns when the role serves.
func (r *rig) start(run role, f *config.File) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(ctx, f, r.log, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("%s: %v", f.Node.Name, err)
		}
	})
	r.t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		r.t.Fatalf("%s did not start: %v", f.Node.Name, err)
	}
	return stop
}

// all starts every control of the places, and a manager.
func (r *rig) all(interval string) (stopManager func()) {
	r.t.Helper()
	seen := map[string]bool{}
	for _, p := range r.places {
		if !seen[p.secondary] {
			r.start(Secondary, r.secondary(p.secondary))
		}
		seen[p.secondary] = true
	}
	for _, p := range r.places {
		if !seen[p.primary] {
			r.start(Primary, r.primary(p.primary))
		}
		seen[p.primary] = true
	}
	return r.start(Manager, r.manager("m1", interval))
}

// ask gets a node's status document.
func ask(ctx context.Context, at config.Address) ([]byte, error) {
	c, err := wire.Dial(ctx, at.String(), patient)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "test"}); err != nil {
		return nil, err
	}
	if err := c.WriteMessage(&wire.Status{}); err != nil {
		return nil, err
	}
	h, body, err := c.Next()
	if err != nil {
		return nil, err
	}
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		return nil, err
	}
	return m.(*wire.StatusReply).JSON, nil
}

// await asks a node for its status until ok has no objection.
func await[S any](r *rig, name string, ok func(S) error) (s S) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(3 * time.Millisecond) { // between two questions
		document, err := ask(r.t.Context(), r.address(name))
		if err == nil {
			var next S
			if err = json.Unmarshal(document, &next); err == nil {
				s = next
				err = ok(s)
			}
		}
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for %s: %v\n%+v", name, err, s)
		}
	}
}

// awaitCut waits until every group of the manager has a CG that was cut after now, and final on every secondary.
func (r *rig) awaitCut() manager.NodeStatus {
	r.t.Helper()
	now := time.Now()
	return await(r, "m1", func(s manager.NodeStatus) error {
		for _, g := range s.Groups {
			if g.RecoveryCut == nil || !g.RecoveryCut.After(now) {
				return fmt.Errorf("group %s is in %v, waits for %q", g.Group, g.State, g.Waiting)
			}
			for _, c := range g.Controls {
				if c.Role == "secondary" && (c.Final == nil || *c.Final < *g.RecoveryPoint) {
					return fmt.Errorf("group %s: CG %d is not final on %s", g.Group, *g.RecoveryPoint, c.Name)
				}
			}
		}
		return nil
	})
}

// write fills a block of a volume on its primary.
func (r *rig) write(p place, fill byte) {
	r.t.Helper()
	c, err := nbdclient.Dial(r.t.Context(), r.socket(p.primary+"n"), p.group+"/"+p.name)
	if err != nil {
		r.t.Fatal(err)
	}
	block := []byte(strings.Repeat(string(rune(fill)), 4096))
	_, err = c.WriteAt(block, 4096)
	if err := errors.Join(err, c.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// shown reads from the copy what write wrote.
func (r *rig) shown(p place) byte {
	r.t.Helper()
	await(r, p.secondary, func(s target.Status) error { // else it is not served
		for _, g := range s.Groups {
			for _, v := range g.Volumes {
				if g.Name == p.group && v.Name == p.name && v.WholeSince > 0 {
					return nil
				}
			}
		}
		return fmt.Errorf("volume %s/%s is not whole", p.group, p.name)
	})
	c, err := nbdclient.Dial(r.t.Context(), r.socket(p.secondary+"n"), p.group+"/"+p.name)
	if err != nil {
		r.t.Fatal(err)
	}
	b := make([]byte, 1)
	block := make([]byte, 4096)
	_, err = c.ReadAt(block, 4096)
	copy(b, block)
	if err := errors.Join(err, c.Close()); err != nil {
		r.t.Fatal(err)
	}
	return b[0]
}
