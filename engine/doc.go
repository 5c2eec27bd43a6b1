// Package engine is the secondary control: it holds a copy of volumes on raw devices, and this copy is consistent at
// every moment. It is also the API that storage appliances embed.
//
// A [Writer] takes updates in. It places each block once, at the front of an extent that it alone holds, and
// records virtual block -> physical block in the CG pointer table of the open consistency group (CG). When every
// volume of a [Group] is sealed for CG n, the tables are journaled, and the CG is complete. [Group.Link] shows it,
// [Group.Revert] takes it back, [Group.Release] makes it final. Each of these costs one small journal record and one
// pointer store. A final CG is folded into the pointer tables of its volumes in the background; then the blocks that
// it displaced are released.
//
//	RECEIVING --all volumes sealed, data flushed, tables journaled, flushed--> COMPLETE
//	COMPLETE  --Link--> LINKED (revertible) --Release--> FINAL --fold--> part of the pointer table
//	LINKED    --Revert--> COMPLETE, or discarded
//
// # Invariants
//
// Data and views
//
//   - A payload block is written once. Linking, reverting, releasing and folding move no data.
//   - Readers see a [View]: an immutable value behind one atomic pointer. A view shows one CG of all volumes of its
//     group; no read ever mixes two. Readers take no lock.
//   - The final view changes only at Release; the linked view at Link and Revert.
//   - A physical block is reused only when (1) no table, view or retained CG names it, (2) the journal record that
//     unlinked it is durable, and (3) no read of it is in flight.
//   - A fold changes only entries that every view in use masks. It starts when no reader holds a view older than the
//     CG.
//
// Durability
//
//   - What was acknowledged (complete, linked, final, reverted) is durable. Data is flushed before the record that
//     depends on it is written; the record is flushed before the answer.
//   - Nothing on the devices is overwritten that the newest durable state needs.
//   - The bitmap of the allocator is derived when a pool opens; it is never stored.
//   - Opening a pool never guesses. Damage is repaired from a redundant copy and reported, or the pool is refused with
//     device and offset ([CorruptionError]).
//
// Volumes of a group
//
//   - A group waits for a volume that is [Awaited]: every CG that becomes complete has the volume, until the volume is
//     set aside or deleted. This standing is durable before it takes effect. A volume joins between two CGs, so no CG
//     has updates of a volume that it does not wait for.
//   - A group that waits for no volume completes a CG when it is asked to ([Group.CompleteVacant]), and only then.
//   - A volume that is created before its group received or discarded a CG is awaited at once. One that is created later
//     must join first: a copy that has yet to come must not hold back those that exist.
//   - A volume becomes whole with the first CG that leaves nothing of its first copy out, once that CG is final. Until
//     then a CG may bring a part of the first copy, and the volume may not be served ([ErrNotWhole]). Afterwards a CG
//     with a part only is refused: a final view shows all whole volumes as of the same moment.
//
// # Goroutines
//
// The goroutine that owns a Writer does all work per update; two writers share nothing on that path. One control loop
// does everything else: journal, checkpoint, fold, release. The loop proceeds in steps. With [Options].Manual nothing
// runs by itself and the caller steps the pool, so that a simulator drives the same code from one loop.
//
// # Memory
//
// A pointer table has three levels (table.go): a directory, branches, and leaves of 32 entries. Branches and leaves are
// packed in the order of their first use, so a sparse volume takes memory for what is mapped, not for its size. A flat
// mapping of 8 bytes per virtual block was slower. On a cold volume of 4 TiB, where each update needs another table
// page, an update took 2.4 to 11.7 us of processor time with the flat mapping, 1.2 to 1.5 us with leaves of 127 entries
// and 0.8 to 1.0 us with three levels. Most of the difference is memory that the kernel, and the host of a virtual
// machine, had to provide. On a dense volume the branches cost 0.13 bytes per block. Pointer tables do not ask for huge
// pages: offheap.go says why, BENCHMARKS.md has the figures.
//
// FORMAT.md describes the on-disk format.
package engine
