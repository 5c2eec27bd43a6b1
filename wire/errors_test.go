package wire

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCodesAndSentinels(t *testing.T) {
	seen := make(map[error]bool)
	for c := CodeProtocol; c <= CodeSetAside; c++ {
		s := c.Err()
		if s == nil || seen[s] {
			t.Fatalf("code %d has no sentinel of its own", c)
		}
		seen[s] = true
		wrapped := fmt.Errorf("volume %q: %w", "v", s)
		if got := CodeOf(wrapped, 0); got != c {
			t.Errorf("%v became code %d, want %d", wrapped, got, c)
		}
		e := Refusal(wrapped, 3, "g", 4)
		if err := error(&RemoteError{*e}); !errors.Is(err, s) || CodeOf(err, 0) != c {
			t.Errorf("%v told to a peer became %v", s, err)
		}
	}
	if ErrorCode(999).Err() != ErrProtocol {
		t.Error("a code of a later version is not a protocol error")
	}
	if got := CodeOf(io.EOF, CodeState); got != CodeState {
		t.Errorf("no code: %v", got)
	}
	if e := Refusal(io.ErrUnexpectedEOF, 0, "", 0); e.Code != CodeIO {
		t.Errorf("an error without code: %v", e.Code)
	}
	if e := Refusal(fmt.Errorf("reading: %w", &FormatError{Frame: 8, Code: CodeChecksum}), 0, "", 0); e.Frame != 8 || e.Code != CodeChecksum {
		t.Errorf("a format error: %+v", e)
	}
}

// The peer's text cannot forge lines of our log.
func TestRemoteTextIsQuoted(t *testing.T) {
	err := &RemoteError{Error{Code: CodeIO, Frame: 2, Group: "g", CG: 3, Text: "x\nlevel=INFO all is well"}}
	if s := err.Error(); strings.Contains(s, "\n") || !strings.Contains(s, "frame 2") || !strings.Contains(s, "CG 3") {
		t.Error(s)
	}
}
