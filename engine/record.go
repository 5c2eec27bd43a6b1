package engine

import "fmt"

// recordKind says what a journal record holds. The numbers are part of the format.
type recordKind uint16

const (
	recPart         recordKind = iota + 1 // sorted entries of a CG pointer table
	recZeroes                             // zeroed ranges of a CG pointer table
	recComplete                           // every part of the CG stands before this
	recLinked                             // the CG is shown, and can be reverted
	recFinal                              // the CG can no longer be reverted
	recReverted                           // the links show the CG before; with Through: CGs are forgotten
	recFence                              // a higher epoch was seen
	recGroup                              // a group was created
	recVolume                             // a volume was created
	recVolumeDelete                       // a volume was deleted
	recRetired                            // physical blocks are bad
	recBegin                              // the parts of a CG follow; what stands before of it does not count
	recMember                             // the standing of a volume in its group changed
	recWhole                              // among the parts of a CG: once it is final, the volume is whole

	lastRecord = recWhole
)

func (k recordKind) String() string {
	names := [...]string{"?", "PART", "ZEROES", "COMPLETE", "LINKED", "FINAL", "REVERTED", "FENCE", "GROUP", "VOLUME", "VOLUME DELETED", "RETIRED", "BEGIN", "MEMBER", "WHOLE"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("record kind %d", k)
}

// record is one journal record; which fields count depends on the kind.
type record struct {
	kind   recordKind
	group  uint32
	cg     uint64
	epoch  uint64 // recLinked, recFinal, recReverted, recFence
	volume uint32
	// through (recReverted): CGs from cg on up to this are forgotten; 0: none is.
	through uint64
	// entries (recComplete): how many entries and ranges the parts of the CG have.
	entries uint64
	name    string // recGroup, recVolume
	size    uint64 // recVolume: bytes
	first   PBlock // recRetired
	blocks  uint64 // recRetired
	body    []byte // recPart, recZeroes: elements, see partEntry and appendRange
	base    VBlock // recPart: the entries' virtual blocks count from here
	// standing (recVolume, recMember): the new one. turn (recMember, recWhole): see Membership.
	standing Standing
	turn     uint32
}

const recordHeader = 8 // kind u16, zero u16, length of the body u32

func appendRecord(b []byte, r record) []byte {
	start := len(b)
	b = le.AppendUint16(b, uint16(r.kind))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, r.group)
	switch r.kind {
	case recPart:
		b = le.AppendUint32(b, r.volume)
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint64(b, uint64(r.base))
		b = append(b, r.body...)
	case recZeroes:
		b = le.AppendUint32(b, r.volume)
		b = le.AppendUint64(b, r.cg)
		b = append(b, r.body...)
	case recComplete:
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint64(b, r.entries)
	case recBegin:
		b = le.AppendUint64(b, r.cg)
	case recLinked, recFinal, recFence:
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint64(b, r.epoch)
	case recReverted:
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint64(b, r.epoch)
		b = le.AppendUint64(b, r.through)
	case recGroup:
		b = appendString(b, r.name)
	case recVolume:
		b = le.AppendUint32(b, r.volume)
		b = le.AppendUint64(b, r.size)
		b = le.AppendUint32(b, uint32(r.standing))
		b = appendString(b, r.name)
	case recMember:
		b = le.AppendUint32(b, r.volume)
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint32(b, uint32(r.standing))
		b = le.AppendUint32(b, r.turn)
	case recWhole:
		b = le.AppendUint32(b, r.volume)
		b = le.AppendUint64(b, r.cg)
		b = le.AppendUint32(b, r.turn)
	case recVolumeDelete:
		b = le.AppendUint32(b, r.volume)
	case recRetired:
		b = le.AppendUint64(b, uint64(r.first))
		b = le.AppendUint64(b, r.blocks)
	default:
		panic(fmt.Sprintf("engine: cannot encode %v", r.kind))
	}
	le.PutUint32(b[start+4:], uint32(len(b)-start-recordHeader))
	return b
}

// decodeRecord reads the record at the decoder's position. body aliases the input.
func decodeRecord(d *decoder) (record, error) {
	at := d.off
	r := record{kind: recordKind(d.u16("record kind"))}
	if zero := d.u16("reserved"); d.err == nil && zero != 0 {
		return r, fmt.Errorf("record at byte %d: reserved field is %d", at, zero)
	}
	n := d.u32("record length")
	in := &decoder{b: d.take(int(n), "record body")}
	if d.err != nil {
		return r, d.err
	}
	r.group = in.u32("group")
	element := 0
	switch r.kind {
	case recPart:
		r.volume, r.cg, r.base = in.u32("volume"), in.u64("cg"), VBlock(in.u64("base"))
		element = partEntrySize
	case recZeroes:
		r.volume, r.cg = in.u32("volume"), in.u64("cg")
		element = rangeSize
	case recComplete:
		r.cg, r.entries = in.u64("cg"), in.u64("entries")
	case recBegin:
		r.cg = in.u64("cg")
	case recLinked, recFinal, recFence:
		r.cg, r.epoch = in.u64("cg"), in.u64("epoch")
	case recReverted:
		r.cg, r.epoch, r.through = in.u64("cg"), in.u64("epoch"), in.u64("through")
	case recGroup:
		r.name = in.string("name")
	case recVolume:
		r.volume, r.size, r.standing, r.name = in.u32("volume"), in.u64("size"), in.standing(), in.string("name")
	case recMember:
		r.volume, r.cg, r.standing, r.turn = in.u32("volume"), in.u64("cg"), in.standing(), in.u32("turn")
	case recWhole:
		r.volume, r.cg, r.turn = in.u32("volume"), in.u64("cg"), in.u32("turn")
	case recVolumeDelete:
		r.volume = in.u32("volume")
	case recRetired:
		r.first, r.blocks = PBlock(in.u64("first")), in.u64("blocks")
	default:
		return r, fmt.Errorf("record at byte %d: unknown kind %d", at, r.kind)
	}
	if element > 0 && in.err == nil {
		r.body = in.take(len(in.b)-in.off, "elements")
		if len(r.body)%element != 0 {
			return r, fmt.Errorf("%v at byte %d: %d bytes of elements of %d", r.kind, at, len(r.body), element)
		}
	}
	if err := in.end(); err != nil {
		return r, fmt.Errorf("%v at byte %d: %w", r.kind, at, err)
	}
	return r, nil
}

const wholeSize = recordHeader + 20 // of a WHOLE record

// A part entry is 24 bytes: physical block (36 bits) and virtual block relative to the part's base (28 bits above),
// the full checksum, and the entry that it displaces.
const (
	partEntrySize = 24
	maxPartSpan   = 1 << tagBits // blocks: 1 TiB
	partOverhead  = recordHeader + 24
)

func appendPartEntry(b []byte, rel uint64, e logEntry, displaced entry) []byte {
	b = le.AppendUint64(b, rel<<pblockBits|uint64(e.block))
	b = le.AppendUint64(b, e.sum)
	return le.AppendUint64(b, uint64(displaced))
}

func partEntryAt(body []byte, i int) (rel uint64, e logEntry, displaced entry) {
	p := body[i*partEntrySize:]
	w := le.Uint64(p)
	return w >> pblockBits, logEntry{PBlock(w & pblockMask), le.Uint64(p[8:])}, entry(le.Uint64(p[16:]))
}

const (
	rangeSize      = 16
	zeroesOverhead = recordHeader + 16
)

func appendRange(b []byte, r vrange) []byte {
	return le.AppendUint64(le.AppendUint64(b, uint64(r.first)), r.n)
}

func rangeAt(body []byte, i int) vrange {
	p := body[i*rangeSize:]
	return vrange{VBlock(le.Uint64(p)), le.Uint64(p[8:])}
}
