// Package demo shows the whole of farside on files, without root: two primary and two secondary controls and a
// replication manager, each its own process, with hosts that write through real NBD sockets.
//
// It proves what it says: hosts write records in an order that spans all volumes, and the copy is read back
// and compared with that order; one secondary control is killed (SIGKILL) when it is told to link; at the end
// each copy is compared with its primary byte for byte. Every number in the result is measured.
package demo
