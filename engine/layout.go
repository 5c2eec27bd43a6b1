package engine

import (
	"fmt"

	"github.com/farside-storage/farside/ring"
)

const (
	defaultExtentBlocks = 1024 // 4 MiB
	minJournalBlocks    = 512  // 2 MiB
	maxJournalBlocks    = 4 << 20
	catalogBlocks       = 256 // room for groups, volumes and retired ranges in a root slot
)

// FormatOptions say how a pool is laid out. The zero value is meaningful.
type FormatOptions struct {
	// Name of the pool, for people.
	Name string
	// ExtentBlocks is the number of blocks a writer reserves at once: a power of two, at
	// least 64. 0: 1024 (4 MiB).
	ExtentBlocks uint32
	// JournalBytes: 0 chooses 2 % of the pool, 2 MiB to 16 GiB, at most a quarter of the first device. A CG needs
	// 24 bytes of journal per updated block: 2 % are enough for a CG that fills the pool.
	JournalBytes int64
	// VirtualBytes is how much virtual space the table area can describe if it is
	// densely written. 0: four times the pool. Sparse volumes may be larger than that.
	VirtualBytes int64
	// Created goes into the superblock, in seconds since 1970; 0 is allowed.
	Created int64
	// NewUUID makes UUIDs; nil: crypto/rand. A simulator hands in its own.
	NewUUID func() UUID
}

// planLayout computes where everything goes on devices of these sizes.
func planLayout(info []ring.DeviceInfo, o FormatOptions) (zones, []poolDevice, error) {
	z := zones{extentBlocks: o.ExtentBlocks, root: headerBlocks}
	if z.extentBlocks == 0 {
		z.extentBlocks = defaultExtentBlocks
	}
	if z.extentBlocks < 64 || z.extentBlocks&(z.extentBlocks-1) != 0 {
		return z, nil, fmt.Errorf("extent of %d blocks: want a power of two of at least 64", z.extentBlocks)
	}
	if len(info) == 0 || len(info) > MaxDevices {
		return z, nil, fmt.Errorf("%d devices: a pool has 1 to %d", len(info), MaxDevices)
	}
	devices, total, err := planDevices(info, uint64(z.extentBlocks))
	if err != nil {
		return z, nil, err
	}
	virtual := uint64(o.VirtualBytes) / BlockSize
	if o.VirtualBytes <= 0 {
		virtual = 4 * total
	}
	z.tablePairs = tablePages(virtual) + 64 // each volume rounds up
	z.rootBlocks = 1 + catalogBlocks + bytesToBlocks(z.tablePairs*8)
	z.journal = z.root + 2*z.rootBlocks
	z.journalLen = min(max(total/50, minJournalBlocks), maxJournalBlocks, devices[0].blocks/4)
	if o.JournalBytes != 0 {
		z.journalLen = uint64(o.JournalBytes) / BlockSize
		if o.JournalBytes < 0 || z.journalLen < minJournalBlocks || z.journalLen > MaxPoolBlocks {
			return z, nil, fmt.Errorf("journal of %d bytes: want at least %d", o.JournalBytes, blocksToBytes(minJournalBlocks))
		}
	}
	z.tables = z.journal + z.journalLen
	z.data = roundUp(z.tables+2*z.tablePairs, uint64(z.extentBlocks))
	if need := z.data + 2*uint64(z.extentBlocks); need > devices[0].blocks {
		return z, nil, fmt.Errorf("%s holds %d bytes: too small, the layout needs at least %d (smaller extents, journal or virtual space need less)",
			info[0].Path, info[0].Size, blocksToBytes(need))
	}
	return z, devices, nil
}

// planDevices lines the devices up in one space of physical blocks.
func planDevices(info []ring.DeviceInfo, extent uint64) (devices []poolDevice, total uint64, err error) {
	for _, d := range info {
		blocks := uint64(d.Size) / BlockSize
		if blocks < headerBlocks+2*extent {
			return nil, 0, fmt.Errorf("%s holds %d bytes: too small for a pool device", d.Path, d.Size)
		}
		devices = append(devices, poolDevice{base: PBlock(total), blocks: blocks})
		total = roundUp(total+blocks, extent)
	}
	if total > MaxPoolBlocks {
		return nil, 0, fmt.Errorf("the devices hold %d blocks; a pool has at most %d", total, uint64(MaxPoolBlocks))
	}
	return devices, total, nil
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
