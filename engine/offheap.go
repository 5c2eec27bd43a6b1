package engine

import (
	"fmt"
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
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for a table: %w", size, err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n), nil
}

// unmapSlice gives back what mapSlice returned, whole. Memory that is not unmapped is spoiled: whoever still uses it shall
// not go unnoticed.
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
	if err := unix.Munmap(mem); err != nil {
		panic(fmt.Sprintf("engine: munmap of a table of %d bytes: %v", size, err))
	}
}

// slabs recycles equal pieces of off-heap memory: first touch of a fresh page costs more than
// everything else that is done to an update. Safe from any goroutine; taken once per thousands of updates.
type slabs[T any] struct {
	size uint64 // elements per piece

	mu   sync.Mutex
	free [][]T
	all  int
}

// get returns a piece with unspecified contents.
func (s *slabs[T]) get() ([]T, error) {
	s.mu.Lock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		s.mu.Unlock()
		return p, nil
	}
	s.all++
	s.mu.Unlock()
	return mapSlice[T](s.size)
}

func (s *slabs[T]) put(p []T) {
	s.mu.Lock()
	s.free = append(s.free, p)
	s.mu.Unlock()
}

// drop unmaps a piece instead of keeping it.
func (s *slabs[T]) drop(p []T) {
	s.mu.Lock()
	s.all--
	s.mu.Unlock()
	unmapSlice(p)
}

// drain unmaps the pieces at rest.
func (s *slabs[T]) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.free {
		unmapSlice(p)
	}
	s.free = nil
}

// hugeBytes is the size of a huge page where this runs; elsewhere it only says how memory is asked for.
const hugeBytes = 2 << 20

// region is memory that is taken front to back, up to a size that is known from the start; untouched parts cost address space only.
//
// What is in use is dense, so that from hugeBytes on it is in huge pages, whatever the system would do by itself: the kernel then
// clears 2 MiB at once, at a seventh of the price of single pages, and lookups miss the TLB less. A small region stays in
// small pages, and its end too: it never takes more than twice what is used, or than its size.
type region struct {
	all  []byte // as mapped
	mem  []byte // of it, from a multiple of hugeBytes on
	used uint64
	huge uint64 // from hugeBytes on, up to here, huge pages were asked for
}

func newRegion(size uint64) (*region, error) {
	if size <= hugeBytes {
		all, err := mapSlice[byte](size)
		return &region{all: all, mem: all, huge: size}, err
	}
	all, err := mapSlice[byte](size + hugeBytes)
	if err != nil {
		return nil, err
	}
	// Where the kernel gives huge pages to everybody, a table with few entries would take 2 MiB for its first ones. An old kernel
	// that knows none refuses, and is right.
	_ = unix.Madvise(all, unix.MADV_NOHUGEPAGE)
	skip := -uint64(uintptr(unsafe.Pointer(&all[0]))) % hugeBytes
	return &region{all: all, mem: all[skip : skip+size], huge: hugeBytes}, nil
}

// take returns the next n bytes, zeroed; there must be so many.
func (r *region) take(n uint64) []byte {
	p := r.mem[r.used : r.used+n]
	r.used += n
	for r.used > r.huge && r.huge+hugeBytes <= uint64(len(r.mem)) {
		_ = unix.Madvise(r.mem[r.huge:r.huge+hugeBytes], unix.MADV_HUGEPAGE) // without them it is only slower
		r.huge += hugeBytes
	}
	return p
}

// left is how many bytes can still be taken.
func (r *region) left() uint64 { return uint64(len(r.mem)) - r.used }

func (r *region) close() {
	unmapSlice(r.all)
	*r = region{}
}
