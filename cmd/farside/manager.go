package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farside-storage/farside/internal/config"
)

func (a *app) managerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "manager",
		Short: "Run a replication manager: it forms consistency groups",
		Long: `Run a replication manager until it is interrupted.

It cuts the writes of all primary controls of a group at one instant, has every secondary control link what was
cut, and takes it back everywhere if one of them fails. Its decisions are in a durable log.

With --log etcd://HOST:PORT,... several managers share a log in etcd: one leads, the others stand by, and one of those takes
over when it is gone. ("--log" is short for "--decision-log".)`,
		Example: `  farside manager --config m1.toml
  farside manager --name m1 --listen 127.0.0.1:7402 --state-dir /var/lib/farside \
    --group "name=shop,primaries=127.0.0.1:7401,secondaries=127.0.0.1:7400,interval=1s"`,
	}
	a.roleCommand(c, config.RoleManager, a.manager)
	c.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "log" {
			name = "decision-log"
		}
		return pflag.NormalizedName(name)
	})
	return c
}
