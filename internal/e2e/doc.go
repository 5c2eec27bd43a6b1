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
//   - No machine is too slow: what a test asserts holds for every schedule, and nothing fails for taking long before
//     a minute is over.
//   - Every element 1 to 21 of the requirements for the remote copy has a test with its number, in this folder or
//     in another: TestReq06_..., or TestReq06_Req08_... for several.
//
// # Real kills
//
// TestReq01_Req07_Req08_RealKills kills 20 random roles with SIGKILL in the ordinary run. For 100 of each role, as
// root:
//
//	for role in manager primary secondary; do
//		go test ./internal/e2e -run RealKills -v -timeout 1h -kills 100 -kills.time 0 -kills.role $role
//	done
//
// Add -kills.etcd for two managers that share an etcd, and -kills.seed for the victims and moments of an earlier run;
// what the machine does in these moments is not drawn. With FARSIDE_E2E_LOGS=folder the processes of a test that
// fails leave their logs there.
package e2e
