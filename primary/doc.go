// Package primary is the primary control: it serves volumes from local devices, notes which
// consistency group every host write belongs to, and brings each group to the secondaries.
//
// [Core] decides everything. It is single-threaded: events go in, actions come out, and it
// knows no goroutine, clock, socket or system call. [Node] is the shell that drives it in
// production; the simulator drives the same core from a seeded loop.
//
// # Invariants
//
// Host writes
//
//   - A host write is acknowledged when the local device has it. No secondary, connection or
//     manager can delay that, except by a hold (bounded by its timeout) and by a collision (bounded
//     by one local read).
//   - Overlapping requests of one volume reach the device one after the other, in the order in
//     which they were submitted, and their updates are queued in that order: of two updates of a block
//     in one CG, the later one is what the device holds.
//   - A write belongs to the CG that is open when its device I/O begins. A CG is cut only when
//     none of its writes is in progress and none of its successor has begun.
//   - A write enters a region only after the write-intent log says, durably, that the region may
//     differ from the copy. (Durable before the write is *begun*, not before it is acknowledged: a write that
//     a crash interrupts may be on the device without ever having been acknowledged.)
//
// What a secondary gets
//
//   - For each volume and each CG newer than the last final one, changed holds every block that
//     the CG may have changed, and every block that was to be sent in it for another reason (first
//     copy, resync). It is forgotten by FinalNote alone. So whatever is lost on the way, merging
//     changed of all CGs after the last final one into the open CG sends enough.
//   - For each copy (volume, secondary) and CG, every block of the CG is in exactly one of these states:
//     its newest contents are queued or were sent, or its catch-up bit is set. A queued write clears the
//     bit; a catch-up read holds the range like a write, and clears the bit when its update is queued.
//   - A block whose catch-up bit of a cut CG is set is not overwritten on the device: the write
//     reads the old contents first (collision), or the CG is given up (Lost). A CG is never completed
//     with contents from after its cut.
//   - A first copy to a volume that the secondary says is not whole, in a group that has a recovery point, is spread over CGs. Its
//     blocks are pending, apart from the catch-up bits, of which a spread copy has none: a CG does not wait for them, and its manifest says
//     Partial. A pending block that was read is queued in the open CG and becomes part of that CG's changed, so that an abandon
//     makes it pending again, and no other; a host write that is queued takes its blocks out of pending, one that cannot be queued puts
//     them in. At the first cut at which little is left (CoreOptions.FirstCopyRest), that is the cut CG's catch-up, as for any other copy: this CG is not Partial, and
//     whoever has it has the copy. Each later CG brings all that changed, unless that one is given up: then the copy is spread again.
//   - What a whole copy lacks, however much it is, is caught up with in one CG. So is the first copy of a group that has no recovery
//     point: there is none that could stand still meanwhile, and the first one that is reported must be one of all volumes.
//   - Which regions of a copy that is not whole are still lacking there is in the write-intent log, for each copy: all of them before anything is
//     sent; a region leaves when its blocks are final there, and a flush of the device has ended since. A primary that comes back sends these, and the marked ones.
//   - On a connection, nothing of CG n+1 is sent before the manifest of n; the manifest is sent when no
//     bit, queued update or read of n is left.
//   - Memory is bounded: host writes queue payload up to CoreOptions.QueueBytes for a connection, what is
//     unacknowledged included. Catch-up reads of a cut CG may add half of that, because the queued updates
//     of its successor cannot leave before it; collisions may fill twice that, then the CG is
//     given up.
//   - Nothing is sent to a volume of a secondary before the write-intent log says durably, by the volume's identity, that this primary
//     copies to it. A volume that is not the known one is copied as a whole if it is empty; if it holds something, nothing is
//     sent to it without an operator's word.
//   - Update frames of a stream are numbered 1, 2, 3...; a frame is kept until its Credit.
//
// Commands
//
//   - An epoch lower than the highest seen is refused, after a restart too: an answer is given only when the write-intent log has its
//     epoch durably. A repeated command repeats its answer.
//   - The open CG's number only grows.
//
// Units: device offsets and lengths are bytes, blocks are 4096 bytes, times are durations since
// an arbitrary start (the driver's monotonic clock).
package primary
