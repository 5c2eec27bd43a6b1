// Package ring moves bytes between memory and raw devices.
//
// Everything farside does to a device goes through one small interface, [Queue]: push requests, submit them in one
// batch, reap completions. It has three implementations:
//
//   - io_uring ([OpenUring]), which production uses;
//   - plain pread/pwrite on a few threads ([OpenPlain]), an oracle for tests, and an explicit fall-back where
//     io_uring is forbidden;
//   - the simulated device of package ringtest, with a volatile cache whose contents crashes lose, tear and reorder.
//
// [Open] chooses between the first two, and says in [DeviceInfo] what it chose and why. A [Worker] owns one queue and
// takes requests from any goroutine.
//
// # Invariants
//
//   - One issuer. A Queue belongs to one goroutine, locked to its thread: the one that opened it. Only [Queue.Wake]
//     may be called from elsewhere.
//   - A request is either refused by Push (the queue is full: Busy, nothing was kept) or completes exactly once.
//     Nothing completes inside Push or Submit; completions are delivered by Reap alone, in any order.
//   - From Push to its completion, a request's memory belongs to the kernel.
//   - A flush covers the writes that *completed* before it was submitted, no others.
//   - Every queue is bounded by its depth; no request is queued in user space beyond it.
//   - Nothing polls: an idle issuer sleeps in Reap, in the kernel.
//   - An invalid request (no such device, past the end, not aligned, a write to a read-only device) never reaches the
//     device; it completes with an error.
//
// Units: offsets and lengths are bytes, multiples of the device's sector size.
package ring
