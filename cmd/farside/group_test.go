package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// fakeManager has a group that runs and one that knows nothing yet, and changes them as a manager does.
func fakeManager(_ context.Context, at config.Address, change *wire.GroupChange) (s manager.NodeStatus, err error) {
	if strings.HasSuffix(at.Addr, ":9") {
		return s, errors.New("connection refused")
	}
	point, rpo := uint64(41), 312.5
	shop := manager.Status{Group: "shop", State: manager.StateDrain, RecoveryPoint: &point, RPOMillis: &rpo, Settings: manager.DefaultSettings()}
	if change != nil {
		shop.Paused = change.Action == wire.GroupPause
		if change.Action == wire.GroupSet {
			if shop.Settings, err = shop.Settings.With(change.JSON); err != nil {
				return s, &wire.RemoteError{Message: *wire.Refusal(fmt.Errorf("%w: %w", err, wire.ErrState), 2, "shop", 0)}
			}
		}
	}
	if strings.HasSuffix(at.Addr, ":2") { // its members were changed
		shop.Members.Members = manager.Members{Version: 2, Primaries: []string{"127.0.0.1:7401"}, Secondaries: []string{"127.0.0.1:7409"},
			Joining: []manager.Joining{{Name: "127.0.0.1:7412", Role: "secondary"}}}
	}
	bank := manager.Status{Group: "bank", State: manager.StateStarting, Paused: true, Waiting: "every secondary must say what its links show; missing: unix:/s1",
		Settings: manager.DefaultSettings(), Alerts: []string{"unix:/s1 is not connected"}}
	return manager.NodeStatus{Node: "m1", Role: "manager", Groups: []manager.Status{bank, shop}}, nil
}

// TestFirstCopyIsSaid: of a group that never had a recovery point, list and recover say how far it is.
func TestFirstCopyIsSaid(t *testing.T) {
	f := manager.FirstCopy{Volumes: 3, Whole: 1}
	var list, recovered strings.Builder
	err := groupList{Groups: []groupInfo{groupInfoOf(manager.Status{Group: "shop", FirstCopy: &f})}}.writeText(&list)
	if err != nil || !strings.Contains(list.String(), "first copy, 1 of 3 volumes whole") {
		t.Errorf("%v\n%s", err, list.String())
	}
	g := groupRecovered{GroupRecovery: node.GroupRecovery{Group: "shop", Plan: manager.Plan{CG: 7}, FirstCopy: manager.ExplainFirstCopy(manager.Recovered{}, f)}, Applied: true}
	err = g.writeText(&recovered)
	for _, part := range []string{"  first copy, 1 of 3 volumes whole. ", "every control shows CG 7, which is no recovery point"} {
		if err != nil || !strings.Contains(recovered.String(), part) {
			t.Errorf("%v; %q is missing in\n%s", err, part, recovered.String())
		}
	}
}

// groupKeys are the JSON keys of a group, under a path.
func groupKeys(under string) []string {
	keys := []string{"group", "state", "paused", "waiting", "recovery_point", "rpo_ms", "settings", "settings.interval",
		"settings.coordination_timeout", "settings.drain_timeout", "settings.command_timeout", "settings.rpo_alert", "alerts",
		"members", "members.version", "members.primaries", "members.secondaries"}
	if under == "groups[]" {
		keys = append(keys, "alerts[]")
	}
	for i := range keys {
		keys[i] = under + "." + keys[i]
	}
	return keys
}

// serveManager runs a real manager whose controls do not answer, which tools may still ask and tell.
func serveManager(t *testing.T, listen string) {
	t.Helper()
	log, err := manager.OpenLog(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	audit, err := manager.OpenAuditLog("")
	if err != nil {
		t.Fatal(err)
	}
	n, err := manager.NewNode(t.Context(), manager.Options{Name: "m1", Listen: listen, Log: log, Audit: audit, Logger: slog.New(slog.DiscardHandler),
		Wire:     wire.Options{IdleTimeout: time.Minute, WriteTimeout: time.Minute},
		Controls: []manager.Control{{Name: "p", Role: wire.RolePrimary, Addr: "unix:/nowhere/p"}, {Name: "s", Role: wire.RoleSecondary, Addr: "unix:/nowhere/s"}},
		Groups:   []manager.GroupOptions{{Group: manager.Group{Name: "shop", Primaries: []string{"p"}, Secondaries: []string{"s"}}, Settings: manager.DefaultSettings()}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, log.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestGroupOverTheWire: the commands change a real manager, only what is given, and tell its refusals with status 2.
func TestGroupOverTheWire(t *testing.T) {
	dir, err := os.MkdirTemp("", "fs") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := "unix:" + filepath.Join(dir, "m1")
	serveManager(t, at)
	settings := manager.DefaultSettings()
	do := func(want int, args ...string) (g groupInfo, text string) {
		t.Helper()
		got := farside(t, production(), append(append([]string{"group"}, args...), "--manager", at, "--timeout", "1m", "--output", "json")...)
		if got.code != want {
			t.Fatalf("%v: status %d, want %d: %s", args, got.code, want, got.err)
		}
		var changed groupChanged
		if want == exitOK {
			if err := json.Unmarshal([]byte(got.out), &changed); err != nil {
				t.Fatal(err)
			}
		}
		return changed.Group, got.err
	}
	settings.DrainTimeout = 9 * time.Second
	if g, _ := do(exitOK, "set", "shop", "--drain-timeout", "9s"); g.Settings != settings || g.Paused {
		t.Errorf("%+v", g)
	}
	settings.Interval = 0
	if g, _ := do(exitOK, "set", "shop", "--interval", "0s"); g.Settings != settings {
		t.Errorf("%+v", g)
	}
	if g, _ := do(exitOK, "pause", "shop"); !g.Paused || g.Settings != settings {
		t.Errorf("%+v", g)
	}
	if g, _ := do(exitOK, "resume", "shop"); g.Paused {
		t.Errorf("%+v", g)
	}
	if _, text := do(exitUsage, "set", "shop", "--coordination-timeout", "1h"); !strings.Contains(text, "coordination_timeout is 1h0m0s: use a value from") {
		t.Error(text)
	}
	if _, text := do(exitUsage, "pause", "bank"); !strings.Contains(text, "bank") {
		t.Error(text)
	}
}
