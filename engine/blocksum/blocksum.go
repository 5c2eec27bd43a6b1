// Package blocksum computes the checksums of blocks of 4 KiB, many at a time.
//
// A block's checksum is its XXH64 with seed 0, whichever way it is computed. XXH64 is a chain of multiplications in
// which each waits for the one before: a processor that could do more in the same time idles. Eight blocks at once
// are eight chains side by side.
//
//   - What is returned is what github.com/cespare/xxhash/v2 returns for each block. A test holds every way to that.
//   - Where the processor lacks the instructions (AVX-512 with DQ), each block is summed up by that package.
//   - Memory is read during the call only. Nothing is allocated.
package blocksum

import (
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// lanes is how many blocks are summed up at once where the processor can.
const lanes = 8

// Run puts the checksums of len(sums) blocks, which follow each other in mem, into sums.
func Run(sums []uint64, mem []byte) {
	if len(mem) != len(sums)*BlockSize {
		panic(fmt.Sprintf("blocksum: %d bytes are not %d blocks", len(mem), len(sums)))
	}
	var at [lanes]*byte
	for len(sums) > 0 {
		n := min(lanes, len(sums))
		for i := range n {
			at[i] = &mem[i*BlockSize]
		}
		few(sums[:n], &at)
		sums, mem = sums[n:], mem[n*BlockSize:]
	}
}

// Scattered puts the checksum of each block into sums; blocks may be anywhere, and each has BlockSize bytes.
func Scattered(sums []uint64, blocks [][]byte) {
	if len(blocks) != len(sums) {
		panic(fmt.Sprintf("blocksum: %d blocks, room for %d checksums", len(blocks), len(sums)))
	}
	var at [lanes]*byte
	for len(sums) > 0 {
		n := min(lanes, len(sums))
		for i, b := range blocks[:n] {
			if len(b) != BlockSize {
				panic(fmt.Sprintf("blocksum: a block of %d bytes", len(b)))
			}
			at[i] = unsafe.SliceData(b)
		}
		few(sums[:n], &at)
		sums, blocks = sums[n:], blocks[n:]
	}
}

// few sums up 1 to 8 blocks. Eight cost hardly more than one, so that from two on the others may as well be wasted.
func few(sums []uint64, at *[lanes]*byte) {
	if !wide || len(sums) == 1 {
		for i := range sums {
			sums[i] = xxhash.Sum64(unsafe.Slice(at[i], BlockSize))
		}
		return
	}
	for i := len(sums); i < lanes; i++ {
		at[i] = at[0]
	}
	var acc [lanes][4]uint64
	stripes(at, &acc)
	for i := range sums {
		sums[i] = finish(&acc[i])
	}
}

const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
	prime3 uint64 = 0x165667B19E3779F9
	prime4 uint64 = 0x85EBCA77C2B2AE63
)

// finish makes the checksum from the four accumulators, after all of a block went through them. A block is whole
// stripes: there is no rest to take in.
func finish(v *[4]uint64) uint64 {
	h := bits.RotateLeft64(v[0], 1) + bits.RotateLeft64(v[1], 7) + bits.RotateLeft64(v[2], 12) + bits.RotateLeft64(v[3], 18)
	for _, x := range v {
		h = (h^bits.RotateLeft64(x*prime2, 31)*prime1)*prime1 + prime4
	}
	h += BlockSize
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}
