package target

import (
	"errors"
	"fmt"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// codedError is an error with the code that the peer is told.
type codedError struct {
	code wire.ErrorCode
	err  error
}

func (e *codedError) Error() string   { return e.err.Error() }
func (e *codedError) Unwrap() []error { return []error{e.err, e.code.Err()} }

// refuse makes an error that ends a session.
func refuse(code wire.ErrorCode, format string, args ...any) error {
	return &codedError{code, fmt.Errorf(format, args...)}
}

// fromEngine gives an error of the pool the code that says what it means to a peer.
func fromEngine(err error) error {
	if err == nil {
		return nil
	}
	return &codedError{engineCode(err), err}
}

// fromWriter is fromEngine for what a frame of a stream led to: where the CG's state does not allow it, the frame came
// out of order.
func fromWriter(err error) error {
	if errors.Is(err, engine.ErrState) && !errors.Is(err, engine.ErrFailed) {
		return &codedError{wire.CodeProtocol, err}
	}
	return fromEngine(err)
}

func engineCode(err error) wire.ErrorCode {
	if _, ok := errors.AsType[*engine.ChecksumError](err); ok {
		return wire.CodeChecksum
	}
	for _, m := range [...]struct {
		is   error
		code wire.ErrorCode
	}{
		{engine.ErrFailed, wire.CodeIO}, // first: it may wrap any of the others
		{engine.ErrStaleEpoch, wire.CodeStaleEpoch},
		{engine.ErrUnknown, wire.CodeUnknown},
		{engine.ErrPastEnd, wire.CodeSize},
		{engine.ErrSetAside, wire.CodeSetAside},
		{engine.ErrState, wire.CodeState},
		{engine.ErrDropped, wire.CodeState},
		{engine.ErrPoolFull, wire.CodePoolFull},
		{engine.ErrJournalFull, wire.CodePoolFull}, // no room, and it passes
		{engine.ErrClosed, wire.CodeShuttingDown},
	} {
		if errors.Is(err, m.is) {
			return m.code
		}
	}
	return wire.CodeIO
}

// blames says whether err refuses what the peer did or asks, or tells of a failure here, so that the peer
// must be told; if not, the connection itself broke, or the peer ended it.
func blames(err error) bool {
	if _, told := errors.AsType[*wire.RemoteError](err); told {
		return false
	}
	return wire.CodeOf(err, 0) != 0
}
