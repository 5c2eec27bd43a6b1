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

	commandCount = int(CmdBlockStatus) + 1
)

// String names the command as the NBD specification does.
func (c Command) String() string {
	names := [commandCount]string{"NONE", "READ", "WRITE", "FLUSH", "TRIM", "WRITE_ZEROES", "BLOCK_STATUS"}
	if int(c) < len(names) {
		return names[c]
	}
	return "UNKNOWN"
}

// Info describes an export to clients. It is asked for once per connection; what it says
// then holds until that connection ends.
type Info struct {
	// Size in bytes. What is beyond the last multiple of MinBlock is not served.
	Size uint64
	// MinBlock, PreferredBlock, MaxPayload in bytes (NBD_INFO_BLOCK_SIZE). Requests that are not
	// multiples of MinBlock are refused with EINVAL before the device sees them. MinBlock is a
	// power of two, at most 64 KiB. Zero means 1, 4096 and 32 MiB.
	MinBlock, PreferredBlock, MaxPayload uint32
	ReadOnly                             bool
	FUA                                  bool // writes with FUA are durable when answered
	Flush                                bool
	Trim                                 bool
	WriteZeroes                          bool
	// FastZero: WriteZeroes understands Request.FastZero.
	FastZero bool
	// BlockStatus: the device answers CmdBlockStatus ("base:allocation" is offered).
	BlockStatus bool
	// MultiConn: a flush on one connection covers writes answered on every connection.
	MultiConn bool
	// Rotational is a hint for the client's scheduler.
	Rotational bool
	// Description is shown by "nbdinfo --list".
	Description string
}

// Request is one request of a client, already checked against Info. The device owns it
// from Start until it calls Finish, and must not touch it afterwards: it is used again.
type Request struct {
	Cmd Command
	FUA bool // write, trim, write zeroes: durable before Finish
	// NoHole (write zeroes): keep the range allocated. FastZero: fail with
	// unix.EOPNOTSUPP (ENOTSUP) rather than write zeros slowly.
	NoHole, FastZero bool
	// One (block status): the client wants the first run only.
	One bool
	// Off and Len in bytes. Len is below 4 GiB, never 0 except for a flush.
	Off, Len uint64
	// Data is what a write stores or a read fills: Len bytes, aligned to 4096 in memory. Nil
	// for other commands. A device that needs a write's payload after Finish calls
	// Data.Retain before Finish, keeps the *Buffer, and calls its Release when done.
	Data *Buffer
	// AllZero (read) is set by a device that knows the whole range reads as zeros, instead of
	// filling Data. Clients with structured replies then get no payload.
	AllZero bool
	// Status (block status) is filled in by the device, by append to Status[:0]: consecutive
	// runs from Off on. They may end before Off+Len (but must not be empty), or beyond it.
	Status []Run

	owner  requestOwner // where the answer goes
	cookie uint64       // the client's name for the request
	err    error        // as given to Finish
	cost   int64        // bytes charged to the connection
	wire   uint16       // command number as received, also for what we do not know
	state  requestState
	encode []byte // encoded block status, kept for the next use
}

// requestState catches a request that is finished twice. It is written by whoever owns
// the request at that moment.
type requestState uint8

const (
	requestFree requestState = iota
	requestRunning
	requestFinished
)

// requestOwner is the connection, seen from a request.
type requestOwner interface{ finish(r *Request) }

// Run is a stretch of an export in one allocation state.
type Run struct {
	Len        uint64 // bytes
	Hole, Zero bool   // NBD_STATE_HOLE, NBD_STATE_ZERO
}

// Finish answers the request: exactly once, from any goroutine. A nil err is success; a
// unix.Errno inside err chooses NBD's error code (EIO otherwise). Finish does not block
// on the client. Finishing twice is a defect of the device and panics where it is seen.
func (r *Request) Finish(err error) {
	if r.state != requestRunning {
		panic("nbd: Finish of a request that is not running (" + r.Cmd.String() + ")")
	}
	r.state = requestFinished
	r.err = err
	r.owner.finish(r)
}

// NewRequest makes a request that belongs to no connection, for devices wrapped in other
// devices and for tests: done is called once, by Finish. A read or a write gets a Data of
// length bytes, released after done returned.
func NewRequest(cmd Command, off, length uint64, done func(*Request, error)) *Request {
	r := &Request{Cmd: cmd, Off: off, Len: length, owner: ownerFunc(done), state: requestRunning}
	if cmd == CmdRead || cmd == CmdWrite {
		r.Data = NewBuffer(int(length))
	}
	return r
}

// ownerFunc is the owner of a request that has no connection.
type ownerFunc func(*Request, error)

func (f ownerFunc) finish(r *Request) {
	data := r.Data
	f(r, r.err)
	if data != nil {
		data.Release()
	}
}

// Device is what an export serves. All methods may be called from several connections
// at once.
type Device interface {
	Info() Info
	// Start begins all requests of a batch and returns without waiting for them. Each one
	// ends by Finish, which may happen before Start returns. The slice itself is the
	// server's again when Start returns. Requests in flight at the same time have no order
	// among them, not within a batch either: a flush covers the writes that were finished
	// before it was started. Back-pressure is by not finishing: the server bounds what is
	// in flight per connection.
	Start(batch []*Request)
}

// Exports finds what a server serves.
type Exports interface {
	// Lookup returns the device of that export name ("" is the default export), or an
	// error whose text the client is shown. release is called when the connection ends;
	// it may be nil.
	Lookup(ctx context.Context, name string) (dev Device, release func(), err error)
	// List names the exports, for NBD_OPT_LIST.
	List() []string
}
