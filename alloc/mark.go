package alloc

// MarkUsed sets the blocks first..first+n-1, while the map is built. The error is a [BlockError]: ErrUsed
// names a block that two pointers share, ErrRetired one that no pointer may name, ErrRange one that
// does not exist, ErrStarted a call that comes too late.
func (m *Map) MarkUsed(first, n uint64) error {
	if m.started.Load() {
		return &BlockError{Op: "mark", Block: first, Cause: ErrStarted}
	}
	if err := m.checkRange("mark", first, n); err != nil {
		return err
	}
	for w, mask := range spans(first, n) {
		m.touch(w)
		if err := m.markWord(w, mask); err != nil {
			return err
		}
	}
	return nil
}

// MarkUsedOne is MarkUsed of one block: one atomic operation.
func (m *Map) MarkUsedOne(b uint64) error {
	if m.started.Load() || b >= m.blocks {
		return m.MarkUsed(b, 1)
	}
	w, bit := b>>6, uint64(1)<<(b&63)
	m.touch(w)
	if m.used[w].Or(bit)&bit != 0 {
		return m.markedTwice(b)
	}
	return nil
}

func (m *Map) markWord(w, mask uint64) error {
	for {
		old := m.used[w].Load()
		mark := below(mask, old&mask)
		if !m.used[w].CompareAndSwap(old, old|mark) {
			continue
		}
		if taken := old & mask; taken != 0 {
			return m.markedTwice(firstBlock(w, taken))
		}
		return nil
	}
}

func (m *Map) markedTwice(b uint64) error {
	cause := ErrUsed
	if m.retiredIn(b>>6)&(1<<(b&63)) != 0 {
		cause = ErrRetired
	}
	return &BlockError{Op: "mark", Block: b, Cause: cause}
}

// Retire takes the blocks first..first+n-1 out of use for good: bad ones, and those that hold no
// data. They may be free, used, or retired before. The owner of a used one goes on using it and
// releases it as ever, without effect. A holder skips those it has not taken. The
// error is a [BlockError] with ErrRange, and nothing is done.
func (m *Map) Retire(first, n uint64) error {
	if err := m.checkRange("retire", first, n); err != nil {
		return err
	}
	if !m.started.Load() {
		m.starting.Lock() // so that Start counts all of the range, or nothing
		defer m.starting.Unlock()
	}
	t := tally{m: m}
	for w, mask := range spans(first, n) {
		m.touch(w)
		setPage(m.spoiled, w)
		// The order matters: see Map.retired.
		m.counts.retired.Add(int64(count(mask &^ m.retired[w].Or(mask))))
		t.add(w, int32(count(mask&^m.used[w].Or(mask))))
	}
	t.flush()
	return nil
}

// MarkUsedEach is [Map.MarkUsedOne] of each of bs, of which a few hundred at once are best: memory is asked for
// ahead, and blocks that follow each other are set at once. It returns how many of them, from the front, were set;
// all, if there is no error.
func (m *Map) MarkUsedEach(bs []uint64) (int, error) {
	if m.started.Load() {
		if len(bs) == 0 {
			return 0, nil
		}
		return 0, m.MarkUsed(bs[0], 1)
	}
	m.askFor(bs)
	for i := 0; i < len(bs); {
		b := bs[i]
		if b >= m.blocks {
			return i, m.MarkUsed(b, 1)
		}
		w, mask, n := b>>6, uint64(1)<<(b&63), 1
		for i+n < len(bs) && bs[i+n] == b+uint64(n) && bs[i+n]>>6 == w && bs[i+n] < m.blocks {
			mask |= 1 << (bs[i+n] & 63)
			n++
		}
		m.touch(w)
		if old := m.used[w].Load(); old&mask == 0 && m.used[w].CompareAndSwap(old, old|mask) {
			i += n
			continue
		}
		if err := m.MarkUsedOne(b); err != nil {
			return i, err
		}
		i++
	}
	return len(bs), nil
}

// askFor brings the words of bs into the processor's caches: loads do not wait for each other, as changes do.
func (m *Map) askFor(bs []uint64) {
	var sum uint64
	for _, b := range bs {
		if w := b >> 6; w < uint64(len(m.used)) {
			sum |= m.used[w].Load()
		}
	}
	_ = sum
}
