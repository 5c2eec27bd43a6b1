package nbd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errorCode translates a device's error to the protocol's error values. Only those that the
// specification lists may be sent; whatever has no counterpart is EIO.
func errorCode(err error) uint32 {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return nbdEIO
	}
	switch errno {
	case unix.EPERM, unix.EACCES, unix.EROFS:
		return nbdEPERM
	case unix.ENOMEM:
		return nbdENOMEM
	case unix.EINVAL:
		return nbdEINVAL
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return nbdENOSPC
	case unix.EOVERFLOW:
		return nbdEOVERFLOW
	case unix.EOPNOTSUPP:
		return nbdENOTSUP
	case unix.ESHUTDOWN:
		return nbdESHUTDOWN
	}
	return nbdEIO
}

// requestError is why the server itself refuses a request: NBD's code and a text that
// clients with structured replies are shown.
type requestError struct {
	errno unix.Errno
	text  string
}

func (e *requestError) Error() string { return e.text }
func (e *requestError) Unwrap() error { return e.errno }

// Refusals are values made once: a flood of bad requests makes no garbage.
var (
	errUnknownCommand = &requestError{unix.EINVAL, "this export does not take that command"}
	errUnknownFlags   = &requestError{unix.EINVAL, "flags that do not belong to this command or were not offered"}
	errMisaligned     = &requestError{unix.EINVAL, "offset or length is not a multiple of the export's minimum block size"}
	errTooLarge       = &requestError{unix.EINVAL, "length is above the export's maximum payload size"}
	errPastEnd        = &requestError{unix.EINVAL, "the range ends past the end of the export"}
	errPastEndWrite   = &requestError{unix.ENOSPC, "the range ends past the end of the export"}
	errReadOnly       = &requestError{unix.EPERM, "the export is read-only"}
	errNoContext      = &requestError{unix.EINVAL, "block status needs the context base:allocation to be negotiated"}
	errEmptyStatus    = &requestError{unix.EINVAL, "block status of an empty range"}
	errAdapterClosed  = &requestError{unix.ESHUTDOWN, "the device is being closed"}
	errNoRuns         = &requestError{unix.EIO, "the device returned no allocation state"}
)
