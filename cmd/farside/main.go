// Command farside keeps a remote copy of block volumes that is always consistent.
//
// # Invariants
//
//   - Standard output carries the result and nothing else; logs, progress and errors go to
//     standard error. With --output json the result is one JSON document.
//   - An error is printed once, with what to do next, and decides the exit status (see exitcode.go).
//   - Nothing is destroyed without a look at what is there, and never while it is in use.
//   - An interrupt ends every command cleanly; a second one ends it at once.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/farside-storage/farside/bench"
)

func main() {
	// Some workloads of "farside bench" run in a second process of this program.
	if assisted, err := bench.Assist(); assisted {
		if err != nil {
			fmt.Fprintln(os.Stderr, "farside bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// From the first signal on the default action is back: a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, production(), os.Args[1:], os.Stdout, os.Stderr))
}
