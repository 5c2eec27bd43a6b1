package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// versionInfo identifies a build and what it can talk to and read.
type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Modified: built from files that differ from the commit.
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	// Protocol and Format are the versions of the wire protocol and of the on-disk format.
	Protocol uint32 `json:"protocol_version"`
	Format   uint32 `json:"format_version"`
}

func (v versionInfo) writeText(w io.Writer) error {
	commit := v.Commit
	if v.Modified {
		commit += ", modified"
	}
	_, err := fmt.Fprintf(w, "farside %s (commit %s)\n%s %s/%s\nprotocol version %d\nformat version %d\n",
		v.Version, commit, v.Go, v.OS, v.Arch, v.Protocol, v.Format)
	return err
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of the program, the protocol and the format", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.print(a.versions()) },
	}
}
