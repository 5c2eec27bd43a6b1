package config

import "time"

// Role is what a node is.
type Role string

const (
	RolePrimary   Role = "primary"
	RoleSecondary Role = "secondary"
	RoleManager   Role = "manager"
)

// Roles lists all roles.
func Roles() []Role { return []Role{RolePrimary, RoleSecondary, RoleManager} }

// File is the configuration of one node. Exactly one of Secondary, Primary and Manager is set.
type File struct {
	Node      Node       `toml:"node"`
	Secondary *Secondary `toml:"secondary"`
	Primary   *Primary   `toml:"primary"`
	Manager   *Manager   `toml:"manager"`
}

// Role returns the role whose section is there.
func (f *File) Role() Role {
	switch {
	case f.Secondary != nil:
		return RoleSecondary
	case f.Primary != nil:
		return RolePrimary
	case f.Manager != nil:
		return RoleManager
	}
	return ""
}

// Node is what every process has.
type Node struct {
	// Name of the node, unique in the installation: letters, digits, ".", "_" and "-", at most
	// 255 bytes. Required.
	Name string `toml:"name" help:"name of this node, unique in the installation"`
	// Listen is where the wire protocol is served, for primaries, managers and status. Required.
	Listen Address `toml:"listen" help:"address that serves the replication protocol and status"`
	// StateDir is an existing directory for what the node must remember: a primary's write-intent log, a
	// manager's decision log and audit log. Required for these two; a secondary keeps its state in its pool.
	StateDir string `toml:"state_dir" help:"directory for what this node must remember"`
	// PeerTimeout is how long a peer may be silent before the connection with it is given up and made anew. Default 3s.
	PeerTimeout Duration `toml:"peer_timeout" help:"how long a peer may be silent before its connection is given up (default 3s)"`
	// LogLevel is debug, info, warn or error. Default info. The flag is the global --log-level.
	LogLevel LogLevel `toml:"log_level" help:"least severe messages to log: debug, info, warn or error"`
}

// Secondary configures a secondary control.
type Secondary struct {
	// Devices of the pool, in any order: block devices or files. All of the pool's devices are
	// required.
	Devices []string `toml:"devices" help:"block devices or files of the pool"`
	// IO says how devices are reached: "uring" (default), or "plain" (pread and pwrite on a few threads)
	// where io_uring is forbidden.
	IO IO `toml:"io" help:"how devices are reached: uring or plain"`
	// NBD is where the copies are exported, read-only, as of the last final CG. Not served if
	// not given.
	NBD Address `toml:"nbd" help:"address that serves the copies over NBD, read-only"`
	// Window is how many bytes of payload a primary may have on the way to this control. Default 64MiB.
	Window Size `toml:"window" help:"payload bytes that a primary may have on the way"`
	// Volumes are created in the pool when they are not there yet. A volume that is there keeps its
	// size: another one is an error.
	Volumes []Volume `toml:"volume" help:"volume of the pool: name=NAME,group=GROUP,size=SIZE"`
}

// Volume is a volume of a secondary's pool. It is matched with a primary's by group and name.
type Volume struct {
	// Name, unique in its group. Required.
	Name string `toml:"name"`
	// Group is the consistency group's name. Required.
	Group string `toml:"group"`
	// Size in bytes, a multiple of 4 KiB, equal to the primary's. Required.
	Size Size `toml:"size"`
}

// Export is the name under which NBD clients find the volume.
func (v Volume) Export() string { return ExportName(v.Group, v.Name) }

// ExportName is the name under which NBD clients find a volume, on primaries and on secondaries.
func ExportName(group, volume string) string { return group + "/" + volume }

// Primary configures a primary control.
type Primary struct {
	// NBD is where volumes are served that do not name an address of their own.
	NBD Address `toml:"nbd" help:"address that serves the volumes over NBD"`
	// Queue bounds the payload bytes that wait in memory for one secondary; beyond it the control records
	// changes and catches up by reading. Default 256MiB.
	Queue Size `toml:"queue" help:"payload bytes that may wait in memory per secondary"`
	// IO says how devices are reached: "uring" (default) or "plain".
	IO IO `toml:"io" help:"how devices are reached: uring or plain"`
	// OverwriteCopies lists identities of volumes on secondaries (as status and the refusal write them) that the
	// first copy may overwrite although they hold something that this control has not put there. Each names one
	// volume, and is of no use any more once that is done. Default none.
	OverwriteCopies []Identity `toml:"overwrite_copies" help:"identity of a volume on a secondary that may be overwritten although what it holds is not known here"`
	// FirstCopyRate limits what first copies read, in bytes per second. It may change
	// while the control runs. 0 (default) is no limit.
	FirstCopyRate Size `toml:"first_copy_rate" help:"bytes per second that first copies may read"`
	// Volumes that this control serves. At least one.
	Volumes []PrimaryVolume `toml:"volume" help:"volume to serve: name=NAME,group=GROUP,device=PATH,secondary=ADDRESS,..."`
}

// PrimaryVolume is a volume that hosts write.
type PrimaryVolume struct {
	// Name, unique in its group. Required.
	Name string `toml:"name"`
	// Group is the consistency group's name. Required.
	Group string `toml:"group"`
	// Device is the block device that holds the volume. Exactly one of Device and File is
	// required.
	Device string `toml:"device"`
	// File is a regular file that holds the volume; it is created, sparse, if it is not there.
	File string `toml:"file"`
	// Size in bytes, a multiple of 4 KiB, equal to the secondary's. Required for a file; for a device
	// 0 (default) means all of it.
	Size Size `toml:"size"`
	// Secondary is the address ([Node.Listen]) of the secondary control that holds the copy. Required.
	Secondary Address `toml:"secondary"`
	// NBD is where hosts find the volume; default [Primary.NBD]. One of the two is required.
	NBD Address `toml:"nbd"`
}

// Export is the name under which NBD clients find the volume.
func (v PrimaryVolume) Export() string { return ExportName(v.Group, v.Name) }

// Path of the device or file that holds the volume.
func (v PrimaryVolume) Path() string {
	if v.Device != "" {
		return v.Device
	}
	return v.File
}

// Manager configures a replication manager.
type Manager struct {
	// DecisionLog is the durable log of decisions: a file, or "etcd://HOST:PORT,HOST:PORT/PREFIX" for several
	// managers, one of which leads ([Manager.Etcd]). The prefix of the keys may be left out. Default "decisions.db"
	// in [Node.StateDir].
	DecisionLog string `toml:"decision_log" help:"decision log: a file (default: decisions.db in the state directory), or etcd://HOST:PORT,..."`
	// EtcdCA, EtcdCert and EtcdKey are PEM files for TLS with etcd: what its certificate is checked against, and what
	// this manager shows. Without TLS etcd is reached on loopback only.
	EtcdCA   string `toml:"etcd_ca" help:"file with the CA's certificate for TLS with etcd"`
	EtcdCert string `toml:"etcd_cert" help:"file with this manager's certificate for etcd"`
	EtcdKey  string `toml:"etcd_key" help:"file with the key of that certificate"`
	// EtcdUser and EtcdPasswordFile are for etcd's own authentication. Only its owner may read the file.
	EtcdUser         string `toml:"etcd_user" help:"user of etcd"`
	EtcdPasswordFile string `toml:"etcd_password_file" help:"file with the user's password"`
	// EtcdLease is how long a leader that is gone keeps the others waiting. Whole seconds. Default 5s.
	EtcdLease Duration `toml:"etcd_lease" help:"how long a leader that is gone keeps others waiting (default 5s)"`
	// Groups that this manager forms consistency groups of. At least one.
	Groups []Group `toml:"group" help:"group to manage: name=NAME,primaries=ADDRESS;...,secondaries=ADDRESS;...,..."`
}

// Group is a named set of volumes with its own numbering of consistency groups.
type Group struct {
	// Name of the group, as the volumes of primaries and secondaries give it. Required.
	Name string `toml:"name"`
	// Primaries and Secondaries are the addresses ([Node.Listen]) of all controls that have volumes of
	// the group. At least one each.
	Primaries   []Address `toml:"primaries"`
	Secondaries []Address `toml:"secondaries"`
	// Interval from one cut to the next. "0s" is continuous: the next cut follows at once. Default 1s.
	Interval Duration `toml:"interval"`
	// CoordinationTimeout bounds how long host writes wait for a cut. Default 50ms.
	CoordinationTimeout Duration `toml:"coordination_timeout"`
	// DrainTimeout bounds how long a CG may take from its cut until it is complete everywhere. It
	// does not apply to a first copy. Default 30s.
	DrainTimeout Duration `toml:"drain_timeout"`
	// CommandTimeout bounds the wait for a control's answer to a command. Default 5s.
	CommandTimeout Duration `toml:"command_timeout"`
	// RPOAlert: status warns when the newest recovery point is older. "0s" never warns. Default 30s.
	RPOAlert Duration `toml:"rpo_alert"`
}

// defaulter is a section that has values before anything is read.
type defaulter interface{ setDefaults() }

func (n *Node) setDefaults() {
	n.LogLevel = "info"
	n.PeerTimeout = Duration(3 * time.Second)
}

func (s *Secondary) setDefaults() {
	s.IO = IOUring
	s.Window = 64 << 20
}

func (p *Primary) setDefaults() {
	p.IO = IOUring
	p.Queue = 256 << 20
}

func (m *Manager) setDefaults() { m.EtcdLease = Duration(5 * time.Second) }

func (g *Group) setDefaults() {
	g.Interval = Duration(time.Second)
	g.CoordinationTimeout = Duration(50 * time.Millisecond)
	g.DrainTimeout = Duration(30 * time.Second)
	g.CommandTimeout = Duration(5 * time.Second)
	g.RPOAlert = Duration(30 * time.Second)
}
