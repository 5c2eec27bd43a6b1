// Command peers runs the work of a secondary control on what one would use instead of farside, side by side with
// farside's engine on the same device: goal P14.
//
//	go -C bench/peers run . --loop tmpfs --seconds 10
//
// It is a module of its own, so that the product does not depend on the stores it is compared with.
//
// # The work
//
// Volumes of 4 KiB blocks, all of them written once before the clock starts, take updates of one block each at random
// places, with contents that do not compress. After so many updates, the same number for every store, a consistency
// group ends: everything since the one before must become durable, as one, so that a crash at any moment leaves this
// group or the one before. What counts is updates per second, commits included, and how many bytes the device wrote
// per byte of payload, from the kernel's block statistics.
//
// # Invariants
//
//   - Every round runs every store once, farside first, on the same device and for the same time; a ratio is formed
//     within a round.
//   - A store that cannot promise the group as one (badger, qcow2) is given the weaker promise it can, and the report
//     says so.
//   - Each store is given what makes it fast and keeps the promise: no write-ahead log where the store does without,
//     sorted copies, large caches, no compression of what does not compress, no copy of payload in user space where
//     its interface allows that.
//   - Stores need not verify checksums and need not be able to revert; farside does and is.
//   - After each run a sample of blocks is read back and compared. A store that lost one is an error, not a figure.
//   - Loop devices, mounts and files are gone at the end, also after an interrupt. Mounts are the program's own (a mount
//     namespace), so that they, their loop device and servers go with it even if it is killed; an empty folder stays then.
//   - A store whose programs are not installed is left out, and the report says so; asked for by name it is an error.
package main
