// Package ringtest simulates devices behind [ring.Devices]: seeded, sparse, with a volatile cache, and with crashes
// and faults on demand.
//
// # Invariants
//
//   - Only the seed and the sequence of calls determine what happens; no goroutine, clock or map order has a part in
//     it. The same calls give the same completions, contents and crash images.
//   - Each sector keeps the chain of its versions since it was last made durable. A flush that succeeds makes durable
//     the writes that had *completed* when it was submitted, no others.
//   - A crash image holds, for each sector independently, any version of its chain, including those of writes still
//     in flight. So one rule covers lost, reordered and torn writes. A sector is never torn inside.
//   - The process may die without a loss of power. [Devices.Kill] and [Devices.Reset] end an incarnation and keep the
//     cache: the next incarnation reads what was never flushed, and loses it if the power fails then. [Devices.Crash]
//     is the loss of power.
//   - After a failed flush, the sectors that it should have covered are in doubt until they are written again. Reads
//     may show any version of them, and a later flush that succeeds does not make them durable.
//   - After a crash every queue of the old incarnation answers [ErrCrashed], for ever. What was in flight is copied
//     at that moment: its memory belongs to the caller again.
//   - A read sees, for each sector independently, one of three: what the sector held when the read was submitted,
//     what it held when the read completed, or what a write in flight at completion would make it.
//
// # Stepping
//
// Time stands still between calls. Only Reap lets requests end: as many as it must (min), and some more chosen at
// random, in random order. If nothing is in flight and nobody has called Wake, Reap would sleep for ever; instead it
// returns 0 at once, so that a single-threaded caller never hangs. With Options.Blocking it does sleep until Wake:
// that is for queues that a goroutine owns, such as those of [ring.Worker].
package ringtest
