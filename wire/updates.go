package wire

import (
	"fmt"
	"iter"
	"unsafe"
)

// Layout of the body of Updates: fixed part, descriptors, then the checksums of all blocks, in
// the order of the payload.
const (
	updatesFixed   = 16 // cg u64, descriptors u32, reserved u32
	descriptorSize = 16 // volume u32, count u32, block u64
)

// Updates is a view of the body of an Updates frame. It allocates nothing, and is valid as long
// as the body is: until the next Reader.Next.
type Updates struct {
	cg          uint64
	descriptors []byte
	sums        []uint64
	own         []uint64 // memory of sums where the body cannot be cast
}

// Decode checks a body against the rules and the payload length of its header, and makes u a view
// of it. An error is a *FormatError.
func (u *Updates) Decode(h Header, body []byte) error {
	u.descriptors, u.sums = nil, nil
	fail := func(field string, off int, format string, args ...any) error {
		return &FormatError{Type: TypeUpdates, Frame: h.Number, Field: field, Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
	if len(body) < updatesFixed {
		return fail("body", 0, "needs %d bytes, has %d", updatesFixed, len(body))
	}
	n, blocks := int(le.Uint32(body[8:])), int(h.Payload)/BlockSize
	switch cg := le.Uint64(body); {
	case cg == 0:
		return fail("cg", 0, "is 0; CG numbers start at 1")
	case n < 1 || n > MaxUpdateBlocks:
		return fail("descriptors", 8, "%d are not 1 to %d", n, MaxUpdateBlocks)
	case le.Uint32(body[12:]) != 0:
		return fail("reserved", 12, "is %#x, must be 0", le.Uint32(body[12:]))
	case h.Payload > MaxPayload || h.Payload%BlockSize != 0:
		return fail("payload length", offPayload, "%d is not of whole blocks up to %d", h.Payload, MaxPayload)
	case len(body) != updatesFixed+n*descriptorSize+blocks*8:
		return fail("body", 8, "%d descriptors and %d blocks need %d bytes, it has %d",
			n, blocks, updatesFixed+n*descriptorSize+blocks*8, len(body))
	default:
		u.cg = cg
	}
	descriptors := body[updatesFixed : updatesFixed+n*descriptorSize]
	sum := 0
	for off := 0; off < len(descriptors); off += descriptorSize {
		d := descriptor(descriptors[off:])
		if !d.valid() {
			field, reason := badUpdate(d)
			return fail(field, updatesFixed+off, "%s", reason)
		}
		sum += int(d.Count)
	}
	if sum != blocks {
		return fail("count", updatesFixed, "descriptors have %d blocks, the payload %d", sum, blocks)
	}
	u.descriptors = descriptors
	u.sums, u.own = viewSums(body[updatesFixed+n*descriptorSize:], u.own)
	return nil
}

// CG is the number of the consistency group of all updates of the frame.
func (u *Updates) CG() uint64 { return u.cg }

// Len is the number of descriptors.
func (u *Updates) Len() int { return len(u.descriptors) / descriptorSize }

// Blocks is the number of blocks of payload.
func (u *Updates) Blocks() int { return len(u.sums) }

// Sums are the checksums of all blocks, in the order of the payload.
func (u *Updates) Sums() []uint64 { return u.sums }

// At is the i-th descriptor.
func (u *Updates) At(i int) Update { return descriptor(u.descriptors[i*descriptorSize:]) }

// All walks over the descriptors, each with the checksums of its blocks, in the order of the
// payload.
func (u *Updates) All() iter.Seq2[Update, []uint64] {
	return func(yield func(Update, []uint64) bool) {
		sums := u.sums
		for i := range u.Len() {
			d := u.At(i)
			if !yield(d, sums[:d.Count:d.Count]) {
				return
			}
			sums = sums[d.Count:]
		}
	}
}

func descriptor(b []byte) Update {
	return Update{Volume: le.Uint32(b), Count: le.Uint32(b[4:]), Block: le.Uint64(b[8:])}
}

// valid says whether d breaks no rule, in as few steps as the receive path can bear.
func (d Update) valid() bool {
	return d.Count-1 < MaxUpdateBlocks && d.Volume < MaxVolumes && d.Block <= MaxBlocks-uint64(d.Count)
}

// badUpdate says which field of d breaks a rule, and how; reason "" if d is valid.
func badUpdate(d Update) (field, reason string) {
	if d.Count > MaxUpdateBlocks {
		return "count", fmt.Sprintf("%d exceeds %d", d.Count, MaxUpdateBlocks)
	}
	return badRange(d.Volume, d.Block, uint64(d.Count))
}

func badRange(volume uint32, block, count uint64) (field, reason string) {
	switch {
	case volume >= MaxVolumes:
		return "volume", fmt.Sprintf("handle %d exceeds %d", volume, MaxVolumes-1)
	case count == 0:
		return "count", "is 0"
	case block >= MaxBlocks || count > MaxBlocks-block:
		return "block", fmt.Sprintf("%d with count %d is past block %d", block, count, MaxBlocks)
	}
	return "", ""
}

var littleEndianHost = le.Uint16([]byte{1, 0}) == *(*uint16)(unsafe.Pointer(&[2]byte{1, 0}))

// viewSums gives b as checksums: b itself where the host's byte order and b's alignment allow,
// else a copy in own, which is grown for that.
func viewSums(b []byte, own []uint64) (sums, kept []uint64) {
	n := len(b) / 8
	if n == 0 {
		return nil, own
	}
	p := unsafe.SliceData(b)
	if littleEndianHost && uintptr(unsafe.Pointer(p))%unsafe.Alignof(uint64(0)) == 0 {
		return unsafe.Slice((*uint64)(unsafe.Pointer(p)), n), own
	}
	if cap(own) < n {
		own = make([]uint64, n)
	}
	own = own[:n]
	for i := range own {
		own[i] = le.Uint64(b[8*i:])
	}
	return own, own
}

// appendSums appends the wire form of sums to b.
func appendSums(b []byte, sums []uint64) []byte {
	if len(sums) == 0 {
		return b
	}
	if littleEndianHost {
		return append(b, unsafe.Slice((*byte)(unsafe.Pointer(&sums[0])), 8*len(sums))...)
	}
	for _, s := range sums {
		b = le.AppendUint64(b, s)
	}
	return b
}

// Batch gathers the updates of one Updates frame. It keeps the caller's payload slices, not their
// contents: these must stay unchanged until the batch was sent for the last time.
// A Batch may be sent again (stream resume). The zero value is empty; Reset starts a frame and
// keeps the memory.
type Batch struct {
	body    []byte   // fixed part and descriptors
	sums    []byte   // wire form
	payload [][]byte // in order
	blocks  int
}

// Reset empties b and makes it a batch of CG cg.
func (b *Batch) Reset(cg uint64) {
	clear(b.payload) // holds no payload longer than needed
	b.body = append(b.body[:0], make([]byte, updatesFixed)...)
	le.PutUint64(b.body, cg)
	b.sums, b.payload, b.blocks = b.sums[:0], b.payload[:0], 0
}

// CG is the number given to Reset.
func (b *Batch) CG() uint64 {
	if len(b.body) == 0 {
		return 0
	}
	return le.Uint64(b.body)
}

// Len is the number of updates gathered.
func (b *Batch) Len() int { return max(0, len(b.body)-updatesFixed) / descriptorSize }

// Blocks is the number of blocks of payload gathered.
func (b *Batch) Blocks() int { return b.blocks }

// Fits says whether an update of count blocks still fits the frame.
func (b *Batch) Fits(count uint32) bool {
	return count <= MaxUpdateBlocks && b.blocks+int(count) <= MaxUpdateBlocks
}

// Add gathers one update: its checksums (copied) and its payload in one or more pieces, together
// u.Count blocks (kept, not copied). On error, which is a *FormatError, b is unchanged.
func (b *Batch) Add(u Update, sums []uint64, pieces ...[]byte) error {
	if err := b.accept(u, sums, pieces); err != nil {
		return err
	}
	b.body = le.AppendUint32(b.body, u.Volume)
	b.body = le.AppendUint32(b.body, u.Count)
	b.body = le.AppendUint64(b.body, u.Block)
	le.PutUint32(b.body[8:], uint32(b.Len()))
	b.sums = appendSums(b.sums, sums)
	b.payload = append(b.payload, pieces...)
	b.blocks += int(u.Count)
	return nil
}

func (b *Batch) accept(u Update, sums []uint64, pieces [][]byte) error {
	fail := func(field, reason string) error {
		return &FormatError{Type: TypeUpdates, Field: field, Offset: len(b.body), Reason: reason}
	}
	if b.CG() == 0 {
		return fail("cg", "is 0: Reset was not called, or with CG 0")
	}
	if !u.valid() {
		return fail(badUpdate(u))
	}
	if !b.Fits(u.Count) {
		return fail("count", fmt.Sprintf("%d blocks more than the %d gathered exceed %d", u.Count, b.blocks, MaxUpdateBlocks))
	}
	if len(sums) != int(u.Count) {
		return fail("checksums", fmt.Sprintf("%d for %d blocks", len(sums), u.Count))
	}
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size != int(u.Count)*BlockSize {
		return fail("payload", fmt.Sprintf("%d bytes for %d blocks", size, u.Count))
	}
	return nil
}
