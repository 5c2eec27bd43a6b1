package main

import (
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
		Use: "check [FILE]", Short: "Check a configuration file and name every problem in it", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			path := a.configPath
			if len(given) == 1 {
				path = given[0]
			}
			if path == "" {
				return usage("name it as an argument or with --config", "the configuration file is missing")
			}
			node, err := config.Load(path, "", nil)
			if err != nil {
				return configError(err)
			}
			return a.print(configVerdict{OK: true, File: path, Node: node.Node.Name, Role: string(node.Role())})
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
