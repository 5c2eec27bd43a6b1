package main

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/engine"
)

// dumpable lists the structures that can be printed, in the order in which a pool is read.
func dumpable() []string {
	var names []string
	for _, s := range engine.DumpSections() {
		names = append(names, string(s))
	}
	return names
}

// dumpRequest says what to print.
type dumpRequest struct {
	poolRequest
	What string
	// Group and Volume narrow "tables" and "cgs"; "" is all.
	Group, Volume string
	// CG narrows "cgs"; 0 is all that are live.
	CG   uint64
	JSON bool
}

func (a *app) dumpCommand() *cobra.Command {
	var flags poolFlags
	var volume string
	var cg uint64
	c := &cobra.Command{
		Use:   "dump STRUCTURE",
		Short: "Print a structure of a pool readably, offline",
		Long: `Print a structure of a pool that no secondary control has open. Nothing is written.

STRUCTURE is one of: ` + strings.Join(dumpable(), ", ") + `.`,
		Example:   "  farside dump cgs --cg 17 --volume shop/data --device /dev/nvme1n1",
		Args:      args(cobra.ExactArgs(1)),
		ValidArgs: dumpable(),
	}
	flags.register(c.Flags())
	c.Flags().StringVar(&volume, "volume", "", "only this volume, GROUP/NAME (tables, cgs)")
	c.Flags().Uint64Var(&cg, "cg", 0, "only this consistency group (cgs)")
	c.RunE = func(c *cobra.Command, given []string) error {
		if !slices.Contains(dumpable(), given[0]) {
			return usage("name one of: "+strings.Join(dumpable(), ", "), "%q is not a structure", given[0])
		}
		r := dumpRequest{What: given[0], CG: cg, JSON: a.json()}
		if volume != "" {
			v, err := parseVolume(volume)
			if err != nil {
				return err
			}
			r.Group, r.Volume = v.Group, v.Name
		}
		var err error
		if r.poolRequest, err = flags.request(a, c.Flags()); err != nil {
			return err
		}
		return a.dump(c.Context(), r, io.Writer(a.out))
	}
	return c
}
