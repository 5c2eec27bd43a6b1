package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// runReloadable runs a primary control whose configuration is what now points at.
func runReloadable(now *atomic.Pointer[config.File]) role {
	return func(ctx context.Context, f *config.File, log *slog.Logger, ready func()) error {
		return Primary(WithReload(ctx, func() (*config.File, error) { return now.Load(), nil }), f, log, ready)
	}
}

// reload has p1 read its configuration again.
func (r *rig) reload(now *atomic.Pointer[config.File], f *config.File) error {
	r.t.Helper()
	now.Store(f)
	var s primary.Status
	return r.tool("p1", &wire.Reload{}, &s)
}

func refusedWith(t *testing.T, err error, parts ...string) {
	t.Helper()
	told, ok := errors.AsType[*wire.RemoteError](err)
	if !ok || told.Message.Code != wire.CodeState {
		t.Fatalf("not refused: %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(told.Message.Text, part) {
			t.Errorf("%q does not say %q", told.Message.Text, part)
		}
	}
}

// change has a secondary change a volume of group g.
func (r *rig) change(secondary, volume string, action wire.VolumeAction) error {
	m := &wire.Volume{Group: "g", Name: volume, Action: action}
	if action == wire.VolumeMake {
		m.Size = rigVolume
	}
	var s target.Status
	return r.tool(secondary, m, &s)
}

// awaitChange is change once the secondary has noticed that its primary attached anew without the volume.
func (r *rig) awaitChange(secondary, volume string, action wire.VolumeAction) {
	r.t.Helper()
	await(r, secondary, func(target.Status) error { return r.change(secondary, volume, action) })
}

// TestReq14_VolumeJoinsAndLeaves: the running primary takes a volume in and leaves it out again, without losing the recovery point.
func TestReq14_VolumeJoinsAndLeaves(t *testing.T) {
	a, c := place{"g", "a", "p1", "s1"}, place{"g", "c", "p1", "s1"}
	r := newRig(t, a)
	var now atomic.Pointer[config.File]
	r.start(Secondary, r.secondary("s1"))
	first := r.primary("p1")
	r.start(runReloadable(&now), first)
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(a, 'x')
	before := *r.awaitCut().Groups[0].RecoveryPoint

	r.places = append(r.places, c)
	both := r.primary("p1")
	refusedWith(t, r.reload(&now, both), "g/c", r.socket("s1"), "add-volume")
	if _, err := os.Stat(r.path("g-c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a reload that failed has made a file: %v", err)
	}
	if err := r.change("s1", "c", wire.VolumeMake); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing has changed
		if err := r.reload(&now, both); err != nil {
			t.Fatal(err)
		}
	}
	r.write(c, 'y')
	await(r, "p1", func(s primary.Status) error {
		if v := s.Groups[0].Volumes; len(v) != 2 || v[1].Joining || !v[1].Copies[0].FirstCopyDone {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	after := r.awaitCut().Groups[0]
	if *after.RecoveryPoint <= before || after.CGsFailed != 0 {
		t.Errorf("recovery point %d after %d, %d CGs failed: %+v", *after.RecoveryPoint, before, after.CGsFailed, after.LastFailure)
	}
	if got := r.shown(c); got != 'y' {
		t.Errorf("the copy of the new volume shows %q", got)
	}

	host, err := nbdclient.Dial(t.Context(), r.socket("p1n"), "g/c")
	if err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.reload(&now, first), "g/c", "in use")
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	await(r, "p1", func(primary.Status) error { return r.reload(&now, first) }) // once the server has noticed that the host is gone
	await(r, "p1", func(s primary.Status) error {
		if v := s.Groups[0].Volumes; len(v) != 1 {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	r.awaitChange("s1", "c", wire.VolumeSetAside)
	r.write(a, 'z')
	r.awaitCut()
	if got := r.shown(a); got != 'z' {
		t.Errorf("the volume that stayed shows %q", got)
	}
	if got := r.shown(c); got != 'y' {
		t.Errorf("the copy that was set aside shows %q", got)
	}

	// It comes back, with what was written to it meanwhile: all of it is copied again, over the copy that is there.
	file, err := os.OpenFile(r.path("g-c"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt(bytes.Repeat([]byte{'w'}, 4096), 4096)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	await(r, "p1", func(primary.Status) error { return r.reload(&now, both) })
	r.awaitCut()
	if got := r.shown(c); got != 'w' {
		t.Errorf("the copy of the volume that came back shows %q", got)
	}
}

// TestVolumeThatIsAnotherDoesNotComeBack: a copy that is set aside is left alone unless the primary knows that it is one of what the volume is now; also over restarts of
// the primary.
func TestVolumeThatIsAnotherDoesNotComeBack(t *testing.T) {
	a, c := place{"g", "a", "p1", "s1"}, place{"g", "c", "p1", "s1"}
	r := newRig(t, a, c)
	var now atomic.Pointer[config.File]
	r.start(Secondary, r.secondary("s1"))
	both := r.primary("p1")
	stop := r.start(Primary, both)
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(c, 'x')
	r.awaitCut()
	stop()
	r.places = r.places[:1] // taken out of the file while the control is down
	first := r.primary("p1")
	now.Store(first)
	r.start(runReloadable(&now), first)
	r.awaitChange("s1", "c", wire.VolumeSetAside)
	old := r.path("old")
	if err := os.Rename(r.path("g-c"), old); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.reload(&now, both), "set aside", "does not know it for a copy", "volume delete g/c")
	if _, err := os.Stat(r.path("g-c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a reload that failed has made a file: %v", err)
	}
	if err := os.WriteFile(r.path("g-c"), make([]byte, rigVolume), 0o600); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.reload(&now, both), "set aside", "does not know it for a copy")
	if err := r.change("s1", "c", wire.VolumeRejoin); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.reload(&now, both), "holds a copy", "overwrite_copies") // else the whole group would be refused
	r.write(a, 'z')
	r.awaitCut()
	if err := os.Rename(old, r.path("g-c")); err != nil {
		t.Fatal(err)
	}
	if err := r.reload(&now, both); err != nil {
		t.Fatal(err)
	}
	r.awaitCut()
	if got := r.shown(c); got != 'x' {
		t.Errorf("the copy of the volume that came back shows %q", got)
	}
}

// TestReq14_SecondaryWithoutVolumesHoldsUpNothing: the only volume of a group on one of two secondaries is set aside, then deleted; the group goes on, both
// secondaries show its CGs, and a new volume there gets its copy.
func TestReq14_SecondaryWithoutVolumesHoldsUpNothing(t *testing.T) {
	a, c := place{"g", "a", "p1", "s1"}, place{"g", "c", "p1", "s2"}
	r := newRig(t, a, c)
	var now atomic.Pointer[config.File]
	for _, name := range []string{"s1", "s2"} {
		r.start(Secondary, r.secondary(name))
	}
	both := r.primary("p1")
	now.Store(both)
	r.start(runReloadable(&now), both)
	r.start(Manager, r.manager("m1", "5ms"))
	r.write(c, 'x')
	r.awaitCut()

	r.places = r.places[:1]
	await(r, "p1", func(primary.Status) error { return r.reload(&now, r.primary("p1")) }) // once the server has noticed that the host is gone
	for _, action := range []wire.VolumeAction{wire.VolumeSetAside, wire.VolumeDelete} {
		r.awaitChange("s2", "c", action)
		r.write(a, byte('0'+action))
		g := r.awaitCut().Groups[0]
		if got := r.shown(a); got != byte('0'+action) {
			t.Errorf("after %v the copy that stayed shows %q", action, got)
		}
		for _, m := range g.Controls {
			if m.Role == "secondary" && m.Vacant != (m.Name == r.socket("s2")) {
				t.Errorf("after %v: %+v", action, m)
			}
		}
	}

	r.places = append(r.places, c) // the device was closed, and can be used again
	if err := r.change("s2", "c", wire.VolumeMake); err != nil {
		t.Fatal(err)
	}
	await(r, "p1", func(primary.Status) error { return r.reload(&now, both) })
	r.write(c, 'y')
	r.awaitCut()
	await(r, "m1", func(s manager.NodeStatus) error {
		for _, m := range s.Groups[0].Controls {
			if m.Vacant {
				return fmt.Errorf("%s is vacant", m.Name)
			}
		}
		return nil
	})
	if got := r.shown(c); got != 'y' {
		t.Errorf("the new copy shows %q", got)
	}
}

func TestReloadRefusesOtherChanges(t *testing.T) {
	r := newRig(t, place{"g", "a", "p1", "s1"}, place{"h", "b", "p1", "s1"})
	var now atomic.Pointer[config.File]
	r.start(Secondary, r.secondary("s1"))
	r.start(runReloadable(&now), r.primary("p1"))
	for _, c := range []struct {
		says   []string
		change func(*config.File)
	}{
		{[]string{"node.name", "restart"}, func(f *config.File) { f.Node.Name = "other" }},
		{[]string{"primary.queue", "restart"}, func(f *config.File) { f.Primary.Queue = 1 << 30 }},
		{[]string{"volume g/a, size", "restart"}, func(f *config.File) { f.Primary.Volumes[0].Size *= 2 }},
		{[]string{`group "h"`, "remove-control"}, func(f *config.File) { f.Primary.Volumes = f.Primary.Volumes[:1] }},
	} {
		f := r.primary("p1")
		c.change(f)
		refusedWith(t, r.reload(&now, f), c.says...)
	}
	var s primary.Status
	if err := r.tool("p1", &wire.Status{}, &s); err != nil || len(s.Groups) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
