package ring

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Arena is page-aligned memory outside Go's heap for device I/O: the collector neither scans
// nor moves it, and a queue can register it with the kernel.
type Arena struct{ mem []byte }

// NewArena maps size bytes, a multiple of 4096.
func NewArena(size int) (*Arena, error) {
	if size <= 0 || size%4096 != 0 {
		return nil, fmt.Errorf("arena of %d bytes: want a positive multiple of 4096", size)
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map arena of %d bytes: %w", size, err)
	}
	return &Arena{mem: mem}, nil
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
	return unix.Munmap(mem)
}
