package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/export"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// errNoFile: there is nothing to read again.
var errNoFile = errors.New("this control was not told where its configuration comes from: restart it to change it")

type reloadKey struct{}

// WithReload says how a primary control that runs with the context reads its configuration again.
func WithReload(ctx context.Context, read func() (*config.File, error)) context.Context {
	return context.WithValue(ctx, reloadKey{}, read)
}

func reloadFrom(ctx context.Context) func() (*config.File, error) {
	read, ok := ctx.Value(reloadKey{}).(func() (*config.File, error))
	if !ok {
		return func() (*config.File, error) { return nil, errNoFile }
	}
	return read
}

// reloader changes the volumes of a running primary control to what its configuration says now. A reload either does
// all of it or, with an error, nothing.
type reloader struct {
	ctx     context.Context // of the control; stop ends the exports
	stop    context.CancelFunc
	read    func() (*config.File, error)
	serving *errgroup.Group
	log     *slog.Logger

	mu      sync.Mutex // one reload at a time; guards what follows
	node    *primary.Node
	file    *config.File
	exports map[config.Address]*hostsAt
}

// hostsAt serves hosts at one address.
type hostsAt struct {
	list    *export.HostExports
	servers *exportServers
}

// serve begins to serve hosts.
func (r *reloader) serve(node *primary.Node, at map[config.Address][]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node = node
	for address, names := range at {
		if err := r.serveAt(address, names); err != nil {
			return err
		}
	}
	return nil
}

func (r *reloader) serveAt(at config.Address, names []string) error {
	list := export.Hosts(r.node, names)
	servers, err := serveExports(r.ctx, r.serving, list, []config.Address{at}, r.log)
	if err != nil {
		return err
	}
	r.exports[at] = &hostsAt{list, servers}
	return nil
}

func (r *reloader) close() error {
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, e := range r.exports {
		errs = append(errs, e.servers.close())
	}
	return errors.Join(errs...)
}

// onHangup reloads at each SIGHUP.
func (r *reloader) onHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			_ = r.reload() // it is logged
		}
	}
}

// reload reads the configuration again and does what is new in it.
func (r *reloader) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.ctx.Err()
	if r.node == nil {
		err = errors.New("the control is just starting")
	}
	var now *config.File
	if err == nil {
		now, err = r.read()
	}
	if err == nil {
		err = r.change(now)
	}
	if err != nil {
		r.log.Error("the configuration was read again, and nothing is changed", "error", err)
		return err
	}
	r.file = now
	r.log.Info("the configuration was read again", "volumes", len(now.Primary.Volumes))
	return nil
}

func (r *reloader) change(now *config.File) error {
	joining, leaving, err := changes(r.file, now)
	if err == nil {
		err = config.CheckDevices("", now)
	}
	if err != nil {
		return err
	}
	var joined []*joiner
	for _, v := range joining {
		j, err := r.join(now, v)
		if err != nil {
			r.undo(joined)
			return fmt.Errorf("volume %s: %w", v.Export(), err)
		}
		joined = append(joined, j)
	}
	if err := r.withdraw(leaving); err != nil {
		r.undo(joined)
		return err
	}
	r.node.SetOverwrite(overwrites(now))
	r.node.SetFirstCopyRate(int64(now.Primary.FirstCopyRate))
	for _, j := range joined {
		r.exports[j.at].list.Add(j.name)
	}
	return nil
}

// changes compares two configurations: which volumes are new, and which are not there any more. Any other difference is an error.
func changes(was, now *config.File) (joining, leaving []config.PrimaryVolume, err error) {
	var errs []error
	differ := func(what string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			errs = append(errs, fmt.Errorf("%s has changed, from %v to %v: restart this control to change it", what, a, b))
		}
	}
	eachKey("node", was.Node, now.Node, differ)
	eachKey("primary", *was.Primary, *now.Primary, differ)
	for _, v := range now.Primary.Volumes {
		if i := slices.IndexFunc(was.Primary.Volumes, func(o config.PrimaryVolume) bool { return o.Export() == v.Export() }); i < 0 {
			joining = append(joining, v)
		} else {
			eachKey("volume "+v.Export()+",", was.Primary.Volumes[i], v, differ)
		}
	}
	for _, v := range was.Primary.Volumes {
		if !slices.ContainsFunc(now.Primary.Volumes, func(o config.PrimaryVolume) bool { return o.Export() == v.Export() }) {
			leaving = append(leaving, v)
		}
	}
	for _, v := range leaving {
		if !slices.ContainsFunc(now.Primary.Volumes, func(o config.PrimaryVolume) bool { return o.Group == v.Group }) {
			errs = append(errs, fmt.Errorf("group %q would have no volume here any more, and could not form CGs with this control: remove the control "+
				"from the group (farside group remove-control), and restart it", v.Group))
		}
	}
	return joining, leaving, errors.Join(errs...)
}

// reloadable are the keys that may change while a primary control runs.
var reloadable = []string{"volume", "overwrite_copies", "first_copy_rate"}

// eachKey gives the keys of a table, but for those that may change, with both values.
func eachKey(table string, was, now any, f func(what string, was, now any)) {
	a, b := reflect.ValueOf(was), reflect.ValueOf(now)
	for i := range a.NumField() {
		if key := a.Type().Field(i).Tag.Get("toml"); key != "" && !slices.Contains(reloadable, key) {
			dot := "."
			if strings.HasSuffix(table, ",") {
				dot = " "
			}
			f(table+dot+key, a.Field(i).Interface(), b.Field(i).Interface())
		}
	}
}

// joiner is a volume that has joined.
type joiner struct {
	volume *primary.Volume
	name   string
	at     config.Address
}

// join opens a volume and has it join its group. Hosts do not find it yet.
func (r *reloader) join(now *config.File, v config.PrimaryVolume) (*joiner, error) {
	if v.Size != 0 { // nothing is made, not even a file, that would not be used
		if _, err := r.awaited(now, v, primary.VolumeSpec{Name: v.Name, Size: uint64(v.Size), Place: placeOf(v)}); err != nil {
			return nil, err
		}
	}
	if err := ensureFile(v, r.log); err != nil {
		return nil, err
	}
	devs, err := openDevices(r.ctx, []wantedDevice{{v.Path(), "volume " + v.Export()}}, now.Primary.IO, r.log)
	if err != nil {
		return nil, err
	}
	j, err := r.joinWith(now, v, devs)
	if err != nil {
		return nil, errors.Join(err, devs.Close())
	}
	return j, nil
}

func (r *reloader) joinWith(now *config.File, v config.PrimaryVolume, devs ring.Devices) (*joiner, error) {
	groups, err := primaryGroups([]config.PrimaryVolume{v}, devs.Info())
	if err != nil {
		return nil, err
	}
	spec := groups[0].Volumes[0]
	aside, err := r.awaited(now, v, spec)
	if err != nil {
		return nil, err
	}
	j := &joiner{name: v.Export(), at: v.NBD}
	if j.at.IsZero() {
		j.at = now.Primary.NBD
	}
	if r.exports[j.at] == nil {
		if err := r.serveAt(j.at, nil); err != nil {
			return nil, err
		}
	}
	release := func() {
		if err := devs.Close(); err != nil {
			r.log.Error("the device of a volume that has left cannot be closed", "volume", v.Export(), "error", err)
		}
	}
	secondary := v.Secondary.String()
	if aside { // last of all: from then on the copy is not served, until it is whole again
		if err := r.rejoin(now, v); err != nil {
			return nil, err
		}
	}
	j.volume, err = r.node.AddVolume(v.Group, spec, devs, map[string]string{secondary: secondary}, release)
	return j, err
}

// undo has volumes leave that have just joined: no host has found them.
func (r *reloader) undo(joined []*joiner) {
	for _, j := range joined {
		if err := r.node.RemoveVolume(j.volume); err != nil {
			r.log.Error("a volume cannot be taken back", "volume", j.name, "error", err)
		}
	}
}

// withdraw has volumes leave that no host uses.
func (r *reloader) withdraw(leaving []config.PrimaryVolume) (err error) {
	var done []func()
	var volumes []*primary.Volume
	for _, v := range leaving {
		at := v.NBD
		if at.IsZero() {
			at = r.file.Primary.NBD
		}
		list := r.exports[at].list
		if err = list.Remove(v.Export()); err != nil {
			break
		}
		done = append(done, func() { list.Add(v.Export()) })
		var o *primary.Volume
		if o, err = r.node.Volume(v.Group, v.Name); err != nil {
			break
		}
		volumes = append(volumes, o)
	}
	if err != nil {
		for _, again := range done {
			again()
		}
		return err
	}
	var errs []error
	for _, v := range volumes {
		errs = append(errs, r.node.RemoveVolume(v)) // nobody is connected, so that nothing is in progress
	}
	return errors.Join(errs...)
}

// copyState is what is asked of a secondary's status.
type copyState struct {
	Groups []struct {
		Name    string `json:"name"`
		Volumes []struct {
			Name       string `json:"name"`
			Bytes      uint64 `json:"bytes"`
			Identity   string `json:"identity"`
			Standing   string `json:"standing"`
			WholeSince uint64 `json:"whole_since"`
			Holds      bool   `json:"holds"`
		} `json:"volumes"`
	} `json:"groups"`
}

// askTimeout is how long a secondary may take to answer before a volume joins.
const askTimeout = 10 * time.Second

// awaited says what the secondary of a new volume has against it, and whether the copy is set aside there. One that refused the volume when it is attached
// would refuse the whole group.
func (r *reloader) awaited(now *config.File, v config.PrimaryVolume, spec primary.VolumeSpec) (aside bool, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, askTimeout)
	defer cancel()
	former := r.node.Former(v.Group, spec, v.Secondary.String())
	known := func(id string) bool {
		return id == config.Identity(former).String() ||
			slices.ContainsFunc(now.Primary.OverwriteCopies, func(listed config.Identity) bool { return listed.String() == id })
	}
	var s copyState
	if err = askStatus(ctx, v.Secondary, wireOptions(now), &s); err == nil {
		aside, err = s.awaits(v, spec.Size, known)
	}
	if err != nil {
		return false, fmt.Errorf("the secondary at %s: %w", v.Secondary, err)
	}
	return aside, nil
}

// rejoin has the secondary take a volume back that was set aside.
func (r *reloader) rejoin(now *config.File, v config.PrimaryVolume) error {
	ctx, cancel := context.WithTimeout(r.ctx, askTimeout)
	defer cancel()
	var s copyState
	if err := tell(ctx, v.Secondary, wireOptions(now), &wire.Volume{Group: v.Group, Name: v.Name, Action: wire.VolumeRejoin}, &s); err != nil {
		return fmt.Errorf("the secondary at %s: have the copy that is set aside rejoin: %w", v.Secondary, err)
	}
	r.log.Info("the copy that was set aside is overwritten by another first copy", "volume", v.Export(), "secondary", v.Secondary.String())
	return nil
}

// awaits looks at the copy of a new volume; known says whether one is of the same volume here, or may be overwritten.
func (s *copyState) awaits(v config.PrimaryVolume, size uint64, known func(identity string) bool) (aside bool, err error) {
	for _, g := range s.Groups {
		for _, c := range g.Volumes {
			if g.Name != v.Group || c.Name != v.Name {
				continue
			}
			switch aside = c.Standing == engine.SetAside.String(); {
			case c.Bytes != size:
				return false, fmt.Errorf("the volume has %d bytes there and %d here", c.Bytes, size)
			case aside && !known(c.Identity):
				return false, fmt.Errorf("the volume was set aside there, and this control does not know it for a copy of what is in %s now: if it is not needed, delete it "+
					"there (farside volume delete %s --force --control %s), and run farside group add-volume again", v.Path(), v.Export(), v.Secondary)
			case (c.WholeSince > 0 || c.Holds) && !known(c.Identity):
				return false, fmt.Errorf("the volume holds a copy there that this control knows nothing of: if it is not needed, add %s to overwrite_copies", c.Identity)
			}
			return aside, nil
		}
	}
	return false, fmt.Errorf("it has no volume %s: make it there first (farside group add-volume does)", v.Export())
}

// askStatus asks a control for its state, as a tool does.
func askStatus(ctx context.Context, at config.Address, o wire.Options, into any) error {
	return tell(ctx, at, o, &wire.Status{}, into)
}

// tell has a control do something, as a tool does; into gets its state.
func tell(ctx context.Context, at config.Address, o wire.Options, message wire.Message, into any) error {
	conn, err := wire.Dial(ctx, at.String(), o)
	if err != nil {
		return err
	}
	defer conn.Close() // its error would be that of a connection that is not needed any more
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "farside"}); err != nil {
		return err
	}
	if err := conn.WriteMessage(message); err != nil {
		return err
	}
	h, body, err := conn.Next()
	if err != nil {
		return err
	}
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		return err
	}
	reply, ok := m.(*wire.StatusReply)
	if !ok {
		return fmt.Errorf("it answered with %v instead of its status: %w", h.Type, wire.ErrProtocol)
	}
	return json.Unmarshal(reply.JSON, into)
}
