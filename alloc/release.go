package alloc

import "runtime"

// Release makes the blocks first..first+n-1 free. Any goroutine may call it at any time. Blocks of a
// held extent are handed out from its next reservation on. Retired blocks stay retired. The error is a
// [BlockError]: ErrFree names a block that was free already, ErrRange one that does not exist.
func (m *Map) Release(first, n uint64) error {
	m.Start()
	if err := m.checkRange("release", first, n); err != nil {
		return err
	}
	t := tally{m: m}
	for w, mask := range spans(first, n) {
		freed, err := m.releaseWord(w, mask)
		t.add(w, -freed)
		if err != nil {
			t.flush()
			return err
		}
	}
	t.flush()
	return nil
}

// ReleaseOne is Release of one block.
func (m *Map) ReleaseOne(b uint64) error {
	m.Start()
	if b >= m.blocks {
		return m.checkRange("release", b, 1)
	}
	w := b >> 6
	freed, err := m.releaseWord(w, 1<<(b&63))
	if freed != 0 {
		m.count(m.extentOfWord(w), -freed)
	}
	return err
}

// ReleaseEach is Release of blocks that lie anywhere, in the order given, and costs less than a ReleaseOne of each:
// the words of all of them are fetched at once, and counters that all extents share are changed once.
func (m *Map) ReleaseEach(blocks []uint64) error {
	m.Start()
	t := total{m: m}
	defer t.flush()
	limit := m.blocks
	var near uint64
	for _, b := range blocks {
		if b >= limit {
			break // told below, when those before it are free
		}
		near |= m.used[b>>6].Load() // what is done to it below would wait for it, one block after the other
	}
	runtime.KeepAlive(near)
	for _, b := range blocks {
		if b >= limit {
			return m.checkRange("release", b, 1)
		}
		w := b >> 6
		freed, err := m.releaseWord(w, 1<<(b&63))
		if freed != 0 {
			t.add(m.extentOfWord(w), -freed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// releaseWord clears the bits of mask below the first one that is clear already, except retired ones, and
// says how many it cleared.
func (m *Map) releaseWord(w, mask uint64) (int32, error) {
	var free, clear uint64
	for {
		old := m.used[w].Load()
		free = mask &^ old
		clear = below(mask, free) &^ m.retiredIn(w)
		if m.used[w].CompareAndSwap(old, old&^clear) {
			break
		}
	}
	freed := int32(count(clear))
	if back := m.retiredIn(w) & clear; back != 0 { // retired meanwhile: see Map.retired
		freed -= int32(count(back &^ m.used[w].Or(back)))
	}
	if free != 0 {
		return freed, &BlockError{Op: "release", Block: firstBlock(w, free), Cause: ErrFree}
	}
	return freed, nil
}
