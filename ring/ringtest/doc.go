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
//   - After a crash every queue of the old incarnation answers [ErrCrashed], for ever. What was in flight is copied at
//     that moment: its memory belongs to the caller again.
//   - A read sees, for each sector independently, what the sector held when the read was submitted, or when
//     it completed, or what a write in flight then would make it.
//
// # Stepping
//
// Time stands still between calls. Reap is what lets requests end: as many as it must (min) and some more, chosen at
// random, in random order. A Reap that would sleep for ever, as nothing is in flight and nobody has called Wake, returns 0
// at once, so that a single-threaded caller never hangs. With Options.Blocking it sleeps until Wake instead:
// that is for queues owned by a goroutine, such as [ring.Worker]'s.
package ringtest
