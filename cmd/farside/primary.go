package main

import (
	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
)

func (a *app) primaryCommand() *cobra.Command {
	c := a.roleCommand(&cobra.Command{
		Use:   "primary",
		Short: "Run a primary control: hosts write to its volumes",
		Long: `Run a primary control until it is interrupted.

It serves volumes over NBD from local devices or files, acknowledges a write when the local device has it,
and streams the updates to the secondary controls of its volumes.

SIGHUP, or "farside primary reload", has it read its file again: volumes join and leave while it runs.`,
		Example: `  farside primary --config a1.toml
  farside primary --name a1 --listen 127.0.0.1:7401 --state-dir /var/lib/farside --nbd unix:/run/farside/a1.nbd \
    --volume name=data,group=shop,device=/dev/nvme0n1,secondary=127.0.0.1:7400`,
	}, config.RolePrimary, a.primary)
	c.AddCommand(a.primaryReloadCommand())
	return c
}
