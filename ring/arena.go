package ring

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arena is page-aligned memory outside Go's heap for device I/O: the collector neither scans
// nor moves it, and a queue can register it with the kernel.
type Arena struct {
	mem  []byte
	home *Arenas
}

// NewArena maps size bytes, a multiple of 4096.
func NewArena(size int) (*Arena, error) {
	if size <= 0 || size%4096 != 0 {
		return nil, fmt.Errorf("arena of %d bytes: want a positive multiple of 4096", size)
	}
	mem, err := mapArena(size)
	if err != nil {
		return nil, fmt.Errorf("map arena of %d bytes: %w", size, err)
	}
	return &Arena{mem: mem}, nil
}

// hugePage is the size of a huge page on amd64, and on arm64 with pages of 4 KiB.
const hugePage = 2 << 20

// mapArena maps memory; from the size of a huge page on in huge pages, where the kernel has some: it then accounts
// for one piece of a registered buffer instead of one for every 4 KiB.
func mapArena(size int) ([]byte, error) {
	spare := 0
	if size >= hugePage {
		spare = hugePage // to cut the borders from
	}
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size+spare), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	all := unsafe.Slice((*byte)(p), size+spare)
	head := 0
	if spare > 0 {
		head = -int(uintptr(p)) & (hugePage - 1)
	}
	mem := all[head : head+size : head+size]
	if err := errors.Join(unmapArena(all[:head]), unmapArena(all[head+size:])); err != nil {
		return nil, err
	}
	if size >= hugePage {
		// Advice only: it is refused where huge pages are switched off, and small ones serve as well.
		_ = unix.Madvise(mem[:size&^(hugePage-1)], unix.MADV_HUGEPAGE)
	}
	return mem, nil
}

func unmapArena(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	return unix.MunmapPtr(unsafe.Pointer(&mem[0]), uintptr(len(mem)))
}

// Bytes is the whole arena.
func (a *Arena) Bytes() []byte { return a.mem }

// Close unmaps the arena; nothing may use its memory any more.
func (a *Arena) Close() error {
	mem := a.mem
	a.mem = nil
	if mem == nil {
		return nil
	}
	if a.home != nil {
		a.home.put(mem)
		return nil
	}
	return unmapArena(mem)
}

// Arenas recycles the memory of closed arenas. It is for callers that open and close pools all the time, such as a
// simulator: the first touch of a fresh page costs more than the work done with it. A nil *Arenas maps and unmaps each
// arena. Not safe for concurrent use.
type Arenas struct{ free map[int][][]byte }

// New returns an arena of size bytes. Its contents are undefined.
func (h *Arenas) New(size int) (*Arena, error) {
	if h == nil {
		return NewArena(size)
	}
	if list := h.free[size]; len(list) > 0 {
		mem := list[len(list)-1]
		h.free[size] = list[:len(list)-1]
		return &Arena{mem, h}, nil
	}
	a, err := NewArena(size)
	if err != nil {
		return nil, err
	}
	a.home = h
	return a, nil
}

// put keeps mem, spoiled in each block, so that whoever still reads it is noticed.
func (h *Arenas) put(mem []byte) {
	if h.free == nil {
		h.free = make(map[int][][]byte)
	}
	for at := 0; at < len(mem); at += 512 {
		copy(mem[at:], "this memory was given back")
	}
	h.free[len(mem)] = append(h.free[len(mem)], mem)
}

// Close unmaps what is not in use.
func (h *Arenas) Close() error {
	var errs []error
	for _, list := range h.free {
		for _, mem := range list {
			errs = append(errs, unmapArena(mem))
		}
	}
	h.free = nil
	return errors.Join(errs...)
}
