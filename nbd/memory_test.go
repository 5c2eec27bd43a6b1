package nbd

import "sync"

const memoryPage = 4096

// Memory is a sparse device in Go's memory, for tests and trials: every feature of the
// protocol, any alignment, nothing durable. Requests are finished inside Start.
type Memory struct {
	mu    sync.RWMutex
	info  Info
	pages []*[memoryPage]byte // nil reads as zeros, and is a hole
}

// NewMemory makes a device of size bytes that is all hole.
func NewMemory(size uint64) *Memory {
	return &Memory{
		info: Info{
			Size: size, FUA: true, Flush: true, Trim: true, WriteZeroes: true, FastZero: true,
			BlockStatus: true, MultiConn: true,
		},
		pages: make([]*[memoryPage]byte, (size+memoryPage-1)/memoryPage),
	}
}

// Info describes the device.
func (m *Memory) Info() Info {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.info
}

// SetInfo changes what clients are told from their next connection on. The size stays.
func (m *Memory) SetInfo(change func(*Info)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := m.info.Size
	change(&m.info)
	m.info.Size = size
}

// Start does all requests at once.
func (m *Memory) Start(batch []*Request) {
	for _, r := range batch {
		m.do(r)
		r.Finish(nil)
	}
}

func (m *Memory) do(r *Request) {
	switch r.Cmd {
	case CmdRead:
		m.mu.RLock()
		r.AllZero = !m.readAt(r.Data.Bytes(), r.Off)
		m.mu.RUnlock()
	case CmdWrite:
		m.mu.Lock()
		m.writeAt(r.Data.Bytes(), r.Off)
		m.mu.Unlock()
	case CmdTrim:
		m.mu.Lock()
		m.zero(r.Off, r.Len, false)
		m.mu.Unlock()
	case CmdWriteZeroes:
		m.mu.Lock()
		m.zero(r.Off, r.Len, r.NoHole)
		m.mu.Unlock()
	case CmdBlockStatus:
		m.mu.RLock()
		r.Status = m.status(r.Status[:0], r.Off, r.Len)
		m.mu.RUnlock()
	}
}

// eachPage calls f for the part of each page that a range touches.
func eachPage(off, length uint64, f func(page, from, to uint64)) {
	for end := off + length; off < end; {
		page := off / memoryPage
		from := off % memoryPage
		to := min(memoryPage, from+end-off)
		f(page, from, to)
		off += to - from
	}
}

// readAt fills p and says whether anything in the range is allocated.
func (m *Memory) readAt(p []byte, off uint64) (allocated bool) {
	eachPage(off, uint64(len(p)), func(page, from, to uint64) {
		if m.pages[page] == nil {
			clear(p[:to-from])
		} else {
			copy(p, m.pages[page][from:to])
			allocated = true
		}
		p = p[to-from:]
	})
	return allocated
}

func (m *Memory) writeAt(p []byte, off uint64) {
	eachPage(off, uint64(len(p)), func(page, from, to uint64) {
		if m.pages[page] == nil {
			m.pages[page] = new([memoryPage]byte)
		}
		copy(m.pages[page][from:to], p)
		p = p[to-from:]
	})
}

// zero makes a range read as zeros; with allocate it stays, or becomes, allocated.
func (m *Memory) zero(off, length uint64, allocate bool) {
	eachPage(off, length, func(page, from, to uint64) {
		switch {
		case m.pages[page] == nil && allocate:
			m.pages[page] = new([memoryPage]byte)
		case m.pages[page] == nil:
		case to-from == memoryPage && !allocate:
			m.pages[page] = nil
		default:
			clear(m.pages[page][from:to])
		}
	})
}

func (m *Memory) status(runs []Run, off, length uint64) []Run {
	eachPage(off, length, func(page, from, to uint64) {
		hole := m.pages[page] == nil
		if last := len(runs) - 1; last >= 0 && runs[last].Hole == hole {
			runs[last].Len += to - from
			return
		}
		runs = append(runs, Run{Len: to - from, Hole: hole, Zero: hole})
	})
	return runs
}
