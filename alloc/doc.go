// Package alloc says which physical blocks of a pool are free.
//
// One bit per physical block, with summary levels above it, so that finding a free extent or a free
// run costs O(levels), not O(device). A writer reserves a whole extent in one atomic
// step and fills it alone, front to back.
//
// # Invariants
//
//   - A bit is set from the moment a writer takes the block (or, at start, [Map.MarkUsed]
//     finds it linked) until [Map.Release].
//   - An extent has at most one holder. Only the holder takes blocks of it; anybody may
//     release blocks of it at any time, from any goroutine.
//   - No lock and no memory shared with other writers is touched per block taken: a holder learns
//     the free blocks of its extent when it reserves it (a snapshot). Blocks released into a
//     held extent become available at the next reservation.
//   - A reservation has all free blocks of its extent, or those in runs of three and more if
//     they are at least an eighth of them. What it leaves out stays free.
//   - Empty extents are handed out first, in ascending order from the last one reserved, round
//     the device; when none is left, partly used ones, the emptiest first (to the precision of the
//     occupancy classes), in the same order within a class.
//   - When no call is in progress, every extent that has a free block and no holder is
//     found by [Map.Reserve]: no hint to it is ever lost. [ErrFull] is exact.
//   - Live data is never moved to make room.
//   - The bitmap is never stored as truth: it is derived at start.
//   - Releasing a free block, or marking a used one, is a bug or a corruption, never ignored.
//   - A retired block is never handed out again, whoever held or releases it.
//
// The map knows nothing of devices: it counts blocks from 0, and ranges that hold no
// data (superblocks, journal, tables, bad blocks) are marked used, or retired, by its owner.
//
// # Life of a map
//
// A map is built, then used. While it is built, [Map.MarkUsed], [Map.MarkUsedOne] and
// [Map.Retire] only set bits, from any number of goroutines. The first call of
// [Map.Reserve], [Map.Release], [Map.ReleaseOne], [Map.ReleaseEach], [Map.Stats], [Map.Grow] or [Map.Start] counts what was set
// and ends that phase; it must come after the marking calls have returned. From then on
// marking is refused, and everything else may be called from any goroutine, except that
// an [Extent] belongs to one goroutine at a time. [Map.Close] comes after all else.
//
// Build in this order: retire what never holds data, mark what the tables link (a link into a
// retired range is then reported), and retire bad ranges last (they may hold linked blocks).
package alloc
