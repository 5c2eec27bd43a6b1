// Package target is the network side of a secondary control: it connects the replication protocol (package wire) with
// the pool (package engine). These two know nothing of each other.
//
// A [Node] answers primaries, managers and tools; the role in their Hello tells them apart:
//
//   - A primary attaches to volumes of a group and streams updates. One goroutine, the session, owns an engine.Writer
//     for as long as the stream lives, over any number of connections.
//   - A manager commands. The commands of one group run in their order, on another goroutine than the one that reads.
//   - A tool asks for the status, and changes volumes.
//
// # Invariants
//
// Updates
//
//   - Payload goes from the socket straight into the writer's buffers; nothing is allocated per update.
//   - A session waits for its socket on its own thread, to which the ring of its writer has locked it. All other
//     goroutines wait as usual.
//   - A frame is checked as a whole (handles, ranges, CG, sequence) before any of its payload is taken in.
//   - A frame counts as applied, enters the digests and is acknowledged only when all of it was placed. The part of a
//     frame that a broken connection left behind is overwritten when the frame is sent again.
//   - A CG is sealed only after its manifest was compared with what was received of every attached volume. Any refusal
//     ends the session without a seal: no link changes.
//   - A full pool stops the reading of the one session that meets it, and nothing else. It ends without help when space
//     returns.
//
// Streams
//
//   - A broken connection keeps the stream for Options.ResumeTimeout; a refusal ends it at once. The same frame would
//     be refused again, while a new stream makes good by reading the primary's device.
//   - A volume has one session. A newer stream of the same volumes ends the older one, and is bound only after the
//     older one has let go.
//
// Volumes
//
//   - From the first Attach of a volume on, every CG that becomes complete has the volume, durably. Attached is not
//     sent while a CG without the volume is complete and not final: the primary would take that CG for one that has
//     its updates. Before the first Attach, and once the volume is set aside, CGs become complete without it.
//   - A group that waits for no volume here completes the CGs that its manager says all primaries have drained.
//   - A CG may have a part of a volume that is not whole, as its manifest says. A part of a whole volume is refused. A
//     manager is told, with each complete CG, how many volumes are not whole with it.
//
// After Close no goroutine of the node is left, and every writer is closed.
package target
