package wire

// Role is what a peer is.
type Role uint8

const (
	RolePrimary Role = iota + 1
	RoleSecondary
	RoleManager
	RoleTool // an operator's command: asks, keeps the volumes of a secondary, changes the groups of a manager
)

// Type is a frame's message type. The comments give the direction:
// P primary, S secondary, M manager, T tool.
type Type uint8

const (
	TypeHello       Type = iota + 1 // first frame, both directions
	TypeAttach                      // P->S: binds the connection to volumes
	TypeAttached                    // S->P
	TypeUpdates                     // P->S
	TypeZeroes                      // P->S
	TypeManifest                    // P->S
	TypeCredit                      // S->P
	TypeOpen                        // M->P: which CG is open, what is final
	TypeOpened                      // P->M
	TypeHold                        // M->P
	TypeHeld                        // P->M
	TypeThaw                        // M->P
	TypeThawed                      // P->M
	TypeDrained                     // P->M
	TypeFinalNote                   // M->P: CG n is final everywhere
	TypeFence                       // M->S, M->P: a new epoch
	TypeQuery                       // M->S
	TypeState                       // S->M
	TypeComplete                    // S->M, unsolicited: CG n is complete here
	TypeLink                        // M->S
	TypeLinked                      // S->M
	TypeRelease                     // M->S
	TypeFinal                       // S->M
	TypeRevert                      // M->S
	TypeReverted                    // S->M
	TypeLost                        // P->M, S->M, unsolicited: CG n cannot be completed
	TypeStatus                      // T->P, S, M; M->P, S, M
	TypeStatusReply                 // back
	TypePing                        // any
	TypePong                        // any
	TypeError                       // any
	TypeVolume                      // T->S: makes or deletes a volume, sets it aside, lets it rejoin
	TypeGroupChange                 // T->M: changes a running group
	TypeReload                      // T->P: reads the configuration file again
)

// UUID identifies a node, an instance of a process, a pool.
type UUID [16]byte

// Hello opens a connection: it is the first frame of both sides, and the dialer sends first. The features in force are
// those known to both. A peer refuses a version, or a required feature, that it does not know.
type Hello struct {
	Version  uint32
	Features uint64 // that the sender knows
	Required uint64 // those of Features without which it does not talk
	Role     Role
	Node     string // name of the node, <= 255 bytes UTF-8
	Instance UUID   // made anew each time the process starts
}

// VolumeRef names a volume when a primary attaches: the position in the list is the
// volume's handle on this connection.
type VolumeRef struct {
	Name string
	Size uint64 // bytes; must equal the secondary's
}

// Attach binds the connection to volumes of one group. Stream identifies the primary's
// send state: a secondary that still holds what it received of that stream resumes it.
type Attach struct {
	Group   string
	Stream  UUID
	Volumes []VolumeRef
}

// Attached answers Attach.
type Attached struct {
	// Applied is the number of the last update frame (Updates, Zeroes, Manifest) of this stream
	// that the secondary has taken in; the primary goes on with the next. 0 with
	// Resumed false: the secondary holds nothing of it.
	Applied uint64
	Resumed bool
	// Complete is the newest CG complete (or linked, or final) on the secondary; what the primary sent
	// of newer CGs is gone if Resumed is false.
	Complete uint64
	// Window is the number of payload bytes the primary may have unacknowledged.
	Window uint64
	// Volumes tells of each volume of Attach, in its order.
	Volumes []VolumeState
}

// VolumeState is what a secondary says of a volume when a primary attaches.
type VolumeState struct {
	// Identity is given to a volume when it is made, and never to another: a volume that was deleted and made again
	// under its name has another identity. It is not zero.
	Identity UUID
	// Holds: a final CG has written to the volume since it was made. False: all of it reads as zeros.
	Holds bool
	// Whole: by the newest final CG the volume has all of its first copy, and every CG since has kept it so. A Partial
	// manifest of it is refused. From durable state; a complete CG that may make it whole does not count yet.
	Whole bool
}

// Update describes new contents for Count consecutive virtual blocks of a volume.
// Its checksums (XXH64 of each 4 KiB block) and its payload follow in the frame.
type Update struct {
	Volume uint32 // handle from Attach
	Block  uint64 // first virtual block
	Count  uint32 // blocks, 1..MaxUpdateBlocks
}

// Zeroes says that Count virtual blocks read as zeros from now on; no payload.
type Zeroes struct {
	Volume uint32
	Block  uint64
	Count  uint64
}

// ZeroRanges is the message that carries Zeroes, 1 to MaxZeroRanges of them.
type ZeroRanges struct {
	CG     uint64
	Ranges []Zeroes
}

// VolumeManifest sums up what was sent for one volume in one CG.
type VolumeManifest struct {
	Volume  uint32
	Blocks  uint64 // blocks of payload in all Updates
	Updates uint64 // descriptors, Updates and Zeroes
	Digest  uint64 // see Digest
	// Partial: after this CG blocks of the volume's first copy are still missing. Only of a volume that is not Whole
	// on the secondary: once it is, each CG brings all that changed.
	Partial bool
}

// Manifest ends CG n on this connection: one entry for every attached volume, by ascending
// handle.
type Manifest struct {
	CG      uint64
	Volumes []VolumeManifest
}

// Credit acknowledges update frames up to and including Applied (received, checked
// and placed; not yet durable): the primary may forget their payload.
type Credit struct {
	Applied uint64
}

// Command heads every command of a manager (rule R4): a receiver refuses an epoch lower
// than the highest it has seen, and repeats its answer for one it has carried out.
type Command struct {
	Group string
	Epoch uint64
	CG    uint64
}

// Head gives the command head of the message that embeds it.
func (c *Command) Head() *Command { return c }

// Open tells a primary which CG is open (Command.CG) and which is the newest final one. Changes
// of CGs after Final that the primary remembers become part of the open one.
type Open struct {
	Command
	Final uint64
}

// Opened answers Open.
type Opened struct{ Command }

// Hold ends CG n at this primary: new writes wait, writes in progress end, then Held is
// answered. After Timeout without Thaw the primary goes on by itself, with CG n still open.
type Hold struct {
	Command
	TimeoutMicros uint64
}

// Held answers Hold: no write of CG n is in progress, and none will begin while the hold lasts.
type Held struct{ Command }

// Thaw makes n+1 the open CG and lets writes go on.
type Thaw struct{ Command }

// Thawed answers Thaw. OK false: the hold had expired, CG n was not cut here.
type Thawed struct {
	Command
	OK bool
}

// Drained: everything of CG n, its manifest included, was sent.
type Drained struct {
	Command
	Blocks uint64 // payload blocks of CG n sent by this primary
}

// FinalNote tells a primary that CG n is final on every secondary: it may forget which blocks
// changed in it. No answer.
type FinalNote struct{ Command }

// Fence raises the epoch of the receiver to Command.Epoch. A secondary stores it durably and answers State. A primary
// does not answer; it stores the epoch durably before it answers any other command in it.
type Fence struct{ Command }

// Query asks a secondary for its State.
type Query struct {
	Command
	// Drained: every primary has sent all of CG n. A secondary that waits for no volume of the group then makes the CG
	// complete as it is, and answers Complete as well.
	Drained bool
}

// Complete tells the manager that CG n is complete and durable on this secondary. Unsolicited.
type Complete struct {
	Command
	// Awaited counts the volumes of the group that the secondary waits for. Of these, Lacking do not have all of
	// their first copy with CG n.
	Awaited, Lacking uint64
}

// Link makes the CG pointer table of CG n part of the linked view.
type Link struct{ Command }

// Linked answers Link: CG n is linked, durably, and revertible.
type Linked struct{ Command }

// Release makes the linked CG n final.
type Release struct{ Command }

// Final answers Release: CG n is final, durably; it is what readers see.
type Final struct{ Command }

// Revert takes back the newest linked CG if that is CG n; otherwise nothing is linked back. With Discard the secondary
// also forgets every CG from n on that is not final.
type Revert struct {
	Command
	Discard bool
	// Through: with Discard, CGs n..Through are forgotten and frames tagged with
	// them that still arrive are dropped.
	Through uint64
	// Final is the newest CG that is final in the group. A secondary whose newest final CG is older had no part in
	// it: it ends its data connections before it answers, so that primaries attach anew and learn what it lacks.
	Final uint64
}

// Reverted answers Revert.
type Reverted struct{ Command }

// State is a secondary's answer to Query and Fence, from durable state.
type State struct {
	Command           // CG: the newest CG that its links show
	Final      uint64 // newest final CG
	Linked     uint64 // newest linked CG: == Final, or Final's successor and revertible
	Complete   uint64 // newest complete CG, >= Linked
	Receiving  uint64 // newest CG of which anything was received, 0 none
	PoolFull   bool
	Failed     string // why the control does not acknowledge, "" if it does
	Instance   UUID
	FreeBlocks uint64
	// Awaited counts the volumes of the group that it waits for. Of these, Lacking are not whole as of Final, and
	// LackingThen would not be if Complete were final.
	Awaited, Lacking, LackingThen uint64
}

// Vacant says whether the control waits for no volume of the group: see Query.Drained.
func (s State) Vacant() bool { return s.Awaited == 0 }

// Revertible says whether the control's newest linked CG can be reverted.
func (s State) Revertible() bool { return s.Linked > s.Final }

// Lost: CG n cannot be completed as things are; the manager must abandon it.
type Lost struct {
	Command
	Reason string
}

// Status asks for the state of the node. JSON holds options, none are defined yet: empty.
type Status struct{ JSON []byte }

// StatusReply carries a JSON document: the state of the node, for people and scripts.
type StatusReply struct{ JSON []byte }

// VolumeAction is what a Volume message does.
type VolumeAction uint8

const (
	VolumeMake     VolumeAction = iota + 1 // makes it, unless it is there with this size
	VolumeDelete                           // deletes it, and the copy in it
	VolumeSetAside                         // its group does not wait for it any more; the copy stays as it is
	VolumeRejoin                           // ends VolumeSetAside: a primary may attach to it, for a first copy
)

// Volume changes a volume on a secondary. Answered by StatusReply, of the node after the change, or Error. A change
// that was already made is answered as if it were made now.
type Volume struct {
	Group, Name string
	Size        uint64 // bytes, with VolumeMake; else 0
	Action      VolumeAction
}

// GroupAction is what a GroupChange does.
type GroupAction uint8

const (
	GroupPause  GroupAction = iota + 1 // forms no CG once the one in progress is final
	GroupResume                        // ends GroupPause
	GroupSet                           // changes tunables
	GroupAdd                           // adds a control
	GroupRemove                        // removes a control
)

// GroupChange changes a group of a manager while it runs. Answered by StatusReply, of the node after the change
// became durable in the decision log, or Error. Pausing a paused group changes nothing. It carries no epoch: it comes
// from an operator, and the manager that receives it must lead the group.
type GroupChange struct {
	Group  string
	Action GroupAction
	// JSON with GroupSet is an object with the tunables to change, named and written as in the manager's status;
	// tunables that are not named stay as they are. With GroupAdd and GroupRemove it is a GroupControl. Otherwise it
	// is empty.
	JSON []byte
}

// GroupControl says which control is added or removed.
type GroupControl struct {
	Control string `json:"control"`        // its name for the manager, which is its address
	Role    string `json:"role,omitempty"` // "primary" or "secondary"; empty with GroupRemove
}

// Reload has a primary read its configuration file again: volumes that are new in it join their groups, volumes that
// are not in it any more leave. Answered by StatusReply, of the node after the change, or by Error; then nothing is
// changed.
type Reload struct{}

// Ping shows that its sender is alive. Pong with the same token answers it. Conn sends both by itself.
type Ping struct{ Token uint64 }

// Pong answers Ping.
type Pong struct{ Token uint64 }

// ErrorCode classifies an Error.
type ErrorCode uint16

const (
	CodeProtocol     ErrorCode = iota + 1 // malformed, out of order, too large
	CodeVersion                           // version or feature not known
	CodeRefused                           // role or identity not allowed
	CodeStaleEpoch                        // a lower epoch
	CodeUnknown                           // unknown group or volume
	CodeSize                              // volume sizes differ, or past the end
	CodeChecksum                          // header, body or block checksum
	CodeManifest                          // manifest and what was received differ
	CodeState                             // not possible in the state the CG is in
	CodePoolFull                          // no room
	CodeIO                                // the control's devices failed
	CodeShuttingDown                      //
	CodeSetAside                          // a volume of Attach was set aside
)

// Error refuses a frame or ends a connection. Text says what happened, where, and what
// to do.
type Error struct {
	Code  ErrorCode
	Frame uint64 // number of the offending frame, 0 none
	Group string
	CG    uint64
	Text  string
}
