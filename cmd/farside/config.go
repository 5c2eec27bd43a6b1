package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
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
	check := &cobra.Command{
		Use: "check [FILE...]", Short: "Check configuration files and name every problem in them", Args: args(cobra.ArbitraryArgs),
		Long: `Check configuration files and name every problem in them.

Several files are checked together, too: each volume of a primary has a copy of the same size on its secondary, and each group of a
manager names the controls that have volumes of it. Nodes are recognised by the addresses where they listen; what is said of a
node whose file is not given is not checked.`,
		Example: "  farside config check a1.toml b1.toml m1.toml",
		RunE: func(_ *cobra.Command, given []string) error {
			if len(given) == 0 && a.configPath != "" {
				given = []string{a.configPath}
			}
			return a.checkConfigs(given)
		},
	}
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
}

func (v configVerdicts) writeText(w io.Writer) error {
	for _, f := range v.Files {
		if err := f.writeText(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, "they fit together")
	return err
}

func (a *app) checkConfigs(paths []string) error {
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
		verdict.Files = append(verdict.Files, configVerdict{OK: true, File: path, Node: node.Node.Name, Role: string(node.Role())})
	}
	if err := errors.Join(append(bad, config.CheckTogether(files))...); err != nil {
		return configError(err)
	}
	if len(paths) == 1 {
		return a.print(verdict.Files[0])
	}
	return a.print(verdict)
}
