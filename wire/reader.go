package wire

import (
	"fmt"
	"io"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// readBuffer holds a header and a usual body. It is small because payload that happens to lie in
// it must be copied; the rest of the payload goes from the socket to where it belongs.
const readBuffer = 4096

// Reader takes frames from a byte stream. It belongs to one goroutine. The first error is
// final: a stream that broke a rule cannot be trusted to start a frame anywhere.
type Reader struct {
	src      io.Reader
	buf      [readBuffer]byte
	from, to int // unread bytes of buf
	raw      [HeaderSize]byte
	header   Header
	body     []uint64 // memory of bodies: 8-byte alignment lets checksums be read in place
	scrap    []byte   // where skipped payload goes
	left     int      // payload bytes of the current frame not read yet
	sequence uint64   // of the last update frame, or before the expected one
	bound    bool     // sequence is known
	err      error
}

// NewReader makes a reader of the frames of src, from frame 1.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Next reads the next frame up to its payload; what is left of the payload before is skipped. The
// body is valid until the next call. Errors: io.EOF where the stream ended between two
// frames; *FormatError; else what the stream gave.
func (r *Reader) Next() (Header, []byte, error) {
	if err := r.SkipPayload(); err != nil {
		return Header{}, nil, err
	}
	if err := r.readHeader(); err != nil {
		return Header{}, nil, r.keep(err)
	}
	body, err := r.readBody()
	if err != nil {
		return Header{}, nil, r.keep(err)
	}
	r.left = int(r.header.Payload)
	return r.header, body, nil
}

// ExpectSequence says which stream sequence the next update frame must have: the one after
// Attached.Applied. Without it the first one is taken as it comes. From then on they are consecutive.
func (r *Reader) ExpectSequence(next uint64) { r.sequence, r.bound = next-1, true }

// PayloadLeft is how many payload bytes of the current frame were not read yet.
func (r *Reader) PayloadLeft() int { return r.left }

// Payload fills dst with the next bytes of the current frame's payload, any number of times. But
// for what was read along with the header, they go from the stream straight to dst.
func (r *Reader) Payload(dst []byte) error {
	if r.err != nil {
		return r.err
	}
	if len(dst) > r.left {
		return fmt.Errorf("wire: frame %d: %d bytes of payload asked for, %d are left", r.header.Number, len(dst), r.left)
	}
	if err := r.full(dst); err != nil {
		return r.keep(fmt.Errorf("wire: frame %d: payload: %w", r.header.Number, err))
	}
	r.left -= len(dst)
	return nil
}

// SkipPayload drops the rest of the current frame's payload.
func (r *Reader) SkipPayload() error {
	for r.left > 0 && r.err == nil {
		if r.scrap == nil {
			r.scrap = make([]byte, 64<<10)
		}
		if err := r.Payload(r.scrap[:min(r.left, len(r.scrap))]); err != nil {
			return err
		}
	}
	return r.err
}

func (r *Reader) keep(err error) error {
	r.err = err
	return err
}

func (r *Reader) readHeader() error {
	if err := r.fill(HeaderSize); err != nil {
		if err == io.EOF {
			return err
		}
		return fmt.Errorf("wire: header after frame %d: %w", r.header.Number, err)
	}
	r.from += copy(r.raw[:], r.buf[r.from:])
	h, err := parseHeader(&r.raw)
	if err != nil {
		if fe, ok := err.(*FormatError); ok && fe.Frame == 0 {
			fe.Frame = r.header.Number + 1
		}
		return err
	}
	if want := r.header.Number + 1; h.Number != want {
		return h.wrong("frame number", offNumber, "is %d, expected %d", h.Number, want)
	}
	if h.Type.InStream() {
		if r.bound && h.Sequence != r.sequence+1 {
			return h.wrong("stream sequence", offSequence, "is %d, expected %d", h.Sequence, r.sequence+1)
		}
		r.sequence, r.bound = h.Sequence, true
	}
	r.header = h
	return nil
}

func (r *Reader) readBody() ([]byte, error) {
	n := int(r.header.Body)
	if words := (n + 7) / 8; words > len(r.body) {
		r.body = make([]uint64, words)
	}
	body := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(r.body))), 8*len(r.body))[:n]
	if n <= len(r.buf) { // through the buffer: what follows comes along in the same call
		if err := r.fill(n); err != nil {
			return nil, fmt.Errorf("wire: frame %d: body: %w", r.header.Number, unexpected(err))
		}
	}
	if err := r.full(body); err != nil {
		return nil, fmt.Errorf("wire: frame %d: body: %w", r.header.Number, err)
	}
	if sum := xxhash.Sum64(body); sum != r.header.bodySum {
		return nil, &FormatError{Type: r.header.Type, Frame: r.header.Number, Code: CodeChecksum,
			Field: "body checksum", Offset: offBodySum,
			Reason: fmt.Sprintf("is %016x, computed %016x", r.header.bodySum, sum)}
	}
	return body, nil
}

// fill makes sure that n bytes are buffered. io.EOF: the stream ended with none.
func (r *Reader) fill(n int) error {
	if r.to-r.from >= n {
		return nil
	}
	r.to = copy(r.buf[:], r.buf[r.from:r.to])
	r.from = 0
	got, err := io.ReadAtLeast(r.src, r.buf[r.to:], n-r.to)
	if r.to > 0 {
		err = unexpected(err)
	}
	r.to += got
	return err
}

// full fills dst from the buffer, then from the stream.
func (r *Reader) full(dst []byte) error {
	n := copy(dst, r.buf[r.from:r.to])
	r.from += n
	if n == len(dst) {
		return nil
	}
	_, err := io.ReadFull(r.src, dst[n:])
	return unexpected(err)
}

// unexpected turns the end of the stream into what it is inside a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
