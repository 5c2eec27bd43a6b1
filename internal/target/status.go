package target

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// Status is the state of a secondary control, for people and scripts. What is not known is absent
// or has an error beside it.
type Status struct {
	Role     string          `json:"role"` // "secondary"
	Node     string          `json:"node"`
	Instance string          `json:"instance"`
	Since    time.Time       `json:"since"` // start of this run
	Pool     PoolStatus      `json:"pool"`
	Groups   []GroupStatus   `json:"groups"`
	Sessions []SessionStatus `json:"sessions"`
	Counters CounterStatus   `json:"counters"`
}

// PoolStatus sums up the pool. Bytes are exact multiples of 4 KiB.
type PoolStatus struct {
	UUID             string   `json:"uuid"`
	Name             string   `json:"name"`
	Bytes            uint64   `json:"bytes"`
	FreeBytes        uint64   `json:"free_bytes"`
	UsedBytes        uint64   `json:"used_bytes"`
	RetiredBytes     uint64   `json:"retired_bytes"` // given up after write errors
	JournalUsedBytes uint64   `json:"journal_used_bytes"`
	JournalBytes     uint64   `json:"journal_bytes"`
	Checkpoint       uint64   `json:"checkpoint"`
	Unfolded         int      `json:"unfolded"`          // final CGs not yet part of the pointer tables
	Full             bool     `json:"full"`              // a session waits for room
	Failure          string   `json:"failure,omitempty"` // why the control does not acknowledge
	Error            string   `json:"error,omitempty"`   // why the numbers are not known
	Repairs          []string `json:"repairs,omitempty"` // done when the pool was opened
}

// GroupStatus is the state of a group; numbers are of CGs, 0 none.
type GroupStatus struct {
	Name      string         `json:"name"`
	Epoch     uint64         `json:"epoch"`
	Manager   string         `json:"manager,omitempty"` // that leads the group; left out if not known
	Final     uint64         `json:"final"`
	Linked    uint64         `json:"linked"`
	Complete  uint64         `json:"complete"`
	Receiving uint64         `json:"receiving"`
	Discarded uint64         `json:"discarded"`
	Error     string         `json:"error,omitempty"` // why the numbers are not known
	Volumes   []VolumeStatus `json:"volumes"`
}

// VolumeStatus is a volume of a group.
type VolumeStatus struct {
	Name     string `json:"name"`
	Bytes    uint64 `json:"bytes"`
	Identity string `json:"identity"` // of this volume and no other, also of none that is made again under its name
	// Standing is "awaited" if each CG of the group has the volume, "unattached" if no primary has attached to it yet, or "set aside".
	Standing string `json:"standing"`
	// WholeSince is the CG since which the volume has all of its first copy; 0: it has not, and is not served as a copy.
	WholeSince uint64 `json:"whole_since"`
	// Holds is of a volume that is not whole: something was put into it since it was made, so that not all of it reads as zeros.
	Holds bool `json:"holds,omitempty"`
	// SetAsideAt is the CG that the copy shows if it is set aside, 0 if none was final.
	SetAsideAt uint64 `json:"set_aside_at,omitempty"`
}

// SessionStatus is a primary's stream.
type SessionStatus struct {
	Group     string    `json:"group"`
	Peer      string    `json:"peer"` // node; "" while the primary is away
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"` // of the connection, or of its end
	Stream    string    `json:"stream"`
	Volumes   []string  `json:"volumes"`
	Applied   uint64    `json:"applied"`       // newest update frame taken in
	CG        uint64    `json:"cg"`            // in work, 0 none
	Bytes     uint64    `json:"payload_bytes"` // received and placed
	Updates   uint64    `json:"updates"`
	PoolFull  bool      `json:"pool_full"` // it waits for room
	LastError string    `json:"last_error,omitempty"`
}

// CounterStatus counts since the start of this run.
type CounterStatus struct {
	PayloadBytes       uint64 `json:"payload_bytes"` // received and placed
	Updates            uint64 `json:"updates"`
	DeviceBlocks       uint64 `json:"device_blocks"`  // of 4 KiB, written for payload
	MetadataBytes      uint64 `json:"metadata_bytes"` // journal, table pages and roots
	DeviceBytesWritten uint64 `json:"device_bytes"`   // all of it
}

// Status reports the node. It waits for the pool's control loop at most as long as ctx lives.
func (n *Node) Status(ctx context.Context) Status {
	pool, metadata := n.poolStatus(ctx)
	device := n.counters.deviceBlocks.Load()
	return Status{
		Role: wire.RoleSecondary.String(), Node: n.opts.Name, Instance: uuidString(n.opts.Instance), Since: n.started,
		Pool: pool, Groups: n.groupStatus(ctx), Sessions: n.sessionStatus(),
		Counters: CounterStatus{PayloadBytes: n.counters.payload.Load(), Updates: n.counters.updates.Load(),
			DeviceBlocks: device, MetadataBytes: metadata, DeviceBytesWritten: device*engine.BlockSize + metadata},
	}
}

// poolStatus describes the pool, and says how many bytes of metadata were written.
func (n *Node) poolStatus(ctx context.Context) (out PoolStatus, metadata uint64) {
	p := n.opts.Pool
	st, err := p.Stats(ctx)
	out = PoolStatus{UUID: p.UUID().String(), Name: p.Name(), Bytes: st.Blocks * engine.BlockSize, FreeBytes: st.Free * engine.BlockSize,
		UsedBytes: st.Used * engine.BlockSize, RetiredBytes: st.Retired * engine.BlockSize, JournalUsedBytes: st.JournalUsed,
		JournalBytes: st.JournalSize, Checkpoint: st.Checkpoint, Unfolded: st.Unfolded, Error: text(err), Failure: text(p.Failure())}
	for _, s := range n.sessions() {
		out.Full = out.Full || s.stats.full.Load()
	}
	for _, r := range p.Repairs() {
		out.Repairs = append(out.Repairs, r.Error())
	}
	return out, st.MetadataBytes
}

func (n *Node) groupStatus(ctx context.Context) []GroupStatus {
	out := []GroupStatus{}
	for _, g := range n.opts.Pool.Groups() {
		st, err := g.State(ctx)
		gs := GroupStatus{Name: g.Name(), Epoch: st.Epoch, Manager: n.leaders.name(g.Name()), Final: st.Final, Linked: st.Linked, Complete: st.Complete,
			Receiving: st.Receiving, Discarded: st.Discarded, Error: text(err), Volumes: []VolumeStatus{}}
		for _, v := range g.Volumes() {
			m := v.Membership()
			holds := false
			if !m.Whole() {
				if holds, err = v.Holds(ctx); err != nil {
					gs.Error = text(err)
				}
			}
			gs.Volumes = append(gs.Volumes, VolumeStatus{Holds: holds, Name: v.Name(), Bytes: v.Size(), Identity: uuidString(identity(n.opts.Pool, v)),
				Standing: m.Standing.String(), WholeSince: m.WholeSince, SetAsideAt: m.AsideAt})
		}
		out = append(out, gs)
	}
	return out
}

func (n *Node) sessionStatus() []SessionStatus {
	out := []SessionStatus{}
	for _, s := range n.sessions() {
		t := &s.stats
		st := SessionStatus{Group: s.group.Name(), Stream: uuidString(s.stream), Applied: t.applied.Load(), CG: t.cg.Load(),
			Bytes: t.payload.Load(), Updates: t.updates.Load(), PoolFull: t.full.Load()}
		for _, v := range s.bound {
			st.Volumes = append(st.Volumes, v.Name())
		}
		t.mu.Lock()
		st.Peer, st.Connected, st.Since, st.LastError = t.peer, t.peer != "", t.since, t.err
		t.mu.Unlock()
		out = append(out, st)
	}
	return out
}

// sessions lists the sessions of all groups, in the order of the groups' names.
func (n *Node) sessions() []*session {
	var out []*session
	for _, g := range n.opts.Pool.Groups() {
		d := n.desk(g.Name())
		d.mu.Lock()
		out = append(out, d.sessions...)
		d.mu.Unlock()
	}
	return out
}

// poolFull says whether a session of the group waits for room.
func (n *Node) poolFull(group string) bool {
	for _, s := range n.sessions() {
		if s.group.Name() == group && s.stats.full.Load() {
			return true
		}
	}
	return false
}

// replyStatus answers Status.
func (n *Node) replyStatus(l *link) error {
	document, err := json.Marshal(n.Status(l.ctx))
	if err != nil {
		return fmt.Errorf("status of node %q: %w", n.opts.Name, err)
	}
	if len(document) > wire.MaxStatus {
		return refuse(wire.CodeState, "status of node %q has %d bytes, the protocol carries %d", n.opts.Name, len(document), wire.MaxStatus)
	}
	return l.conn.WriteMessage(&wire.StatusReply{JSON: document})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func uuidString(u wire.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
