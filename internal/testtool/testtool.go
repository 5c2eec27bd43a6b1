// Package testtool lets a test say what it needs of the machine.
//
// Some tests drive real programs (nbdcopy, fio, mkfs.xfs) or need root for loop devices. On a
// machine without them such a test skips and says which Debian package is missing. Where every
// test must run, the environment variable FARSIDE_REQUIRE_TOOLS=1 turns each of these
// skips into a failure, so that a missing package cannot hide a test.
//
// # Invariants
//
//   - A test never passes silently for want of a tool: it runs, skips with a reason, or fails.
//   - The reason names what to install or do.
package testtool

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// RequireEnv is the environment variable that forbids skipping: "" or "0" allow it, anything
// else does not.
const RequireEnv = "FARSIDE_REQUIRE_TOOLS"

// Required says whether a missing tool is a failure.
func Required() bool {
	v := os.Getenv(RequireEnv)
	return v != "" && v != "0"
}

// Need returns the path of a program, looked for in PATH and then in the directories for system
// programs, which PATH of an ordinary user leaves out. If it is not there, the test is
// skipped with the name of the Debian package that has it, or fails if [Required].
func Need(t testing.TB, program, debianPackage string) string {
	t.Helper()
	path, ok := find(program)
	if !ok {
		Missing(t, "needs the program %q: install it with \"apt-get install %s\"", program, debianPackage)
	}
	return path
}

// NeedRoot skips the test if it does not run as root, or fails it if [Required].
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root (loop devices, mounts): run the tests as root")
	}
}

// Missing ends the test because something of the machine is not there: skipped, or
// failed if [Required]. For needs that are neither a program nor root, such as a kernel feature that
// CI must have.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if Required() {
		t.Fatalf(format+" ("+RequireEnv+" is set: skipping is not allowed)", args...)
	}
	t.Skipf(format, args...)
}

func find(program string) (string, bool) {
	if path, err := exec.LookPath(program); err == nil {
		return path, true
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}
