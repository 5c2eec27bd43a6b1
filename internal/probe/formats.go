package probe

import "encoding/binary"

var le, be = binary.LittleEndian, binary.BigEndian

// ext tells ext2, ext3 and ext4 apart by their feature flags (fs/ext4/ext4.h).
func ext(m *image) []Finding {
	const superblock = 1024
	sb := m.bytes(superblock, 264)
	if sb == nil || le.Uint16(sb[56:]) != 0xEF53 || le.Uint32(sb[0x18:]) > 6 {
		return nil // a block size of more than 64 KiB is chance
	}
	const (
		hasJournal = 0x4                                  // compatible
		journalDev = 0x8                                  // incompatible
		ext4Incomp = 0x40 | 0x80 | 0x100 | 0x200 | 0x8000 // extents, 64bit, mmp, flex_bg, inline data
		ext4ROComp = 0x8 | 0x10 | 0x20 | 0x40 | 0x400     // huge files, checksums of groups, many links, large inodes, checksums
	)
	compat, incompat, rocompat := le.Uint32(sb[92:]), le.Uint32(sb[96:]), le.Uint32(sb[100:])
	name := "ext2"
	switch {
	case incompat&journalDev != 0:
		name = "ext journal"
	case incompat&ext4Incomp != 0 || rocompat&ext4ROComp != 0:
		name = "ext4"
	case compat&hasJournal != 0:
		name = "ext3"
	}
	return []Finding{{Kind: Filesystem, Name: name, Offset: superblock + 56}}
}

// fat recognises FAT12, FAT16 and FAT32, whose boot sector also looks like an MBR.
func fat(m *image) []Finding {
	if !m.has(510, "\x55\xaa") {
		return nil
	}
	for _, f := range []struct {
		off   int64
		magic string
	}{{54, "FAT12   "}, {54, "FAT16   "}, {54, "FAT     "}, {82, "FAT32   "}} {
		if m.has(f.off, f.magic) {
			return []Finding{{Kind: Filesystem, Name: "fat", Offset: f.off}}
		}
	}
	return nil
}

// mbr recognises a master boot record: the mark at its end and four entries that can be
// partitions. A boot sector of FAT, exFAT or NTFS has the mark too, and code in place of the
// entries.
func mbr(m *image) []Finding {
	sector := m.bytes(0, 512)
	if sector == nil || sector[510] != 0x55 || sector[511] != 0xAA || bootSector(m) {
		return nil
	}
	used, protective := 0, false
	for i := range 4 {
		e := sector[446+16*i:][:16]
		if e[0] != 0 && e[0] != 0x80 {
			return []Finding{{Kind: PartitionTable, Name: "boot sector", Offset: 510}}
		}
		if e[4] != 0 && le.Uint32(e[12:]) != 0 {
			used++
			protective = protective || e[4] == 0xEE
		}
	}
	name := "mbr"
	switch {
	case protective:
		name = "mbr that protects a gpt"
	case used == 0:
		name = "mbr without partitions"
	}
	return []Finding{{Kind: PartitionTable, Name: name, Offset: 510}}
}

func bootSector(m *image) bool {
	return len(fat(m)) > 0 || m.has(3, "NTFS    ") || m.has(3, "EXFAT   ") || m.has(3, "-FVE-FS-")
}

// gpt recognises the primary header in the second sector and the backup in the last one, for both
// sector sizes.
func gpt(m *image) []Finding {
	var found []Finding
	for _, sector := range []int64{512, 4096} {
		if m.has(sector, "EFI PART") {
			found = append(found, Finding{Kind: PartitionTable, Name: "gpt", Offset: sector})
		}
		if last := m.size/sector*sector - sector; last > sector && m.has(last, "EFI PART") {
			found = append(found, Finding{Kind: PartitionTable, Name: "gpt backup", Offset: last})
		}
	}
	return found
}

// zfs looks for an uberblock in each of the four labels, two at the start and two at the end.
// Uberblocks fill the second half of a label, one each KiB or a larger power of two.
func zfs(m *image) []Finding {
	const label, ring = 256 * kib, 128 * kib
	end := m.size / label * label
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		for off := start + ring; off < start+label; off += kib {
			b := m.bytes(off, 8)
			if b != nil && (le.Uint64(b) == 0x00bab10c || be.Uint64(b) == 0x00bab10c) {
				return []Finding{{Kind: VolumeManager, Name: "zfs", Offset: off}}
			}
		}
	}
	return nil
}

// nilfs checks the revision and the size of the superblock.
func nilfs(m *image, off int64) bool {
	b := m.bytes(off, 12)
	return b != nil && le.Uint32(b) == 2 && le.Uint16(b[8:]) >= 256 && le.Uint16(b[8:]) <= 1024
}

// minix version 3: its block size is a power of two in range.
func minix(m *image, off int64) bool {
	b := m.bytes(off, 30)
	if b == nil {
		return false
	}
	size := le.Uint16(b[28:])
	return size >= 1024 && size <= 4096 && size&(size-1) == 0
}

// sun labels hold the exclusive or of their sector's words in the last one.
func sun(m *image, off int64) bool {
	b := m.bytes(off, 512)
	if b == nil {
		return false
	}
	var sum uint16
	for i := 0; i < 512; i += 2 {
		sum ^= be.Uint16(b[i:])
	}
	return sum == 0
}
