package alloc

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pageBytes is the step in which memory is touched; pageBlocks is what one page of a
// block bitmap covers.
const (
	pageBytes  = 4096
	pageBlocks = pageBytes * 8
	pageWords  = pageBytes / 8
)

// arena hands out zeroed arrays from one anonymous mapping outside Go's heap: what is never
// touched costs nothing, and the garbage collector does not know of it. With mem nil it
// only adds up sizes.
type arena struct {
	mem []byte
	off int
}

func (a *arena) take(bytes int) unsafe.Pointer {
	at := a.off
	a.off += (bytes + pageBytes - 1) &^ (pageBytes - 1)
	if a.mem == nil {
		return nil
	}
	return unsafe.Pointer(&a.mem[at])
}

func (a *arena) words64(n uint64) []atomic.Uint64 {
	p := a.take(int(n) * 8)
	if p == nil {
		return nil
	}
	return unsafe.Slice((*atomic.Uint64)(p), n)
}

func (a *arena) words32(n uint64) []atomic.Uint32 {
	p := a.take(int(n) * 4)
	if p == nil {
		return nil
	}
	return unsafe.Slice((*atomic.Uint32)(p), n)
}

func mapMemory(bytes int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("alloc: map %d bytes for the block bitmap: %w "+
			"(check the limit on address space and vm.overcommit_memory)", bytes, err)
	}
	return mem, nil
}

// heapMemory is used by tests, because the race detector sees only Go's heap.
func heapMemory(bytes int) []byte {
	words := make([]uint64, (bytes+pageBytes)/8)
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	return mem[:bytes]
}
