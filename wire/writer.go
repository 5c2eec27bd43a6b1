package wire

import (
	"fmt"
	"io"
	"net"

	"github.com/cespare/xxhash/v2"
)

// Writer puts frames on a byte stream and numbers them. Any goroutine may use it: frames
// are written whole, one after the other. The first failed write is final, for it may have left
// half a frame behind.
type Writer struct {
	arm   func() error             // sets the deadline of a write; may be nil
	again func(error, int64) error // nil: a write that failed after so many bytes goes on; else why not. Set with arm

	// turn holds one token: who took it writes. It is a channel, not a mutex, so that in a synctest
	// bubble a writer that waits lets time pass.
	turn chan struct{}

	// What follows belongs to who has the token.
	dst    io.Writer
	number uint64 // of the last frame
	coder  coder
	raw    [HeaderSize]byte
	out    []byte      // header and body of a control message
	vec    [][]byte    // header, body and payload of an Updates frame
	rest   net.Buffers // what of vec is still to be written
	sum    xxhash.Digest
	err    error
}

// NewWriter makes a writer of frames to dst, from frame 1. Updates leave in one writev if dst is a
// *net.TCPConn or *net.UnixConn.
func NewWriter(dst io.Writer) *Writer {
	w := &Writer{}
	w.init(dst)
	return w
}

func (w *Writer) init(dst io.Writer) {
	w.dst = dst
	w.turn = make(chan struct{}, 1)
	w.give()
}

func (w *Writer) take() { <-w.turn }
func (w *Writer) give() { w.turn <- struct{}{} }

// WriteMessage sends a control message. A *FormatError says that m itself is wrong: nothing was
// sent, and the connection stays usable.
func (w *Writer) WriteMessage(m Message) error {
	if m.Type().InStream() {
		return &FormatError{Type: m.Type(), Field: "stream sequence", Offset: offSequence, Reason: "is missing; use WriteStream"}
	}
	return w.control(m, 0)
}

// WriteStream sends an update frame without payload: *ZeroRanges or *Manifest. sequence is its
// number in the stream.
func (w *Writer) WriteStream(m Message, sequence uint64) error { return w.control(m, sequence) }

func (w *Writer) control(m Message, sequence uint64) error {
	w.take()
	defer w.give()
	if w.err != nil {
		return w.err
	}
	out, err := w.coder.encode(append(w.out[:0], w.raw[:]...), m)
	w.out = out
	if err != nil {
		return err
	}
	body := out[HeaderSize:]
	h := Header{Type: m.Type(), Body: uint32(len(body)), Sequence: sequence, bodySum: xxhash.Sum64(body)}
	if err := w.begin(&h); err != nil {
		return err
	}
	copy(out, w.raw[:])
	return w.end(w.write(out))
}

// WriteUpdates sends the updates gathered in b as one frame, without copying payload. sequence is
// its number in the stream. b may be reused, or sent again, afterwards.
func (w *Writer) WriteUpdates(b *Batch, sequence uint64) error {
	w.take()
	defer w.give()
	if w.err != nil {
		return w.err
	}
	if b.Len() == 0 {
		return &FormatError{Type: TypeUpdates, Field: "descriptors", Offset: 8, Reason: "0 are not 1 or more"}
	}
	w.sum.Reset()
	w.sum.Write(b.body)
	w.sum.Write(b.sums)
	h := Header{
		Type:     TypeUpdates,
		Body:     uint32(len(b.body) + len(b.sums)),
		Payload:  uint32(b.blocks) * BlockSize,
		Sequence: sequence,
		bodySum:  w.sum.Sum64(),
	}
	if err := w.begin(&h); err != nil {
		return err
	}
	w.vec = append(w.vec[:0], w.raw[:], b.body, b.sums)
	w.vec = append(w.vec, b.payload...)
	w.rest = w.vec
	err := w.writeRest()
	clear(w.vec) // a failed write left the caller's slices here
	return w.end(err)
}

func (w *Writer) write(p []byte) error {
	for {
		n, err := w.dst.Write(p)
		if err == nil {
			return nil
		}
		if err = w.goOn(err, int64(n)); err != nil {
			return err
		}
		p = p[n:]
	}
}

func (w *Writer) writeRest() error {
	for {
		n, err := w.rest.WriteTo(w.dst) // drops from rest what was written
		if err == nil {
			return nil
		}
		if err = w.goOn(err, n); err != nil {
			return err
		}
	}
}

// goOn is nil if a write that failed is to go on behind the n bytes that it got through.
func (w *Writer) goOn(err error, n int64) error {
	if w.again == nil {
		return err
	}
	if why := w.again(err, n); why != nil {
		return why
	}
	return w.arm()
}

// begin numbers h, puts it into raw and arms the deadline.
func (w *Writer) begin(h *Header) error {
	h.Number = w.number + 1
	if err := h.check(); err != nil {
		return err
	}
	h.put(&w.raw)
	if w.arm != nil {
		if err := w.arm(); err != nil {
			return w.end(err)
		}
	}
	w.number = h.Number
	return nil
}

func (w *Writer) end(err error) error {
	if err != nil {
		w.err = fmt.Errorf("wire: writing frame %d: %w", w.number, err)
	}
	return w.err
}
