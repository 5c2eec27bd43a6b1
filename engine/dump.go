package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farside-storage/farside/ring"
)

// Section names a structure that [Dump] prints.
type Section string

const (
	DumpSuperblocks Section = "superblocks" // every copy on every device
	DumpRoots       Section = "roots"       // both root slots with their catalogs
	DumpJournal     Section = "journal"     // the pieces that a restart replays
	DumpTables      Section = "tables"      // pointer tables, as of the newest final CG
	DumpCGs         Section = "cgs"         // CG pointer tables that are complete and not final
)

// DumpSections lists the sections in the order in which a pool is read.
func DumpSections() []Section {
	return []Section{DumpSuperblocks, DumpRoots, DumpJournal, DumpTables, DumpCGs}
}

// Line is one line of a dump. Values are readable as text through String, and as JSON.
type Line struct {
	Structure string `json:"structure"`
	Device    string `json:"device,omitempty"`
	Offset    int64  `json:"offset"` // bytes
	Text      string `json:"text"`
	// Group, Volume and CG that a pointer belongs to; CG 0 for the pointer tables.
	Group  string `json:"group,omitempty"`
	Volume string `json:"volume,omitempty"`
	CG     uint64 `json:"cg,omitempty"`
}

func (l Line) String() string {
	if l.Device == "" {
		return fmt.Sprintf("%-16s %s", l.Structure, l.Text)
	}
	return fmt.Sprintf("%-16s %12d  %s", l.Structure, l.Offset, l.Text)
}

// Dump prints structures of a pool that nobody has open, line by line, and changes nothing. Damage is printed where
// it is found. The error is that of emit, or says why nothing more can be read.
func Dump(devs ring.Devices, sections []Section, emit func(Line) error) error {
	for _, s := range sections {
		if !slices.Contains(DumpSections(), s) {
			return fmt.Errorf("nothing is called %q; there are %q", s, DumpSections())
		}
	}
	return offline(devs, func(r *recovery) error {
		d := &dumper{r: r, emit: emit}
		if slices.Contains(sections, DumpSuperblocks) {
			d.superblocks()
		}
		if d.err == nil {
			d.err = r.loadSuperblocks()
		}
		if slices.Contains(sections, DumpRoots) {
			d.roots()
		}
		deep := slices.ContainsFunc(sections, func(s Section) bool { return s == DumpJournal || s == DumpTables || s == DumpCGs })
		if !deep || d.err != nil {
			return d.err
		}
		if d.err = r.loadRoot(); d.err == nil && slices.Contains(sections, DumpJournal) {
			d.journal()
		}
		for _, stage := range []func() error{r.loadTables, r.replay, r.settle} {
			if d.err == nil {
				d.err = stage()
			}
		}
		if slices.Contains(sections, DumpTables) {
			d.tables()
		}
		if slices.Contains(sections, DumpCGs) {
			d.cgs()
		}
		return d.err
	})
}

// dumper prints until the first error.
type dumper struct {
	r    *recovery
	emit func(Line) error
	err  error
}

func (d *dumper) line(structure string, device int, block uint64, format string, args ...any) {
	d.lineOf(nil, 0, structure, device, block, format, args...)
}

func (d *dumper) lineOf(v *Volume, cg uint64, structure string, device int, block uint64, format string, args ...any) {
	if d.err != nil {
		return
	}
	l := Line{CG: cg, Structure: structure, Offset: blocksToBytes(block), Text: fmt.Sprintf(format, args...)}
	if v != nil {
		l.Group, l.Volume = v.group.name, v.name
	}
	if device >= 0 {
		l.Device = d.r.p.info[device].Path
	}
	d.err = d.emit(l)
}

func (d *dumper) superblocks() {
	for dev := range d.r.p.info {
		for i := range superblockCopies {
			at := uint64(i * superblockStride)
			buf := d.r.scratch[:BlockSize]
			if err := d.r.io.read(dev, at, buf); err != nil {
				d.line("superblock", dev, at, "copy %d: %v", i, err)
				continue
			}
			sb, err := decodeSuperblock(buf, i)
			if err != nil {
				d.line("superblock", dev, at, "copy %d: %v", i, err)
				continue
			}
			z := sb.zones
			d.line("superblock", dev, at, "copy %d: version %d, features %#x, sequence %d, pool %q %s, device %d of %d %s, created %s",
				i, sb.version, sb.features, sb.sequence, sb.name, sb.pool, sb.index, len(sb.devices), sb.device, time.Unix(sb.created, 0).UTC().Format(time.RFC3339))
			if i == 0 {
				d.line("zones", dev, at, "in blocks: extent %d, roots %d+2*%d, journal %d+%d, tables %d+2*%d, data from %d",
					z.extentBlocks, z.root, z.rootBlocks, z.journal, z.journalLen, z.tables, z.tablePairs, z.data)
			}
		}
	}
}

func (d *dumper) roots() {
	if d.err != nil {
		return
	}
	z := &d.r.p.sb.zones
	dev := d.r.p.order[0]
	for slot := range uint64(2) {
		at := z.rootSlot(slot)
		r, err := d.r.readRoot(at)
		if err != nil {
			if !errors.Is(err, errNoRoot) {
				d.line("root", dev, at, "slot %d: damaged: %v", slot, err)
			} else {
				d.line("root", dev, at, "slot %d: %v", slot, err)
			}
			continue
		}
		used := 0
		for _, e := range r.directory {
			if e != 0 {
				used++
			}
		}
		d.line("root", dev, at, "slot %d: checkpoint %d, journal from piece %d at ring block %d, %d table pages", slot, r.checkpoint, r.tail.seq, r.tail.block%z.journalLen, used)
		for _, g := range r.groups {
			s := g.state
			d.line("group", dev, at, "%d %q: epoch %d, final %d, linked %d, complete %d, discarded through %d, folded %d", g.id, s.name, s.epoch, s.final, s.linked, s.complete, s.through, g.folded)
		}
		for _, v := range r.volumes {
			d.line("volume", dev, at, "%d %q of group %d: %d bytes, %v", v.id, v.name, v.group, v.size, v.member)
		}
		for _, x := range r.retired {
			d.line("retired", dev, at, "physical blocks %d+%d", x.first, x.n)
		}
	}
}

func (d *dumper) journal() {
	j := d.r.journalReader()
	dev, pos := d.r.p.order[0], d.r.root.tail
	for d.err == nil {
		records, next, found, err := j.read(pos)
		if err != nil {
			d.err = err
			return
		}
		if !found {
			d.line("journal", dev, j.zone+pos.block%j.size, "end: no piece %d", pos.seq)
			return
		}
		in := &decoder{b: records}
		var text []string
		for in.off < len(in.b) {
			rec, err := decodeRecord(in)
			if err != nil {
				text = append(text, err.Error())
				break
			}
			text = append(text, rec.describe())
		}
		d.line("piece", dev, j.zone+pos.block%j.size, "%d: %s", pos.seq, strings.Join(text, "; "))
		pos = next
	}
}

func (r *record) describe() string {
	s := fmt.Sprintf("%v group %d", r.kind, r.group)
	switch r.kind {
	case recPart:
		return fmt.Sprintf("%s CG %d volume %d: %d entries from block %d", s, r.cg, r.volume, len(r.body)/partEntrySize, r.base)
	case recZeroes:
		return fmt.Sprintf("%s CG %d volume %d: %d ranges", s, r.cg, r.volume, len(r.body)/rangeSize)
	case recComplete:
		return fmt.Sprintf("%s CG %d: %d entries", s, r.cg, r.entries)
	case recBegin:
		return fmt.Sprintf("%s CG %d", s, r.cg)
	case recLinked, recFinal:
		return fmt.Sprintf("%s CG %d epoch %d", s, r.cg, r.epoch)
	case recReverted:
		return fmt.Sprintf("%s CG %d epoch %d discard through %d", s, r.cg, r.epoch, r.through)
	case recFence:
		return fmt.Sprintf("%s epoch %d", s, r.epoch)
	case recGroup:
		return fmt.Sprintf("%s %q", s, r.name)
	case recVolume:
		return fmt.Sprintf("%s volume %d %q: %d bytes, %v", s, r.volume, r.name, r.size, r.standing)
	case recMember:
		m := Membership{Standing: r.standing, AsideAt: r.cg}
		return fmt.Sprintf("%s volume %d turn %d: %s", s, r.volume, r.turn, m.standing())
	case recWhole:
		return fmt.Sprintf("%s CG %d volume %d turn %d", s, r.cg, r.volume, r.turn)
	case recVolumeDelete:
		return fmt.Sprintf("%s volume %d", s, r.volume)
	case recRetired:
		return fmt.Sprintf("%v physical blocks %d+%d", r.kind, r.first, r.blocks)
	}
	return s
}

func (d *dumper) tables() {
	for _, g := range d.r.p.Groups() {
		for _, v := range g.Volumes() {
			v.eachMapped(func(b VBlock, e entry) {
				dev, block := d.r.p.locate(e.block())
				d.lineOf(v, 0, "pointer", dev, block, "%s/%s %d -> %d checksum %07x", g.name, v.name, b, e.block(), uint64(e)>>pblockBits)
			})
		}
	}
}

func (d *dumper) cgs() {
	for _, g := range d.r.p.Groups() {
		for _, l := range g.live {
			for _, t := range l.tables {
				d.cg(g, t)
			}
		}
	}
}

func (d *dumper) cg(g *Group, t *cgTable) {
	for _, r := range t.zeroed {
		d.lineOf(t.vol, t.cg, "CG zeroes", -1, 0, "CG %d %s/%s %d+%d", t.cg, g.name, t.vol.name, r.first, r.n)
	}
	keys, err := t.sorted()
	if err != nil {
		d.err = errors.Join(d.err, err)
		return
	}
	for _, k := range keys {
		e := t.at(uint32(k&posMask) - 1)
		dev, block := d.r.p.locate(e.block)
		d.lineOf(t.vol, t.cg, "CG pointer", dev, block, "CG %d %s/%s %d -> %d checksum %016x", t.cg, g.name, t.vol.name, k>>posBits, e.block, e.sum)
	}
}
