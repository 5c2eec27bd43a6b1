package engine

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// A root is what a checkpoint leaves: the catalog (groups, volumes, retired blocks), the directory (which
// slot of which pair holds the table page, with its checksum) and where the journal is to be replayed
// from. Two root slots are written in turn. A root slot is one header block, then the body.
const (
	rootMagic = "FSROOT1\x00"
	// A table page: magic u32, volume u32, page u64, checkpoint u64, zero u64; then entries.
	tablePageMagic  = 0x31545346 // "FST1"
	tablePageHeader = 32
)

// root is the decoded header and catalog; the directory stays encoded in memory, as one uint64 for a pair:
// 0 unused, else the page's checksum with the lowest bit replaced by the slot. 0 cannot be a
// used entry: see directoryEntry.
type root struct {
	checkpoint uint64 // counts up from 1; format leaves 0 in the other slot
	tail       journalPos
	nextGroup  uint32
	nextVolume uint32
	groups     []catalogGroup
	volumes    []catalogVolume
	retired    []prange
	directory  []uint64
	bodySum    uint64 // checksum of the body, once it was written or read
	image      []byte // the slot as it was read, for stage G of a recovery
}

type catalogGroup struct {
	id     uint32
	state  groupState
	folded uint64 // CGs up to this are in the table pages; a replay passes over them
}

type catalogVolume struct {
	id, group uint32
	size      uint64 // bytes
	name      string
	member    Membership
}

// prange is a run of physical blocks.
type prange struct {
	first PBlock
	n     uint64
}

func directoryEntry(page []byte, slot uint8) uint64 {
	e := xxhash.Sum64(page)&^1 | uint64(slot)
	if e == 0 {
		e = 2
	}
	return e
}

func (r *root) encodeBody() []byte {
	b := le.AppendUint32(nil, r.nextGroup)
	b = le.AppendUint32(b, r.nextVolume)
	b = le.AppendUint32(b, uint32(len(r.groups)))
	b = le.AppendUint32(b, uint32(len(r.volumes)))
	b = le.AppendUint32(b, uint32(len(r.retired)))
	b = le.AppendUint32(b, uint32(len(r.directory)))
	for _, g := range r.groups {
		b = le.AppendUint32(b, g.id)
		s := g.state
		for _, v := range []uint64{s.epoch, s.final, s.linked, s.complete, s.through, g.folded} {
			b = le.AppendUint64(b, v)
		}
		b = appendString(b, s.name)
	}
	for _, v := range r.volumes {
		b = le.AppendUint32(b, v.id)
		b = le.AppendUint32(b, v.group)
		b = le.AppendUint64(b, v.size)
		b = le.AppendUint32(b, uint32(v.member.Standing))
		b = le.AppendUint32(b, v.member.turn)
		b = le.AppendUint64(b, v.member.WholeSince)
		b = le.AppendUint64(b, v.member.AsideAt)
		b = appendString(b, v.name)
	}
	for _, x := range r.retired {
		b = le.AppendUint64(b, uint64(x.first))
		b = le.AppendUint64(b, x.n)
	}
	for _, e := range r.directory {
		b = le.AppendUint64(b, e)
	}
	return b
}

// padBody fills the last block of a body with zeros, which the body's checksum covers too.
func padBody(b []byte) []byte {
	return append(b, make([]byte, roundUp(uint64(len(b)), BlockSize)-uint64(len(b)))...)
}

func (r *root) decodeBody(body []byte) error {
	d := &decoder{b: body}
	r.nextGroup, r.nextVolume = d.u32("next group"), d.u32("next volume")
	groups, volumes := d.count(54, "group count"), d.count(42, "volume count")
	retired, pairs := d.count(16, "retired count"), d.count(8, "pair count")
	for range groups {
		g := catalogGroup{id: d.u32("group id")}
		s := &g.state
		for _, v := range []*uint64{&s.epoch, &s.final, &s.linked, &s.complete, &s.through, &g.folded} {
			*v = d.u64("group state")
		}
		s.name = d.string("group name")
		r.groups = append(r.groups, g)
	}
	for range volumes {
		v := catalogVolume{id: d.u32("volume id"), group: d.u32("group of volume"), size: d.u64("volume size")}
		v.member = Membership{Standing: d.standing(), turn: d.u32("turn"), WholeSince: d.u64("whole since"), AsideAt: d.u64("set aside at")}
		v.name = d.string("volume name")
		r.volumes = append(r.volumes, v)
	}
	for range retired {
		r.retired = append(r.retired, prange{PBlock(d.u64("retired")), d.u64("retired length")})
	}
	r.directory = make([]uint64, pairs)
	for i := range r.directory {
		r.directory[i] = d.u64("directory entry")
	}
	return d.end()
}

// encodeHeader makes the header block of a root with this body, of which length bytes are not padding.
func (r *root) encodeHeader(pool UUID, body []byte, length int) []byte {
	b := append(make([]byte, 0, BlockSize), rootMagic...)
	b = append(b, pool[:]...)
	for _, v := range []uint64{r.checkpoint, r.tail.block, r.tail.seq, r.tail.prev, uint64(length), xxhash.Sum64(body)} {
		b = le.AppendUint64(b, v)
	}
	b = append(b, make([]byte, BlockSize-8-len(b))...)
	return le.AppendUint64(b, xxhash.Sum64(b))
}

// decodeRootHeader checks the header block of a root slot; bodyLen and bodySum are to be checked against the body.
func decodeRootHeader(b []byte, pool UUID) (r *root, bodyLen, bodySum uint64, err error) {
	if !bytes.HasPrefix(b, []byte(rootMagic)) {
		return nil, 0, 0, errNoRoot
	}
	if sum := xxhash.Sum64(b[:BlockSize-8]); sum != le.Uint64(b[BlockSize-8:]) {
		return nil, 0, 0, fmt.Errorf("header checksum %016x, stored %016x", sum, le.Uint64(b[BlockSize-8:]))
	}
	d := &decoder{b: b, off: len(rootMagic)}
	if p := d.take(16, "pool UUID"); !bytes.Equal(p, pool[:]) {
		return nil, 0, 0, fmt.Errorf("it is of pool %s", UUID(p))
	}
	r = &root{checkpoint: d.u64("checkpoint")}
	r.tail = journalPos{d.u64("tail"), d.u64("tail seq"), d.u64("tail prev")}
	return r, d.u64("body length"), d.u64("body checksum"), nil
}

var errNoRoot = errors.New("this is no root")

// encodePage writes the table page of entries into b, one block.
func encodePageHeader(b []byte, volume uint32, page uint32, checkpoint uint64) {
	h := le.AppendUint32(b[:0], tablePageMagic)
	h = le.AppendUint32(h, volume)
	h = le.AppendUint64(h, uint64(page))
	h = le.AppendUint64(h, checkpoint)
	le.AppendUint64(h, 0)
}
