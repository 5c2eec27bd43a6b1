package alloc

// Start counts what was marked and retired, and ends the building of the map. Other calls do it by
// themselves; calling it apart only says when the time is spent.
func (m *Map) Start() {
	if !m.started.Load() {
		m.start()
	}
}

func (m *Map) start() {
	m.starting.Lock()
	defer m.starting.Unlock()
	if m.started.Load() {
		return
	}
	blocks := m.blocks
	extents := m.extentsOf(blocks)
	m.hints[0].fill(extents)
	m.counts.empty.Store(int64(extents))
	m.countWords()
	m.countExtents()
	m.counts.addUsed(0, -int64(extents<<m.extentShift-blocks))
	m.started.Store(true)
}

func (m *Map) countWords() {
	chunk := min(uint64(m.extentBlocks)/64, pageWords) // lies in one extent and one page
	for w := m.nextTouched(0); w < uint64(len(m.used)); {
		n := uint32(0)
		for i := range m.used[w : w+chunk] {
			n += count(m.used[w+uint64(i)].Load())
		}
		m.words[m.extentOfWord(w)].Add(n)
		if w += chunk; w%pageWords == 0 {
			w = m.nextTouched(w)
		}
	}
}

func (m *Map) countExtents() {
	step := uint64(m.extentBlocks) / 64
	for w := m.nextTouched(0); w < uint64(len(m.used)); w = m.nextTouched(w) {
		e := m.extentOfWord(w)
		if n := m.words[e].Load(); n != 0 {
			m.counts.addUsed(e, int64(n))
			m.moved(e, 0, n)
		}
		w = (e + 1) * step
	}
}

// nextTouched skips pages of the bitmap that nobody touched. It returns w if its page was.
func (m *Map) nextTouched(w uint64) uint64 {
	for w < uint64(len(m.used)) && !hasPage(m.touched, w) {
		w = (w/pageWords + 1) * pageWords
	}
	return w
}
