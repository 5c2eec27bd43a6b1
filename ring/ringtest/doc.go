// Package ringtest simulates devices behind [ring.Devices]: seeded, sparse, with a volatile
// cache, and with crashes and faults on demand.
//
// # Invariants
//
//   - Nothing is decided by anything but the seed and the calls made, in their order: no goroutine,
//     clock or map order. The same calls give the same completions, contents and crash images.
//   - Each sector keeps the chain of its versions since it was last made durable. A flush, when
//     it ends well, makes durable the writes that had *completed* when it was submitted, no others.
//   - A crash image holds, for each sector independently, any version of its chain, those of writes still in
//     flight included: lost, reordered and torn writes in one rule. Sectors are never torn inside.
//   - The power need not fail with the process: [Devices.Kill] and [Devices.Reset] end an incarnation with the cache
//     kept, so that the next one reads what was never flushed, and loses it if the power fails then. [Devices.Crash]
//     is the loss of power.
//   - What a failed flush should have covered is in doubt until it is written again: reads may show any version of
//     it, and a later flush that ends well does not make it durable.
//   - After a crash every queue of the old incarnation answers [ErrCrashed], for ever. What was in flight is copied at
//     that moment: its memory belongs to the caller again.
//   - A read sees, for each sector independently, what the sector held when the read was submitted, or when
//     it completed, or what a write in flight then would make it.
//
// # Stepping
//
// Time stands still between calls. Reap is what lets requests end: as many as it must (min) and some more, chosen at
// random, in random order. A Reap that would sleep for ever, as nothing is in flight and nobody has called Wake,
// returns 0 at once, so that a single-threaded caller never hangs. With Options.Blocking it sleeps until Wake
// instead: that is for queues owned by a goroutine, such as [ring.Worker]'s.
package ringtest
