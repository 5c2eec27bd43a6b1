package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/wire"
)

// configVerdict is what "config check" prints for a good file.
type configVerdict struct {
	OK   bool   `json:"ok"`
	File string `json:"file"`
	Node string `json:"node"`
	Role string `json:"role"`
}

func (v configVerdict) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s is good: node %s, a %s\n", v.File, v.Node, v.Role)
	return err
}

func (a *app) configCommand() *cobra.Command {
	var running managerFlags
	check := &cobra.Command{
		Use: "check [FILE...]", Short: "Check configuration files and name every problem in them", Args: args(cobra.ArbitraryArgs),
		Long: `Check configuration files and name every problem in them.

Several files are also checked together: each volume of a primary must have a copy of the same size on its secondary,
and each group of a manager must name the controls that have volumes of it. Nodes are recognised by the addresses on
which they listen. Nothing is checked about a node whose file is not given. Two names of one device are found if the
device is on this machine.

Controls that were added to a running group or removed from it are in the manager's decision log, which has priority
over its file. With --manager the file of that manager, which must be one of those given, is compared with the
controls that the running manager has.`,
		Example: "  farside config check a1.toml b1.toml m1.toml\n  farside config check m1.toml --manager 127.0.0.1:7402",
		RunE: func(c *cobra.Command, given []string) error {
			if len(given) == 0 && a.configPath != "" {
				given = []string{a.configPath}
			}
			return a.checkConfigs(c, given, &running)
		},
	}
	running.register(check.Flags())
	check.Flags().Lookup("manager").Usage = "address of a running manager whose file is to be compared with its groups' members"
	example := &cobra.Command{
		Use: "example ROLE", Short: "Print a commented configuration file: primary, secondary or manager", Args: args(cobra.ExactArgs(1)),
		ValidArgs: []string{"primary", "secondary", "manager"},
		RunE: func(_ *cobra.Command, given []string) error {
			text, err := config.Example(config.Role(given[0]))
			if err != nil {
				return usage("", "%w", err)
			}
			_, err = io.WriteString(a.out, text)
			return err
		},
	}
	return group(&cobra.Command{Use: "config", Short: "Check configuration files, print examples"}, check, example)
}

// configVerdicts is what "config check" prints for several files that are good, and fit together.
type configVerdicts struct {
	OK    bool            `json:"ok"`
	Files []configVerdict `json:"files"`
	// Notes tell of what is well in some installations only.
	Notes []string `json:"notes"`
}

func (v configVerdicts) writeText(w io.Writer) error {
	for _, f := range v.Files {
		if err := f.writeText(w); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w, "they fit together"); err != nil {
		return err
	}
	for _, note := range v.Notes {
		if _, err := fmt.Fprintln(w, "note:", note); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) checkConfigs(c *cobra.Command, paths []string, running *managerFlags) error {
	if len(paths) == 0 {
		return usage("name it as an argument or with --config", "the configuration file is missing")
	}
	verdict := configVerdicts{OK: true}
	var files []config.Named
	var bad []error
	for _, path := range paths {
		node, err := config.Load(path, "", nil)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		files = append(files, config.Named{Source: path, File: node})
		bad = append(bad, config.CheckDevices(path, node))
		verdict.Files = append(verdict.Files, configVerdict{OK: true, File: path, Node: node.Node.Name, Role: string(node.Role())})
	}
	bad = append(bad, config.CheckTogether(files))
	if running.manager != "" {
		drift, err := a.checkMembers(c, files, running)
		if err != nil {
			return err
		}
		bad = append(bad, drift)
	}
	if err := errors.Join(bad...); err != nil {
		return configError(err)
	}
	verdict.Notes = append([]string{}, config.Shared(files)...)
	if len(paths) == 1 {
		return a.print(verdict.Files[0])
	}
	return a.print(verdict)
}

// checkMembers compares the file of a running manager with the members of its groups. drift is what differs.
func (a *app) checkMembers(c *cobra.Command, files []config.Named, running *managerFlags) (drift, err error) {
	s, err := running.change(c, a, nil)
	if err != nil {
		return nil, err
	}
	if s.Leadership != nil && len(s.Groups) == 0 {
		return nil, refused("ask the manager that leads: \"farside status "+running.manager+"\" names it", "the manager %s at %s stands by", printable(s.Node), running.manager)
	}
	groups := map[string]config.Members{}
	for _, g := range s.Groups {
		m := config.Members{Version: g.Members.Version, Primaries: g.Members.Primaries, Secondaries: g.Members.Secondaries}
		for _, j := range g.Members.Joining {
			if j.Role == wire.RolePrimary.String() {
				m.Primaries = append(m.Primaries, j.Name)
			} else {
				m.Secondaries = append(m.Secondaries, j.Name)
			}
		}
		groups[g.Group] = m
	}
	var its []config.Named
	for _, n := range files {
		if n.File.Manager != nil && n.File.Node.Name == s.Node {
			its = append(its, n)
		}
	}
	if len(its) == 0 {
		return nil, usage("give its file, too", "the manager at %s is %q, and none of the files is of a manager of that name", running.manager, printable(s.Node))
	}
	return config.CheckMembers(its[0], fmt.Sprintf("the manager %s (%s)", printable(s.Node), running.manager), groups), nil
}
