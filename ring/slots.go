package ring

import (
	"sync"

	"golang.org/x/sys/unix"
)

// slot is one request in flight.
type slot struct {
	// req keeps the request's memory alive for as long as the kernel uses it.
	req Request
	// done counts bytes moved so far by a read or write.
	done    int64
	err     error
	next    uint32
	retries uint8
	// zeroWay is the last way a write-zeroes was tried; writing: it has come down to writing zeros.
	zeroWay zeroWay
	writing bool
}

// slots holds the requests in flight; its size is the queue's depth.
type slots struct {
	at   []slot
	free uint32 // head of the list of free slots
	used int
}

func newSlots(depth int) slots {
	s := slots{at: make([]slot, depth)}
	for i := range s.at {
		s.at[i].next = uint32(i + 1)
	}
	return s
}

func (s *slots) depth() int { return len(s.at) }
func (s *slots) full() bool { return s.used == len(s.at) }

// take puts r in a free slot; there is one.
func (s *slots) take(r Request) uint32 {
	i := s.free
	s.free = s.at[i].next
	s.used++
	s.at[i] = slot{req: r}
	return i
}

// end frees slot i and makes its completion.
func (s *slots) end(i uint32) Completion {
	e := &s.at[i]
	c := Completion{Tag: e.req.Tag, Err: e.err}
	e.req.Buf, e.err = nil, nil
	e.next = s.free
	s.free = i
	s.used--
	return c
}

// moved takes in n bytes that the kernel moved for a transfer, or the success of another operation
// (n is 0 then). It says whether the request has ended, and why if not well.
func (s *slot) moved(n int64, d *DeviceInfo) (done bool, cause error) {
	if s.req.Op != OpRead && s.req.Op != OpWrite && !s.writing {
		return true, nil
	}
	s.done += n
	switch rest := s.req.Bytes() - s.done; {
	case rest <= 0:
		return true, nil
	case n == 0:
		return true, ErrShort
	case d.Direct && s.done%int64(d.SectorSize) != 0:
		return true, ErrShort // the rest is not aligned: O_DIRECT would refuse it
	}
	return false, nil
}

// zeroMemory is shared, page-aligned memory full of zeros, which nobody may write to.
var zeroMemory = sync.OnceValue(func() []byte {
	mem, err := unix.Mmap(-1, 0, 256<<10, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic("ring: no memory for 256 KiB of zeros: " + err.Error())
	}
	return mem
})
