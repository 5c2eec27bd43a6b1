// Package export serves the copies that a secondary control holds over NBD, read-only: it connects
// package engine with the Device interface of package nbd.
//
// # Invariants
//
//   - A reader sees the final view: each read shows one consistency group (CG), whatever is being linked or
//     reverted meanwhile. Two reads may see different CGs.
//   - A volume is served only while it is whole: a part of a first copy is consistent with nothing.
//   - Nothing here writes: every command that would is refused with EPERM.
//   - A damaged block is an error to the reader, never wrong data.
//   - Nothing is allocated per read once the pool of reads has grown to what is in flight.
package export
