package engine

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// BlockSize is the size of a virtual and of a physical block, in bytes.
const BlockSize = 4096

// VBlock numbers the 4 KiB virtual blocks of a volume from 0.
type VBlock uint64

// PBlock numbers the 4 KiB physical blocks of a pool, over all its devices. 0 means "unmapped".
type PBlock uint64

const (
	pblockBits = 36
	tagBits    = 64 - pblockBits
	pblockMask = 1<<pblockBits - 1

	// MaxPoolBlocks is how many physical blocks a pool can have: 256 TiB.
	MaxPoolBlocks = 1 << pblockBits
	// MaxVolumeBlocks is how many virtual blocks a volume can have: 256 TiB.
	MaxVolumeBlocks = 1 << 36
)

// entry is what a pointer table holds for a virtual block: the physical block in the low 36
// bits, the high 28 bits of the block's XXH64 above. The zero entry is "unmapped".
type entry uint64

func makeEntry(p PBlock, sum uint64) entry {
	if p == 0 {
		return 0
	}
	return entry(sum>>pblockBits<<pblockBits | uint64(p))
}

func (e entry) block() PBlock { return PBlock(e & pblockMask) }

// matches says whether a block with checksum sum can be the one the entry was made for.
func (e entry) matches(sum uint64) bool { return uint64(e)>>pblockBits == sum>>pblockBits }

// Sum is the checksum of a block, as the primary computes it and the pool keeps it: XXH64, seed 0.
func Sum(block []byte) uint64 { return xxhash.Sum64(block) }

func blocksToBytes(n uint64) int64  { return int64(n) * BlockSize }
func bytesToBlocks(n uint64) uint64 { return (n + BlockSize - 1) / BlockSize }

// checkVolumeSize refuses sizes that are not whole blocks, naming the nearest that are.
func checkVolumeSize(bytes uint64) error {
	if bytes == 0 {
		return fmt.Errorf("volume size 0: want at least %d bytes", BlockSize)
	}
	if r := bytes % BlockSize; r != 0 {
		return fmt.Errorf("volume size %d is not a multiple of %d bytes: the nearest sizes are %d and %d",
			bytes, BlockSize, bytes-r, bytes-r+BlockSize)
	}
	if bytes/BlockSize > MaxVolumeBlocks {
		return fmt.Errorf("volume size %d: the largest is %d bytes", bytes, uint64(MaxVolumeBlocks)*BlockSize)
	}
	return nil
}
