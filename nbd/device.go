package nbd

import "context"

// Command is what a request asks for.
type Command uint8

const (
	CmdRead Command = iota + 1
	CmdWrite
	CmdFlush
	CmdTrim
	CmdWriteZeroes
	CmdBlockStatus
)

// Info describes an export to clients.
type Info struct {
	// Size in bytes.
	Size uint64
	// MinBlock, PreferredBlock, MaxPayload in bytes (NBD_INFO_BLOCK_SIZE). Requests that are not
	// multiples of MinBlock are refused with EINVAL before the device sees them.
	MinBlock, PreferredBlock, MaxPayload uint32
	ReadOnly                             bool
	FUA                                  bool // writes with FUA are durable when answered
	Flush                                bool
	Trim                                 bool
	WriteZeroes                          bool
	// MultiConn: a flush on one connection covers writes answered on every connection.
	MultiConn bool
	// Rotational is a hint for the client's scheduler.
	Rotational bool
	// Description is shown by "nbdinfo --list".
	Description string
}

// Request is one request of a client, already checked against Info. The device owns it
// from Start until it calls Finish.
type Request struct {
	Cmd Command
	FUA bool // write, trim, write zeroes: durable before Finish
	// NoHole (write zeroes): keep the range allocated. FastZero: fail with
	// unix.EOPNOTSUPP (ENOTSUP) rather than write zeros slowly.
	NoHole, FastZero bool
	// Off and Len in bytes.
	Off, Len uint64
	// Buf is what a write stores or a read fills: Len bytes, aligned to 4096 in memory. Nil otherwise.
	// A device that needs the buffer after Finish calls Keep before it.
	Buf []byte
	// Status (CmdBlockStatus) is filled in by the device: consecutive runs from Off on.
	Status []Run

	conn requestOwner // where the answer goes
}

// requestOwner is the connection, seen from a request.
type requestOwner interface{ finish(r *Request, err error) }

// Run is a stretch of an export in one allocation state.
type Run struct {
	Len        uint64 // bytes
	Hole, Zero bool   // NBD_STATE_HOLE, NBD_STATE_ZERO
}

// Finish answers the request: exactly once, from any goroutine. A nil err is success; a
// unix.Errno inside err chooses NBD's error code (EIO otherwise).
func (r *Request) Finish(err error) { r.conn.finish(r, err) }

// Device is what an export serves. All methods may be called from several connections
// at once.
type Device interface {
	Info() Info
	// Start begins all requests of a batch and returns without waiting for them. Each one
	// ends by Finish. Back-pressure is by not finishing: the server bounds what is in
	// flight per connection.
	Start(batch []*Request)
}

// Exports finds what a server serves.
type Exports interface {
	// Lookup returns the device of that export name ("" is the default export), or an
	// error whose text the client is shown. release is called when the connection ends.
	Lookup(ctx context.Context, name string) (dev Device, release func(), err error)
	// List names the exports, for NBD_OPT_LIST.
	List() []string
}
