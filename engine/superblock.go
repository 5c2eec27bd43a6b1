package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// The superblock says which pool a device belongs to and where its zones are. Format writes it; nothing changes it
// afterwards, but a damaged copy is written again from the others. Four copies stand 256 KiB apart at the head of every
// device.
const (
	superblockMagic  = "FARSIDE\x00"
	superblockCopies = 4
	superblockStride = 64  // blocks between copies
	headerBlocks     = 256 // head of every device: 1 MiB
	superblockQuorum = 2

	// FormatVersion is the version of the on-disk format that this package writes and reads.
	FormatVersion = 2
	// knownFeatures are the feature flags this package understands; a pool with any other is refused.
	knownFeatures = 0

	// MaxDevices is how many devices a pool can have.
	MaxDevices = 64
	// MaxNameBytes limits names of pools, groups and volumes.
	MaxNameBytes = 255
)

// UUID identifies a pool or a device.
type UUID [16]byte

func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// superblock is the decoded form; its layout on the device is in appendTo and in FORMAT.md.
type superblock struct {
	version  uint32
	features uint64
	sequence uint64 // grows with each write; the copies of one write share it
	pool     UUID
	device   UUID
	index    uint32 // of this device in devices
	created  int64  // seconds since 1970
	name     string // of the pool
	zones    zones
	devices  []poolDevice
}

// poolDevice is one device of the pool. Its physical blocks are [base, base+blocks).
type poolDevice struct {
	id     UUID
	base   PBlock
	blocks uint64
}

// zones of device 0, in blocks of that device. Other devices have only a header; all that is
// left, from the next extent boundary on, is data.
type zones struct {
	extentBlocks uint32
	root         uint64 // two slots of rootBlocks
	rootBlocks   uint64
	journal      uint64
	journalLen   uint64
	tables       uint64 // slot 0 of every pair, then slot 1 of every pair
	tablePairs   uint64
	data         uint64 // first data block
}

// tableSlot is the block of one slot of a pair.
func (z *zones) tableSlot(pair uint32, slot uint8) uint64 {
	return z.tables + uint64(slot)*z.tablePairs + uint64(pair)
}

func (z *zones) rootSlot(slot uint64) uint64 { return z.root + slot*z.rootBlocks }

func (s *superblock) encode(copyIndex int) []byte {
	b := make([]byte, 0, BlockSize)
	b = append(b, superblockMagic...)
	b = le.AppendUint32(b, s.version)
	b = le.AppendUint32(b, BlockSize)
	b = le.AppendUint64(b, s.features)
	b = le.AppendUint64(b, s.sequence)
	b = append(b, s.pool[:]...)
	b = append(b, s.device[:]...)
	b = le.AppendUint32(b, s.index)
	b = le.AppendUint32(b, uint32(copyIndex))
	b = le.AppendUint64(b, uint64(s.created))
	z := &s.zones
	b = le.AppendUint32(b, z.extentBlocks)
	b = le.AppendUint32(b, uint32(len(s.devices)))
	for _, v := range []uint64{z.root, z.rootBlocks, z.journal, z.journalLen, z.tables, z.tablePairs, z.data} {
		b = le.AppendUint64(b, v)
	}
	for _, d := range s.devices {
		b = append(b, d.id[:]...)
		b = le.AppendUint64(b, uint64(d.base))
		b = le.AppendUint64(b, d.blocks)
	}
	b = appendString(b, s.name)
	b = append(b, make([]byte, BlockSize-8-len(b))...)
	return le.AppendUint64(b, xxhash.Sum64(b))
}

var errNoSuperblock = errors.New("no farside superblock")

// decodeSuperblock checks one copy, whatever it holds.
func decodeSuperblock(b []byte, copyIndex int) (*superblock, error) {
	if len(b) != BlockSize || !bytes.HasPrefix(b, []byte(superblockMagic)) {
		return nil, errNoSuperblock
	}
	if sum := xxhash.Sum64(b[:BlockSize-8]); sum != le.Uint64(b[BlockSize-8:]) {
		return nil, fmt.Errorf("checksum %016x, stored %016x", sum, le.Uint64(b[BlockSize-8:]))
	}
	d := &decoder{b: b[:BlockSize-8], off: len(superblockMagic)}
	s := &superblock{version: d.u32("version")}
	blockSize := d.u32("block size")
	s.features = d.u64("features")
	s.sequence = d.u64("sequence")
	copy(s.pool[:], d.take(16, "pool UUID"))
	copy(s.device[:], d.take(16, "device UUID"))
	s.index = d.u32("device index")
	at := d.u32("copy")
	s.created = int64(d.u64("created"))
	z := &s.zones
	z.extentBlocks = d.u32("extent size")
	n := d.u32("device count")
	for _, v := range []*uint64{&z.root, &z.rootBlocks, &z.journal, &z.journalLen, &z.tables, &z.tablePairs, &z.data} {
		*v = d.u64("zone")
	}
	if s.version != FormatVersion {
		return nil, fmt.Errorf("format version %d, this program knows version %d only: %w", s.version, FormatVersion, ErrUnknownFormat)
	}
	if f := s.features &^ knownFeatures; f != 0 {
		return nil, fmt.Errorf("feature flags %#x are not known to this program: %w", f, ErrUnknownFormat)
	}
	if blockSize != BlockSize || n == 0 || n > MaxDevices || s.index >= n || at != uint32(copyIndex) {
		return nil, fmt.Errorf("copy %d of device %d of %d with %d-byte blocks, found at copy %d", at, s.index, n, blockSize, copyIndex)
	}
	for range n {
		var dev poolDevice
		copy(dev.id[:], d.take(16, "device UUID"))
		dev.base = PBlock(d.u64("device base"))
		dev.blocks = d.u64("device blocks")
		s.devices = append(s.devices, dev)
	}
	s.name = d.string("pool name")
	if d.err != nil {
		return nil, d.err
	}
	return s, s.validate()
}

// validate checks what the rest of the engine relies on, so that no later arithmetic can leave the device.
func (s *superblock) validate() error {
	z, d0 := &s.zones, s.devices[0]
	if z.extentBlocks < 64 || z.extentBlocks&(z.extentBlocks-1) != 0 {
		return fmt.Errorf("extent of %d blocks", z.extentBlocks)
	}
	if d0.base != 0 {
		return fmt.Errorf("the first device begins at physical block %d, not 0", d0.base)
	}
	for i, d := range s.devices {
		if d.base > MaxPoolBlocks || d.base%PBlock(z.extentBlocks) != 0 || d.blocks > MaxPoolBlocks || uint64(d.base)+d.blocks > MaxPoolBlocks {
			return fmt.Errorf("device %d: %d blocks from physical block %d", i, d.blocks, d.base)
		}
		if i > 0 && d.base < s.devices[i-1].base+PBlock(s.devices[i-1].blocks) {
			return fmt.Errorf("devices %d and %d overlap", i-1, i)
		}
	}
	const limit = MaxPoolBlocks // no sum of these can overflow
	for _, v := range []uint64{z.root, z.rootBlocks, z.journal, z.journalLen, z.tables, z.tablePairs, z.data} {
		if v > limit {
			return fmt.Errorf("zone at or of %d blocks", v)
		}
	}
	ends := []uint64{headerBlocks, z.root, z.root + 2*z.rootBlocks, z.journal, z.journal + z.journalLen,
		z.tables, z.tables + 2*z.tablePairs, z.data, d0.blocks}
	if !slices.IsSorted(ends) {
		return fmt.Errorf("zones overlap or leave the device: %v", ends)
	}
	if z.rootBlocks < 2 || z.journalLen < minJournalBlocks || z.tablePairs > math.MaxUint32-1 || z.data%uint64(z.extentBlocks) != 0 {
		return fmt.Errorf("root slots of %d blocks, journal of %d, %d table pairs, data from %d: one is out of bounds",
			z.rootBlocks, z.journalLen, z.tablePairs, z.data)
	}
	return nil
}

// chooseSuperblock picks the newest superblock of which a quorum of copies is readable. damaged are the copies to be
// repaired. A single sound copy of an unknown format is enough to refuse the device.
func chooseSuperblock(path string, copies [superblockCopies][]byte) (s *superblock, damaged []int, err error) {
	votes := map[uint64]int{}
	var found []*superblock
	var errs []error
	blank := 0
	for i, b := range copies {
		c, err := decodeSuperblock(b, i)
		if errors.Is(err, ErrUnknownFormat) { // a program that knows better was here: nothing may be repaired
			return nil, nil, fmt.Errorf("%s: superblock copy %d: %w", path, i, err)
		}
		if err != nil {
			damaged = append(damaged, i)
			if errors.Is(err, errNoSuperblock) {
				blank++
			}
			errs = append(errs, &CorruptionError{Device: path, Offset: blocksToBytes(uint64(i * superblockStride)),
				Structure: "superblock", Reason: fmt.Sprintf("copy %d", i), Err: err})
			continue
		}
		votes[c.sequence]++
		found = append(found, c)
	}
	for _, c := range found {
		if votes[c.sequence] >= superblockQuorum && (s == nil || c.sequence > s.sequence) {
			s = c
		}
	}
	switch {
	case s != nil:
		return s, damaged, nil
	case blank == superblockCopies:
		return nil, damaged, fmt.Errorf("%s: %w: not a device of a pool", path, errNoSuperblock)
	}
	return nil, damaged, errors.Join(append(errs, fmt.Errorf("%s: fewer than %d of %d superblock copies agree",
		path, superblockQuorum, superblockCopies))...)
}
