// Package e2e has the tests that run farside as its users do: the built program, one process for each role, real
// sockets, real NBD clients, and loop devices where the tests run as root.
//
// # Invariants
//
//   - Every process, loop device, mount and file that a test makes is gone when the test ends; the test fails
//     otherwise. All files are below one folder, so that what is left can be found.
//   - Processes die with the test binary, however that ends; so do loop devices.
//   - A test waits for a state that it asks for, never for a time. Moments of failures are random, from a seed
//     that is printed.
//   - What a copy must show is known from outside: hosts write numbered records round all volumes, each after
//     the one before was answered, so that the newest record in a copy says what every slot must hold.
//   - Every element 1 to 21 of the requirements for the remote copy has a test with its number, in this folder or
//     in another: TestReq06_..., or TestReq06_Req08_... for several.
package e2e
