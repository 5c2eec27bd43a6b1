// Package probe says what a device or file holds, before it is destroyed.
//
// [Scan] looks for the signatures of filesystems, partition tables, volume managers, encryption, swap and
// farside's own pools; [InUse] asks the kernel whether somebody uses the device now. A destructive command
// refuses a device with any finding, and names what was found and where.
//
// # Invariants
//
//   - Nothing is ever written, and a device is opened read-only.
//   - Reads go through io.ReaderAt, at offsets aligned to 4096 bytes (but for the device's end), and take
//     a few MiB of memory at most, whatever the device says.
//   - A read error is returned, together with what was found before: an unreadable place is
//     never taken for an empty one.
//   - A signature is named only by its magic number at its own offset. A damaged structure is still named: it may be
//     someone's only copy.
//
// Offsets of signatures are facts of the formats: the kernel's headers (include/uapi/linux/magic.h
// and the filesystems' own), the UEFI specification (GPT), and the formats' documents.
package probe
