package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// D: the journal, piece by piece from the root's tail on, until the chain ends.
func (r *recovery) replay() error {
	j := newJournalScan(r.journalReader(), r.window, r.root.tail.block)
	err := errors.Join(r.replayChain(j), j.close())
	for _, g := range r.p.groups {
		for _, l := range g.live {
			if err == nil {
				err = l.replayed.index(r.p.memory)
			}
			l.replayed = nil
		}
	}
	r.building = nil // parts without COMPLETE: that CG never was
	r.memory.close()
	return err
}

func (r *recovery) replayChain(j *journalScan) error {
	pos := r.root.tail
	for {
		records, next, found, err := j.next(pos)
		if err != nil {
			return err
		}
		if !found {
			break
		}
		at := j.zone + placePiece(pos.block, 1, j.size)%j.size
		if err := r.replayPiece(records); err != nil {
			return r.corrupt(at, "journal", fmt.Sprintf("piece %d", pos.seq), err)
		}
		r.doubt(pos, j.piece.durable)
		pos = next
		r.pieces++
	}
	r.end = pos
	r.p.repairs = append(r.p.repairs, j.notes...)
	lost, err := j.broken(pos)
	if err != nil {
		return err
	}
	if lost {
		return r.corrupt(j.zone+pos.block%j.size, "journal",
			fmt.Sprintf("piece %d is damaged: a later piece says that it had been flushed", pos.seq), nil)
	}
	return nil
}

// journalReader follows the chain of pieces.
type journalReader struct {
	io   *controlIO
	pool UUID
	zone uint64
	size uint64
	buf  []byte
	path string

	notes []error // damaged copies of twin pieces

	// The piece that was read last: itself, its first block in the zone and its blocks.
	piece piece
	start uint64
	image []byte
}

func (r *recovery) journalReader() *journalReader {
	z := &r.p.sb.zones
	return &journalReader{io: r.io, pool: r.p.sb.pool, zone: z.journal, size: z.journalLen, buf: r.scratch, path: r.p.info[r.p.order[0]].Path}
}

// note tells of a twin of which one copy is damaged; the other one serves.
func (j *journalReader) note(block uint64, seq uint64) {
	j.notes = append(j.notes, &CorruptionError{Device: j.path, Offset: blocksToBytes(j.zone + block), Structure: "journal",
		Reason: fmt.Sprintf("one copy of piece %d is damaged or was never written; the other one serves", seq)})
}

// read returns the records of the piece at pos, which stay valid until the next call, and the position after
// it.
func (j *journalReader) read(pos journalPos) (records []byte, next journalPos, found bool, err error) {
	return j.follow(pos, func(block uint64) ([]byte, error) {
		start := block % j.size
		buf := j.buf[:min(pieceMaxBlocks, j.size-start)*BlockSize]
		return buf, j.io.read(0, j.zone+start, buf)
	})
}

// follow looks for the piece at pos. It is where pos says, or, if it would not have fitted there, at the start of the
// next lap. fetch returns as many blocks as are there, up to those of the largest piece.
func (j *journalReader) follow(pos journalPos, fetch func(block uint64) ([]byte, error)) (records []byte, next journalPos, found bool, err error) {
	lap := placePiece(pos.block, pieceMaxBlocks, j.size)
	for _, at := range []uint64{pos.block, lap} {
		buf, err := fetch(at)
		if err != nil {
			return nil, pos, false, err
		}
		if p, rec, ok := j.at(at%j.size, buf, pos); ok {
			return rec, journalPos{block: at + p.blocks(), seq: pos.seq + 1, prev: p.sum}, true, nil
		}
		if lap == pos.block {
			break
		}
	}
	return nil, pos, false, nil
}

// at looks for piece pos.seq in what was read from block start of the ring on: itself, or, if its first copy is
// damaged, its twin.
func (j *journalReader) at(start uint64, buf []byte, pos journalPos) (p piece, records []byte, ok bool) {
	two := len(buf) >= 2*BlockSize
	if p, records, ok = j.parse(buf, pos); ok {
		if p.flags&pieceTwin != 0 && (!two || !bytes.Equal(buf[:BlockSize], buf[BlockSize:2*BlockSize])) {
			j.note(start+1, pos.seq)
		}
		j.found(p, buf, start, 0)
		return p, records, true
	}
	if two {
		if p, records, ok = j.parse(buf[BlockSize:2*BlockSize], pos); ok && p.flags&pieceTwin != 0 {
			j.note(start, pos.seq)
			j.found(p, buf, start, 1)
			return p, records, true
		}
	}
	return p, nil, false
}

func (j *journalReader) parse(buf []byte, pos journalPos) (p piece, records []byte, ok bool) {
	p, ok = openPiece(buf, j.pool)
	if !ok || p.seq != pos.seq || p.prev != pos.prev || pieceBytesOf(p.length) > len(buf) || pieceSum(buf, p.length) != p.sum {
		return p, nil, false
	}
	return p, buf[pieceHeader : pieceHeader+p.length], true
}

// wholeAt checks a piece that did not fit into what was read.
func (j *journalReader) wholeAt(start uint64, p piece) (bool, error) {
	n := bytesToBlocks(uint64(pieceHeader + p.length))
	if start+n > j.size {
		return false, nil
	}
	buf := j.buf[:n*BlockSize]
	if err := j.io.read(0, j.zone+start, buf); err != nil {
		return false, err
	}
	return pieceSum(buf, p.length) == p.sum, nil
}

func (r *recovery) replayPiece(records []byte) error {
	d := &decoder{b: records}
	for d.off < len(d.b) {
		rec, err := decodeRecord(d)
		if err != nil {
			return err
		}
		if err := r.replayRecord(&rec); err != nil {
			return fmt.Errorf("%v of group %d, CG %d: %w", rec.kind, rec.group, rec.cg, err)
		}
	}
	return nil
}

func (r *recovery) replayRecord(rec *record) error {
	switch rec.kind {
	case recRetired:
		r.retired(prange{rec.first, rec.blocks})
		return nil
	case recGroup:
		if r.groups[rec.group] == nil {
			r.groups[rec.group] = r.p.addGroup(rec.group, rec.name)
			r.p.nextGroup = max(r.p.nextGroup, rec.group)
		}
		return nil
	}
	g := r.groups[rec.group]
	if g == nil {
		return fmt.Errorf("%w group", ErrUnknown)
	}
	switch rec.kind {
	case recVolume:
		r.p.nextVolume = max(r.p.nextVolume, rec.volume)
		if r.volumes[rec.volume] != nil {
			return nil
		}
		return r.addVolume(rec.group, rec.volume, rec.name, rec.size, Membership{Standing: rec.standing})
	case recVolumeDelete:
		return r.deleteVolume(rec.volume)
	case recMember:
		if v := r.volumes[rec.volume]; v != nil {
			v.change(v.Membership().apply(rec))
		}
		return nil
	}
	if rec.cg != 0 && rec.cg <= g.folded && rec.kind != recReverted {
		return nil // in the table pages already
	}
	return r.replayCG(g, rec)
}

// replayCG follows the life of a CG. What it does to the state is what the control loop did.
func (r *recovery) replayCG(g *Group, rec *record) error {
	key := buildKey{rec.group, rec.cg}
	switch rec.kind {
	case recBegin:
		r.dropBuilding(key)
		b := &building{live: &liveCG{cg: rec.cg, start: r.root.tail}, memory: &r.memory}
		b.live.replayed = b
		r.building[key] = b
		return nil
	case recPart, recZeroes:
		return r.replayPart(r.building[key], rec)
	case recWhole:
		r.replayWhole(r.building[key], rec)
		return nil
	case recComplete:
		b := r.building[key]
		if b == nil {
			return nil // begun before the tail, and discarded since: see replayPart
		}
		if b.entries != rec.entries {
			return fmt.Errorf("%d entries expected, %d found", rec.entries, b.entries)
		}
		delete(r.building, key)
		g.live = append(g.live, b.live)
	case recFinal:
		if len(g.live) == 0 || g.live[0].cg != rec.cg {
			return fmt.Errorf("its tables are missing")
		}
		if err := foldNow(g.live[0]); err != nil {
			return err
		}
		g.live[0].becomeWhole()
		g.live, g.folded = g.live[1:], rec.cg
	case recReverted:
		if rec.through > 0 {
			r.discard(g, rec.through)
		}
	}
	g.state.apply(rec)
	if rec.kind == recReverted {
		g.changeEach(func(m Membership) Membership { return m.discarded(g.state.final, rec.through) })
	}
	return nil
}

// replayWhole is replayPart for the mark of a volume that becomes whole.
func (r *recovery) replayWhole(b *building, rec *record) {
	if b == nil {
		return
	}
	b.entries++
	if v := r.volumes[rec.volume]; v != nil {
		b.live.whole = append(b.live.whole, wholeMark{v, rec.turn})
	}
}

// replayPart keeps what is in a part. A part of a volume that was deleted
// before the checkpoint began only counts. A part without BEGIN is of a CG that was discarded before the
// checkpoint began: the tail stands before BEGIN of every CG that mattered then.
func (r *recovery) replayPart(b *building, rec *record) error {
	if b == nil {
		return nil
	}
	v := r.volumes[rec.volume]
	if rec.kind == recZeroes {
		b.entries += uint64(len(rec.body) / rangeSize)
		if v == nil {
			return nil
		}
		return b.table(v).addRanges(rec)
	}
	b.entries += uint64(len(rec.body) / partEntrySize)
	if v == nil {
		return nil
	}
	return b.table(v).add(rec, &r.memory)
}

func (r *recovery) dropBuilding(key buildKey) {
	if b := r.building[key]; b != nil {
		b.drop()
		delete(r.building, key)
	}
}

// discard drops CGs that are held and not final: those that are final were folded when FINAL was replayed.
func (r *recovery) discard(g *Group, through uint64) {
	keep := g.live[:0:0]
	for _, l := range g.live {
		if l.cg > through {
			keep = append(keep, l)
			continue
		}
		l.replayed.drop()
	}
	g.live = keep
	for key := range r.building {
		if key.group == g.id && key.cg <= through {
			r.dropBuilding(key)
		}
	}
}

func (r *recovery) retired(x prange) {
	for _, y := range r.p.retired {
		if x == y {
			return
		}
	}
	r.p.retired = append(r.p.retired, x)
}

func (r *recovery) deleteVolume(id uint32) error {
	v := r.volumes[id]
	if v == nil {
		return nil
	}
	for _, l := range v.group.live { // the pool refuses that, see DeleteVolume
		if slices.ContainsFunc(l.replayed.tables, func(t *replayedTable) bool { return t.vol == v }) {
			return fmt.Errorf("volume %q: CG %d, which is complete and not final, has blocks of it", v.name, l.cg)
		}
	}
	for _, b := range r.building { // an attempt that a restart ended: it can only begin anew
		b.tables = slices.DeleteFunc(b.tables, func(t *replayedTable) bool {
			if t.vol == v {
				t.drop(&r.memory)
			}
			return t.vol == v
		})
	}
	delete(r.volumes, id)
	p := r.p
	v.group.volumes[v.slot] = nil
	p.mu.Lock()
	delete(p.vols, volumeKey{v.group.name, v.name})
	for _, newer := range r.volumes { // of the catalog, when the journal reaches back to before it took the name
		if newer.group == v.group && newer.name == v.name {
			p.vols[volumeKey{v.group.name, v.name}] = newer
		}
	}
	p.mu.Unlock()
	view := v.group.final.Load().withVolume(v.slot, nil)
	v.group.final.Store(view)
	v.group.linked.Store(view)
	p.ctl.ckpt.drop(v)
	v.table.close()
	return nil
}
