// Package nbd serves block devices over the NBD protocol.
//
// It speaks fixed newstyle negotiation, structured replies, block status ("base:allocation"), FUA, flush, trim, write
// zeroes, read-only exports and multi-conn, over TCP, TLS and Unix sockets. The specification is
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// An export is a [Device], an interface that is declared here and implemented elsewhere. The package imports no other
// package of farside.
//
// # Invariants
//
//   - Each request that was read is answered exactly once, in any order.
//   - Requests of one connection are handed to the device in bulk, as they were found in the socket. Memory in flight
//     per connection is bounded.
//   - A request's payload is a [Buffer]: aligned for O_DIRECT, and reference-counted. Memory that a device keeps
//     after it finished a write does not count for the connection.
//   - Requests, buffers and headers are reused: in steady state serving makes no garbage.
//   - Everything a client sends is checked against the limits that were announced to it, before memory is allocated.
//   - A malformed request gets an error reply where the protocol allows one; otherwise the connection is closed.
//     Other connections never notice.
//
// # One connection
//
// A connection has two goroutines. The receiver parses all requests that one read brought, refuses those that are
// wrong, and gives the rest to the device as one batch. The sender takes all requests that were finished meanwhile
// and answers them with one writev. The flight between them counts requests and bytes in progress, and stops the
// receiver when a limit is reached.
package nbd
