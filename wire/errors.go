package wire

import (
	"errors"
	"fmt"
)

// FormatError says what is wrong with a frame, and where.
type FormatError struct {
	Type   Type      // of the frame, 0 if not known
	Frame  uint64    // number of the frame, 0 if not known
	Field  string    // name as in PROTOCOL.md
	Offset int       // bytes from the start of the header (fields of headers) or of the body
	Reason string    //
	Code   ErrorCode // 0 means CodeProtocol
}

func (e *FormatError) Error() string {
	where := "frame"
	if e.Type != 0 {
		where = e.Type.String() + " frame"
	}
	if e.Frame != 0 {
		where += fmt.Sprintf(" %d", e.Frame)
	}
	return fmt.Sprintf("wire: %s: %s at offset %d: %s", where, e.Field, e.Offset, e.Reason)
}

// Unwrap gives the sentinel of the error's code: ErrProtocol, ErrChecksum, ...
func (e *FormatError) Unwrap() error { return e.code().Err() }

func (e *FormatError) code() ErrorCode {
	if e.Code == 0 {
		return CodeProtocol
	}
	return e.Code
}

// RemoteError is an Error frame that the peer sent.
type RemoteError struct {
	Message Error
}

// Error quotes the peer's text: it is outside input.
func (e *RemoteError) Error() string {
	m := &e.Message
	s := "wire: peer refused"
	if m.Frame != 0 {
		s += fmt.Sprintf(" frame %d", m.Frame)
	}
	if m.Group != "" {
		s += fmt.Sprintf(", group %q", m.Group)
	}
	if m.CG != 0 {
		s += fmt.Sprintf(", CG %d", m.CG)
	}
	return fmt.Sprintf("%s: %v: %q", s, m.Code, m.Text)
}

// Unwrap gives the sentinel of the code, so that errors.Is(err, ErrStaleEpoch) works.
func (e *RemoteError) Unwrap() error { return e.Message.Code.Err() }

// Sentinels, one per ErrorCode: wrap one into an error to choose the code that a peer is told,
// and compare with errors.Is what a peer told.
var (
	ErrProtocol     = errors.New("protocol error")
	ErrVersion      = errors.New("version or feature not known")
	ErrRefused      = errors.New("role or identity not allowed")
	ErrStaleEpoch   = errors.New("stale epoch")
	ErrUnknown      = errors.New("unknown group or volume")
	ErrSize         = errors.New("wrong size")
	ErrChecksum     = errors.New("checksum mismatch")
	ErrManifest     = errors.New("manifest mismatch")
	ErrState        = errors.New("not possible in this state")
	ErrPoolFull     = errors.New("pool full")
	ErrIO           = errors.New("device failed")
	ErrShuttingDown = errors.New("shutting down")
	ErrSetAside     = errors.New("volume set aside")
)

// Errors of this side of a connection; they have no code.
var (
	// ErrSilent: the peer sent nothing for Options.IdleTimeout.
	ErrSilent = errors.New("peer is silent")
	// ErrStalled: the peer sends signs of life, but takes in nothing of what is written to it.
	ErrStalled = errors.New("peer takes in nothing")
	// ErrPlain: an address that would need TLS.
	ErrPlain = errors.New("plain TCP is for loopback addresses only")
)

var sentinels = [...]error{
	CodeProtocol:     ErrProtocol,
	CodeVersion:      ErrVersion,
	CodeRefused:      ErrRefused,
	CodeStaleEpoch:   ErrStaleEpoch,
	CodeUnknown:      ErrUnknown,
	CodeSize:         ErrSize,
	CodeChecksum:     ErrChecksum,
	CodeManifest:     ErrManifest,
	CodeState:        ErrState,
	CodePoolFull:     ErrPoolFull,
	CodeIO:           ErrIO,
	CodeShuttingDown: ErrShuttingDown,
	CodeSetAside:     ErrSetAside,
}

// Err gives the sentinel of c. A code of a later version counts as ErrProtocol.
func (c ErrorCode) Err() error {
	if c == 0 || int(c) >= len(sentinels) {
		return ErrProtocol
	}
	return sentinels[c]
}

func (c ErrorCode) String() string {
	if c == 0 || int(c) >= len(sentinels) {
		return fmt.Sprintf("error code %d", uint16(c))
	}
	return sentinels[c].Error()
}

// EndsConnection says whether an Error with this code ends any connection. The other codes
// end data connections only; on a manager's connection they refuse one command.
func (c ErrorCode) EndsConnection() bool {
	switch c {
	case CodeStaleEpoch, CodeUnknown, CodeState, CodePoolFull, CodeIO:
		return false
	}
	return true
}

// CodeOf finds the code that err wraps (through a sentinel, FormatError or RemoteError), or
// gives otherwise.
func CodeOf(err error, otherwise ErrorCode) ErrorCode {
	for c, s := range sentinels {
		if s != nil && errors.Is(err, s) {
			return ErrorCode(c)
		}
	}
	return otherwise
}

// Refusal makes the Error message that tells a peer of err. frame is the number of the
// offending frame (Header.Number); group and cg may be "" and 0. An err without a code is
// CodeIO: whatever failed here, it was not the peer's frame.
func Refusal(err error, frame uint64, group string, cg uint64) *Error {
	if frame == 0 {
		if fe, ok := errors.AsType[*FormatError](err); ok {
			frame = fe.Frame
		}
	}
	return &Error{Code: CodeOf(err, CodeIO), Frame: frame, Group: group, CG: cg, Text: err.Error()}
}
