// Package proc runs child processes that end with this one, and the roles of farside as such children: for the
// demonstration and for tests.
//
// # Invariants
//
//   - A child never outlives this process, however that ends; and it never ends because a goroutine or thread of
//     this process did.
//   - Nothing is signalled once it was waited for: its number may be another process's by then.
//   - A role that ends by itself is found out ([Role.Ended], [Role.Kill]), and told with the end of its log.
package proc
