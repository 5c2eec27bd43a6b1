package primary

import (
	"time"

	"github.com/farside-storage/farside/wire"
)

// Status is the state of a primary control, for people and scripts. A value that is not known is left
// out or zero, never guessed.
type Status struct {
	Node   string        `json:"node"`
	Role   string        `json:"role"`
	Groups []GroupStatus `json:"groups"`
	Intent IntentStatus  `json:"intent_log"`
}

// GroupStatus is the state of one group on this node.
type GroupStatus struct {
	Name       string    `json:"name"`
	Epoch      uint64    `json:"epoch"`
	Manager    string    `json:"manager,omitempty"`     // that leads the group; left out if not known
	Open       uint64    `json:"open_cg"`               // 0: no manager has said yet
	Final      uint64    `json:"final_cg"`              // newest known
	Cut        uint64    `json:"cut_cg,omitempty"`      // cut, not final yet
	Drained    bool      `json:"drained"`               // Cut was sent as a whole
	Lost       uint64    `json:"lost_cg,omitempty"`     // waits for the manager to open another one
	LostReason string    `json:"lost_reason,omitempty"` //
	Held       bool      `json:"held"`
	Hold       HoldTimes `json:"hold"`
	// HoldHistogram has every hold since the start of this control.
	HoldHistogram wire.HoldHistogram `json:"hold_histogram"`
	Volumes       []VolumeStatus     `json:"volumes"`
	Connections   []ConnectionStatus `json:"connections"`
}

// Mode says how changes of the open CG reach a secondary.
type Mode string

const (
	ModeStreaming Mode = "streaming" // as they come
	ModeCatchup   Mode = "catch-up"  // streaming, and blocks are read from the local device too
	ModeRecording Mode = "recording" // noted only: no connection, no room, or no CG to send in
)

// VolumeStatus is the state of one volume.
type VolumeStatus struct {
	Name          string       `json:"name"`
	Size          uint64       `json:"size"`
	ChangedBlocks uint64       `json:"changed_blocks"` // since the last final CG
	Copies        []CopyStatus `json:"copies"`
	LastError     string       `json:"last_error,omitempty"`
	// Joining: the volume was added, and will be part of a consistency group to come. Leaving: it was taken out, and
	// is part still of the one in progress.
	Joining bool `json:"joining,omitempty"`
	Leaving bool `json:"leaving,omitempty"`
}

// CopyStatus is the state of the copy of a volume on one secondary.
type CopyStatus struct {
	Secondary     string `json:"secondary"`
	Mode          Mode   `json:"mode"`
	FirstCopyDone bool   `json:"first_copy_done"` // the secondary had the whole volume in a final CG
	// WholeCopy is why the whole volume is being copied, or will be once the secondary is there; "" if it is not.
	WholeCopy string `json:"whole_copy,omitempty"`
	// Identity is of the volume on the secondary that is copied to; "" if none was found yet.
	Identity      string `json:"identity,omitempty"`
	CatchupBlocks uint64 `json:"catchup_blocks_left"`
	// FirstCopy is how far a first copy is that is spread over several consistency groups; left out if there is none.
	FirstCopy *FirstCopyStatus `json:"first_copy,omitempty"`
}

// FirstCopyStatus is how far a first copy is. What was read and is not final on the secondary yet counts as done.
type FirstCopyStatus struct {
	BlocksLeft uint64 `json:"blocks_left"`
	Blocks     uint64 `json:"blocks"` // of the volume
}

// ConnectionStatus is the state of the stream to one secondary.
type ConnectionStatus struct {
	Secondary         string  `json:"secondary"`
	Attached          bool    `json:"attached"`
	QueuedBytes       int64   `json:"queued_bytes"`         // waiting or unacknowledged
	UnackedBytes      int64   `json:"unacknowledged_bytes"` // part of QueuedBytes
	SentBytes         uint64  `json:"sent_bytes"`           // payload, ever
	CatchupBytes      uint64  `json:"catchup_bytes"`        // part of it read from the device, ever
	BytesPerSecond    float64 `json:"bytes_per_second"`     // payload, over the last seconds
	CatchupBlocks     uint64  `json:"catchup_blocks_left"`
	CatchupSecondsEta float64 `json:"catchup_seconds_left,omitempty"` // at this rate
	LastError         string  `json:"last_error,omitempty"`           // of the newest connection that ended
}

// IntentStatus is the state of the write-intent log.
type IntentStatus struct {
	RegionBytes   uint64 `json:"region_bytes"`
	MarkedRegions uint64 `json:"marked_regions"`
	LastError     string `json:"last_error,omitempty"`
}

// Status describes the core.
func (c *Core) Status() Status {
	s := Status{Role: "primary", Intent: IntentStatus{RegionBytes: c.opt.IntentRegion, LastError: c.intent.lastErr}}
	for _, g := range c.groups {
		s.Groups = append(s.Groups, c.groupStatus(g))
	}
	for _, v := range c.volumes {
		if !v.gone {
			s.Intent.MarkedRegions += v.intent.marked.count
		}
	}
	return s
}

func (c *Core) groupStatus(g *group) GroupStatus {
	gs := GroupStatus{Name: g.name, Epoch: g.epoch, Manager: g.leader, Open: g.open, Final: g.final, Cut: g.lastCut, Drained: g.drained,
		Lost: g.lost, LostReason: g.lostReason, Held: g.hold != holdNone, Hold: g.holds.summary(), HoldHistogram: g.holds.histogram}
	gs.Hold.Expired = g.expired
	for _, v := range g.volumes {
		gs.Volumes = append(gs.Volumes, v.status())
	}
	for _, cn := range g.conns {
		gs.Connections = append(gs.Connections, cn.status(c.now))
	}
	return gs
}

func (v *volume) status() VolumeStatus {
	vs := VolumeStatus{Name: v.spec.Name, Size: v.spec.Size, LastError: v.lastErr}
	for _, gen := range v.gens {
		vs.ChangedBlocks += gen.changed.count // a block changed in two CGs counts twice
	}
	vs.ChangedBlocks = min(vs.ChangedBlocks, v.blocks)
	vs.Leaving = v.leaving
	for _, r := range v.replicas {
		vs.Joining = vs.Joining || r.apart && !v.leaving
		cs := CopyStatus{Secondary: r.conn.secondary, Mode: r.mode(), FirstCopyDone: r.synced, WholeCopy: r.whole,
			CatchupBlocks: r.left()}
		if r.spread || r.rest {
			cs.FirstCopy = &FirstCopyStatus{BlocksLeft: r.left(), Blocks: v.blocks}
		}
		if r.identity != (wire.UUID{}) {
			cs.Identity = uuidString(r.identity)
		}
		vs.Copies = append(vs.Copies, cs)
	}
	return vs
}

func (r *replica) mode() Mode {
	cn := r.conn
	switch {
	case !cn.attached || cn.open == nil || cn.recording || cn.group.lost != 0:
		return ModeRecording
	case r.left() > 0:
		return ModeCatchup
	}
	return ModeStreaming
}

func (cn *conn) status(now time.Duration) ConnectionStatus {
	cs := ConnectionStatus{Secondary: cn.secondary, Attached: cn.attached, QueuedBytes: cn.queued, UnackedBytes: cn.unacked,
		SentBytes: cn.sentBytes, CatchupBytes: cn.catchupBytes, BytesPerSecond: cn.rate.value(now), LastError: cn.lastErr}
	for _, r := range cn.replicas {
		cs.CatchupBlocks += r.left()
	}
	if cs.BytesPerSecond > 0 && cs.CatchupBlocks > 0 {
		cs.CatchupSecondsEta = float64(cs.CatchupBlocks*BlockSize) / cs.BytesPerSecond
	}
	return cs
}
