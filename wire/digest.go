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
	used    int                // bytes of recent
	recent  [digestBuffer]byte // records that sum has not taken in: many at once cost less than one by one
}

// digestBuffer holds 8 updates of one block: a primary has a digest for each volume and CG, so that it is kept small.
const digestBuffer = 192

// Reset empties d, for the next CG.
func (d *Digest) Reset() { *d = Digest{} }

// AddUpdate adds one update; sums are the checksums of its blocks.
func (d *Digest) AddUpdate(u Update, sums []uint64) {
	d.record(u.Block, uint64(u.Count)<<1)
	d.blocks += uint64(u.Count)
	if 8*len(sums) > digestBuffer && littleEndianHost {
		d.flush()
		d.sum.Write(unsafe.Slice((*byte)(unsafe.Pointer(&sums[0])), 8*len(sums)))
		return
	}
	for _, s := range sums {
		le.PutUint64(d.room(8), s)
	}
}

// room is where the next n bytes go.
func (d *Digest) room(n int) []byte {
	if d.used+n > len(d.recent) {
		d.flush()
	}
	d.used += n
	return d.recent[d.used-n : d.used]
}

// flush has sum take in what is recent.
func (d *Digest) flush() {
	if !d.started {
		d.sum.Reset()
		d.started = true
	}
	d.sum.Write(d.recent[:d.used]) // documented never to fail
	d.used = 0
}

// AddZeroes adds one range of zeros.
func (d *Digest) AddZeroes(z Zeroes) { d.record(z.Block, z.Count<<1|1) }

func (d *Digest) record(block, countAndKind uint64) {
	b := d.room(16)
	le.PutUint64(b, block)
	le.PutUint64(b[8:], countAndKind)
	d.updates++
}

// Sum64 is the digest so far.
func (d *Digest) Sum64() uint64 {
	d.flush()
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
