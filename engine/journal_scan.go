package engine

// journalScan reads the whole ring of the journal once, from a tail on, with reads ahead: first along the chain of pieces,
// then, where the chain has ended, on through what is left, to tell an end from damage.
type journalScan struct {
	*journalReader
	s    *stream
	tail uint64 // block that the scan begins at; blocks count up as in journalPos
	turn int    // pieces of the stream before the end of the ring
	held uint64 // nothing before this block is needed any more
}

const scanBlocks = streamPiece / BlockSize

func newJournalScan(j *journalReader, mem []byte, tail uint64) *journalScan {
	c := &journalScan{journalReader: j, tail: tail}
	before := j.size - tail%j.size
	c.turn = int((before + scanBlocks - 1) / scanBlocks)
	n := c.turn + int((j.size-before+scanBlocks-1)/scanBlocks)
	c.s = newStream(j.io, mem, n, func(i int) (block, n uint64) {
		at, end := c.span(i)
		return j.zone + at%j.size, min(scanBlocks, end-at)
	})
	return c
}

// end is the block after the last one of the ring.
func (c *journalScan) end() uint64 { return c.tail + c.size }

// seam is where the ring ends and goes on at its start: no piece of journal or stream goes across it.
func (c *journalScan) seam() uint64 { return c.tail + c.size - c.tail%c.size }

// span is where piece i of the stream begins, and up to where it could go.
func (c *journalScan) span(i int) (at, end uint64) {
	if i < c.turn {
		return c.tail + uint64(i)*scanBlocks, c.seam()
	}
	return c.seam() + uint64(i-c.turn)*scanBlocks, c.end()
}

func (c *journalScan) pieceOf(at uint64) int {
	if at < c.seam() {
		return int((at - c.tail) / scanBlocks)
	}
	return c.turn + int((at-c.seam())/scanBlocks)
}

// view returns n blocks from at on, which are on one side of the seam and not before what is held. They stay until the next call.
func (c *journalScan) view(at, n uint64) ([]byte, error) {
	first, last := c.pieceOf(at), c.pieceOf(at+n-1)
	if err := c.s.need(c.pieceOf(c.held), last); err != nil {
		return nil, err
	}
	start, _ := c.span(first)
	from := (at - start) * BlockSize
	if c.s.adjoin(first, last) {
		return c.s.at(first)[from : from+n*BlockSize], nil
	}
	head := copy(c.buf, c.s.at(first)[from:])
	copy(c.buf[head:n*BlockSize], c.s.at(last))
	return c.buf[:n*BlockSize], nil
}

// next is [journalReader.read], for positions that only grow.
func (c *journalScan) next(pos journalPos) (records []byte, next journalPos, found bool, err error) {
	c.held = pos.block
	return c.follow(pos, func(block uint64) ([]byte, error) {
		room := c.end()
		if block < c.seam() {
			room = c.seam()
		}
		if block >= room {
			return nil, nil
		}
		return c.view(block, min(pieceMaxBlocks, room-block))
	})
}

// broken tells a damaged journal from one that ends at pos: it looks for a piece after pos that says that the piece at pos had been
// flushed. Pieces behind a torn end cannot say so. What stands before pos was read as older pieces of the chain.
func (c *journalScan) broken(pos journalPos) (bool, error) {
	for at := pos.block; at < c.end(); {
		start, end := c.span(c.pieceOf(at))
		end = min(end, start+scanBlocks)
		c.held = at
		buf, err := c.view(at, end-at)
		if err != nil {
			return false, err
		}
		for ; at < end; at++ {
			block := buf[:BlockSize]
			buf = buf[BlockSize:]
			if string(block[:len(pieceMagic)]) != pieceMagic {
				continue
			}
			p, ok := openPiece(block, c.pool)
			if !ok || p.seq <= pos.seq || p.durable < pos.seq {
				continue
			}
			if whole, err := c.wholeAt(at%c.size, p); err != nil || whole {
				return whole, err
			}
		}
	}
	return false, nil
}

// close ends the reads that were made ahead.
func (c *journalScan) close() error { return c.s.close() }
