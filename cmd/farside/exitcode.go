package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit statuses, for scripts. "farside help exit-codes" prints exitHelp.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

const exitHelp = `Exit statuses of every command:

  0    done; what was checked holds
  1    failed, or what was checked does not hold (check, demo)
  2    wrong use: flags, arguments or configuration; nothing was done
  3    refused: it would destroy something, or the device is in use; nothing was done
  4    a node could not be reached, or did not answer as it should
  130  interrupted before it was done

The roles (primary, secondary, manager) end with 0 when they are interrupted: that is how they are
stopped. With --output json an error is one JSON object on standard error:
{"error": TEXT, "next": TEXT, "exit_code": NUMBER}.`

// failure is an error with an exit status and a next step.
type failure struct {
	code int
	err  error
	next string // what to do; "" if the error says it
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usage(next, format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...), next: next}
}

func refused(next, format string, args ...any) error {
	return &failure{code: exitRefused, err: fmt.Errorf(format, args...), next: next}
}

func unreachable(next string, err error) error {
	return &failure{code: exitUnreachable, err: err, next: next}
}

// classify turns any error that a command returned into a failure.
func classify(ctx context.Context, err error) *failure {
	var f *failure
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return &failure{code: exitInterrupted, err: errors.New("interrupted before it was done")}
	case errors.As(err, &f):
		return f
	}
	return &failure{code: exitFailed, err: err}
}

// print writes the failure, once: for people one problem a line, for scripts one object.
func (f *failure) print(w io.Writer, asJSON bool) {
	if asJSON {
		// Writing to standard error can only fail where nobody would see the failure either.
		_ = json.NewEncoder(w).Encode(struct {
			Error    string `json:"error"`
			Next     string `json:"next"`
			ExitCode int    `json:"exit_code"`
		}{f.err.Error(), f.next, f.code})
		return
	}
	lines := strings.Split(strings.TrimRight(f.err.Error(), "\n"), "\n")
	if len(lines) == 1 {
		fmt.Fprintf(w, "farside: %s\n", lines[0])
	} else {
		fmt.Fprintln(w, "farside: several problems:")
		for _, line := range lines {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
	if f.next != "" {
		fmt.Fprintf(w, "next: %s\n", f.next)
	}
}
