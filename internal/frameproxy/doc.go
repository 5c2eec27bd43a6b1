// Package frameproxy stands between two nodes of farside on Unix sockets and sees each frame of the replication
// protocol: for the demonstration and for tests, which choose the frame at which something fails.
//
// # Invariants
//
//   - A frame is passed on whole and unchanged, or not at all; of one direction always in order.
//   - After Close has returned nothing runs and no connection is left.
package frameproxy
