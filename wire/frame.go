package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// HeaderSize is the length of a frame's header in bytes.
const HeaderSize = 48

// magic opens every frame: "FSW1". It names the frame format, which all protocol versions share.
const magic = 0x31575346

// Where the fields of a header lie (PROTOCOL.md, "Frame").
const (
	offMagic     = 0
	offType      = 4
	offFlags     = 5
	offReserved  = 6
	offBody      = 8
	offPayload   = 12
	offNumber    = 16
	offSequence  = 24
	offBodySum   = 32
	offHeaderSum = 40
)

var le = binary.LittleEndian

// Header is a frame's header, as far as users of this package care.
type Header struct {
	Type     Type
	Body     uint32 // bytes
	Payload  uint32 // bytes; Updates only, whole blocks
	Number   uint64 // of the frame in its direction of the connection, from 1
	Sequence uint64 // of the update frame in its stream, from 1; 0 for other frames
	bodySum  uint64
}

// InStream says whether frames of type t are update frames: numbered in the stream, retained
// by the primary until they are acknowledged.
func (t Type) InStream() bool {
	return t == TypeUpdates || t == TypeZeroes || t == TypeManifest
}

// put encodes h, checksum included.
func (h *Header) put(b *[HeaderSize]byte) {
	*b = [HeaderSize]byte{}
	le.PutUint32(b[offMagic:], magic)
	b[offType] = byte(h.Type)
	le.PutUint32(b[offBody:], h.Body)
	le.PutUint32(b[offPayload:], h.Payload)
	le.PutUint64(b[offNumber:], h.Number)
	le.PutUint64(b[offSequence:], h.Sequence)
	le.PutUint64(b[offBodySum:], h.bodySum)
	le.PutUint64(b[offHeaderSum:], xxhash.Sum64(b[:offHeaderSum]))
}

// parseHeader decodes and checks a header. Errors are *FormatError, without frame number.
func parseHeader(b *[HeaderSize]byte) (Header, error) {
	if m := le.Uint32(b[offMagic:]); m != magic {
		return Header{}, &FormatError{Field: "magic", Offset: offMagic,
			Reason: fmt.Sprintf("% x is not the start of a frame; the peer does not speak this protocol, or bytes were lost", b[:4])}
	}
	if sum, want := xxhash.Sum64(b[:offHeaderSum]), le.Uint64(b[offHeaderSum:]); sum != want {
		return Header{}, &FormatError{Code: CodeChecksum, Field: "header checksum", Offset: offHeaderSum,
			Reason: fmt.Sprintf("is %016x, computed %016x", want, sum)}
	}
	h := Header{
		Type:     Type(b[offType]),
		Body:     le.Uint32(b[offBody:]),
		Payload:  le.Uint32(b[offPayload:]),
		Number:   le.Uint64(b[offNumber:]),
		Sequence: le.Uint64(b[offSequence:]),
		bodySum:  le.Uint64(b[offBodySum:]),
	}
	if b[offFlags] != 0 {
		return h, h.wrong("flags", offFlags, "are %#x, must be 0", b[offFlags])
	}
	if r := le.Uint16(b[offReserved:]); r != 0 {
		return h, h.wrong("reserved", offReserved, "is %#x, must be 0", r)
	}
	return h, h.check()
}

// check holds what must be true of any header, read or about to be written.
func (h *Header) check() error {
	switch {
	case !h.Type.known():
		return h.wrong("type", offType, "%d is not a message type", uint8(h.Type))
	case h.Body > MaxBody:
		return h.wrong("body length", offBody, "%d exceeds %d", h.Body, MaxBody)
	case h.Payload > MaxPayload:
		return h.wrong("payload length", offPayload, "%d exceeds %d", h.Payload, MaxPayload)
	case h.Payload != 0 && h.Type != TypeUpdates:
		return h.wrong("payload length", offPayload, "%d, but only Updates has payload", h.Payload)
	case h.Payload%BlockSize != 0:
		return h.wrong("payload length", offPayload, "%d is not a multiple of %d", h.Payload, BlockSize)
	case h.Type.InStream() && h.Sequence == 0:
		return h.wrong("stream sequence", offSequence, "is 0 in an update frame")
	case !h.Type.InStream() && h.Sequence != 0:
		return h.wrong("stream sequence", offSequence, "is %d, but this is no update frame", h.Sequence)
	}
	return nil
}

func (h *Header) wrong(field string, off int, format string, args ...any) error {
	return &FormatError{Type: h.Type, Frame: h.Number, Field: field, Offset: off, Reason: fmt.Sprintf(format, args...)}
}
