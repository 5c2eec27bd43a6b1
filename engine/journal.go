package engine

import (
	"bytes"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/ring"
)

// The journal is a ring of pieces in its zone of device 0. A piece is a header and records, padded
// to whole blocks; it carries the checksum of the piece before it, so that the chain ends where the newest piece
// does and cannot run on into what an earlier lap left behind.
//
// Control records (everything but table parts) are small and go into pieces of one block that are
// written twice, side by side: a flipped bit in the newest record would else look like
// the torn end of the journal. Table parts are single; a control piece always follows them before
// anything relies on them, and its "durable" field turns later damage into an error, not an end.
const (
	pieceMagic     = "FSJRNL1\x00"
	pieceHeader    = 64
	pieceMaxBlocks = 64 // 256 KiB
	pieceTwin      = 1  // flag: one block, written twice
	// controlReserve is kept free for control records when table parts fill the journal.
	controlReserve = 128
)

// piece is a decoded piece header.
type piece struct {
	seq     uint64 // consecutive
	prev    uint64 // checksum of the piece before
	durable uint64 // pieces up to this one were flushed when this one was written
	flags   uint32
	length  uint32 // bytes of records
	sum     uint64 // of header, records and padding
}

func (p *piece) blocks() uint64 {
	if p.flags&pieceTwin != 0 {
		return 2
	}
	return bytesToBlocks(uint64(pieceHeader + p.length))
}

// sealPiece fills in the header before buf's records (from pieceHeader on), pads with zeros and returns the whole
// blocks.
func sealPiece(buf []byte, pool UUID, p *piece) []byte {
	buf = buf[:pieceBytesOf(p.length)]
	clear(buf[pieceHeader+int(p.length):])
	h := append(buf[:0], pieceMagic...)
	h = append(h, pool[:8]...)
	h = le.AppendUint64(h, p.seq)
	h = le.AppendUint64(h, p.prev)
	h = le.AppendUint64(h, p.durable)
	h = le.AppendUint32(h, p.flags)
	h = le.AppendUint32(h, p.length)
	h = append(h, make([]byte, pieceHeader-8-len(h))...)
	p.sum = pieceSum(buf, p.length)
	le.AppendUint64(h, p.sum)
	return buf
}

// pieceSum covers header (but for the sum itself), records and padding.
func pieceSum(buf []byte, length uint32) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.Write(buf[:pieceHeader-8])
	d.Write(buf[pieceHeader:pieceBytesOf(length)])
	return d.Sum64()
}

// pieceBytesOf is the size of one copy of a piece with length bytes of records.
func pieceBytesOf(length uint32) int {
	return int(bytesToBlocks(uint64(pieceHeader+length))) * BlockSize
}

// openPiece decodes a header from the first block of a piece; the checksum is checked by the caller once the whole
// piece is there.
func openPiece(b []byte, pool UUID) (p piece, ok bool) {
	if len(b) < BlockSize || !bytes.HasPrefix(b, []byte(pieceMagic)) || !bytes.Equal(b[8:16], pool[:8]) {
		return p, false
	}
	d := &decoder{b: b[:pieceHeader], off: 16}
	p = piece{seq: d.u64("seq"), prev: d.u64("prev"), durable: d.u64("durable"),
		flags: d.u32("flags"), length: d.u32("length")}
	p.sum = le.Uint64(b[pieceHeader-8:])
	limit := uint32(pieceMaxBlocks*BlockSize - pieceHeader)
	if p.flags&pieceTwin != 0 {
		limit = BlockSize - pieceHeader
	}
	return p, p.length <= limit && p.flags&^pieceTwin == 0
}

// journalPos is a place in the journal: where the next piece goes and what it continues.
type journalPos struct {
	block uint64 // counts up for ever; the ring's block is block % length
	seq   uint64 // of the next piece
	prev  uint64 // checksum of the piece before it
}

// journal appends pieces. Control loop only.
type journal struct {
	io   *controlIO
	pool UUID
	zone uint64 // first block on device 0
	size uint64 // blocks

	next journalPos
	tail uint64 // nothing from here on may be overwritten

	commits []journalCommit // control records that wait for a buffer, in order

	buffers  [][]byte // free piece buffers
	flights  []flight // appended pieces whose write or predecessors' writes have not ended, in order
	written  uint64   // pieces up to this one are written
	durable  uint64   // pieces up to this one are flushed
	flushing bool
	waiters  []journalWaiter // in order of seq
	err      error           // sticky: a write or flush failed
	failed   func(error)     // told once
}

type flight struct {
	seq  uint64
	done bool
}

type journalCommit struct {
	records []byte
	done    func(error)
}

type journalWaiter struct {
	seq  uint64
	done func(error)
}

const journalBuffers = 8

func newJournal(failed func(error), io *controlIO, pool UUID, z *zones, at journalPos, tail uint64, mem []byte) *journal {
	j := &journal{failed: failed, io: io, pool: pool, zone: z.journal, size: z.journalLen, next: at, tail: tail,
		written: at.seq - 1, durable: at.seq - 1}
	for i := range journalBuffers {
		n := pieceMaxBlocks * BlockSize
		j.buffers = append(j.buffers, mem[i*n:(i+1)*n])
	}
	return j
}

// buffer returns memory for one piece, records from pieceHeader on, or nil: all are in flight.
func (j *journal) buffer() []byte {
	n := len(j.buffers)
	if n == 0 {
		return nil
	}
	b := j.buffers[n-1]
	j.buffers = j.buffers[:n-1]
	return b
}

// used is how many blocks the ring holds that may not be overwritten.
func (j *journal) used() uint64 { return j.next.block - j.tail }

// capacity is how many blocks of table parts fit into an empty journal.
func (j *journal) capacity() uint64 {
	// The end of the ring is met once at most, and the last piece wants the room of a whole one.
	return j.size - 3*pieceMaxBlocks - controlReserve
}

// room says whether table parts of n blocks fit and leave the reserve.
func (j *journal) room(n uint64) bool {
	// A piece that does not fit before the end of the ring wastes what is left there.
	return j.used()+n+pieceMaxBlocks+controlReserve <= j.size
}

// admits says whether a control record fits. What does not let the tail move on must leave room for what does.
func (j *journal) admits(k recordKind, frees bool) bool {
	need := uint64(4) // twins, and what they waste at the end of the ring
	switch {
	case frees:
	case k == recFence: // comes before whatever a new manager frees
		need += controlReserve / 4
	default:
		need += controlReserve / 2
	}
	return j.used()+need <= j.size
}

// commit writes control records, and calls done once they are durable, and with them everything that was appended
// before.
func (j *journal) commit(done func(error), records ...record) {
	c := journalCommit{done: done}
	for _, r := range records {
		c.records = appendRecord(c.records, r)
	}
	if j.err != nil {
		done(j.err)
		return
	}
	j.commits = append(j.commits, c)
	j.pump()
}

// pump puts the commits that wait into twin pieces, as many into one as fit, while there are buffers.
func (j *journal) pump() {
	for len(j.commits) > 0 && j.err == nil {
		c := j.commits[0]
		if len(c.records) == 0 {
			j.commits = j.commits[1:]
			j.waiters = append(j.waiters, journalWaiter{j.next.seq - 1, c.done})
			continue
		}
		buf := j.buffer()
		if buf == nil {
			break // goes on when a write ends
		}
		j.appendCommits(buf)
	}
	j.advance()
}

// appendCommits writes one twin piece.
func (j *journal) appendCommits(buf []byte) {
	n, k := 0, 0
	for k < len(j.commits) && n+len(j.commits[k].records) <= BlockSize-pieceHeader {
		n += copy(buf[pieceHeader+n:], j.commits[k].records)
		k++
	}
	taken := j.commits[:k]
	j.commits = j.commits[k:]
	seq := j.next.seq
	for _, c := range taken {
		j.waiters = append(j.waiters, journalWaiter{seq, c.done})
	}
	j.append(buf, n, pieceTwin)
}

// append writes a piece of n bytes of records that stand in buf (from [journal.buffer]) from pieceHeader on.
func (j *journal) append(buf []byte, n int, flags uint32) {
	p := piece{seq: j.next.seq, prev: j.next.prev, durable: j.durable, flags: flags, length: uint32(n)}
	out := sealPiece(buf, j.pool, &p)
	if flags&pieceTwin != 0 {
		out = buf[:2*BlockSize]
		copy(out[BlockSize:], out[:BlockSize])
	}
	at := placePiece(j.next.block, p.blocks(), j.size)
	if at+p.blocks()-j.tail > j.size { // nothing that a restart needs may be overwritten
		j.buffers = append(j.buffers, buf)
		_ = j.fail(fmt.Errorf("piece %d: %w: %d of %d blocks", p.seq, ErrJournalFull, j.used(), j.size))
		return
	}
	j.next = journalPos{block: at + p.blocks(), seq: p.seq + 1, prev: p.sum}
	j.flights = append(j.flights, flight{seq: p.seq})
	j.io.start(ring.Request{Op: ring.OpWrite, Off: blocksToBytes(j.zone + at%j.size), Buf: out}, func(err error) {
		j.buffers = append(j.buffers, buf)
		j.ended(p.seq, err)
		j.pump() // before table parts take the buffer
	})
}

// placePiece returns where n blocks go: at block, or at the start of the next lap if they would
// not fit before the end of the ring.
func placePiece(block, n, size uint64) uint64 {
	if at := block % size; at+n > size {
		return block + size - at
	}
	return block
}

// ended takes the outcome of a piece's write.
func (j *journal) ended(seq uint64, err error) {
	if err != nil {
		_ = j.fail(fmt.Errorf("journal piece %d: %w", seq, err))
		return
	}
	for i := range j.flights {
		if j.flights[i].seq == seq {
			j.flights[i].done = true
		}
	}
	for len(j.flights) > 0 && j.flights[0].done {
		j.written = j.flights[0].seq
		j.flights = j.flights[1:]
	}
	j.advance()
}

// advance flushes when somebody waits for pieces that are written but not durable.
func (j *journal) advance() {
	if j.err != nil || j.flushing || len(j.waiters) == 0 {
		return
	}
	if w := j.waiters[0]; w.seq <= j.durable {
		j.satisfied()
		return
	} else if w.seq > j.written {
		return
	}
	j.flushing = true
	covers := j.written
	j.io.flushAll(func(err error) {
		j.flushing = false
		if err != nil {
			_ = j.fail(fmt.Errorf("flush after journal piece %d: %w", covers, err))
			return
		}
		j.durable = covers
		j.satisfied()
	})
}

// satisfied calls those who waited for what is durable now.
func (j *journal) satisfied() {
	for len(j.waiters) > 0 && j.waiters[0].seq <= j.durable {
		w := j.waiters[0]
		j.waiters = j.waiters[1:]
		w.done(nil)
	}
	j.advance()
}

// fail makes the journal refuse everything from now on: after a failed write or flush nobody
// knows what the device holds.
func (j *journal) fail(err error) error {
	if j.err == nil {
		j.err = fmt.Errorf("%w: %w", ErrFailed, err)
		waiters, commits := j.waiters, j.commits
		j.waiters, j.commits = nil, nil
		for _, w := range waiters {
			w.done(j.err)
		}
		for _, c := range commits {
			c.done(j.err)
		}
		j.failed(j.err)
	}
	return j.err
}
