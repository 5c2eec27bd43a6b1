package ring

// Op is what a request asks of a device.
type Op uint8

const (
	// OpRead fills Buf from Off.
	OpRead Op = iota + 1
	// OpWrite stores Buf at Off; volatile until a flush, unless FUA is set.
	OpWrite
	// OpFlush makes every write durable that completed before the flush was submitted.
	OpFlush
	// OpDiscard tells the device that Len bytes at Off are not needed; their contents are
	// unspecified afterwards. Where [DeviceInfo].Discard is false it fails, with an error that is
	// [errors.ErrUnsupported].
	OpDiscard
	// OpWriteZeroes makes Len bytes at Off read as zeros; volatile until a flush. It works on every
	// device: where the device has no such command, zeros are written.
	OpWriteZeroes
	// OpForget gives the device up: the queue has no part in it any more, which lets it be closed ([DeviceCloser])
	// before the queue is. No other request for the device may be in flight, or follow.
	OpForget
)

// Request is one device operation. It is passed by value, so that pushing allocates nothing.
type Request struct {
	Op Op
	// FUA (writes only): complete when the data is durable, not merely accepted.
	FUA bool
	// Device is an index into [Devices.Info].
	Device int
	// Off is the byte offset on the device.
	Off int64
	// Buf is the memory of a read or a write: sector aligned in address and length.
	Buf []byte
	// Len is the byte length of a discard or write-zeroes.
	Len int64
	// Tag comes back in the completion.
	Tag uint64
}

// Completion ends one request.
type Completion struct {
	Tag uint64
	// Err is nil only if the whole request was done: a short read or write that
	// cannot be continued is an error ([ErrShort]). It wraps the errno and names the device,
	// operation and offset (see [Error]).
	Err error
}

// Queue is a submission and a completion queue over a set of devices.
//
// It belongs to the goroutine that opened it, which stays locked to its thread until
// Close. Only Wake may be called by others.
type Queue interface {
	// Push adds r to the next batch. False: the queue holds depth requests already;
	// submit and reap first.
	Push(r Request) bool
	// Submit hands all pushed requests to the devices in as few system calls as possible.
	Submit() error
	// Reap submits what is still unsubmitted, then stores up to len(out) completions and
	// returns how many. It blocks until at least min are there, or until Wake. With min 0
	// it never blocks. min may not exceed the number of requests in flight, except
	// that with nothing in flight min 1 means "sleep until Wake".
	Reap(out []Completion, min int) (int, error)
	// Depth is the largest number of requests in flight.
	Depth() int
	// InFlight counts requests pushed and not yet reaped.
	InFlight() int
	// Wake makes a Reap that blocks now, or the next one that would, return early, perhaps with no
	// completion. Safe from any goroutine, before and during Close.
	Wake()
	// Close waits for requests in flight and frees the queue.
	Close() error
}

// QueueOptions sizes a queue.
type QueueOptions struct {
	// Depth is the largest number of requests in flight: a power of two; 0 means 128.
	Depth int
	// Arenas are registered with the kernel where it can: a request whose Buf lies in one
	// of them costs no page pinning. They must outlive the queue. Registering pins (and so
	// touches) all of an arena's memory.
	Arenas []*Arena
	// Unwoken says that Wake need not interrupt a Reap that waits for several completions: Wake is called only to
	// close the queue, or what it announces may wait that long. Such a Reap then sleeps once, where the kernel can do
	// that, instead of once per completion.
	Unwoken bool
	// Notice, if set, is called by NewQueue with a sentence about each thing that works less well than it could, such
	// as registered buffers that the kernel refused.
	Notice func(string)
}

// DeviceInfo says what a device is.
type DeviceInfo struct {
	Path string
	// Size in bytes.
	Size int64
	// SectorSize is the logical sector size in bytes: 512 or 4096.
	SectorSize int
	// Direct: opened with O_DIRECT (or simulated as if).
	Direct bool
	// Block: a block device, not a regular file.
	Block bool
	// ReadOnly: opened without the right to write.
	ReadOnly bool
	// Kind says which implementation serves the device: Uring, Plain or Simulated.
	Kind Kind
	// Notice is a sentence for the operator about a fall-back that was taken when the device was
	// opened, with its reason; empty if there was none.
	Notice string
	// Discard, WriteZeroes: the device can do these without being written to.
	Discard, WriteZeroes bool
}

// Devices is a fixed set of opened devices, from which any number of queues can be
// opened. Safe for use from any goroutine.
type Devices interface {
	Info() []DeviceInfo
	// NewQueue opens a queue that belongs to the calling goroutine.
	NewQueue(QueueOptions) (Queue, error)
	// Close closes the devices; all queues must have been closed before.
	Close() error
}

// DeviceCloser is implemented by [Devices] of which one can be closed before the others, as those that Open gives can.
type DeviceCloser interface {
	// CloseDevice closes one device. Every queue must have forgotten it before ([OpForget]); others go on. The kernel
	// may take a moment longer to let go of it. A second call changes nothing.
	CloseDevice(device int) error
}
