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
//   - A request's payload is a [Buffer]: aligned for O_DIRECT, counted by references. What a
//     device keeps after it finished a write is the device's account, not the connection's.
//   - Requests, buffers and headers are used again: in steady state serving makes no garbage.
//   - Nothing a client sends makes the server take memory before it was checked against
//     the limits that were announced to the client.
//   - A malformed request gets an error reply where the protocol allows one, else the
//     connection is closed; other connections never notice.
//
// # One connection
//
// Two goroutines: the receiver parses all requests that one read brought, refuses what is
// wrong and gives the rest to the device as one batch; the sender takes all requests that
// were finished meanwhile and answers them with one writev. The flight between them counts
// what is under way, and stops the receiver when the limits are reached.
package nbd
