// Package archtest enforces the architecture by a test: which package may import which, what an embedder must take along
// with a package, and how packages are named and documented.
//
// The rules are tables in rules.go. The test of this package reads the imports of every package of the module, and fails
// where they break a rule. Further tests show that each rule notices a violation.
//
// # Invariants
//
//   - A package whose folder no rule knows is a violation: a new top-level folder needs a rule first.
//   - Rules hold for what a package reaches through other packages of the module, too, so that glue cannot tie
//     two packages together behind their backs.
//   - internal/plant, which names the faults that tests plant, may be imported by every folder: it must import nothing,
//     so that it ties nothing together and stays embeddable. internal/sim is for tests, and for "farside sim".
//   - Files of every platform and build tag count.
package archtest
