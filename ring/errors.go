package ring

import (
	"errors"
	"fmt"
)

var (
	// ErrShort: the device moved fewer bytes than asked, without an error of its own.
	ErrShort = errors.New("short transfer")
	// ErrClosed: the queue or worker was closed.
	ErrClosed = errors.New("ring is closed")
	// ErrUringForbidden: the kernel, its sysctl or a seccomp filter does not let this process use
	// io_uring. The error that wraps it says how to allow it.
	ErrUringForbidden = errors.New("io_uring is not available")
	// ErrInUse: the device is mounted, or another program holds it.
	ErrInUse = errors.New("device is in use")
	// ErrNoDirect: the filesystem of a regular file refuses O_DIRECT.
	ErrNoDirect = errors.New("filesystem refuses O_DIRECT")
)

// Error is a request that failed: where, and why.
type Error struct {
	// Path names the device.
	Path string
	Op   Op
	// Off and Len are the request's, in bytes.
	Off, Len int64
	// Err is the cause: an errno of the kernel, or [ErrShort].
	Err error
}

func (e *Error) Error() string {
	if e.Op == OpFlush || e.Op == OpForget {
		return fmt.Sprintf("%v %s: %v", e.Op, e.Path, e.Err)
	}
	return fmt.Sprintf("%v %s at byte %d, length %d: %v", e.Op, e.Path, e.Off, e.Len, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// String is the operation's name as messages show it.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpDiscard:
		return "discard"
	case OpWriteZeroes:
		return "write zeroes"
	case OpForget:
		return "forget"
	}
	return fmt.Sprintf("operation %d", uint8(o))
}
