package main

import (
	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
)

func (a *app) secondaryCommand() *cobra.Command {
	return a.roleCommand(&cobra.Command{
		Use:   "secondary",
		Short: "Run a secondary control: it holds the copy",
		Long: `Run a secondary control until it is interrupted.

It opens the pool on its devices, takes in the updates of primary controls, links and reverts consistency
groups as a replication manager says, and exports the copies over NBD, read-only, as of the last
final group.`,
		Example: `  farside secondary --config b1.toml
  farside secondary --name b1 --listen 127.0.0.1:7400 --device /dev/nvme1n1 --nbd 127.0.0.1:10809`,
	}, config.RoleSecondary, a.secondary)
}
