package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// receiveBytes is the size of a connection's read buffer. 64 writes of 4 KiB fit.
const receiveBytes = 272 << 10

// errDisconnect: the client said goodbye.
var errDisconnect = errors.New("client disconnected")

// receiver reads requests, refuses what is wrong, and hands the rest to the device: as many
// at a time as one read of the socket brought.
type receiver struct {
	nc       net.Conn
	exp      *export
	flight   *flight
	counters *counters

	buf        []byte
	start, end int        // what is read and not yet parsed
	batch      []*Request // parsed, not yet given to the device
}

// header is a request's header as received.
type header struct {
	flags, command uint16
	cookie, offset uint64
	length         uint32
}

func parseHeader(b []byte) (h header, err error) {
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return h, fmt.Errorf("request magic is %#x, want %#x", magic, magicRequest)
	}
	return header{
		flags:   binary.BigEndian.Uint16(b[4:]),
		command: binary.BigEndian.Uint16(b[6:]),
		cookie:  binary.BigEndian.Uint64(b[8:]),
		offset:  binary.BigEndian.Uint64(b[16:]),
		length:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// run reads until the client disconnects, breaks the protocol or the connection fails. All
// complete requests have been handed on when it returns.
func (r *receiver) run() error {
	memory := NewBuffer(receiveBytes)
	defer memory.Release()
	r.buf = memory.Bytes()
	defer r.startBatch()
	for {
		if err := r.fill(requestHeaderSize); err != nil {
			return err
		}
		h, err := parseHeader(r.buf[r.start:r.end])
		if err != nil {
			return err
		}
		r.start += requestHeaderSize
		if h.command == wireDisconnect {
			return errDisconnect
		}
		if err := r.request(h); err != nil {
			return err
		}
	}
}

// fill makes n bytes available in the buffer. The device gets its batch before the socket
// is waited for.
func (r *receiver) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	r.startBatch()
	r.end = copy(r.buf, r.buf[r.start:r.end])
	r.start = 0
	for r.end < n {
		got, err := r.nc.Read(r.buf[r.end:])
		r.end += got
		if err != nil && r.end < n {
			if r.end > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read request: %w", err)
		}
	}
	return nil
}

// request acts on one header and, for a write, its payload.
func (r *receiver) request(h header) error {
	cmd, refusal := r.exp.check(h)
	if refusal != nil || (h.length == 0 && cmd != CmdFlush) {
		return r.answerAtOnce(h, cmd, refusal)
	}
	req := r.admit(requestCost(cmd, h.length))
	req.describe(cmd, h)
	switch cmd {
	case CmdRead:
		req.Data = NewBuffer(int(h.length))
	case CmdWrite:
		req.Data = NewBuffer(int(h.length))
		if err := r.payload(req.Data.Bytes()); err != nil {
			r.flight.abandon(req)
			return err
		}
	case CmdFlush:
		req.Off, req.Len = 0, 0 // the client's fields are reserved
	}
	r.batch = append(r.batch, req)
	return nil
}

// describe fills in what the client asked for.
func (r *Request) describe(cmd Command, h header) {
	r.Cmd, r.Off, r.Len = cmd, h.offset, uint64(h.length)
	r.cookie, r.wire = h.cookie, h.command
	r.FUA = h.flags&cmdFlagFUA != 0
	r.NoHole = h.flags&cmdFlagNoHole != 0
	r.FastZero = h.flags&cmdFlagFastZero != 0
	r.One = h.flags&cmdFlagReqOne != 0
}

// requestCost is what a request is charged with, in bytes of memory.
func requestCost(cmd Command, length uint32) int64 {
	switch cmd {
	case CmdRead, CmdWrite:
		return int64(length)
	case CmdBlockStatus:
		return maxRuns * runSize
	}
	return 0
}

// admit gets a request, handing the batch on before it waits for room: what is to end must
// have been started.
func (r *receiver) admit(cost int64) *Request {
	if req := r.flight.admit(cost, false); req != nil {
		return req
	}
	r.startBatch()
	return r.flight.admit(cost, true)
}

// answerAtOnce answers a request that no device needs to see: refused, or of no length.
func (r *receiver) answerAtOnce(h header, cmd Command, refusal *requestError) error {
	if h.command == wireWrite {
		if err := r.skip(int64(h.length)); err != nil {
			return err
		}
	}
	req := r.admit(0)
	req.describe(cmd, h)
	if refusal == nil {
		req.Finish(nil)
		return nil
	}
	r.counters.refusedRequests.Add(1)
	req.Finish(refusal)
	return nil
}

// payload reads a write's data: what is buffered is copied, the rest is read in place.
func (r *receiver) payload(p []byte) error {
	got := copy(p, r.buf[r.start:r.end])
	r.start += got
	if got == len(p) {
		return nil
	}
	r.startBatch()
	if _, err := io.ReadFull(r.nc, p[got:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read payload of %d bytes: %w", len(p), err)
	}
	return nil
}

// skip reads over the payload of a refused write.
func (r *receiver) skip(n int64) error {
	buffered := min(n, int64(r.end-r.start))
	r.start += int(buffered)
	n -= buffered
	if n == 0 {
		return nil
	}
	r.startBatch()
	r.start, r.end = 0, 0
	for n > 0 {
		got, err := r.nc.Read(r.buf[:min(n, int64(len(r.buf)))])
		n -= int64(got)
		if err != nil && n > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("skip payload of a refused write: %w", err)
		}
	}
	return nil
}

// startBatch hands what was parsed to the device.
func (r *receiver) startBatch() {
	if len(r.batch) == 0 {
		return
	}
	r.counters.countBatch(r.batch)
	r.flight.cork()
	r.exp.dev.Start(r.batch)
	r.flight.uncork()
	clear(r.batch)
	r.batch = r.batch[:0]
}
