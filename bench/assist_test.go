package bench

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets this binary be the other process of a workload, or the child of a test.
func TestMain(m *testing.M) {
	assisted, err := Assist()
	if child := children[os.Getenv(childVariable)]; child != nil && !assisted {
		assisted, err = true, child()
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case !assisted:
		os.Exit(m.Run())
	}
}
