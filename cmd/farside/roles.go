package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
)

// nodeFlags gives a command a flag for each key of a role's file, and returns what collects those
// that were given.
func nodeFlags(flags *pflag.FlagSet, role config.Role) func() []config.Setting {
	keys := map[string]config.Key{}
	for _, k := range config.Keys(role) {
		if strings.Count(k.Path, ".") > 1 || k.Path == "node.log_level" {
			continue // a key inside of a table's value, and the global flag
		}
		keys[k.Flag] = k
		switch {
		case k.Tables:
			flags.StringArray(k.Flag, nil, k.Usage)
		case k.List:
			flags.StringSlice(k.Flag, nil, k.Usage)
		default:
			flags.String(k.Flag, "", k.Usage)
		}
	}
	return func() []config.Setting {
		var settings []config.Setting
		flags.Visit(func(f *pflag.Flag) {
			k, ok := keys[f.Name]
			if !ok {
				return
			}
			values := []string{f.Value.String()}
			if list, ok := f.Value.(pflag.SliceValue); ok {
				values = list.GetSlice()
			}
			settings = append(settings, config.Setting{Key: k.Path, Values: values})
		})
		return settings
	}
}

// loadNode reads the configuration of a node that plays a role.
func (a *app) loadNode(role config.Role, settings []config.Setting) (*config.File, error) {
	if a.configPath == "" && len(settings) == 0 {
		return nil, usage("name a file with --config (\"farside config example "+string(role)+"\" prints one), or give its keys as flags",
			"a %s needs a configuration", role)
	}
	if a.logLevel != "" {
		settings = append(settings, config.Setting{Key: "node.log_level", Values: []string{a.logLevel}})
	}
	node, err := config.Load(a.configPath, role, settings)
	if err != nil {
		return nil, configError(err)
	}
	return node, nil
}

type roleFunc = func(ctx context.Context, node *config.File, log *slog.Logger, ready func()) error

// roleCommand completes the command of a role that runs until it is interrupted.
func (a *app) roleCommand(c *cobra.Command, role config.Role, serve roleFunc) *cobra.Command {
	settings := nodeFlags(c.Flags(), role)
	c.Args = args(cobra.NoArgs)
	c.RunE = func(c *cobra.Command, _ []string) error {
		f, err := a.loadNode(role, settings())
		if err != nil {
			return err
		}
		log := a.logger(f.Node.LogLevel).With("node", f.Node.Name)
		ctx := node.WithReload(c.Context(), func() (*config.File, error) { return a.loadNode(role, settings()) })
		err = serve(ctx, f, log, func() { log.Info("ready", "role", string(role), "listen", f.Node.Listen.String()) })
		if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			log.Info("stopped")
			return nil // an interrupt is how a role is stopped
		}
		return err
	}
	return c
}
