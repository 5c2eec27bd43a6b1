// Package engine is a secondary control: it holds a copy of volumes that is consistent
// at every moment, on raw devices, and it is the API that storage appliances embed.
//
// Updates arrive through a [Writer], which places each block once, at the front of an extent that it holds
// alone, and records virtual block -> physical block in the CG pointer table of the
// open consistency group (CG). When every volume of a [Group] is sealed for CG n, the
// tables are journaled: the CG is complete. [Group.Link] shows it, [Group.Revert] takes
// it back, [Group.Release] makes it final; each costs one small journal record and one pointer store.
// A final CG is folded into the volumes' pointer tables in the background, and the
// blocks it displaced are released.
//
//	RECEIVING --all volumes sealed, data flushed, tables journaled, flushed--> COMPLETE
//	COMPLETE  --Link--> LINKED (revertible) --Release--> FINAL --fold--> part of the pointer table
//	LINKED    --Revert--> COMPLETE, or discarded
//
// # Invariants
//
//   - A payload block is written once. Linking, reverting, releasing and folding move no data.
//   - Readers see a [View]: an immutable value behind one atomic pointer. A view shows one
//     CG of all volumes of its group; no read ever mixes two. Readers take no lock.
//   - The final view changes only at Release; the linked view at Link and Revert.
//   - A physical block is reused only when (1) no table, view or retained CG names it, (2) the
//     journal record that unlinked it is durable, (3) no read of it is in flight.
//   - What was acknowledged (complete, linked, final, reverted) is durable: data flushed
//     before the record that depends on it is written, the record flushed before the answer.
//   - Nothing on the devices is overwritten that the newest durable state needs.
//   - A volume that the group waits for ([Awaited]) is part of every CG that becomes complete, until it is set aside or deleted.
//     That is durable before it is waited for, and joining falls between two CGs that have all: no CG has a part of a volume that does not know of it.
//     A volume made while nothing is complete in its group is awaited at once. One that is made later is not, before it
//     joins: a copy that is to come must not hold back those that are there.
//   - A volume is whole since the final CG that left nothing of its first copy out. Until then CGs may have parts of
//     it, and it is no copy ([ErrNotWhole]); from then on a CG with a part of it only is refused, for what a final view shows of
//     whole volumes is one state of all of them.
//   - A fold changes only entries that every view still in use masks: it starts when no
//     reader holds a view older than the CG.
//   - The bitmap of the allocator is derived when a pool opens; it is never stored.
//   - Opening a pool never guesses: damage is repaired from a redundant copy and reported,
//     or refused with device and offset ([CorruptionError]).
//
// # Who runs what
//
// Per-update work is done by the goroutine that owns the Writer; two writers share nothing on
// that path. Everything else (journal, checkpoint, fold, release) is done by one control loop, which
// is stepped: with [Options].Manual nothing runs by itself and the caller steps
// the pool, so that a simulator can drive the same code from one loop.
//
// # Memory
//
// A pointer table is not one flat mapping of 8 bytes for each virtual block but has two levels (table.go): a directory, and leaves that
// are packed in the order of their first use. Measured on a cold volume of 4 TiB, of which each update needs another table page, an update took 2.4 to
// 11.7 us of processor time with a flat mapping and 1.3 to 1.4 us so, most of the difference being memory that the kernel, and the host of a virtual
// machine, had to provide. On dense volumes no difference was seen. Huge pages are not asked for; why not stands in offheap.go, and the figures in BENCHMARKS.md.
//
// The on-disk format is described in FORMAT.md.
package engine
