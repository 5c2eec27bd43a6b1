package engine

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tables live outside Go's heap: the collector need not scan them, and pages that were never touched cost nothing.

// smallBytes and less is left to the collector: a system call costs more than such a table holds.
const smallBytes = 4096

// mapSlice maps n zeroed elements of T, which must hold no Go pointers.
func mapSlice[T any](n uint64) ([]T, error) {
	var t T
	size := n * uint64(unsafe.Sizeof(t))
	if size == 0 {
		return nil, nil
	}
	if size <= smallBytes {
		return make([]T, n), nil
	}
	p, err := mapBytes(uintptr(size))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(p), n), nil
}

func mapBytes(size uintptr) (unsafe.Pointer, error) {
	p, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for a table: %w", size, err)
	}
	return p, nil
}

// hugeBytes is the size of a huge page on amd64, and on arm64 with pages of 4 KiB.
const hugeBytes = 2 << 20

// mapHuge is mapSlice for what will be used whole, and at random places: from the size of a huge page on in huge
// pages, where the kernel has some. A place that nobody touched for a while is then found with fewer steps, and
// touched first at a seventh of the cost. The rest behind the last whole huge page is in small ones.
func mapHuge[T any](n uint64) ([]T, error) {
	var t T
	size := uintptr(n) * unsafe.Sizeof(t)
	if size < hugeBytes {
		return mapSlice[T](n)
	}
	p, err := mapBytes(size + hugeBytes)
	if err != nil {
		return nil, err
	}
	head := -uintptr(p) & (hugeBytes - 1) // the borders go back
	mem := unsafe.Add(p, head)
	size = (size + pageSize - 1) &^ (pageSize - 1)
	unmapBytes(p, head)
	unmapBytes(unsafe.Add(mem, size), hugeBytes-head)
	// Advice only: it is refused where huge pages are switched off, and small ones serve as well.
	_ = unix.Madvise(unsafe.Slice((*byte)(mem), size&^(hugeBytes-1)), unix.MADV_HUGEPAGE)
	return unsafe.Slice((*T)(mem), n), nil
}

var pageSize = uintptr(unix.Getpagesize())

func unmapBytes(p unsafe.Pointer, size uintptr) {
	if size == 0 {
		return
	}
	if err := unix.MunmapPtr(p, size); err != nil {
		panic(fmt.Sprintf("engine: munmap of a table of %d bytes: %v", size, err))
	}
}

// unmapSlice gives back what mapSlice or mapHuge returned, whole. Memory that is not unmapped is overwritten, so that
// any later use of it is noticed.
func unmapSlice[T any](s []T) {
	if len(s) == 0 {
		return
	}
	size := len(s) * int(unsafe.Sizeof(s[0]))
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), size)
	if size <= smallBytes {
		for i := range mem {
			mem[i] = 0xdb
		}
		return
	}
	unmapBytes(unsafe.Pointer(&s[0]), uintptr(size))
}

// slabs recycles equal pieces of off-heap memory: first touch of a fresh page costs more than
// everything else that is done to an update. Safe from any goroutine; taken once per thousands of updates.
type slabs[T any] struct {
	size   uint64 // elements per piece
	atOnce int    // so many are mapped together; 0: each alone

	mu   sync.Mutex
	free [][]T
	maps [][]T // what pieces were cut from, if several are mapped together
}

// get returns a piece with unspecified contents.
func (s *slabs[T]) get() ([]T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 && s.atOnce > 0 {
		if err := s.more(); err != nil {
			return nil, err
		}
	}
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p, nil
	}
	return mapHuge[T](s.size)
}

// more maps several pieces.
func (s *slabs[T]) more() error {
	all, err := mapHuge[T](s.size * uint64(s.atOnce))
	if err != nil {
		return err
	}
	s.maps = append(s.maps, all)
	for p := range slices.Chunk(all, int(s.size)) {
		s.free = append(s.free, p)
	}
	slices.Reverse(s.free) // the one in front first: what is behind is perhaps never touched
	return nil
}

func (s *slabs[T]) put(p []T) {
	s.mu.Lock()
	s.free = append(s.free, p)
	s.mu.Unlock()
}

// drop unmaps a piece that was mapped alone, instead of keeping it.
func (s *slabs[T]) drop(p []T) { unmapSlice(p) }

// drain unmaps the pieces at rest. Those that were mapped together must all be at rest.
func (s *slabs[T]) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	back := s.free
	if s.atOnce > 0 {
		back = s.maps
	}
	for _, p := range back {
		unmapSlice(p)
	}
	s.free, s.maps = nil, nil
}

// region is memory that is taken front to back, up to a size that is known from the start. What was never taken costs
// address space only.
//
// It is not put into huge pages. Where a host gives a virtual machine its memory as it is used and takes back what is
// free, which it does in pieces of 2 MiB, each of them costs as much as 512 small pages that were never used (4.6 ms
// here): the first update of each block of a cold 4 TiB volume took 3.1 and 2.7 us with huge pages and 2.0 and 2.4 us
// without, in steady state there was no difference. Where the system gives them to everybody, what is dense gets
// them; not the beginning, or each of many small tables would take 2 MiB.
type region struct {
	mem  []byte
	used uint64
}

// smallPages is how much of each mapping with few entries stays in small pages in any case.
const smallPages = 4 << 20

func newRegion(size uint64) (*region, error) {
	mem, err := mapSlice[byte](size)
	if err != nil {
		return nil, err
	}
	keepSmall(mem[:min(size, smallPages)])
	return &region{mem: mem}, nil
}

// keepSmall has the kernel provide single pages in mem, which mapSlice has returned.
func keepSmall(mem []byte) {
	if len(mem) > smallBytes {
		_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // a kernel that knows no huge pages refuses, and is right
	}
}

// take returns the next n bytes, zeroed; there must be so many.
func (r *region) take(n uint64) []byte {
	p := r.mem[r.used : r.used+n]
	r.used += n
	return p
}

// left is how many bytes can still be taken.
func (r *region) left() uint64 { return uint64(len(r.mem)) - r.used }

func (r *region) close() {
	unmapSlice(r.mem)
	*r = region{}
}
