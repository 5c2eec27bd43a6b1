// Package proc runs child processes that end with this one, and the roles of farside as such children: for the
// demonstration and for tests.
//
// # Invariants
//
//   - A child never outlives this process, however this process ends. It never ends because a goroutine or thread of
//     this process did.
//   - A child that was waited for is never signalled: its process id may belong to another process by then.
//   - A role that ends by itself is noticed ([Role.Ended], [Role.Kill]), and reported with the end of its log.
package proc
