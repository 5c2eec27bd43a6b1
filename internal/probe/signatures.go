package probe

// signature is a magic number at a fixed place.
type signature struct {
	kind Kind
	name string
	// at lists where the structure can begin on a device of that size.
	at func(size int64) []int64
	// within is the offset of the magic number in the structure.
	within int64
	magic  string
	// also, if set, must hold too: for magic numbers so short that chance makes them.
	also func(m *image, off int64) bool
}

// at is for structures with fixed places.
func at(offsets ...int64) func(int64) []int64 {
	return func(int64) []int64 { return offsets }
}

// fromEnd is for structures that far before the end.
func fromEnd(distances ...int64) func(int64) []int64 {
	return func(size int64) []int64 {
		offsets := make([]int64, len(distances))
		for i, d := range distances {
			offsets[i] = size - d
		}
		return offsets
	}
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// endOfPages lists where the last 10 bytes of the first page are, for each page size that Linux
// has: swap space is marked there.
var endOfPages = at(4*kib-10, 8*kib-10, 16*kib-10, 32*kib-10, 64*kib-10)

var signatures = []signature{
	// Four copies of a pool's superblock, 256 KiB apart: a pool with its first block lost is still one.
	{kind: Pool, name: "farside pool", at: at(0, 256*kib, 512*kib, 768*kib), magic: "FARSIDE\x00"},

	{kind: Filesystem, name: "xfs", at: at(0), magic: "XFSB"},
	{kind: Filesystem, name: "xfs log", at: at(0), magic: "\xfe\xed\xba\xbe"},
	{kind: Filesystem, name: "btrfs", at: at(64*kib, 64*mib, 256<<30), within: 64, magic: "_BHRfS_M"},
	{kind: Filesystem, name: "bcachefs", at: at(4*kib, 2*mib), within: 24, magic: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{kind: Filesystem, name: "ntfs", at: at(0), within: 3, magic: "NTFS    "},
	{kind: Filesystem, name: "exfat", at: at(0), within: 3, magic: "EXFAT   "},
	{kind: Filesystem, name: "refs", at: at(0), within: 3, magic: "ReFS\x00\x00\x00\x00"},
	{kind: Filesystem, name: "squashfs", at: at(0), magic: "hsqs"},
	{kind: Filesystem, name: "erofs", at: at(1 * kib), magic: "\xe2\xe1\xf5\xe0"},
	{kind: Filesystem, name: "cramfs", at: at(0, 512), magic: "\x45\x3d\xcd\x28"},
	{kind: Filesystem, name: "f2fs", at: at(1*kib, 5*kib), magic: "\x10\x20\xf5\xf2"},
	{kind: Filesystem, name: "jfs", at: at(32 * kib), magic: "JFS1"},
	{kind: Filesystem, name: "reiserfs", at: at(8*kib, 64*kib), within: 52, magic: "ReIsEr"},
	{kind: Filesystem, name: "reiser4", at: at(64 * kib), magic: "ReIsEr4"},
	{kind: Filesystem, name: "nilfs2", at: at(1 * kib), within: 6, magic: "\x34\x34", also: nilfs},
	{kind: Filesystem, name: "ocfs2", at: at(1*kib, 2*kib, 4*kib, 8*kib), magic: "OCFSV2"},
	{kind: Filesystem, name: "gfs2", at: at(64 * kib), magic: "\x01\x16\x19\x70\x00\x00\x00\x01"},
	{kind: Filesystem, name: "ufs2", at: at(64 * kib), within: 1372, magic: "\x19\x01\x54\x19"},
	{kind: Filesystem, name: "ufs1", at: at(8 * kib), within: 1372, magic: "\x54\x19\x01\x00"},
	{kind: Filesystem, name: "hfs+", at: at(1 * kib), magic: "H+\x00\x04"},
	{kind: Filesystem, name: "hfsx", at: at(1 * kib), magic: "HX\x00\x05"},
	{kind: Filesystem, name: "apfs", at: at(0), within: 32, magic: "NXSB"},
	{kind: Filesystem, name: "iso9660", at: at(32 * kib), within: 1, magic: "CD001"},
	{kind: Filesystem, name: "udf", at: at(32*kib, 34*kib, 36*kib), within: 1, magic: "BEA01"},
	{kind: Filesystem, name: "minix", at: at(1 * kib), within: 24, magic: "\x5a\x4d", also: minix},
	{kind: Filesystem, name: "vmfs", at: at(1 * mib), magic: "\x0d\xd0\x01\xc0"},
	{kind: Filesystem, name: "ceph bluestore", at: at(0), magic: "bluestore block device"},

	{kind: Swap, name: "swap", at: endOfPages, magic: "SWAPSPACE2"},
	{kind: Swap, name: "swap", at: endOfPages, magic: "SWAP-SPACE"},
	{kind: Swap, name: "hibernated system", at: endOfPages, magic: "S1SUSPEND"},

	{kind: Encryption, name: "luks", at: at(0), magic: "LUKS\xba\xbe"},
	// The second header of LUKS2 survives a wiped first one; its place depends on the header's size.
	{kind: Encryption, name: "luks2 second header", at: at(16*kib, 32*kib, 64*kib, 128*kib, 256*kib, 512*kib, 1*mib, 2*mib, 4*mib), magic: "SKUL\xba\xbe"},
	{kind: Encryption, name: "bitlocker", at: at(0), within: 3, magic: "-FVE-FS-"},

	{kind: VolumeManager, name: "lvm2 physical volume", at: at(0, 512, 1024, 1536), magic: "LABELONE"},
	{kind: VolumeManager, name: "bcache", at: at(4 * kib), within: 24, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{kind: VolumeManager, name: "dm-integrity", at: at(0), magic: "integrt\x00"},
	{kind: VolumeManager, name: "vdo", at: at(0), magic: "dmvdo001"},
	{kind: VolumeManager, name: "stratis", at: at(0, 512, 8*512, 9*512), within: 4, magic: "!Stra0tis\x86\xff\x02^\x41rh"},
	{kind: VolumeManager, name: "oracle asm", at: at(0), within: 32, magic: "ORCLDISK"},

	// Metadata of md: 1.1 at the start, 1.2 after 4 KiB, 1.0 and 0.90 near the end.
	{kind: RAID, name: "linux md 1.1", at: at(0), magic: mdMagic, also: mdVersion1},
	{kind: RAID, name: "linux md 1.2", at: at(4 * kib), magic: mdMagic, also: mdVersion1},
	{kind: RAID, name: "linux md 1.0", at: md10, magic: mdMagic, also: mdVersion1},
	{kind: RAID, name: "linux md 0.90", at: md090, magic: mdMagic},
	{kind: RAID, name: "linux md 0.90 (big endian)", at: md090, magic: "\xa9\x2b\x4e\xfc"},
	{kind: RAID, name: "intel rst", at: fromEnd(2*512, 2*4096), magic: "Intel Raid ISM Cfg Sig. "},
	{kind: RAID, name: "ddf", at: fromEnd(512, 4096), magic: "\xde\x11\xde\x11"},
	{kind: RAID, name: "drbd 8.3", at: fromEnd(4 * kib), within: 60, magic: "\x83\x74\x02\x6b"},
	{kind: RAID, name: "drbd 8.4", at: fromEnd(4 * kib), within: 60, magic: "\x83\x74\x02\x6c"},
	{kind: RAID, name: "drbd 9", at: fromEnd(4 * kib), within: 60, magic: "\x83\x74\x02\x6d"},

	{kind: PartitionTable, name: "apple partition map", at: at(512), magic: "PM\x00\x00"},
	{kind: PartitionTable, name: "sgi disk label", at: at(0), magic: "\x0b\xe5\xa9\x41"},
	{kind: PartitionTable, name: "sun disk label", at: at(0), within: 508, magic: "\xda\xbe", also: sun},
	{kind: PartitionTable, name: "bsd disk label", at: at(0, 64, 512), magic: "\x57\x45\x56\x82"},
}

const mdMagic = "\xfc\x4e\x2b\xa9"

// md10 is 8 KiB before the end, rounded down to 4 KiB.
func md10(size int64) []int64 { return []int64{(size/512 - 16) &^ 7 * 512} }

// md090 is the last whole 64 KiB.
func md090(size int64) []int64 { return []int64{size&^(64*kib-1) - 64*kib} }

func mdVersion1(m *image, off int64) bool { return m.has(off+4, "\x01\x00\x00\x00") }
