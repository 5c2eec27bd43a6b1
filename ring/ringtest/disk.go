package ringtest

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// pageSectors is how many sectors one entry of the sparse map holds.
const pageSectors = 16

// disk is the contents of one device. Sectors never touched cost nothing and are zeros.
type disk struct {
	size  int // of a sector, in bytes
	pages map[int64]*page
	// log lists the versions that are not durable, in the order of their sequence numbers.
	log []logged
	// free are buffers of one sector for reuse.
	free  [][]byte
	mem   *Memory // where more of them come from; nil: the heap
	row   []byte  // one sector, for readBytes
	gone  bool
	stats Stats
}

type page [pageSectors]sector

// sector is the chain of versions of one sector: base is durable, later ones are not, oldest first.
type sector struct {
	base  version
	later []version
}

// version is one contents of a sector. Its bytes are never changed, once written; nil stands for zeros.
type version struct {
	data []byte
	seq  uint64
	// shared: other incarnations hold the bytes too, so they must not be reused.
	shared bool
	// lost: the flush that should have covered it failed. No later flush makes it durable.
	lost bool
}

type logged struct {
	seq    uint64
	sector *sector
}

func newDisk(sectorSize int, m *Memory) *disk {
	return &disk{size: sectorSize, pages: make(map[int64]*page), mem: m}
}

// newest is what a read sees.
func (s *sector) newest() *version {
	if n := len(s.later); n > 0 {
		return &s.later[n-1]
	}
	return &s.base
}

// find is the sector with number i, or nil if it was never touched.
func (k *disk) find(i int64) *sector {
	if p := k.pages[i/pageSectors]; p != nil {
		return &p[i%pageSectors]
	}
	return nil
}

// touch is the sector with number i.
func (k *disk) touch(i int64) *sector {
	p := k.pages[i/pageSectors]
	if p == nil {
		p = new(page)
		k.pages[i/pageSectors] = p
	}
	return &p[i%pageSectors]
}

// load copies sector i to p, which has its size.
func (k *disk) load(p []byte, i int64) {
	s := k.find(i)
	if s == nil || s.newest().data == nil {
		clear(p)
		return
	}
	copy(p, s.newest().data)
}

// store makes data, copied, the newest version of sector i; nil means zeros.
func (k *disk) store(i int64, data []byte, seq uint64) {
	s := k.touch(i)
	v := version{seq: seq}
	if data != nil {
		v.data = k.buffer()
		copy(v.data, data)
	}
	s.later = append(s.later, v)
	k.log = append(k.log, logged{seq, s})
}

// flush makes every version up to seq durable.
func (k *disk) flush(seq uint64) {
	n := 0
	for n < len(k.log) && k.log[n].seq <= seq {
		k.settle(k.log[n].sector, seq)
		n++
	}
	k.log = slices.Delete(k.log, 0, n)
}

// settle makes the newest version of s up to seq its base. Entries of the log that name a version
// settled already do no harm.
func (k *disk) settle(s *sector, seq uint64) {
	n := 0
	for n < len(s.later) && s.later[n].seq <= seq {
		k.recycle(s.base)
		s.base = s.later[n]
		n++
	}
	s.later = slices.Delete(s.later, 0, n)
}

// keep makes version i of s, 0 being the base, its only one.
func (k *disk) keep(s *sector, i int) {
	all := append([]version{s.base}, s.later...)
	for j, v := range all {
		if j != i {
			k.recycle(v)
		}
	}
	s.base, s.later = all[i], nil
}

// lose is what a failed flush does: no version up to seq can be relied on. For each sector either reads show at once
// what is left of it, which may be any of them; or they go on as if nothing had happened, while no later flush makes
// what they show durable.
func (k *disk) lose(seq uint64, rng *rand.Rand) {
	for _, l := range k.log {
		if l.seq > seq {
			break
		}
		n := 0
		for n < len(l.sector.later) && l.sector.later[n].seq <= seq {
			n++
		}
		if n == 0 || l.sector.later[n-1].lost {
			continue // another entry of the log named the same sector
		}
		if rng.Uint32()&1 == 0 {
			for i := range n {
				l.sector.later[i].lost = true
			}
			continue
		}
		later := slices.Clone(l.sector.later[n:])
		l.sector.later = l.sector.later[:n]
		k.keep(l.sector, rng.IntN(n+1))
		l.sector.later = later
	}
	k.log = slices.DeleteFunc(k.log, func(l logged) bool { return l.seq <= seq })
}

// buffer is memory for one sector; its contents are arbitrary.
func (k *disk) buffer() []byte {
	if len(k.free) == 0 {
		slab := k.mem.get(16 * k.size)
		for ; len(slab) > 0; slab = slab[k.size:] {
			k.free = append(k.free, slab[:k.size:k.size])
		}
	}
	b := k.free[len(k.free)-1]
	k.free = k.free[:len(k.free)-1]
	return b
}

func (k *disk) recycle(v version) {
	if v.data != nil && !v.shared {
		k.free = append(k.free, v.data)
	}
}

// touched lists the numbers of the sectors in [first, end) that have a page, ascending.
func (k *disk) touched(first, end int64) []int64 {
	var pages []int64
	if span := end/pageSectors - first/pageSectors; span < int64(len(k.pages)) {
		for p := first / pageSectors; p*pageSectors < end; p++ {
			if k.pages[p] != nil {
				pages = append(pages, p)
			}
		}
	} else {
		for p := range k.pages {
			pages = append(pages, p)
		}
		slices.Sort(pages)
	}
	var sectors []int64
	for _, p := range pages {
		for i := max(first, p*pageSectors); i < min(end, (p+1)*pageSectors); i++ {
			sectors = append(sectors, i)
		}
	}
	return sectors
}

// readBytes copies any bytes, aligned or not.
func (k *disk) readBytes(p []byte, off int64) {
	if k.row == nil {
		k.row = make([]byte, k.size)
	}
	for len(p) > 0 {
		k.load(k.row, off/int64(k.size))
		n := copy(p, k.row[off%int64(k.size):])
		p, off = p[n:], off+int64(n)
	}
}

// plant stores any bytes as the only version of the sectors that they touch.
func (k *disk) plant(p []byte, off int64) {
	for len(p) > 0 {
		i := off / int64(k.size)
		buf := make([]byte, k.size)
		k.load(buf, i)
		n := copy(buf[off%int64(k.size):], p)
		s := k.touch(i)
		for _, v := range s.later {
			k.recycle(v)
		}
		k.recycle(s.base)
		s.base, s.later = version{data: buf, seq: s.newest().seq}, nil
		p, off = p[n:], off+int64(n)
	}
}

// clone is an independent copy, in which bytes are shared until they are overwritten.
func (k *disk) clone() *disk {
	n := newDisk(k.size, k.mem)
	n.gone = k.gone
	for i, p := range k.pages {
		c := new(page)
		for j := range p {
			p[j].share()
			c[j] = sector{base: p[j].base, later: slices.Clone(p[j].later)}
		}
		n.pages[i] = c
	}
	return n
}

// relog makes the log of a clone, from its chains.
func (k *disk) relog() {
	k.log = k.log[:0]
	for _, i := range k.touched(0, math.MaxInt64) {
		s := k.find(i)
		for _, v := range s.later {
			if !v.lost {
				k.log = append(k.log, logged{v.seq, s})
			}
		}
	}
	slices.SortStableFunc(k.log, func(a, b logged) int { return cmp.Compare(a.seq, b.seq) })
}

// digest adds to h what reads see.
func (k *disk) digest(h *xxhash.Digest) {
	var at [8]byte
	for _, i := range k.touched(0, math.MaxInt64) {
		if v := k.find(i).newest(); v.data != nil {
			binary.LittleEndian.PutUint64(at[:], uint64(i))
			h.Write(at[:])
			h.Write(v.data)
		}
	}
}

func (s *sector) share() {
	s.base.shared = true
	for i := range s.later {
		s.later[i].shared = true
	}
}
