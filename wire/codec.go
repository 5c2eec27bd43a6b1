package wire

import (
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Message is a control message: everything but Updates, which is built by Batch and read by
// Updates. The implementations are pointers to the structs of this package.
type Message interface {
	Type() Type
	// fields visits the fields in wire order. One function serves both directions, so that
	// encoder and decoder cannot drift apart.
	fields(c *coder)
}

// Commanded is a message with a Command head.
type Commanded interface {
	Message
	Head() *Command
}

// Append appends the body of m to dst. An error is a *FormatError: m breaks a limit.
func Append(dst []byte, m Message) ([]byte, error) {
	c := coders.Get().(*coder)
	defer coders.Put(c)
	return c.encode(dst, m)
}

// coders keeps coders: a message's fields are behind an interface, so a coder on the
// stack would be one allocation per message.
var coders = sync.Pool{New: func() any { return new(coder) }}

// DecodeInto decodes a body into m, reusing its slices. It is strict: a body must be exactly
// as long as its fields say, and every field valid. An error is a *FormatError, and leaves m undefined.
func DecodeInto(m Message, body []byte) error {
	c := coders.Get().(*coder)
	defer coders.Put(c)
	return c.decode(m, body)
}

// Decode decodes the body of a message of type t, as DecodeInto.
func Decode(t Type, body []byte) (Message, error) {
	if !t.known() || types[t].make == nil {
		return nil, &FormatError{Type: t, Field: "type", Offset: offType, Reason: "is not that of a control message"}
	}
	m := types[t].make()
	if err := DecodeInto(m, body); err != nil {
		return nil, err
	}
	return m, nil
}

// coder walks over the fields of one body, writing or reading them. After the first error it
// does nothing more.
type coder struct {
	buf      []byte // writing: what was written; reading: the body
	off      int    // writing: where the body starts in buf; reading: the next byte
	decoding bool
	msg      Type
	err      *FormatError
	trace    func(field string, b []byte) // reading: called for every field; usually nil
}

func (c *coder) encode(dst []byte, m Message) ([]byte, error) {
	*c = coder{buf: dst, off: len(dst), msg: m.Type()}
	m.fields(c)
	if n := len(c.buf) - c.off; c.err == nil && n > MaxBody {
		c.fail("body", n, "%d bytes exceed %d", n, MaxBody)
	}
	out := c.buf
	c.buf = nil
	if c.err != nil {
		return dst, c.err
	}
	return out, nil
}

func (c *coder) decode(m Message, body []byte) error {
	*c = coder{buf: body, decoding: true, msg: m.Type(), trace: c.trace}
	m.fields(c)
	if c.err == nil && c.off != len(body) {
		c.fail("body", c.off, "%d bytes too many", len(body)-c.off)
	}
	c.buf = nil
	if c.err != nil {
		return c.err
	}
	return nil
}

func (c *coder) fail(field string, off int, format string, args ...any) {
	if c.err == nil {
		c.err = &FormatError{Type: c.msg, Field: field, Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
}

// pos is the offset in the body of the next field.
func (c *coder) pos() int {
	if c.decoding {
		return c.off
	}
	return len(c.buf) - c.off
}

// take gives the next n bytes of the body, nil if there are not as many.
func (c *coder) take(field string, n int) []byte {
	if c.err != nil {
		return nil
	}
	if left := len(c.buf) - c.off; n > left {
		c.fail(field, c.off, "needs %d bytes, the body has %d left", n, left)
		return nil
	}
	b := c.buf[c.off : c.off+n]
	c.off += n
	if c.trace != nil {
		c.trace(field, b)
	}
	return b
}

func (c *coder) u8(field string, v *uint8) {
	if !c.decoding {
		c.buf = append(c.buf, *v)
	} else if b := c.take(field, 1); b != nil {
		*v = b[0]
	}
}

func (c *coder) u16(field string, v *uint16) {
	if !c.decoding {
		c.buf = le.AppendUint16(c.buf, *v)
	} else if b := c.take(field, 2); b != nil {
		*v = le.Uint16(b)
	}
}

func (c *coder) u32(field string, v *uint32) {
	if !c.decoding {
		c.buf = le.AppendUint32(c.buf, *v)
	} else if b := c.take(field, 4); b != nil {
		*v = le.Uint32(b)
	}
}

func (c *coder) u64(field string, v *uint64) {
	if !c.decoding {
		c.buf = le.AppendUint64(c.buf, *v)
	} else if b := c.take(field, 8); b != nil {
		*v = le.Uint64(b)
	}
}

func (c *coder) boolean(field string, v *bool) {
	var x uint8
	if *v && !c.decoding {
		x = 1
	}
	at := c.pos()
	c.u8(field, &x)
	if x > 1 {
		c.fail(field, at, "is %d, must be 0 or 1", x)
	}
	*v = x == 1
}

func (c *coder) uuid(field string, v *UUID) {
	if !c.decoding {
		c.buf = append(c.buf, v[:]...)
	} else if b := c.take(field, len(v)); b != nil {
		copy(v[:], b)
	}
}

// zero visits a reserved u32.
func (c *coder) zero(field string) {
	var v uint32
	at := c.pos()
	c.u32(field, &v)
	if v != 0 {
		c.fail(field, at, "is %#x, must be 0", v)
	}
}

// name visits a name: length u16, then 1 to MaxName bytes of UTF-8 without control characters,
// for names end up in logs, paths and status.
func (c *coder) name(field string, v *string) {
	at := c.pos()
	c.stringOf(field, v, MaxName)
	switch {
	case c.err != nil:
	case *v == "":
		c.fail(field, at, "is empty")
	case strings.ContainsFunc(*v, unicode.IsControl):
		c.fail(field, at, "%q has control characters", *v)
	}
}

// optionalName visits a name that may be empty.
func (c *coder) optionalName(field string, v *string) {
	at := c.pos()
	c.stringOf(field, v, MaxName)
	if c.err == nil && strings.ContainsFunc(*v, unicode.IsControl) {
		c.fail(field, at, "%q has control characters", *v)
	}
}

// text visits a text for people. A writer shortens and repairs it rather than fail: it mostly
// reports another failure.
func (c *coder) text(field string, v *string) {
	if !c.decoding {
		s := strings.ToValidUTF8(*v, "\uFFFD")
		if len(s) > MaxText {
			s = strings.ToValidUTF8(s[:MaxText], "") // drops a rune cut in two
		}
		v = &s
	}
	c.stringOf(field, v, MaxText)
}

func (c *coder) stringOf(field string, v *string, limit int) {
	at := c.pos()
	n := uint16(min(len(*v), 1<<16-1))
	c.u16(field, &n)
	if int(n) > limit {
		c.fail(field, at, "%d bytes exceed %d", n, limit)
		return
	}
	if !c.decoding {
		c.buf = append(c.buf, *v...)
	} else if b := c.take(field, int(n)); b != nil || n == 0 {
		*v = string(b)
	}
	if c.err == nil && !utf8.ValidString(*v) {
		c.fail(field, at, "is not UTF-8")
	}
}

// bytes visits a byte string: length u32, then the bytes.
func (c *coder) bytes(field string, v *[]byte, limit int) {
	n := c.count(field, len(*v), 0, limit, 1)
	if !c.decoding {
		c.buf = append(c.buf, *v...)
	} else if b := c.take(field, n); b != nil {
		*v = append((*v)[:0], b...)
	}
}

// count visits the number of elements of a list, a u32. A reader gets no number whose elements,
// of at least size bytes each, do not fit the rest of the body: memory is taken for what is there only.
func (c *coder) count(field string, have, least, most, size int) int {
	at := c.pos()
	n := uint32(min(have, 1<<32-1))
	c.u32(field, &n)
	switch {
	case c.err != nil:
		return 0
	case uint64(n) > uint64(most):
		c.fail(field, at, "%d exceeds %d", n, most)
		return 0
	case int(n) < least:
		c.fail(field, at, "%d is less than %d", n, least)
		return 0
	case c.decoding && int(n)*size > len(c.buf)-c.off:
		c.fail(field, at, "%d elements of %d bytes do not fit the %d that follow", n, size, len(c.buf)-c.off)
		return 0
	}
	return int(n)
}

// list sizes a slice for n decoded elements; a writer's slice stays as it is.
func list[E any](c *coder, s []E, n int) []E {
	if !c.decoding {
		return s
	}
	if cap(s) < n {
		return make([]E, n)
	}
	return s[:n] // every field of every element is decoded over
}
