package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/probe"
)

// poolRequest names the devices of a pool.
type poolRequest struct {
	Devices []string
	IO      config.IO
}

// poolFlags are the flags of commands that open a pool's devices themselves.
type poolFlags struct {
	devices []string
	io      string
}

func (p *poolFlags) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&p.devices, "devices", nil, "block devices or files of the pool, also as --device (or --config of a secondary)")
	flags.StringVar(&p.io, "io", "uring", "how devices are reached: uring or plain")
}

// request takes the devices from the flags, or else from the file of a secondary control.
func (p *poolFlags) request(a *app, flags *pflag.FlagSet) (poolRequest, error) {
	var r poolRequest
	if err := r.IO.UnmarshalText([]byte(p.io)); err != nil {
		return r, usage("", "--io: %w", err)
	}
	r.Devices = p.devices
	if len(r.Devices) == 0 && a.configPath != "" {
		node, err := config.Load(a.configPath, config.RoleSecondary, nil)
		if err != nil {
			return r, configError(err)
		}
		r.Devices = node.Secondary.Devices
		if !flags.Changed("io") {
			r.IO = node.Secondary.IO
		}
	}
	if len(r.Devices) == 0 {
		return r, usage("name them with --devices, or the secondary's file with --config", "the devices of the pool are missing")
	}
	return r, nil
}

// mayOverwrite looks at what the devices hold. Something found is refused, unless force; a device in
// use, or one that cannot be read, is refused always.
func mayOverwrite(devices []string, force bool) error {
	var inUse, holds []error
	seen := map[string]bool{}
	for _, path := range devices {
		if seen[path] {
			return usage("name each device once", "the device %s is named twice", path)
		}
		seen[path] = true
		report, err := probe.Device(path)
		if err != nil {
			return openFailure(path, err)
		}
		var used, held []probe.Finding
		for _, f := range report.Findings {
			if f.Kind == probe.Used {
				used = append(used, f)
			} else {
				held = append(held, f)
			}
		}
		if len(used) > 0 {
			inUse = append(inUse, fmt.Errorf("%s is in use: %s", path, probe.Describe(used)))
		}
		if len(held) > 0 && !force {
			holds = append(holds, fmt.Errorf("%s holds %s", path, probe.Describe(held)))
		}
	}
	if len(inUse) > 0 {
		return refused("free the device first, or name another one; --force does not help here", "%w", errors.Join(append(inUse, holds...)...))
	}
	if len(holds) > 0 {
		return refused("name another device, or add --force to destroy what is there", "%w", errors.Join(holds...))
	}
	return nil
}

func openFailure(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return usage("check the name; for a new file give --create SIZE", "%s does not exist", path)
	case errors.Is(err, os.ErrPermission):
		return refused("run as root, or as a user who may read and write the device", "%w", err)
	}
	return &failure{code: exitRefused, err: err, next: "a device that cannot be read whole is not overwritten; check it, or name another one"}
}

// createFiles makes those of the paths that are not there yet, as sparse files of that size.
func createFiles(paths []string, size config.Size) error {
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		if err := errors.Join(f.Truncate(int64(size)), f.Close()); err != nil {
			return errors.Join(fmt.Errorf("create %s: %w", path, err), os.Remove(path))
		}
	}
	return nil
}
