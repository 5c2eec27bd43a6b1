package probe

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Kind groups findings.
type Kind string

const (
	Filesystem     Kind = "filesystem"
	PartitionTable Kind = "partition table"
	VolumeManager  Kind = "volume manager"
	RAID           Kind = "RAID member"
	Encryption     Kind = "encrypted volume"
	Swap           Kind = "swap space"
	Pool           Kind = "farside pool"
	Used           Kind = "in use"
)

// Finding is one thing that a device holds, or one way in which it is in use.
type Finding struct {
	Kind Kind `json:"kind"`
	// Name of the format, such as "ext4", or of the user, such as "mounted on /srv".
	Name string `json:"name"`
	// Offset in bytes of the signature; 0 for Used.
	Offset int64 `json:"offset"`
}

// String describes the finding for people.
func (f Finding) String() string {
	switch f.Kind {
	case Used:
		return f.Name
	case Pool:
		return fmt.Sprintf("another farside pool (at byte %d)", f.Offset)
	}
	return fmt.Sprintf("%s, %s (at byte %d)", f.Name, f.Kind, f.Offset)
}

// Describe joins findings into one line.
func Describe(findings []Finding) string {
	texts := make([]string, len(findings))
	for i, f := range findings {
		texts[i] = f.String()
	}
	return strings.Join(texts, "; ")
}

// image is a device being scanned. It keeps what it has read: signatures stand close together.
type image struct {
	r     io.ReaderAt
	size  int64
	pages map[int64][]byte // by offset; a page past the end is short
	errs  []error
}

const pageSize = 4096

// bytes returns n bytes at off, or nil if they are not all on the device or could not be read.
func (m *image) bytes(off int64, n int) []byte {
	if off < 0 || off > m.size-int64(n) {
		return nil
	}
	var out []byte
	for page := off / pageSize * pageSize; page < off+int64(n); page += pageSize {
		b := m.page(page)
		from := max(off-page, 0)
		to := min(off+int64(n)-page, int64(len(b)))
		if from > to {
			return nil
		}
		out = append(out, b[from:to]...)
	}
	if len(out) != n {
		return nil
	}
	return out
}

func (m *image) page(off int64) []byte {
	if b, ok := m.pages[off]; ok {
		return b
	}
	b := make([]byte, min(pageSize, m.size-off))
	n, err := m.r.ReadAt(b, off)
	if n < len(b) {
		m.errs = append(m.errs, fmt.Errorf("read of %d bytes at byte %d: %w", len(b), off, cmp.Or(err, io.ErrUnexpectedEOF)))
		b = nil
	}
	m.pages[off] = b
	return b
}

// has says whether the bytes of magic are at off.
func (m *image) has(off int64, magic string) bool {
	return len(magic) > 0 && string(m.bytes(off, len(magic))) == magic
}

// Scan looks for everything it knows in size bytes of r and returns what it found, by
// offset. The error joins the read errors; what could be read was looked at nevertheless.
func Scan(r io.ReaderAt, size int64) ([]Finding, error) {
	m := &image{r: r, size: size, pages: map[int64][]byte{}}
	var found []Finding
	for _, s := range signatures {
		for _, off := range s.at(size) {
			if m.has(off+s.within, s.magic) && (s.also == nil || s.also(m, off)) {
				found = append(found, Finding{Kind: s.kind, Name: s.name, Offset: off + s.within})
				break
			}
		}
	}
	for _, look := range []func(*image) []Finding{ext, fat, mbr, gpt, zfs} {
		found = append(found, look(m)...)
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(a.Offset, b.Offset) })
	return found, errors.Join(m.errs...)
}
