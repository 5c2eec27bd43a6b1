// Package node runs a role as a process does: it opens what the configuration names, serves until its
// context ends, and closes in the order in which things depend on each other.
//
// It is the glue between configuration and the packages that do the work; cmd/farside calls it, and so
// do tests that want a whole control in their own process.
package node
