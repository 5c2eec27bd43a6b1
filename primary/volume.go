package primary

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/farside-storage/farside/ring"
)

// Kind is what a Request asks for.
type Kind uint8

const (
	Read Kind = iota + 1
	Write
	// Flush makes durable what was answered before it was started.
	Flush
	// Trim makes whole blocks read as zeros; parts of blocks are left alone.
	Trim
	WriteZeroes
)

// Request is one host request, from Volume.Start to its Done. It may be reused afterwards for the
// same node, which then allocates nothing.
type Request struct {
	Kind Kind
	FUA  bool // writes of any kind: durable when done
	// Off and Len in bytes.
	Off, Len uint64
	// Data of a write, or memory for a read: Bytes holds at least Len bytes. Reads and writes whose
	// Off, Len and memory are multiples of 4096 are done without a copy. The node retains the
	// memory of a write as long as a connection needs it; it must not change any more until it is reused
	// after its last Release.
	Data Payload
	// Done is called once, from any goroutine. It must not block; it may call Start.
	Done func(r *Request, err error)
	// Owner is the caller's.
	Owner any

	volume *Volume
	io     IO        // writes
	call   ring.Call // reads and flushes
	bounce Payload   // of a read that is not aligned
	single [1]*ring.Call
}

func (r *Request) finish(err error) {
	r.io.Payload = nil
	r.Done(r, err)
}

// Volume is a volume that hosts write.
type Volume struct {
	node        *Node
	index       int
	worker      *ring.Worker
	device      int // of the worker's
	group, name string
	size        uint64
	info        ring.DeviceInfo
	left        atomic.Bool // takes no requests any more
	release     func()      // called when nothing uses the device any more; nil: it is the node's
	closing     sync.Once

	// reading counts reads and flushes in progress, which the core does not know of. Who ends the last one of a
	// volume that has left tells unread.
	reading atomic.Int64
	unread  chan struct{} // room for one
}

// Group is the name of the volume's group.
func (v *Volume) Group() string { return v.group }

// Name is the volume's name.
func (v *Volume) Name() string { return v.name }

// Size is the volume's size in bytes.
func (v *Volume) Size() uint64 { return v.size }

// Start begins all requests of a batch and returns without waiting for them. Nothing is
// promised about the order of requests that are in progress at once, but that of writes that overlap.
func (v *Volume) Start(batch []*Request) {
	writes := false
	for _, r := range batch {
		r.volume = v
		switch r.Kind {
		case Read, Flush:
			v.direct(r)
		default:
			writes = true
		}
	}
	if writes {
		v.startWrites(batch)
	}
}

func (v *Volume) startWrites(batch []*Request) {
	n := v.node
	b := n.enter()
	closed := n.closing
	for _, r := range batch {
		if closed || r.Kind == Read || r.Kind == Flush {
			continue
		}
		io := &r.io
		io.Op, io.FUA, io.Volume, io.Off, io.Len, io.Payload, io.Owner = r.op(), r.FUA, v.index, r.Off, r.Len, r.Data, r
		n.busy++
		n.core.Submit(io)
	}
	n.leave(b)
	if closed {
		for _, r := range batch {
			if r.Kind != Read && r.Kind != Flush {
				r.Done(r, ErrClosed)
			}
		}
	}
}

func (r *Request) op() Op {
	switch r.Kind {
	case Write:
		return OpWrite
	case WriteZeroes:
		return OpWriteZeroes
	case Trim:
		return OpTrim
	}
	return 0 // the core refuses it
}

// direct starts a request that replication has no part in.
func (v *Volume) direct(r *Request) {
	v.reading.Add(1) // before left is looked at: whoever sets that waits for those that did not see it
	if v.left.Load() {
		v.endRead()
		r.Done(r, fmt.Errorf("volume %q of group %q has left: %w", v.name, v.group, ErrNoVolume))
		return
	}
	if r.Kind == Read && (r.Off > v.size || r.Len > v.size-r.Off) {
		v.endRead()
		r.Done(r, fmt.Errorf("volume %q: read of %d bytes at %d ends past its size of %d", v.name, r.Len, r.Off, v.size))
		return
	}
	if r.Kind == Read && r.Len == 0 {
		v.endRead()
		r.Done(r, nil)
		return
	}
	if r.call.Done == nil {
		r.call.Done = func(*ring.Call) { r.directDone() }
	}
	r.call.Request = ring.Request{Op: ring.OpFlush, Device: v.device}
	if r.Kind == Read {
		off, buf := v.readInto(r)
		r.call.Request = ring.Request{Op: ring.OpRead, Device: v.device, Off: int64(off), Buf: buf}
	}
	r.single[0] = &r.call
	v.worker.Go(r.single[:]...)
}

// endRead ends what direct began.
func (v *Volume) endRead() {
	if v.reading.Add(-1) == 0 && v.left.Load() {
		signal(v.unread)
	}
}

// readInto gives the memory to read into: the request's own if it is aligned.
func (v *Volume) readInto(r *Request) (off uint64, buf []byte) {
	buf = r.Data.Bytes()[:r.Len]
	if (r.Off|r.Len)%BlockSize == 0 && uintptr(unsafe.Pointer(&buf[0]))%BlockSize == 0 {
		return r.Off, buf
	}
	off = r.Off / BlockSize * BlockSize
	length := (r.Off+r.Len+BlockSize-1)/BlockSize*BlockSize - off
	r.bounce = v.node.memory.get(int(length))
	return off, r.bounce.Bytes()[:length]
}

func (r *Request) directDone() {
	if r.bounce != nil {
		if r.call.Err == nil {
			copy(r.Data.Bytes()[:r.Len], r.bounce.Bytes()[r.Off%BlockSize:])
		}
		r.bounce.Release()
		r.bounce = nil
	}
	r.call.Buf = nil
	r.volume.endRead()
	if r.Kind == Flush && r.call.Err != nil {
		n := r.volume.node
		b := n.enter()
		n.core.FlushFailed(r.volume.index, r.call.Err)
		n.leave(b)
	}
	r.Done(r, r.call.Err)
}

// do runs one request and waits for it.
func (v *Volume) do(r *Request) error {
	ended := make(chan error, 1)
	r.Done = func(_ *Request, err error) { ended <- err }
	v.Start([]*Request{r})
	return <-ended
}

// plain is memory of a caller, for a read.
type plain struct{ b []byte }

func (p plain) Bytes() []byte { return p.b }
func (plain) Retain()         {}
func (plain) Release()        {}

// ReadAt fills p from the volume.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if err := v.do(&Request{Kind: Read, Off: uint64(off), Len: uint64(len(p)), Data: plain{p}}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt writes p, which is copied.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data := v.node.memory.get(len(p))
	defer data.Release()
	copy(data.Bytes(), p)
	if err := v.do(&Request{Kind: Write, Off: uint64(off), Len: uint64(len(p)), Data: data}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush makes durable what was written.
func (v *Volume) Flush() error { return v.do(&Request{Kind: Flush}) }

// Discard is Trim.
func (v *Volume) Discard(off, length uint64) error {
	return v.do(&Request{Kind: Trim, Off: off, Len: length})
}

// WriteZeroes makes a range read as zeros.
func (v *Volume) WriteZeroes(off, length uint64) error {
	return v.do(&Request{Kind: WriteZeroes, Off: off, Len: length})
}
