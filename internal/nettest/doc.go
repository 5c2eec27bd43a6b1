// Package nettest has hosts for tests: network namespaces with an address each, joined by a switch that the test
// commands. It cuts them off from each other, in both directions or one, and makes the way between them slow and
// lossy.
//
// Each host has one end of a veth pair; the other end is in a namespace of the switch's own. The switch is in this
// process: it reads frames from packet sockets and writes them to others. It stands in for a bridge with tc and
// sch_netem, which not every kernel has; and it sees what it carries, so that a test can cut in the very moment in
// which a certain message is on its way.
//
// # Addresses
//
// farside serves plain TCP on loopback addresses only, and it is tested as it is: hosts have addresses from
// 127.0.0.0/8. In their namespaces these belong to the veth, not to lo, and the kernel is told to route them
// (route_localnet). Nothing of that reaches any other namespace.
//
// # Invariants
//
//   - Nothing outside of the namespaces is touched, and they have no names: two runs cannot collide.
//   - A namespace lives as long as a thread of this process, or a process started in it, is in it. However the test
//     ends, nothing stays behind: processes started by [Host.Start] are killed with the thread.
//   - What a direction that is cut would carry is lost, not kept: no FIN and no RST comes through either.
package nettest
