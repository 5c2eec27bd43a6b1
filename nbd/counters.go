package nbd

import "sync/atomic"

// Counters are totals since the server was made, except Clients.
type Counters struct {
	Clients            int    // connected now
	Connections        uint64 // accepted
	Refused            uint64 // closed at once, because of MaxConnections
	NegotiationsFailed uint64 // ended before the transmission phase
	Requests           [commandCount]uint64
	RefusedRequests    uint64 // answered with an error before a device saw them
	FailedRequests     uint64 // answered with an error that a device gave
	BytesRead          uint64 // payload of reads that a device was asked for
	BytesWritten       uint64 // payload of writes that a device was asked for
}

// counters are added to once per batch, not once per request.
type counters struct {
	connections, refused, negotiationsFailed atomic.Uint64
	requests                                 [commandCount]atomic.Uint64
	refusedRequests, failedRequests          atomic.Uint64
	bytesRead, bytesWritten                  atomic.Uint64
}

// Counters returns the present values.
func (s *Server) Counters() Counters {
	s.mu.Lock()
	clients := len(s.conns)
	s.mu.Unlock()
	c := &s.counters
	out := Counters{
		Clients:            clients,
		Connections:        c.connections.Load(),
		Refused:            c.refused.Load(),
		NegotiationsFailed: c.negotiationsFailed.Load(),
		RefusedRequests:    c.refusedRequests.Load(),
		FailedRequests:     c.failedRequests.Load(),
		BytesRead:          c.bytesRead.Load(),
		BytesWritten:       c.bytesWritten.Load(),
	}
	for i := range out.Requests {
		out.Requests[i] = c.requests[i].Load()
	}
	return out
}

// countBatch adds a batch that goes to a device.
func (c *counters) countBatch(batch []*Request) {
	var n [commandCount]uint64
	var read, written uint64
	for _, r := range batch {
		n[r.Cmd]++
		switch r.Cmd {
		case CmdRead:
			read += r.Len
		case CmdWrite:
			written += r.Len
		}
	}
	for i, v := range n {
		if v > 0 {
			c.requests[i].Add(v)
		}
	}
	if read > 0 {
		c.bytesRead.Add(read)
	}
	if written > 0 {
		c.bytesWritten.Add(written)
	}
}
