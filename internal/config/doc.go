// Package config reads the one TOML file of a node, or the same keys given as flags.
//
// A node is one process: a primary control, a secondary control or a replication manager. Its
// file has a [node] section and exactly one section of its role. [Load] reads the file, lays
// flags over it and checks the result; [Example] returns a commented file for each role,
// and [Keys] lists every key, so that flags and documents cannot drift from the file.
//
// # Invariants
//
//   - What Load returns is valid: every later use may rely on it without checking again, as far as it
//     can be known without touching a device or the network.
//   - All problems are reported at once, in the order of the file, each one with file, line and key ([Error]).
//   - A key that is not known is an error, never ignored; the error names the nearest known key.
//   - A value that is not given has the default that its doc comment states. A value that is given is never
//     replaced by a default.
//   - Nothing is served in plain text but on loopback addresses and Unix sockets ([Address]).
package config
