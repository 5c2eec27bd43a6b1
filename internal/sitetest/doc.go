// Package sitetest has the queries and waits that tests of whole installations share.
//
// # Invariants
//
//   - A test waits for a state that it asks for, never for a time: no machine is too slow, before [Patience] is over.
//   - What no waiting mends ends the wait at once: see [Hopeless].
//   - The last line of an audit log that is being written is left out until it is whole.
package sitetest
