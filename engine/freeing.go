package engine

import "github.com/farside-storage/farside/alloc"

// freeingMost is how many blocks [freeing] keeps until it gives them back.
const freeingMost = 256

// freeing gives blocks back to the allocator, many at a time. Whoever adds flushes before anybody may rely on it.
type freeing struct {
	to     *alloc.Map
	blocks []uint64
}

func newFreeing(to *alloc.Map) freeing {
	return freeing{to, make([]uint64, 0, freeingMost)}
}

func (f *freeing) add(p PBlock) error {
	f.blocks = append(f.blocks, uint64(p))
	if len(f.blocks) < freeingMost {
		return nil
	}
	return f.flush()
}

func (f *freeing) flush() error {
	err := f.to.ReleaseEach(f.blocks)
	f.blocks = f.blocks[:0]
	return err
}
