// Package nbd serves block devices over the NBD protocol.
//
// It speaks fixed newstyle negotiation, structured replies, block status
// ("base:allocation"), FUA, flush, trim, write zeroes, read-only exports and
// multi-conn, over TCP, TLS and Unix sockets. The specification is
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// What is served is a [Device], an interface declared here and implemented elsewhere;
// the package imports nothing of farside.
//
// # Invariants
//
//   - Each request that was read is answered exactly once, in any order.
//   - Requests of one connection are handed to the device in bulk, as they were
//     found in the socket; memory in flight per connection is bounded.
//   - Nothing a client sends makes the server take memory before it was checked against
//     the limits that were announced to the client.
//   - A malformed request gets an error reply where the protocol allows one, else the
//     connection is closed; other connections never notice.
package nbd
