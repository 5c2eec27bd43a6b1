package sim

import (
	"encoding/binary"
	"slices"

	"github.com/farside-storage/farside/primary"
)

// host writes to the volumes of all primaries. It has a chain of records that depend on each other: record k
// goes to place k of a ring of places that spans all volumes, and k+1 is not begun before k is durable.
type host struct {
	w       *world
	places  []place
	next    uint64 // record to be written
	pending bool
	stamp   uint64
	flying  []*hostIO // in order
	stopped bool
	skipped map[uint64]bool // records that were not written, as nobody may write to their volume
}

type place struct {
	v     *volume
	block uint64
}

// hostIO is a request of a host.
type hostIO struct {
	primary.IO
	host  *host
	v     *volume
	chain bool
}

// chainMagic begins a block of the chain.
const chainMagic = 0x4e49414843525346

func newHost(w *world) *host {
	h := &host{w: w, next: 1, skipped: map[uint64]bool{}}
	// Neighbours in the chain are on different volumes. The first blocks of each are theirs.
	for b := range uint64(chainBlocks) {
		for _, v := range w.volumes {
			h.places = append(h.places, place{v, b})
		}
	}
	return h
}

// chainBlocks of each volume belong to the chain.
const chainBlocks = 4

func (h *host) at(k uint64) place { return h.places[k%uint64(len(h.places))] }

// record writes the next record of the chain, durably, unless one is on its way.
func (h *host) record() {
	if h.pending || h.stopped {
		return
	}
	for !h.at(h.next).v.served {
		h.skipped[h.next] = true
		h.next++
	}
	p := h.at(h.next)
	if !p.v.owner.up {
		return
	}
	h.pending = true
	data := h.w.memory.payload(primary.BlockSize)
	h.fill(data.b)
	binary.LittleEndian.PutUint64(data.b, chainMagic)
	binary.LittleEndian.PutUint64(data.b[8:], h.next)
	h.submit(&hostIO{v: p.v, chain: true, IO: primary.IO{Op: primary.OpWrite, FUA: true,
		Off: p.block * primary.BlockSize, Len: primary.BlockSize, Payload: data}})
}

// fill makes contents that no other write has.
func (h *host) fill(b []byte) {
	h.stamp++
	clear(b)
	for at := 0; at+16 <= len(b); at += primary.BlockSize / 8 {
		binary.LittleEndian.PutUint64(b[at:], h.stamp)
		binary.LittleEndian.PutUint64(b[at+8:], uint64(at))
	}
}

// other does a request outside of the chain's blocks; off and n in bytes.
func (h *host) other(op primary.Op, v *volume, off, n uint64, fua bool) {
	if h.stopped || !v.owner.up || !v.served {
		return
	}
	io := &hostIO{v: v, IO: primary.IO{Op: op, FUA: fua, Off: off, Len: n}}
	if op == primary.OpWrite {
		data := h.w.memory.payload(int(n+primary.BlockSize-1) / primary.BlockSize * primary.BlockSize)
		h.fill(data.b)
		io.Payload = data
	}
	h.submit(io)
}

func (h *host) submit(io *hostIO) {
	io.host, io.Owner, io.Volume = h, io, io.v.index
	h.flying = append(h.flying, io)
	h.w.report.HostWrites++
	io.v.owner.visit(func(c *primary.Core) { c.Submit(&io.IO) })
}

// done takes the outcome.
func (h *host) done(io *hostIO, err error) {
	h.end(io)
	if io.Payload != nil {
		io.Payload.Release()
	}
	if !io.chain {
		return
	}
	h.pending = false
	if err == nil {
		h.next++
	}
}

// lost: the primary went away before it answered. The request may have been done; its memory may still be with a
// device.
func (h *host) lost(io *hostIO) {
	h.end(io)
	if io.chain {
		h.pending = false
	}
}

func (h *host) end(io *hostIO) {
	h.flying = slices.DeleteFunc(h.flying, func(x *hostIO) bool { return x == io })
}

// hostsOf lists the requests that are with a primary.
func (w *world) hostsOf(p *primaryNode) []*hostIO {
	var out []*hostIO
	for _, io := range w.host.flying {
		if io.v.owner == p {
			out = append(out, io)
		}
	}
	return out
}
