package engine

import (
	"encoding/binary"
	"fmt"
)

// All integers on the devices are little-endian.
var le = binary.LittleEndian

// decoder reads fields from a buffer. The first field that does not fit sets err,
// with its offset; everything after it reads as zero.
type decoder struct {
	b   []byte
	off int
	err error
}

func (d *decoder) take(n int, what string) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || len(d.b)-d.off < n {
		d.err = fmt.Errorf("%s at byte %d needs %d bytes, %d are left", what, d.off, n, len(d.b)-d.off)
		return nil
	}
	p := d.b[d.off : d.off+n]
	d.off += n
	return p
}

func (d *decoder) u16(what string) uint16 {
	if p := d.take(2, what); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (d *decoder) u32(what string) uint32 {
	if p := d.take(4, what); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (d *decoder) u64(what string) uint64 {
	if p := d.take(8, what); p != nil {
		return le.Uint64(p)
	}
	return 0
}

func (d *decoder) string(what string) string {
	n := d.u16(what + " length")
	return string(d.take(int(n), what))
}

func (d *decoder) standing() Standing {
	at, n := d.off, d.u32("standing")
	if d.err == nil && n > uint32(SetAside) {
		d.err = fmt.Errorf("standing at byte %d is %d", at, n)
	}
	return Standing(n)
}

// count reads a number of elements of at least size bytes each: it cannot exceed what is left.
func (d *decoder) count(size int, what string) int {
	n := d.u32(what)
	if d.err == nil && uint64(n)*uint64(size) > uint64(len(d.b)-d.off) {
		d.err = fmt.Errorf("%s at byte %d: %d elements do not fit in %d bytes", what, d.off-4, n, len(d.b)-d.off)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// end checks that nothing is left.
func (d *decoder) end() error {
	if d.err == nil && d.off != len(d.b) {
		d.err = fmt.Errorf("%d bytes too many after byte %d", len(d.b)-d.off, d.off)
	}
	return d.err
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint16(b, uint16(len(s))), s...)
}
