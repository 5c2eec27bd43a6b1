package config

import "fmt"

// Example returns a commented file for a role, with every key in it. It is valid as it stands. The three
// fit together: the primary's volumes are copied to the secondary, and the manager
// manages both.
func Example(role Role) (string, error) {
	switch role {
	case RoleSecondary:
		return exampleSecondary, nil
	case RolePrimary:
		return examplePrimary, nil
	case RoleManager:
		return exampleManager, nil
	}
	return "", fmt.Errorf("%q is not a role: write primary, secondary or manager", role)
}

const exampleSecondary = `# A secondary control: it holds the copy.

[node]
name = "b1"                             # unique in the installation
listen = "127.0.0.1:7400"               # replication protocol and status; loopback or unix:/path
state_dir = "/var/lib/farside"          # a secondary needs none: its state is in its pool
peer_timeout = "3s"                     # a peer that is silent for so long is taken for gone
log_level = "info"                      # debug, info, warn or error

[secondary]
devices = ["/dev/nvme1n1", "/dev/nvme2n1"]  # all devices of the pool, made by "farside format"
io = "uring"                            # or "plain", where io_uring is forbidden
nbd = "127.0.0.1:10809"                 # the copies, read-only, as of the last final CG
window = "64MiB"                        # payload that a primary may have on the way

[[secondary.volume]]                    # created in the pool if it is not there
name = "data"                           # matched with the primary's by group and name
group = "shop"
size = "64GiB"                          # equal to the primary's, a multiple of 4 KiB

[[secondary.volume]]
name = "log"
group = "shop"
size = "8GiB"
`

const examplePrimary = `# A primary control: hosts write to its volumes.

[node]
name = "a1"                             # unique in the installation
listen = "127.0.0.1:7401"               # replication protocol and status; loopback or unix:/path
state_dir = "/var/lib/farside"          # the write-intent log
peer_timeout = "3s"                     # a peer that is silent for so long is taken for gone
log_level = "info"                      # debug, info, warn or error

[primary]
nbd = "unix:/run/farside/a1.nbd"        # where hosts find the volumes, as GROUP/NAME
queue = "256MiB"                        # payload that may wait in memory per secondary
io = "uring"                            # or "plain", where io_uring is forbidden
first_copy_rate = "100MiB"              # per second, for first copies; left out: no limit
overwrite_copies = []                   # copies to overwrite although they hold something unknown, see its refusal

[[primary.volume]]
name = "data"
group = "shop"                          # volumes of one group are consistent with each other
device = "/dev/nvme0n1"                 # a block device, or file = "..."
size = "64GiB"                          # of a device: may be left out, then all of it
secondary = "127.0.0.1:7400"            # the secondary control that holds the copy

[[primary.volume]]
name = "log"
group = "shop"
file = "/srv/farside/log.img"           # created, sparse, if it is not there
size = "8GiB"                           # a multiple of 4 KiB
secondary = "127.0.0.1:7400"
nbd = "127.0.0.1:10810"                 # an address of its own
`

const exampleManager = `# A replication manager: it forms consistency groups over all controls.

[node]
name = "m1"                             # unique in the installation
listen = "127.0.0.1:7402"               # status; loopback or unix:/path
state_dir = "/var/lib/farside"          # the audit log, and the decision log if it is not named below
peer_timeout = "3s"                     # a peer that is silent for so long is taken for gone
log_level = "info"                      # debug, info, warn or error

[manager]
decision_log = "/var/lib/farside/decisions.db"  # or "etcd://127.0.0.1:2379" for several managers, one of which leads
etcd_ca = ""                            # with etcd: files for TLS; without it etcd must be on loopback
etcd_cert = ""
etcd_key = ""
etcd_user = ""                          # with etcd's own authentication
etcd_password_file = ""                 # only its owner may read it
etcd_lease = "5s"                       # how long a leader that is gone keeps the others waiting

[[manager.group]]
name = "shop"
primaries = ["127.0.0.1:7401"]          # every control that has volumes of the group
secondaries = ["127.0.0.1:7400"]
interval = "1s"                         # from cut to cut; "0s" is continuous
coordination_timeout = "50ms"           # the longest that host writes wait for a cut
drain_timeout = "30s"                   # from a cut until it is complete everywhere; not for a first copy
command_timeout = "5s"                  # how long a control may take to answer
rpo_alert = "30s"                       # status warns when the recovery point is older; "0s" never
`
