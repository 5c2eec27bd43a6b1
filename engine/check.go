package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/farside-storage/farside/ring"
)

// CheckOptions say how deep [Check] looks.
type CheckOptions struct {
	// Data: read every mapped block and compare its checksum.
	Data bool
	// Progress, if set, is called with the number of blocks read so far, and of all blocks to read.
	Progress func(done, total uint64)
}

// CheckReport is what [Check] found.
type CheckReport struct {
	Pool       string `json:"pool"`
	UUID       string `json:"uuid"`
	Checkpoint uint64 `json:"checkpoint"`
	// Pieces of the journal after the checkpoint.
	Pieces  uint64       `json:"journal_pieces"`
	Groups  []CheckGroup `json:"groups"`
	Blocks  uint64       `json:"blocks"` // that can hold data
	Mapped  uint64       `json:"mapped"` // of these, named by a table
	Scanned uint64       `json:"scanned"`
	// Structures that were verified: superblock copies, root slots, table pages, journal pieces.
	Structures uint64 `json:"structures"`
	// Repairable is damage that a redundant copy makes good: opening the pool goes on.
	Repairable []Finding `json:"repairable"`
	// Damage that nothing makes good.
	Damage []Finding `json:"damage"`
}

// Finding is one place that is damaged.
type Finding struct {
	Structure string `json:"structure"`
	Device    string `json:"device"`
	Offset    int64  `json:"offset"` // bytes
	Text      string `json:"text"`
}

// finding takes an error apart; one that is not about a place has text only.
func finding(err error) Finding {
	var c *CorruptionError
	if !errors.As(err, &c) {
		return Finding{Structure: "pool", Text: err.Error()}
	}
	f := Finding{Structure: c.Structure, Device: c.Device, Offset: c.Offset, Text: c.Reason}
	if c.Err != nil {
		f.Text += ": " + c.Err.Error()
	}
	return f
}

// CheckGroup is a group as the devices have it.
type CheckGroup struct {
	Name     string        `json:"name"`
	Epoch    uint64        `json:"epoch"`
	Final    uint64        `json:"final"`
	Linked   uint64        `json:"linked"`
	Complete uint64        `json:"complete"`
	Volumes  []CheckVolume `json:"volumes"`
}

// CheckVolume is a volume as the devices have it.
type CheckVolume struct {
	Name   string `json:"name"`
	Size   uint64 `json:"size"`
	Mapped uint64 `json:"mapped"` // blocks, as of the final CG
	// Standing in the group ("unattached", "awaited" or "set aside"), the CG since which the volume is whole, and the
	// one that it shows if it is set aside; CG 0: none.
	Standing   string `json:"standing"`
	WholeSince uint64 `json:"whole_since"`
	SetAsideAt uint64 `json:"set_aside_at,omitempty"`
}

// OK reports that nothing is damaged, not even repairably.
func (r *CheckReport) OK() bool { return len(r.Damage) == 0 && len(r.Repairable) == 0 }

// Check verifies every structure of a pool that nobody has open, and changes nothing. It verifies superblock copies,
// roots, table pages and journal; that no physical block is linked twice or lies outside the data zone; and with
// CheckOptions.Data every mapped block. The report has the damage found. The error says why Check could not look.
func Check(devs ring.Devices, o CheckOptions) (*CheckReport, error) {
	var rep *CheckReport
	err := offline(devs, func(r *recovery) error {
		rep = &CheckReport{Repairable: []Finding{}, Damage: []Finding{}}
		err := r.load()
		if errors.Is(err, ErrUnknownFormat) {
			return err
		}
		for _, e := range r.p.repairs {
			rep.Repairable = append(rep.Repairable, finding(e))
		}
		if err != nil {
			rep.Damage = append(rep.Damage, finding(err))
			return nil
		}
		rep.describe(r)
		if !o.Data {
			return nil
		}
		return rep.scan(r, o.Progress)
	})
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// offline runs f on a pool that is not opened for use: nothing is written.
func offline(devs ring.Devices, f func(*recovery) error) error {
	return inOwnThread(func() (err error) {
		p, err := newPool(devs, Options{Manual: true})
		if err != nil {
			return err
		}
		arena, err := ring.NewArena(recoveryBytes)
		if err != nil {
			return err
		}
		io, err := newControlIO(devs, 64, arena)
		if err != nil {
			return errors.Join(err, arena.Close())
		}
		p.ctl = &control{pool: p, io: io}
		p.ctl.ckpt.arena = arena
		r := newRecovery(p, io, arena.Bytes())
		r.readOnly = true
		err = f(r)
		return errors.Join(err, r.close())
	})
}

// close frees what load made.
func (r *recovery) close() error {
	for _, v := range r.volumes {
		v.table.close()
	}
	for _, g := range r.groups {
		for _, l := range g.live {
			for _, t := range l.tables {
				t.free()
			}
		}
	}
	r.p.memory.close()
	var err error
	if r.p.alloc != nil {
		err = r.p.alloc.Close()
	}
	return errors.Join(err, r.io.q.Close(), r.p.ctl.ckpt.close())
}

func (rep *CheckReport) describe(r *recovery) {
	p := r.p
	rep.Pool, rep.UUID, rep.Checkpoint, rep.Pieces = p.sb.name, p.sb.pool.String(), r.root.checkpoint, r.pieces
	rep.Structures = uint64(len(p.info))*superblockCopies + 2 + r.pieces
	for _, e := range r.root.directory {
		if e != 0 {
			rep.Structures++
		}
	}
	s := p.alloc.Stats()
	rep.Mapped, rep.Blocks = s.Used, s.Used+s.Free
	for _, g := range p.Groups() {
		cg := CheckGroup{Name: g.name, Epoch: g.state.epoch, Final: g.state.final, Linked: g.state.linked, Complete: g.state.complete}
		for _, v := range g.Volumes() {
			m := v.Membership()
			cv := CheckVolume{Name: v.name, Size: v.size, Standing: m.Standing.String(), WholeSince: m.WholeSince, SetAsideAt: m.AsideAt}
			v.eachMapped(func(VBlock, entry) { cv.Mapped++ })
			cg.Volumes = append(cg.Volumes, cv)
		}
		rep.Groups = append(rep.Groups, cg)
	}
}

// eachMapped calls f for the mapped blocks of the pointer table in ascending order.
func (v *Volume) eachMapped(f func(VBlock, entry)) {
	for b := VBlock(0); uint64(b) < v.table.blocks(); b++ {
		if next := v.table.skipUnused(b); next != b {
			b = next - 1
			continue
		}
		if e := v.table.load(b); e != 0 {
			f(b, e)
		}
	}
}

// eachMapped calls f for the mapped blocks of a CG's table, in no order.
func (t *cgTable) eachMapped(f func(VBlock, entry)) {
	for _, s := range t.index {
		if s == 0 {
			continue
		}
		if e := t.at(uint32(s&posMask) - 1); e.block != 0 {
			f(VBlock(s>>posBits), e.entry())
		}
	}
}

// named is a mapped block, to be read in order of its place.
type named struct {
	vol   *Volume
	block VBlock
	entry entry
}

// scan reads every block that a table names, in the order in which they stand on the devices.
func (rep *CheckReport) scan(r *recovery, progress func(done, total uint64)) error {
	var all []named
	for _, g := range r.p.Groups() {
		for _, v := range g.Volumes() {
			v.eachMapped(func(b VBlock, e entry) { all = append(all, named{v, b, e}) })
		}
		for _, l := range g.live {
			for _, t := range l.tables {
				t.eachMapped(func(b VBlock, e entry) { all = append(all, named{t.vol, b, e}) })
			}
		}
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Compare(a.entry.block(), b.entry.block()) })
	for done := 0; done < len(all); {
		n := 1
		for n < scratchBlocks && done+n < len(all) && all[done+n].entry.block() == all[done].entry.block()+PBlock(n) {
			n++
		}
		rep.scanRun(r, all[done:done+n])
		done += n
		rep.Scanned = uint64(done)
		if progress != nil {
			progress(uint64(done), uint64(len(all)))
		}
	}
	return nil
}

func (rep *CheckReport) scanRun(r *recovery, run []named) {
	device, block := r.p.locatePool(run[0].entry.block())
	path := r.p.info[r.p.order[device]].Path
	buf := r.scratch[:len(run)*BlockSize]
	if err := r.io.read(device, block, buf); err != nil {
		if len(run) > 1 { // find out which
			for i := range run {
				rep.scanRun(r, run[i:i+1])
			}
			return
		}
		rep.Damage = append(rep.Damage, Finding{Structure: "data block", Device: path, Offset: blocksToBytes(block),
			Text: fmt.Sprintf("volume %s block %d: %v", run[0].vol.name, run[0].block, err)})
		return
	}
	for i, x := range run {
		if sum := Sum(buf[i*BlockSize : (i+1)*BlockSize]); !x.entry.matches(sum) {
			err := &CorruptionError{Device: path, Offset: blocksToBytes(block + uint64(i)), Structure: "data block", Reason: "not what was stored",
				Err: &ChecksumError{Volume: x.vol.name, Block: x.block, At: x.entry.block(), Want: uint64(x.entry), Got: sum}}
			rep.Damage = append(rep.Damage, finding(err))
		}
	}
}
