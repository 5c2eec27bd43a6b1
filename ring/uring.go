package ring

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	iouring "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

const (
	defaultDepth = 128
	// maxDepth leaves room in the kernel's largest ring for continued requests and the wake-up.
	maxDepth = maxEntries / 2
	// maxTransfer is the most that one submission moves; the kernel's own limit is 2 GiB - 4096.
	maxTransfer = 1 << 30
	// maxRetries bounds how often one request is submitted again because the kernel said "try again".
	maxRetries = 64
	// wakeTag is the user data of the read of the eventfd.
	wakeTag = ^uint64(0)
)

// depth is the effective depth, or an error.
func (o *QueueOptions) depth() (int, error) {
	if o.Depth == 0 {
		return defaultDepth, nil
	}
	if o.Depth < 0 || o.Depth > maxDepth || bits.OnesCount(uint(o.Depth)) != 1 {
		return 0, fmt.Errorf("queue depth %d: want a power of two up to %d", o.Depth, maxDepth)
	}
	return o.Depth, nil
}

func (o *QueueOptions) notice(text string) {
	if o.Notice != nil {
		o.Notice(text)
	}
}

type uringDevices struct {
	deviceSet
	steps []uint32
}

// NewQueue opens an io_uring queue and locks the calling goroutine to its thread until Close.
func (d *uringDevices) NewQueue(o QueueOptions) (Queue, error) {
	depth, err := o.depth()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	q, err := newUringQueue(d, depth, &o)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return q, nil
}

// uringQueue is an io_uring queue. All fields belong to the owner, but those of waker.
//
// The submission queue has twice depth entries: each request has at most one unsubmitted entry at a time
// (its first, or the one that continues it), and one more is the read of the eventfd. So an
// entry is always free when one is needed, and the completion queue cannot overflow.
type uringQueue struct {
	*rings
	infos []DeviceInfo
	// thread is the owner's, as the kernel numbers it.
	thread int
	slots  slots
	// ended lists requests that the kernel never sees, until Reap reports them: those that failed their check, and
	// OpForget.
	ended []uint32
	fixed []fixedBuffer
	// zeroBy is how write-zeroes is done on each device: the first way that it accepts.
	zeroBy []zeroWay

	// unwoken: nobody has to end a sleep early, so that it may be for several completions.
	unwoken bool
	waker   waker
	// woken: a wake-up arrived that no Reap has answered yet by returning early.
	woken   bool
	closing bool
}

// fixedBuffer is a registered piece of an arena.
type fixedBuffer struct{ start, end uintptr }

// zeroWay is a way to make a range read as zeros.
type zeroWay uint8

const (
	zeroRange zeroWay = iota // fallocate(ZERO_RANGE)
	zeroPunch                // fallocate(PUNCH_HOLE), where a hole reads as zeros: regular files
	zeroWrite                // writing zeros
)

func newUringQueue(d *uringDevices, depth int, o *QueueOptions) (*uringQueue, error) {
	r, err := setupRings(2*depth, d.steps)
	if err != nil {
		return nil, err
	}
	q := &uringQueue{
		rings: r, infos: d.infos, thread: unix.Gettid(), slots: newSlots(depth),
		ended: make([]uint32, 0, depth), zeroBy: make([]zeroWay, len(d.infos)), unwoken: o.Unwoken,
	}
	for i := range q.infos {
		r.mayCopy = r.mayCopy || !q.infos[i].Direct
	}
	if err := q.register(d.fds, o); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := q.waker.open(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	q.armWake()
	return q, nil
}

// register makes the devices and arenas known to the kernel.
// liburing: io_uring_register_files, io_uring_register_buffers
func (q *uringQueue) register(fds []int, o *QueueOptions) error {
	if len(fds) > 0 {
		table := make([]int32, len(fds))
		for i, fd := range fds {
			table[i] = int32(fd)
		}
		if err := iouring.IOURingRegister(q.fd, iouring.IORING_REGISTER_FILES, unsafe.Pointer(&table[0]), uint32(len(table))); err != nil {
			return fmt.Errorf("register %d devices with io_uring: %w", len(table), err)
		}
	}
	iovs := arenaPieces(o.Arenas)
	if len(iovs) == 0 {
		return nil
	}
	err := iouring.IOURingRegister(q.fd, iouring.IORING_REGISTER_BUFFERS, unsafe.Pointer(&iovs[0]), uint32(len(iovs)))
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) {
		o.notice(fmt.Sprintf("buffers are not registered with io_uring, each request costs some more: %v; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)", err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("register %d buffers with io_uring: %w", len(iovs), err)
	}
	for _, v := range iovs {
		start := uintptr(unsafe.Pointer(v.Base))
		q.fixed = append(q.fixed, fixedBuffer{start, start + uintptr(v.Len)})
	}
	return nil
}

// arenaPieces cuts arenas at the kernel's limit of 1 GiB for one registered buffer.
func arenaPieces(arenas []*Arena) []unix.Iovec {
	var iovs []unix.Iovec
	for _, a := range arenas {
		for mem := a.Bytes(); len(mem) > 0; {
			n := min(len(mem), 1<<30)
			v := unix.Iovec{Base: &mem[0]}
			v.SetLen(n)
			iovs = append(iovs, v)
			mem = mem[n:]
		}
	}
	return iovs
}

func (q *uringQueue) Depth() int    { return q.slots.depth() }
func (q *uringQueue) InFlight() int { return q.slots.used }
func (q *uringQueue) Wake()         { q.waker.wake() }

// Push writes the request's submission entry; the kernel sees it at the next enter.
func (q *uringQueue) Push(r Request) bool {
	if q.closing || q.slots.full() {
		return false
	}
	i := q.slots.take(r)
	err := q.slots.at[i].req.Check(q.infos)
	if err == nil && r.Op != OpForget {
		q.prepare(i)
		return true
	}
	if err == nil {
		err = q.forget(&r)
	}
	q.slots.at[i].err = err
	q.ended = append(q.ended, i)
	return true
}

// forget takes a device out of the kernel's table of files, which would keep it open.
// liburing: io_uring_register_files_update
func (q *uringQueue) forget(r *Request) error {
	none := int32(-1)
	up := iouring.IOURingFilesUpdate{Offset: uint32(r.Device), Fds: &none}
	if err := iouring.IOURingRegister(q.fd, iouring.IORING_REGISTER_FILES_UPDATE, unsafe.Pointer(&up), 1); err != nil {
		return r.Fail(q.infos, err)
	}
	return nil
}

// prepare writes an entry for slot i, for what is left of its request.
// liburing: io_uring_prep_read, _write, _fsync, _fallocate, _read_fixed, _write_fixed
func (q *uringQueue) prepare(i uint32) {
	s := &q.slots.at[i]
	r := &s.req
	e := q.next()
	fd := int32(r.Device)
	switch r.Op {
	case OpRead, OpWrite:
		q.prepareTransfer(e, s, r.Buf[s.done:])
	case OpFlush:
		e.PrepOperation(iouring.IORING_OP_FSYNC, fd, 0, 0, 0)
		e.SetOpFlags(iouring.IORING_FSYNC_DATASYNC)
	case OpDiscard:
		e.PrepOperation(iouring.IORING_OP_FALLOCATE, fd, uint64(r.Len), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, uint64(r.Off))
	case OpWriteZeroes:
		q.prepareZeroes(e, s)
	}
	e.SetFlags(iouring.IOSQE_FLAGS_FIXED_FILE)
	e.SetUserData(uint64(i))
}

func (q *uringQueue) prepareZeroes(e *iouring.SubmissionQueueEntry64, s *slot) {
	r := &s.req
	s.zeroWay = q.zeroBy[r.Device]
	switch s.zeroWay {
	case zeroRange:
		e.PrepOperation(iouring.IORING_OP_FALLOCATE, int32(r.Device), uint64(r.Len), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, uint64(r.Off))
	case zeroPunch:
		e.PrepOperation(iouring.IORING_OP_FALLOCATE, int32(r.Device), uint64(r.Len), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, uint64(r.Off))
	case zeroWrite:
		s.writing = true
		zeros := zeroMemory()
		q.prepareTransfer(e, s, zeros[:min(int64(len(zeros)), r.Len-s.done)])
	}
}

// prepareTransfer fills e to read into or write from mem at the place that slot s has reached.
func (q *uringQueue) prepareTransfer(e *iouring.SubmissionQueueEntry64, s *slot, mem []byte) {
	r := &s.req
	addr := uintptr(unsafe.Pointer(&mem[0]))
	n := min(len(mem), maxTransfer)
	index := q.fixedIndex(addr, n)
	op := iouring.IORING_OP_WRITE
	switch {
	case r.Op == OpRead && index >= 0:
		op = iouring.IORING_OP_READ_FIXED
	case r.Op == OpRead:
		op = iouring.IORING_OP_READ
	case index >= 0:
		op = iouring.IORING_OP_WRITE_FIXED
	}
	e.PrepOperation(op, int32(r.Device), uint64(addr), uint32(n), uint64(r.Off+s.done))
	if index >= 0 {
		e.SetBufIndex(uint16(index))
	}
	if r.FUA && r.Op == OpWrite {
		e.SetOpFlags(unix.RWF_DSYNC)
	}
}

// fixedIndex is the registered buffer that holds the n bytes at addr, or -1.
func (q *uringQueue) fixedIndex(addr uintptr, n int) int {
	for i := range q.fixed {
		if f := &q.fixed[i]; addr >= f.start && addr+uintptr(n) <= f.end {
			return i
		}
	}
	return -1
}

// Submit hands everything pushed to the kernel, with one system call unless the kernel stops on the way.
func (q *uringQueue) Submit() error {
	for q.unsubmitted() > 0 {
		errno := q.enter(q.unsubmitted(), 0)
		if errno == 0 {
			continue
		}
		if busy(errno) && q.inKernel() {
			return nil // Reap goes on with it when completions have made room
		}
		return fmt.Errorf("submit to io_uring: %w", errno)
	}
	return nil
}

// busy: the kernel lacks memory for requests, or wants completions reaped first.
func busy(errno syscall.Errno) bool { return errno == unix.EAGAIN || errno == unix.EBUSY }

// inKernel says that at least one request is certain to complete by itself.
func (q *uringQueue) inKernel() bool {
	return q.slots.used > len(q.ended)+int(q.unsubmitted())
}

// Reap implements [Queue].
func (q *uringQueue) Reap(out []Completion, min int) (int, error) {
	if err := checkReap(len(out), min, q.slots.used); err != nil {
		return 0, err
	}
	n := q.drain(out, q.drainEnded(out))
	entered := false
	for {
		wait := n < min && !q.woken
		if !wait && (entered || q.unsubmitted() == 0 && (n == len(out) || !q.completionsWait())) {
			break
		}
		least := 0
		if wait {
			least = 1
			if q.unwoken {
				least = min - n
			}
		}
		if err := q.enterOnce(uint32(least)); err != nil {
			return n, err
		}
		entered = true
		n = q.drain(out, n)
	}
	if n < min {
		q.woken = false
	}
	return n, nil
}

// enterOnce submits and waits for that many completions, no more than there are requests.
func (q *uringQueue) enterOnce(least uint32) error {
	errno := q.enter(q.unsubmitted(), least)
	if busy(errno) && (q.inKernel() || least == 0) {
		errno = q.enter(0, min(least, 1)) // the others may not be in the kernel
	}
	if errno != 0 {
		return fmt.Errorf("wait for io_uring: %w", errno)
	}
	return nil
}

func checkReap(room, min, inFlight int) error {
	if min > room {
		return fmt.Errorf("reap at least %d completions into room for %d", min, room)
	}
	if min > inFlight && min != 1 {
		return fmt.Errorf("reap at least %d completions with %d requests in flight", min, inFlight)
	}
	return nil
}

func (q *uringQueue) drainEnded(out []Completion) int {
	n := 0
	for n < len(out) && len(q.ended) > 0 {
		i := q.ended[len(q.ended)-1]
		q.ended = q.ended[:len(q.ended)-1]
		out[n] = q.slots.end(i)
		n++
	}
	return n
}

// drain moves completions from the kernel's queue to out[n:] and returns the new n.
// liburing: io_uring_for_each_cqe, io_uring_cq_advance
func (q *uringQueue) drain(out []Completion, n int) int {
	tail := q.kcqTail.Load()
	head := q.head
	for ; head != tail && n < len(out); head++ {
		cqe := &q.cqes[head&q.cqMask]
		if cqe.UserData() == wakeTag {
			q.wakeArrived(cqe.Result())
			continue
		}
		i := uint32(cqe.UserData())
		if q.finished(i, cqe.Result()) {
			out[n] = q.slots.end(i)
			n++
		} else {
			q.prepare(i)
		}
	}
	if head != q.head {
		q.head = head
		q.kcqHead.Store(head)
	}
	return n
}

// finished takes in the kernel's result for slot i. False: the request must be continued.
func (q *uringQueue) finished(i uint32, result int32) bool {
	s := &q.slots.at[i]
	if result < 0 {
		errno := syscall.Errno(-result)
		if q.again(s, errno) {
			return false
		}
		s.err = s.req.Fail(q.infos, errno)
		return true
	}
	done, cause := s.moved(int64(result), &q.infos[s.req.Device])
	if cause != nil {
		s.err = s.req.Fail(q.infos, cause)
	}
	return done
}

// again decides whether an error of the kernel is a reason to submit the request once more.
func (q *uringQueue) again(s *slot, errno syscall.Errno) bool {
	if (errno == unix.EINTR || errno == unix.EAGAIN) && s.retries < maxRetries {
		s.retries++
		return true
	}
	if s.req.Op == OpWriteZeroes && errno == unix.EOPNOTSUPP && !s.writing {
		dev := s.req.Device
		q.zeroBy[dev] = max(q.zeroBy[dev], s.zeroWay+1)
		if q.zeroBy[dev] == zeroPunch && q.infos[dev].Block {
			q.zeroBy[dev] = zeroWrite // a hole of a block device need not read as zeros
		}
		return true
	}
	return false
}

// armWake keeps one read of the eventfd in the ring.
func (q *uringQueue) armWake() {
	e := q.next()
	e.PrepOperation(iouring.IORING_OP_READ, int32(q.waker.fd), uint64(uintptr(unsafe.Pointer(&q.waker.count))), 8, 0)
	e.SetUserData(wakeTag)
}

func (q *uringQueue) wakeArrived(result int32) {
	q.waker.raised.Store(false)
	q.woken = true
	if !q.closing {
		q.armWake()
	}
}

// Close waits for requests in flight, and for the read of the eventfd, so that the kernel
// has no more use for any memory or file of ours.
func (q *uringQueue) Close() error {
	if q.closing {
		return ErrClosed
	}
	if unix.Gettid() != q.thread {
		return errors.New("close io_uring queue: only the goroutine that opened it may close it")
	}
	defer runtime.UnlockOSThread()
	var err error
	out := make([]Completion, q.Depth())
	for q.slots.used > 0 && err == nil {
		_, err = q.Reap(out, 1)
	}
	q.closing = true
	q.woken = false
	q.Wake()
	for !q.woken && err == nil {
		if err = q.enterOnce(1); err == nil {
			q.drain(out, 0)
		}
	}
	return errors.Join(err, q.waker.close(), q.unregister(), q.rings.close())
}

// unregister drops the ring's references to the devices now: closing the ring alone would do so
// some time later, and an exclusive open right after it would fail.
// liburing: io_uring_unregister_files, io_uring_unregister_buffers
func (q *uringQueue) unregister() error {
	var errs []error
	if len(q.infos) > 0 {
		errs = append(errs, iouring.IOURingRegister(q.fd, iouring.IORING_UNREGISTER_FILES, nil, 0))
	}
	if len(q.fixed) > 0 {
		errs = append(errs, iouring.IOURingRegister(q.fd, iouring.IORING_UNREGISTER_BUFFERS, nil, 0))
	}
	return errors.Join(errs...)
}

// waker is the eventfd through which other goroutines end the owner's sleep.
type waker struct {
	// raised: a wake-up is on its way; more of them would say nothing new. Set by any
	// goroutine, cleared by the owner.
	raised atomic.Bool
	// mu guards fd against being closed, and its number reused, under a writer.
	mu sync.Mutex
	fd int
	// count is where the kernel puts what it reads; nobody looks at it.
	count uint64
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (w *waker) open() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	w.fd = fd
	return nil
}

func (w *waker) wake() {
	if w.raised.Load() || w.raised.Swap(true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	for {
		// The counter is far from full, as at most one wake-up is outstanding: no other error can be.
		if _, err := unix.Write(w.fd, one); err != unix.EINTR {
			return
		}
	}
}

func (w *waker) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := unix.Close(w.fd)
	w.fd = -1
	return err
}
