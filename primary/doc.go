// Package primary is the primary control. It serves volumes from local devices, records which consistency group (CG)
// every host write belongs to, and sends each CG to the secondary controls.
//
// [Core] makes all decisions. It is single-threaded: events go in, actions come out, and it contains no goroutine,
// clock, socket or system call. [Node] drives it in production; the simulator drives the same core from a seeded loop.
//
// # Invariants
//
// Host writes
//
//   - A host write is acknowledged when the local device has it. No secondary, connection or manager can delay that,
//     with two exceptions: a hold (bounded by its timeout) and a collision (bounded by one local read).
//   - Overlapping requests of one volume reach the device one after the other, in the order of their submission.
//     Their updates are queued in the same order: of two updates of a block in one CG, the later one is what the
//     device holds.
//   - A write belongs to the CG that is open when its device I/O begins. A CG is cut only when none of its writes is in
//     progress and no write of its successor has begun.
//   - A write enters a region only after the write-intent log says, durably, that the region may differ from the copy.
//     This must be durable before the write begins, not merely before it is acknowledged: a write that a crash
//     interrupts may be on the device although it was never acknowledged.
//
// What a secondary gets
//
//   - The set changed, kept for each volume and each CG newer than the last final one, has every block that the CG may
//     have changed, and every block that was to be sent in it for another reason (first copy, resync). Only FinalNote
//     clears it. So whatever is lost on the way, it is enough to merge the changed sets of all CGs that are not final
//     into the open CG.
//   - For each copy (volume and secondary) and each CG, every block of the CG is in exactly one of two states: its
//     newest contents are queued or were sent, or its catch-up bit is set. A queued write clears the bit. A catch-up
//     read locks its range as a write does, and clears the bit when its update is queued.
//   - A block whose catch-up bit of a cut CG is set is not overwritten on the device. The write reads the old contents
//     first (a collision), or the CG is given up (Lost). A CG is never completed with contents from after its cut.
//   - On a connection, nothing of CG n+1 is sent before the manifest of n. The manifest is sent when no bit, queued
//     update or read of n is left.
//   - Update frames of a stream are numbered 1, 2, 3...; a frame is kept until its Credit.
//   - Memory is bounded. Host writes queue at most CoreOptions.QueueBytes of payload for a connection, unacknowledged
//     payload included. Catch-up reads of a cut CG may add half of QueueBytes, because the queued updates of its
//     successor cannot leave before it. A collision gives the CG up when more than twice QueueBytes are queued.
//
// First copies
//
//   - A copy that is whole is caught up with within one CG, however much it lacks.
//   - The first copy to a volume that is not whole is spread over CGs, also in a group of which nothing is final yet: the
//     manager reports no recovery point before the secondaries say that all volumes are whole. Its blocks
//     are pending; a spread copy has no catch-up bits. A CG does not wait for pending blocks, and its manifest says
//     Partial. When a pending block has been read, it is queued in the open CG and joins changed of that CG, so that
//     an abandon makes exactly these blocks pending again. A host write that is queued removes its blocks from
//     pending; one that cannot be queued adds them.
//   - One CG takes a share of spread copies and no more, however long it stays open (CoreOptions.FirstCopyShare).
//   - A spread copy ends at the first cut at which little is left (CoreOptions.FirstCopyRest). The rest becomes
//     catch-up of the CG that was cut, as in any other copy. That CG is not Partial: whoever has it has the whole
//     copy. Later CGs bring all that changed. If the ending CG is given up, the copy is spread again.
//   - The write-intent log has, for each copy that is not whole, the regions that the secondary still lacks: at first
//     all of them. A region leaves this set when its blocks are final on the secondary and the local device has been
//     flushed since; those that it still has when the copy becomes whole are marked until then. After a restart the
//     primary sends these regions and the marked ones.
//   - Before anything is sent to a volume of a secondary, the write-intent log says durably, by the volume's identity,
//     that this primary copies to it. A volume with another identity is copied as a whole if it is empty. If it holds
//     something, nothing is sent to it without an operator's word.
//   - The write-intent log also remembers the copies of volumes that have left their group. A volume that joins again,
//     with the same contents as far as can be known (VolumeSpec.Place), finds its copy by that, and copies over it as a
//     whole.
//
// Commands
//
//   - An epoch lower than the highest seen is refused, also after a restart: an answer is given only when the
//     write-intent log has its epoch durably. A repeated command repeats its answer.
//   - The number of the open CG only grows.
//
// Units: device offsets and lengths are bytes, blocks are 4096 bytes, times are durations since an arbitrary start (the
// driver's monotonic clock).
package primary
