// Package scale measures what many controls cost: how many messages a manager sends and receives for one CG, and how
// long a CG takes, by the number of primaries, secondaries and volumes.
//
// [Run] starts real roles (package node) in this process, on files and Unix sockets, with hosts that write over NBD,
// and reads every frame on its way through sockets of its own in between. "farside bench scale" prints what comes of
// it.
//
// # What holds
//
//   - A CG that is formed without a failure costs exactly [PerCG](primaries, secondaries, connections) messages of
//     each kind: 6 P + 5 S between the manager and P primaries and S secondaries, whatever the number of volumes; and
//     one manifest on each data connection, of which a primary has one to each secondary that holds copies of its
//     volumes: P x S at most.
//   - Volumes cost bytes: 28 in a manifest for each.
//   - Besides, by time and not by CG: a manager asks each secondary for its state once a second (2 S messages), and an
//     idle connection carries a ping and a pong.
//
// The tests of this package hold the real roles to that for some CGs, and the manager's core alone, over simulated
// controls and in virtual time, for 256 x 256 controls and hundreds of CGs, with faults.
package scale
