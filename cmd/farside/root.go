package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/config"
)

// app is what all commands share.
type app struct {
	services
	out, err io.Writer

	// Global flags.
	configPath, output, logLevel string
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, s services, args []string, out, errOut io.Writer) int {
	a := &app{services: s, out: out, err: errOut}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	f := classify(ctx, err)
	f.print(errOut, a.json() || asksForJSON(args))
	return f.code
}

// asksForJSON looks at the arguments themselves: flags that come after a wrong one were not parsed.
func asksForJSON(args []string) bool {
	for i, arg := range args {
		if arg == "--output=json" || arg == "json" && i > 0 && args[i-1] == "--output" {
			return true
		}
	}
	return false
}

func (a *app) json() bool { return a.output == "json" }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "farside",
		Short: "Keep a remote copy of block volumes that is always consistent",
		Long: `farside keeps a remote copy of block volumes that is always consistent.

A primary control serves volumes to hosts and streams their updates; a secondary control writes each
update once to raw devices; a replication manager moves the copy forward, one consistency group at
a time, on all controls or on none.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkGlobals() },
		// Without a command: what there is.
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return c.Help()
		},
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", "", "configuration file of this node (TOML)")
	flags.StringVar(&a.output, "output", "text", "form of the result: text or json")
	flags.StringVar(&a.logLevel, "log-level", "", "least severe messages to log: debug, info, warn or error (default info)")
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "device" { // one device reads better so
			name = "devices"
		}
		return pflag.NormalizedName(name)
	})
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		a.demoCommand(), a.formatCommand(), a.secondaryCommand(), a.primaryCommand(), a.managerCommand(), a.statusCommand(), a.groupCommand(), a.recoverCommand(),
		a.volumeCommand(), a.checkCommand(), a.dumpCommand(), a.benchCommand(), a.simCommand(), a.versionCommand(), a.configCommand(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit statuses mean", Long: exitHelp},
	)
	return root
}

func (a *app) checkGlobals() error {
	if a.output != "text" && a.output != "json" {
		return usage("write --output text or --output json", "--output %q is not a form of output", a.output)
	}
	if a.logLevel != "" {
		if err := new(config.LogLevel).UnmarshalText([]byte(a.logLevel)); err != nil {
			return usage("", "--log-level: %w", err)
		}
	}
	return nil
}

// logger logs to standard error; level is the configuration's, which the flag overrides.
func (a *app) logger(level config.LogLevel) *slog.Logger {
	if a.logLevel != "" {
		level = config.LogLevel(a.logLevel)
	}
	options := &slog.HandlerOptions{Level: level.Slog()}
	if a.json() {
		return slog.New(slog.NewJSONHandler(a.err, options))
	}
	return slog.New(slog.NewTextHandler(a.err, options))
}

// isTerminal says whether w is a terminal, so that a line on it can be rewritten.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// args wraps cobra's check of arguments: a wrong number is wrong use.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return usage("see \""+c.CommandPath()+" --help\"", "%w", err)
		}
		return nil
	}
}

// unknownCommand names the nearest command.
func unknownCommand(c *cobra.Command, name string) error {
	var known []string
	for _, sub := range c.Commands() {
		known = append(known, sub.Name())
	}
	return usage("see \""+c.CommandPath()+" --help\"", "unknown command %q: the nearest command is %q", name, config.Nearest(name, known))
}

// flagError names the nearest flag, if the error is that a flag is not known.
func flagError(c *cobra.Command, err error) error {
	next := "see \"" + c.CommandPath() + " --help\""
	if unknown := (*pflag.NotExistError)(nil); errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		return usage(next, "%w: the nearest flag is --%s", err, config.Nearest(unknown.GetSpecifiedName(), known))
	}
	return usage(next, "%w", err)
}

// group is a command that only holds others.
func group(c *cobra.Command, members ...*cobra.Command) *cobra.Command {
	c.RunE = func(c *cobra.Command, given []string) error {
		if len(given) > 0 {
			return unknownCommand(c, given[0])
		}
		return usage("see \""+c.CommandPath()+" --help\"", "%s needs a command", c.CommandPath())
	}
	c.AddCommand(members...)
	return c
}

// configError makes a failure of what config.Load returned.
func configError(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return usage("name a file that can be read with --config", "%w", err)
	}
	return usage("\"farside config example ROLE\" prints a complete file", "%w", err)
}
