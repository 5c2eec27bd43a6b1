// Package wire is the replication protocol: frames, messages and their codec.
//
// PROTOCOL.md in this folder is the specification; this package is its implementation. Four roles speak it: a primary
// control streams updates to secondary controls, a replication manager commands both, and operators' tools ask for
// status and change groups and volumes. This package knows neither engine nor primary, so that neither side needs the
// other.
//
// # Invariants
//
//   - Every decoder is safe against any input: sizes are checked against limits before memory is taken, and an error
//     names the offset and the field ([FormatError]).
//   - Header and body have separate checksums. The payload of updates is covered block by block by the checksums in
//     their descriptors, computed once at the primary.
//   - Frames of one direction of a connection are numbered consecutively from 1.
//   - The payload is never read by this package unless asked: the receiver supplies the memory ([Reader.Payload]), so
//     that it can be received in place.
//   - Reading and writing updates allocates nothing once the connection is set up.
//   - The goroutine that reads a connection never writes to it. Otherwise two peers could wait for each other to
//     read.
//   - A message's fields are listed once, for both directions: encoder and decoder cannot differ.
//
// # Use
//
// [Listen] and [Dial] give connections, [Conn.Answer] and [Conn.Handshake] open them. Then one goroutine loops over
// [Conn.Next]. It decodes control messages with [Decode] (or [DecodeInto], which reuses memory), views the body of
// Updates through [Updates], and receives its payload with [Conn.Payload]. A sender gathers updates in a [Batch].
// Both sides keep a [Digest] of what they sent or received of each volume. [Refusal] and [Conn.Abort] tell a peer
// what went wrong; an error that the peer reports arrives as [RemoteError].
package wire
