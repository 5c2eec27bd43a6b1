// Package alloc keeps track of the free physical blocks of a pool.
//
// It has one bit per physical block, with summary levels above, so that finding a free extent or a free run costs
// O(levels), not O(device). A writer reserves a whole extent in one atomic step and fills it alone, front to back.
//
// # Invariants
//
//   - A bit is set from the moment a writer takes the block, or [Map.MarkUsed] finds it linked at start, until
//     [Map.Release].
//   - An extent has at most one holder. Only the holder takes blocks of it. Any goroutine may release blocks of it at
//     any time.
//   - Taking a block uses no lock and no memory shared with other writers: the holder learns the free blocks of its
//     extent when it reserves it (a snapshot). Blocks that are released into a held extent become available at its next
//     reservation.
//   - A reservation has all free blocks of its extent; or, if runs of three blocks and more make up at least an
//     eighth of the free blocks, only these runs. What it leaves out stays free.
//   - Empty extents are handed out first, in ascending order from the last one reserved, wrapping round at the end.
//     When none is left, partly used extents follow, the emptiest first (to the precision of the occupancy classes),
//     in the same order within a class.
//   - When no call is in progress, [Map.Reserve] finds every extent that has a free block and no holder: no hint is
//     ever lost, and [ErrFull] is exact.
//   - Live data is never moved to make room.
//   - The bitmap is never stored: it is derived at start.
//   - Releasing a free block, or marking a used one, is a bug or a corruption. It is never ignored.
//   - A retired block is never handed out again, whoever held or releases it.
//
// The map knows nothing of devices: it counts blocks from 0. Its owner marks ranges that hold no data (superblocks,
// journal, tables, bad blocks) as used, or retires them.
//
// # Life of a map
//
// A map is built, then used. While it is built, [Map.MarkUsed], [Map.MarkUsedOne], [Map.MarkUsedEach] and [Map.Retire]
// only set bits, from any number of goroutines. The first call of [Map.Reserve], [Map.Release], [Map.ReleaseOne],
// [Map.ReleaseEach], [Map.Stats] or [Map.Start] ends this phase: it counts what was set. It must come after
// the marking calls have returned. From then on marking is refused, and any goroutine may make any other call; but an
// [Extent] belongs to one goroutine at a time. [Map.Close] is the last call.
//
// Build in this order: retire what never holds data; mark what the tables link (a link into a retired range is then
// reported); retire bad ranges last, because they may hold linked blocks.
package alloc
