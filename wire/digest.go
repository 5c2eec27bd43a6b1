package wire

import (
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// Digest sums up what one CG did to one volume: XXH64, seed 0, over a record for each descriptor in
// the order sent. A record is {block u64, 2*count+kind u64}, kind 0 for Updates and 1 for Zeroes,
// then (Updates) the checksums of the blocks. Both ends compute it, without touching payload.
//
// The zero value is an empty digest. Nothing is allocated.
type Digest struct {
	sum     xxhash.Digest
	started bool
	blocks  uint64
	updates uint64
}

// Reset empties d, for the next CG.
func (d *Digest) Reset() { *d = Digest{} }

// AddUpdate adds one update; sums are the checksums of its blocks.
func (d *Digest) AddUpdate(u Update, sums []uint64) {
	d.record(u.Block, uint64(u.Count)<<1)
	d.blocks += uint64(u.Count)
	if len(sums) == 0 {
		return
	}
	if littleEndianHost {
		d.sum.Write(unsafe.Slice((*byte)(unsafe.Pointer(&sums[0])), 8*len(sums)))
		return
	}
	var b [8]byte
	for _, s := range sums {
		le.PutUint64(b[:], s)
		d.sum.Write(b[:])
	}
}

// AddZeroes adds one range of zeros.
func (d *Digest) AddZeroes(z Zeroes) { d.record(z.Block, z.Count<<1|1) }

func (d *Digest) record(block, countAndKind uint64) {
	if !d.started {
		d.sum.Reset()
		d.started = true
	}
	var b [16]byte
	le.PutUint64(b[:], block)
	le.PutUint64(b[8:], countAndKind)
	d.sum.Write(b[:]) // documented never to fail
	d.updates++
}

// Sum64 is the digest so far.
func (d *Digest) Sum64() uint64 {
	if !d.started {
		return xxhash.Sum64(nil)
	}
	return d.sum.Sum64()
}

// Blocks is the number of blocks of payload so far.
func (d *Digest) Blocks() uint64 { return d.blocks }

// Updates is the number of descriptors so far, Updates and Zeroes.
func (d *Digest) Updates() uint64 { return d.updates }

// Manifest gives the manifest entry of the volume with this handle.
func (d *Digest) Manifest(volume uint32) VolumeManifest {
	return VolumeManifest{Volume: volume, Blocks: d.blocks, Updates: d.updates, Digest: d.Sum64()}
}
