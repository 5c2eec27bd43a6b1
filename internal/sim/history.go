package sim

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/engine"
)

// history is what each CG holds: the contents of every volume at its cut, as the sum of each block.
type history struct {
	images map[uint64]map[*volume][]uint64
	chain  map[uint64]map[*volume][]uint64 // records in the chain's blocks, by block
}

// zeroSum is the sum of a block of zeros.
var zeroSum = xxhash.Sum64(make([]byte, engine.BlockSize))

func newHistory() *history {
	return &history{images: map[uint64]map[*volume][]uint64{}, chain: map[uint64]map[*volume][]uint64{}}
}

// cut notes what the volumes of a primary hold at the cut of cg.
func (h *history) cut(cg uint64, p *primaryNode) {
	if h.images[cg] == nil {
		h.images[cg], h.chain[cg] = map[*volume][]uint64{}, map[*volume][]uint64{}
	}
	for _, v := range p.volumes {
		h.images[cg][v] = v.image()
		h.chain[cg][v] = v.records()
	}
}

// image is a volume at the cut of cg; nil if it was not cut. CG 0 is all zeros.
func (h *history) image(cg uint64, v *volume) []uint64 {
	if cg == 0 {
		return slices.Repeat([]uint64{zeroSum}, int(v.blocks))
	}
	return h.images[cg][v]
}

// forget drops what is older than cg.
func (h *history) forget(cg uint64) {
	for n := range h.images {
		if n < cg {
			delete(h.images, n)
			delete(h.chain, n)
		}
	}
}

// records gives the number of the chain's record in each of its blocks, 0 for none.
func (v *volume) records() []uint64 {
	out := make([]uint64, chainBlocks)
	for b := range out {
		v.owner.devs.ReadAt(v.device, v.buf, int64(b)*engine.BlockSize)
		if binary.LittleEndian.Uint64(v.buf) == chainMagic {
			out[b] = binary.LittleEndian.Uint64(v.buf[8:])
		}
	}
	return out
}

// checkChain: of records that depend on each other, an image never shows one without those before it.
func (w *world) checkChain(cg uint64) {
	chain := w.hist.chain[cg]
	newest := uint64(0)
	part := w.log.members.part[cg]
	for _, v := range w.volumes {
		if !slices.Contains(part.Primaries, v.owner.name) {
			continue
		}
		if chain[v] == nil {
			w.fail("dependent writes", "CG %d was decided, but volume %s was not cut", cg, v.name)
		}
		newest = max(newest, slices.Max(chain[v]))
	}
	for k := newest; k > 0 && k+uint64(len(w.host.places)) > newest; k-- {
		p := w.host.at(k)
		if !slices.Contains(part.Primaries, p.v.owner.name) || w.host.skipped[k] {
			continue
		}
		if got := chain[p.v][p.block]; got != k {
			w.fail("dependent writes", "CG %d shows record %d, but not record %d before it: volume %s block %d has record %d",
				cg, newest, k, p.v.name, p.block, got)
		}
	}
}
