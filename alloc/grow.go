package alloc

import "fmt"

// Grow makes the pool larger, up to Options.Capacity, while it is in use. The new blocks are free.
func (m *Map) Grow(blocks uint64) error {
	m.Start()
	m.growing.Lock()
	defer m.growing.Unlock()
	old := m.blocks.Load()
	if blocks < old || blocks > m.capacity {
		return fmt.Errorf("alloc: grow from %d to %d blocks: want at least as many, and at most the capacity of %d",
			old, blocks, m.capacity)
	}
	from, to := m.extentsOf(old), m.extentsOf(blocks)
	end := from << m.extentShift // the bits old..end-1 are set though nothing is there
	past := uint32(0)
	if to > from {
		past = m.blockOut(blocks)
		m.words[to-1].Store(past)
	}
	m.blocks.Store(blocks)
	for e := from; e < to; e++ {
		word := uint32(0)
		if e == to-1 {
			word = past
		}
		m.appear(e, word)
	}
	return m.open(old, min(blocks, end)-old)
}

// appear publishes an extent whose word began as given. Others may have changed it since; they
// account for that themselves, and at worst the hint set here is stale.
func (m *Map) appear(e uint64, word uint32) {
	m.counts.empty.Add(is(word == 0))
	m.begun.Add(1)
	m.hints[m.classOf(word)].set(e)
	m.ended.Add(1)
}

// open frees blocks of the last extent that were set because they did not exist.
func (m *Map) open(first, n uint64) error {
	if n == 0 {
		return nil
	}
	if err := m.Release(first, n); err != nil {
		return err
	}
	m.counts.addUsed(first>>m.extentShift, int64(n)) // they never counted as used
	return nil
}
