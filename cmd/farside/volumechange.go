package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/wire"
)

func (a *app) volumeSetAsideCommand() *cobra.Command {
	c := a.volumeActionCommand("set-aside GROUP/NAME", wire.VolumeSetAside, nil)
	c.Short = "Let a group go on without a volume, and keep its copy"
	c.Long = `Let a group go on without a volume, and keep its copy as it is.

Every consistency group waits for all volumes that primaries have attached to. It no longer waits for a volume that was
set aside; such a volume takes no updates, and its copy stays readable. No primary may be attached to the volume: take
it out of the primary's configuration first. A volume that was set aside can be deleted, or rejoin its group.`
	c.Example = "  farside volume set-aside shop/log --control 127.0.0.1:7400"
	return c
}

func (a *app) volumeRejoinCommand() *cobra.Command {
	var force bool
	c := a.volumeActionCommand("rejoin GROUP/NAME", wire.VolumeRejoin, func(v config.Volume) error {
		if !force {
			return refused("add --force if the copy is not needed any more", "volume %s would not be served before it has been copied again", v.Export())
		}
		return nil
	})
	c.Short = "Let a volume that was set aside be copied again"
	c.Long = `Let a volume that was set aside be copied again: a primary may attach to it.

The primary may send another copy than the one that is there. So the volume is not served until the new first copy is
whole. The group goes on meanwhile.`
	c.Flags().BoolVar(&force, "force", false, "give the copy up")
	return c
}

// volumeActionCommand is a command that changes a volume that exists: of a secondary control that runs, or of a pool
// that none has open. allow, if not nil, may refuse it.
func (a *app) volumeActionCommand(use string, action wire.VolumeAction, allow func(config.Volume) error) *cobra.Command {
	var flags poolFlags
	var control string
	var timeout time.Duration
	c := &cobra.Command{Use: use, Args: args(cobra.ExactArgs(1))}
	flags.register(c.Flags())
	c.Flags().StringVar(&control, "control", "", "address of a secondary control that runs, instead of its devices")
	c.Flags().DurationVar(&timeout, "timeout", 15*time.Second, "how long to wait for the control")
	c.RunE = func(c *cobra.Command, given []string) error {
		v, err := parseVolume(given[0])
		if err != nil {
			return err
		}
		change := &wire.Volume{Group: v.Group, Name: v.Name, Action: action}
		var carryOut func() (volumeInfo, error)
		if control != "" {
			at, err := config.ParseAddress(control)
			if err != nil {
				return usage("", "--control: %w", err)
			}
			carryOut = func() (volumeInfo, error) {
				ctx, cancel := context.WithTimeout(c.Context(), timeout)
				defer cancel()
				return a.controlVolume(ctx, at, change)
			}
		} else {
			pool, err := flags.request(a, c.Flags())
			if err != nil {
				return err
			}
			carryOut = func() (volumeInfo, error) { return a.poolVolume(c.Context(), pool, change) }
		}
		if allow != nil {
			if err := allow(v); err != nil {
				return err
			}
		}
		now, err := carryOut()
		if err != nil {
			return volumeFailure(err)
		}
		done := volumeChange{Group: v.Group, Name: v.Name, Deleted: action == wire.VolumeDelete}
		if !done.Deleted {
			done.Now = &now
		}
		return a.print(done)
	}
	return c
}

// volumeFailure tells a refusal from a control that does not answer.
func volumeFailure(err error) error {
	told, ok := errors.AsType[*wire.RemoteError](err)
	if !ok {
		return err
	}
	if c := told.Message.Code; c == wire.CodeUnknown || c == wire.CodeState {
		return refused("\"farside status\" shows the volumes of the control, and who is attached", "%s", printable(told.Message.Text))
	}
	return fmt.Errorf("the control: %s", printable(told.Message.Text))
}

// wireVolume asks a secondary control that runs.
func wireVolume(ctx context.Context, at config.Address, change *wire.Volume) (v volumeInfo, err error) {
	document, _, err := wireAsk(ctx, at, change)
	if err != nil {
		if _, told := errors.AsType[*wire.RemoteError](err); told {
			return v, err
		}
		return v, unreachable("check that a secondary control runs and listens at this address", fmt.Errorf("%s: %w", at, err))
	}
	var s target.Status
	if err := json.Unmarshal(document, &s); err != nil {
		return v, fmt.Errorf("%s: status: %w", at, err)
	}
	for _, g := range s.Groups {
		for _, x := range g.Volumes {
			if g.Name == change.Group && x.Name == change.Name {
				return volumeInfo{Group: g.Name, Name: x.Name, Bytes: x.Bytes, CG: g.Final, Standing: x.Standing, WholeSince: x.WholeSince, SetAsideAt: x.SetAsideAt}, nil
			}
		}
	}
	return v, nil // it was deleted
}

// changePoolVolume changes a volume of a pool that no secondary control has open.
func changePoolVolume(ctx context.Context, r poolRequest, change *wire.Volume) (v volumeInfo, err error) {
	err = withPool(r, func(p *engine.Pool) error {
		if change.Action == wire.VolumeDelete {
			return p.DeleteVolume(ctx, change.Group, change.Name)
		}
		g, err := p.Group(change.Group)
		if err != nil {
			return err
		}
		if change.Action == wire.VolumeSetAside {
			err = g.SetAside(ctx, change.Name)
		} else {
			err = g.Rejoin(ctx, change.Name)
		}
		if err != nil {
			return err
		}
		x, err := g.Volume(change.Name)
		if err != nil {
			return err
		}
		st, err := g.State(ctx)
		m := x.Membership()
		v = volumeInfo{Group: g.Name(), Name: x.Name(), Bytes: x.Size(), CG: st.Final, Standing: m.Standing.String(), WholeSince: m.WholeSince, SetAsideAt: m.AsideAt}
		return err
	})
	return v, err
}
