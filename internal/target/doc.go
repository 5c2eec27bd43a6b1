// Package target is the network side of a secondary control: it connects the replication protocol
// (package wire) with the pool (package engine), which know nothing of each other.
//
// A [Node] answers primaries, managers and tools, told apart by the role in their Hello:
//
//   - A primary attaches to volumes of a group and streams updates. One goroutine, the session, owns
//     an engine.Writer for as long as the stream lives, over however many connections that takes.
//   - A manager commands. Commands of one group run in their order, off the goroutine that reads.
//   - A tool asks for the status.
//
// # Invariants
//
//   - Payload goes from the socket straight into the writer's buffers; nothing is allocated per
//     update.
//   - A session waits for its socket on its own thread, which its writer's ring has locked it to; all others wait as goroutines do.
//   - A frame is checked as a whole (handles, ranges, CG, sequence) before any of its payload is taken in.
//   - A CG is sealed only after its manifest was compared with what was received of every
//     attached volume. Whatever is refused ends the session unsealed: no link changes.
//   - A frame counts as applied, enters the digests and is acknowledged only when all of it was placed. What a broken
//     connection left of a frame is overwritten when the frame is sent again.
//   - A broken connection keeps the stream for Options.ResumeTimeout; a refusal ends it at once. A
//     refused frame sent again would be refused again, while a new stream heals by reading
//     the primary's device.
//   - A volume has one session. A newer stream of the same volumes ends the older one, and is
//     bound only when that has let go.
//   - A volume is waited for, durably, from the first Attach on: a CG that becomes complete after that has it. Attached is not sent while a CG is complete without the
//     volume and not final, so that a primary takes no CG for one that has what it sent. Before, and once it is set aside, CGs become complete without it.
//   - A volume that is not whole may be in a CG in part, as its manifest says. A part of a whole one is refused.
//   - A full pool stops the reading of that session, nothing else, and passes by itself.
//   - After Close no goroutine of the node is left, and every writer is closed.
package target
