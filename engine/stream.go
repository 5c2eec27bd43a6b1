package engine

import "github.com/farside-storage/farside/ring"

// streamPiece is the most that one read of a stream brings, in bytes.
const streamPiece = pieceBytes

// stream reads pieces of device 0 one after the other, with as many reads in flight as its memory has slots: while
// one is worked on, the next ones are on their way. It is for opening a pool, where nothing else goes on.
//
// Piece i stands at the start of slot i % slots, so that neighbours are neighbours in memory too, but for the
// last slot and the first.
type stream struct {
	io    *controlIO
	slots []streamSlot
	mem   []byte
	where func(i int) (block, n uint64) // piece i on device 0: at most streamPiece bytes
	n     int                           // pieces
	first int                           // pieces before this one are not needed any more
	asked int                           // pieces before this one were asked for
}

type streamSlot struct {
	busy bool // its memory belongs to the kernel
	err  error
}

func newStream(io *controlIO, mem []byte, n int, where func(i int) (block, n uint64)) *stream {
	return &stream{io: io, slots: make([]streamSlot, len(mem)/streamPiece), mem: mem, where: where, n: n}
}

// need returns once pieces i to k have been read, and gives the memory of all before i to those that come next.
// Pieces are needed in ascending order, fewer at once than there are slots.
func (s *stream) need(i, k int) error {
	s.first = max(s.first, i)
	s.asked = max(s.asked, s.first)
	for s.asked < min(s.n, s.first+len(s.slots)) {
		if err := s.ask(); err != nil {
			return err
		}
	}
	for ; i <= k; i++ {
		slot := &s.slots[i%len(s.slots)]
		if err := s.await(slot); err != nil {
			return err
		}
		if slot.err != nil {
			return slot.err
		}
	}
	return nil
}

// ask starts the read of the next piece.
func (s *stream) ask() error {
	slot := &s.slots[s.asked%len(s.slots)]
	if err := s.await(slot); err != nil { // for a piece that nobody needed
		return err
	}
	block, n := s.where(s.asked)
	*slot = streamSlot{busy: true}
	s.io.start(ring.Request{Op: ring.OpRead, Off: blocksToBytes(block), Buf: s.at(s.asked)[:n*BlockSize]},
		func(err error) { *slot = streamSlot{err: err} })
	s.asked++
	return nil
}

func (s *stream) await(slot *streamSlot) error {
	for slot.busy {
		if _, err := s.io.poll(true); err != nil {
			return err
		}
	}
	return nil
}

// at is the memory from the slot of piece i on.
func (s *stream) at(i int) []byte { return s.mem[i%len(s.slots)*streamPiece:] }

// adjoin says whether pieces i to k, which are fewer than there are slots, are neighbours in memory.
func (s *stream) adjoin(i, k int) bool { return i%len(s.slots) <= k%len(s.slots) }

// close takes the memory back from the kernel.
func (s *stream) close() error {
	for i := range s.slots {
		if err := s.await(&s.slots[i]); err != nil {
			return err
		}
	}
	return nil
}
