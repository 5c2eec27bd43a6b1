package nbd

import (
	"encoding/binary"
	"fmt"
	"net"
)

const (
	sendBytes = 1 << 20 // one writev ends with the answer that reaches this
	maxText   = 512     // bytes of an error's text shown to a client

	runSize = 8    // bytes of a run in a block status answer
	maxRuns = 8192 // runs in one block status answer
)

// sender answers finished requests: all there are, in one system call.
type sender struct {
	exp      *export
	flight   *flight
	counters *counters
	out      gatherer
	fail     func(error) // told once, when answers can no longer be sent

	head  []byte   // headers of the answers being put together
	plain int      // where in head the part begins that is not in parts yet
	parts [][]byte // what is sent, in order
	size  int      // bytes in parts, and in head from plain on
}

// run sends until everything admitted is answered and the receiver has ended.
func (s *sender) run() {
	var spare []*Request
	broken := false
	for {
		batch := s.flight.take(spare)
		if batch == nil {
			return
		}
		spare = batch
		for len(batch) > 0 {
			n := s.gather(batch)
			if !broken {
				if err := s.out.write(s.parts); err != nil {
					broken = true
					s.fail(fmt.Errorf("send answers: %w", err))
				}
			}
			s.flight.recycle(batch[:n])
			batch = batch[n:]
		}
		clear(spare)
	}
}

// gather puts answers together until there is enough for one system call, and returns how
// many.
func (s *sender) gather(batch []*Request) int {
	clear(s.parts)
	s.head, s.parts, s.plain, s.size = s.head[:0], s.parts[:0], 0, 0
	n := 0
	for n < len(batch) && s.size < sendBytes {
		s.answer(batch[n])
		n++
	}
	s.endHead()
	return n
}

// data adds a payload, after the headers so far.
func (s *sender) data(p []byte) {
	s.endHead()
	s.parts = append(s.parts, p)
	s.size += len(p)
}

// endHead moves the headers since the last payload to parts. A later append may move head
// elsewhere in memory; what parts refer to stays as it is.
func (s *sender) endHead() {
	if s.plain < len(s.head) {
		s.parts = append(s.parts, s.head[s.plain:])
		s.size += len(s.head) - s.plain
		s.plain = len(s.head)
	}
}

func (s *sender) answer(r *Request) {
	if r.err == nil && r.Cmd == CmdBlockStatus {
		r.encodeStatus()
	}
	switch {
	case r.err != nil:
		s.failure(r)
	case r.Cmd == CmdRead && s.exp.structured:
		s.structuredRead(r)
	case r.Cmd == CmdRead:
		s.simple(r.cookie, 0)
		if r.Data != nil {
			if r.AllZero {
				clear(r.Data.Bytes())
			}
			s.data(r.Data.Bytes())
		}
	case r.Cmd == CmdBlockStatus:
		s.chunk(r.cookie, chunkBlockStatus, 4+len(r.encode))
		s.head = binary.BigEndian.AppendUint32(s.head, contextAllocationID)
		s.data(r.encode)
	default:
		s.simple(r.cookie, 0)
	}
}

func (s *sender) simple(cookie uint64, code uint32) {
	s.head = binary.BigEndian.AppendUint32(s.head, magicSimpleReply)
	s.head = binary.BigEndian.AppendUint32(s.head, code)
	s.head = binary.BigEndian.AppendUint64(s.head, cookie)
}

// chunk begins the only, and so last, chunk of a structured reply.
func (s *sender) chunk(cookie uint64, kind uint16, length int) {
	s.head = binary.BigEndian.AppendUint32(s.head, magicStructuredReply)
	s.head = binary.BigEndian.AppendUint16(s.head, chunkDone)
	s.head = binary.BigEndian.AppendUint16(s.head, kind)
	s.head = binary.BigEndian.AppendUint64(s.head, cookie)
	s.head = binary.BigEndian.AppendUint32(s.head, uint32(length))
}

func (s *sender) structuredRead(r *Request) {
	switch {
	case r.Data == nil:
		s.chunk(r.cookie, chunkNone, 0)
	case r.AllZero:
		s.chunk(r.cookie, chunkOffsetHole, 12)
		s.head = binary.BigEndian.AppendUint64(s.head, r.Off)
		s.head = binary.BigEndian.AppendUint32(s.head, uint32(r.Len))
	default:
		s.chunk(r.cookie, chunkOffsetData, 8+int(r.Len))
		s.head = binary.BigEndian.AppendUint64(s.head, r.Off)
		s.data(r.Data.Bytes())
	}
}

// failure answers with an error; clients with structured replies get its text too.
func (s *sender) failure(r *Request) {
	if _, ours := r.err.(*requestError); !ours {
		s.counters.failedRequests.Add(1)
	}
	code := errorCode(r.err)
	if !s.exp.structured {
		s.simple(r.cookie, code)
		return
	}
	text := truncateText(r.err.Error(), maxText)
	s.chunk(r.cookie, chunkError, 6+len(text))
	s.head = binary.BigEndian.AppendUint32(s.head, code)
	s.head = binary.BigEndian.AppendUint16(s.head, uint16(len(text)))
	s.head = append(s.head, text...)
}

// encodeStatus encodes what the device said of a range: neighbours in the same state as one,
// cut at the end of the range. It sets r.err if nothing is left to say.
func (r *Request) encodeStatus() {
	left, last := r.Len, uint32(0)
	r.encode = r.encode[:0]
	for _, run := range r.Status {
		n := min(run.Len, left)
		state := run.state()
		switch end := len(r.encode); {
		case n == 0:
			continue
		case end > 0 && state == last:
			length := r.encode[end-runSize:]
			binary.BigEndian.PutUint32(length, binary.BigEndian.Uint32(length)+uint32(n))
		case end == maxRuns*runSize || (r.One && end > 0):
			return
		default:
			r.encode = binary.BigEndian.AppendUint32(r.encode, uint32(n))
			r.encode = binary.BigEndian.AppendUint32(r.encode, state)
		}
		left, last = left-n, state
	}
	if len(r.encode) == 0 {
		r.err = errNoRuns
	}
}

func (r Run) state() (state uint32) {
	if r.Hole {
		state |= stateHole
	}
	if r.Zero {
		state |= stateZero
	}
	return state
}

// gatherer sends many pieces of memory as one stream. It may change parts, not what they
// refer to.
type gatherer interface{ write(parts [][]byte) error }

func newGatherer(nc net.Conn) gatherer {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return &vectorWriter{nc: nc}
	}
	return &stagedWriter{nc: nc, stage: make([]byte, 0, 64<<10)}
}

// vectorWriter uses writev.
type vectorWriter struct {
	nc   net.Conn
	bufs net.Buffers // a field, because WriteTo would move a local one to the heap
}

func (w *vectorWriter) write(parts [][]byte) error {
	w.bufs = parts
	_, err := w.bufs.WriteTo(w.nc)
	w.bufs = nil
	return err
}

// stagedWriter copies small pieces together for connections that have no writev (TLS),
// so that each answer does not become a record of its own.
type stagedWriter struct {
	nc    net.Conn
	stage []byte
}

func (w *stagedWriter) write(parts [][]byte) error {
	for _, p := range parts {
		for len(p) > 0 {
			n := min(len(p), cap(w.stage)-len(w.stage))
			w.stage = append(w.stage, p[:n]...)
			p = p[n:]
			if len(w.stage) == cap(w.stage) {
				if err := w.flush(); err != nil {
					return err
				}
			}
		}
	}
	return w.flush()
}

func (w *stagedWriter) flush() error {
	if len(w.stage) == 0 {
		return nil
	}
	_, err := w.nc.Write(w.stage)
	w.stage = w.stage[:0]
	return err
}
