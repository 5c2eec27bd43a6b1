package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/farside-storage/farside/ring"
)

const (
	pieceBlocks  = 64        // of one journal write: 256 KiB, its first block says where the others belong
	journalParts = 2         // one is filled while the other is copied home
	mostPieces   = 2048      // of a part: 512 MiB
	journalDepth = 256       // requests in flight, of both kinds
	homeDepth    = 128       // of them copies
	pieceBytes   = 64 * 4096 // pieceBlocks
)

// journal writes every update twice: to a journal, then home. The journal has two parts; while one receives, the
// blocks of the other are copied home from the memory they were received in.
type journal struct {
	devs  ring.Devices
	q     ring.Queue
	arena *ring.Arena
	out   []ring.Completion

	home  int64 // byte offset of block 0
	parts [journalParts]part
	// pieces of a part
	pieces int
	now    int // the part that receives
	at     int // block of the part that comes next
	begun  int // pieces of it handed to the device
	reads  []byte
}

// part is one half of the journal, and the memory with the same contents.
type part struct {
	mem    []byte
	first  int64 // byte offset on the device
	places map[uint64]int
	queue  []uint64 // blocks still to copy home, sorted
	homing int      // copies in flight
}

// A request's tag tells the kind in its high half.
const (
	tagPiece = 1 << 32
	tagHome  = 2 << 32
	tagOther = 3 << 32
)

// partPieces is room for two groups, of the measured updates or of the first fill, with a limit.
func partPieces(at place) int {
	group := max(at.group, int(min(at.blocks, fillGroup)))
	return min(2*(group/(pieceBlocks-1)+1), mostPieces)
}

func openJournal(_ context.Context, at place) (s store, err error) {
	j := &journal{out: make([]ring.Completion, journalDepth)}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close())
		}
	}()
	j.pieces = partPieces(at)
	partBytes := j.pieces * pieceBytes
	j.home = int64(journalParts * partBytes)
	if j.devs, err = ring.Open([]string{at.device}, ring.OpenOptions{Kind: ring.Uring}); err != nil {
		return nil, err
	}
	if room := j.devs.Info()[0].Size; j.home+int64(at.blocks)*blockSize > room {
		return nil, fmt.Errorf("the device holds %d bytes, the journal and %d blocks need more: choose a larger --size", room, at.blocks)
	}
	if j.arena, err = ring.NewArena(journalParts*partBytes + blockSize); err != nil {
		return nil, err
	}
	contentsFrom(7, j.arena.Bytes())
	for i := range j.parts {
		j.parts[i] = part{mem: j.arena.Bytes()[i*partBytes : (i+1)*partBytes], first: int64(i * partBytes), places: map[uint64]int{}}
	}
	j.reads = j.arena.Bytes()[journalParts*partBytes:]
	if j.q, err = j.devs.NewQueue(ring.QueueOptions{Depth: journalDepth, Arenas: []*ring.Arena{j.arena}}); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *journal) space() ([]byte, error) {
	p := &j.parts[j.now]
	if j.at == j.pieces*pieceBlocks { // the part is full: the group ends early
		if err := j.commit(); err != nil {
			return nil, err
		}
		p = &j.parts[j.now]
	}
	if j.at%pieceBlocks == 0 {
		j.at++ // the header
	}
	return p.mem[j.at*blockSize:][:blockSize], nil
}

func (j *journal) put(block uint64, data []byte) error {
	mem, err := j.space()
	if err != nil {
		return err
	}
	copy(mem, data)
	return j.take(block)
}

func (j *journal) take(block uint64) error {
	p := &j.parts[j.now]
	header := p.mem[j.at/pieceBlocks*pieceBytes:]
	binary.LittleEndian.PutUint64(header[j.at%pieceBlocks*8:], block)
	p.places[block] = j.at
	j.at++
	if j.at%pieceBlocks != 0 {
		return nil
	}
	if err := j.writePieces(); err != nil {
		return err
	}
	return j.pump()
}

// writePieces hands the received pieces to the device.
func (j *journal) writePieces() error {
	p := &j.parts[j.now]
	for ; j.begun < (j.at+pieceBlocks-1)/pieceBlocks; j.begun++ {
		at := j.begun * pieceBytes
		r := ring.Request{Op: ring.OpWrite, Off: p.first + int64(at), Buf: p.mem[at : at+pieceBytes], Tag: tagPiece}
		if err := j.push(r); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) push(r ring.Request) error {
	for !j.q.Push(r) {
		if err := j.reap(1); err != nil {
			return err
		}
	}
	return nil
}

// pump keeps copies of the other part going.
func (j *journal) pump() error {
	p := &j.parts[1-j.now]
	for len(p.queue) > 0 && p.homing < homeDepth && j.q.InFlight() < journalDepth {
		block := p.queue[0]
		at := p.places[block] * blockSize
		if !j.q.Push(ring.Request{Op: ring.OpWrite, Off: j.home + int64(block)*blockSize, Buf: p.mem[at : at+blockSize], Tag: tagHome | uint64(1-j.now)}) {
			break
		}
		p.queue = p.queue[1:]
		p.homing++
	}
	return j.reap(0)
}

func (j *journal) reap(least int) error {
	n, err := j.q.Reap(j.out, least)
	for _, c := range j.out[:n] {
		err = errors.Join(err, c.Err)
		if c.Tag&^0xffffffff == tagHome {
			j.parts[c.Tag&1].homing--
		}
	}
	return err
}

// drain waits for everything in flight.
func (j *journal) drain() error {
	for j.q.InFlight() > 0 {
		if err := j.reap(1); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) flush() error {
	if err := j.drain(); err != nil {
		return err
	}
	if err := j.push(ring.Request{Op: ring.OpFlush, Tag: tagOther}); err != nil {
		return err
	}
	return j.drain()
}

// finishHome copies home what is left of the other part.
func (j *journal) finishHome() error {
	for p := &j.parts[1-j.now]; len(p.queue) > 0; {
		if err := j.pump(); err != nil {
			return err
		}
		if j.q.InFlight() > 0 {
			if err := j.reap(min(16, j.q.InFlight())); err != nil {
				return err
			}
		}
	}
	return j.drain()
}

// commit makes the part that received durable. The other one must be home by then, with the same flush, because it
// receives next.
func (j *journal) commit() error {
	if err := errors.Join(j.writePieces(), j.finishHome(), j.flush()); err != nil {
		return err
	}
	p := &j.parts[j.now]
	for block := range p.places {
		p.queue = append(p.queue, block)
	}
	slices.Sort(p.queue)
	j.now, j.at, j.begun = 1-j.now, 0, 0
	next := &j.parts[j.now]
	clear(next.places)
	next.queue = nil
	return nil
}

func (j *journal) get(block uint64, into []byte) error {
	p := &j.parts[1-j.now]
	if at, ok := p.places[block]; ok {
		copy(into, p.mem[at*blockSize:])
		return nil
	}
	if err := j.drain(); err != nil {
		return err
	}
	if err := j.push(ring.Request{Op: ring.OpRead, Off: j.home + int64(block)*blockSize, Buf: j.reads, Tag: tagOther}); err != nil {
		return err
	}
	err := j.drain()
	copy(into, j.reads)
	return err
}

func (j *journal) close() error {
	var errs []error
	if j.q != nil {
		errs = append(errs, j.finishHome(), j.flush(), j.q.Close())
	}
	if j.arena != nil {
		errs = append(errs, j.arena.Close())
	}
	if j.devs != nil {
		errs = append(errs, j.devs.Close())
	}
	return errors.Join(errs...)
}
