package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// TestDigestIsOfTheRecords: however records fall into the digest's memory, it is XXH64 over all their bytes; and asking for it in
// between changes nothing.
func TestDigestIsOfTheRecords(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, most := range []int{1, 2, 3, 20, 21, 22, 23, 24, 25, MaxUpdateBlocks} {
		var d Digest
		var all []byte
		for range 3 { // CGs
			blocks, updates := uint64(0), uint64(0)
			for range 60 {
				block := r.Uint64()
				if r.IntN(4) == 0 {
					d.AddZeroes(Zeroes{Block: block, Count: 9})
					all = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(all, block), 9<<1|1)
				} else {
					sums := make([]uint64, 1+r.IntN(most))
					all = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(all, block), uint64(len(sums))<<1)
					for i := range sums {
						sums[i] = r.Uint64()
						all = binary.LittleEndian.AppendUint64(all, sums[i])
					}
					d.AddUpdate(Update{Block: block, Count: uint32(len(sums))}, sums)
					blocks += uint64(len(sums))
				}
				updates++
				if r.IntN(3) > 0 {
					continue
				}
				if want := (VolumeManifest{Volume: 4, Blocks: blocks, Updates: updates, Digest: xxhash.Sum64(all)}); d.Manifest(4) != want {
					t.Fatalf("updates of up to %d blocks: %+v, want %+v", most, d.Manifest(4), want)
				}
			}
			d.Reset()
			all = all[:0]
			if got, want := d.Sum64(), xxhash.Sum64(nil); got != want {
				t.Fatalf("empty: %016x, want %016x", got, want)
			}
		}
	}
}
