package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/farside-storage/farside/internal/config"
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
	bank := manager.Status{Group: "bank", State: manager.StateStarting, Paused: true, Waiting: "every secondary must say what its links show; missing: unix:/s1",
		Settings: manager.DefaultSettings(), Alerts: []string{"unix:/s1 is not connected"}}
	return manager.NodeStatus{Node: "m1", Role: "manager", Groups: []manager.Status{bank, shop}}, nil
}

// groupKeys are the JSON keys of a group, under a path.
func groupKeys(under string) []string {
	keys := []string{"group", "state", "paused", "waiting", "recovery_point", "rpo_ms", "settings", "settings.interval",
		"settings.coordination_timeout", "settings.drain_timeout", "settings.command_timeout", "settings.rpo_alert", "alerts"}
	if under == "groups[]" {
		keys = append(keys, "alerts[]")
	}
	for i := range keys {
		keys[i] = under + "." + keys[i]
	}
	return keys
}
