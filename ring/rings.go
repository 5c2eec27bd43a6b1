package ring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	iouring "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// rings is one io_uring instance: its file descriptor and the memory shared with the kernel.
// It belongs to the thread that set it up.
type rings struct {
	fd int
	// enterFD is fd, or its index if the ring was registered, as enterFlags then says.
	enterFD    int
	enterFlags uint32
	setup      uint32
	// mayCopy: submitting may copy a lot of memory (files in the page cache), so that Go's scheduler
	// must be told of every system call.
	mayCopy bool

	// tail counts entries written, taken those that the kernel took. The owner alone
	// touches them; ksqTail is how the kernel learns of tail.
	tail, taken uint32
	ksqTail     *atomic.Uint32
	// ksqFlags is written by the kernel.
	ksqFlags *atomic.Uint32
	sqMask   uint32
	sqes     []iouring.SubmissionQueueEntry64

	// head counts completions consumed; kcqHead is how the kernel learns of it.
	head    uint32
	kcqHead *atomic.Uint32
	// kcqTail is written by the kernel.
	kcqTail *atomic.Uint32
	cqMask  uint32
	cqes    []iouring.CompletionQueueEvent16

	maps [][]byte
}

// setupRings makes an instance with the first set of flags that the kernel accepts.
// liburing: io_uring_queue_init_params
func setupRings(entries int, steps []uint32) (*rings, error) {
	var p iouring.IOURingParams
	var err error
	fd := -1
	for _, flags := range steps {
		p = iouring.IOURingParams{Flags: flags}
		fd, err = iouring.IOURingSetup(uint(entries), &p)
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if err != nil {
		return nil, setupError(err, uringSysctl())
	}
	r := &rings{fd: fd, enterFD: fd, setup: p.Flags}
	if err := r.mapAll(&p); err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.registerSelf()
	return r, nil
}

// probeUring says whether this process may use io_uring, before any device is opened.
func probeUring() error {
	var p iouring.IOURingParams
	fd, err := iouring.IOURingSetup(2, &p)
	if err != nil {
		return setupError(err, uringSysctl())
	}
	const need = iouring.IORING_FEAT_NODROP | iouring.IORING_FEAT_SUBMIT_STABLE | iouring.IORING_FEAT_RW_CUR_POS
	if p.Features&need != need {
		return errors.Join(fmt.Errorf("%w: this kernel's is too old, Linux 5.15 or newer is needed", ErrUringForbidden), unix.Close(fd))
	}
	return unix.Close(fd)
}

func uringSysctl() string {
	text, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if err != nil {
		return "" // the sysctl exists since kernel 6.6
	}
	return strings.TrimSpace(string(text))
}

// setupError explains why io_uring_setup failed; sysctl is the value of kernel.io_uring_disabled, or "".
func setupError(err error, sysctl string) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: the kernel, or the container's seccomp filter, does not have it (%w); Linux 5.15 or newer built with CONFIG_IO_URING is needed, or a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register", ErrUringForbidden, err)
	case errors.Is(err, unix.EPERM) && (sysctl == "1" || sysctl == "2"):
		return fmt.Errorf("%w: sysctl kernel.io_uring_disabled is %s (%w); allow it with \"sysctl -w kernel.io_uring_disabled=0\"", ErrUringForbidden, sysctl, err)
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: a seccomp filter or security module denies it (%w); let the container's seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register", ErrUringForbidden, err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("set up io_uring: %w: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)", err)
	}
	return fmt.Errorf("set up io_uring: %w", err)
}

// mapAll maps the memory shared with the kernel.
// liburing: io_uring_mmap
func (r *rings) mapAll(p *iouring.IOURingParams) error {
	sqSize := int(p.SQOffset.Array + p.SQEntries*4)
	cqSize := int(p.CQOffset.Cqes) + int(p.CQEntries)*int(unsafe.Sizeof(iouring.CompletionQueueEvent16{}))
	single := p.Features&iouring.IORING_FEAT_SINGLE_MMAP != 0
	if single {
		sqSize = max(sqSize, cqSize)
	}
	sq, err := r.mmap(iouring.IORING_OFF_SQ_RING, sqSize)
	if err != nil {
		return err
	}
	cq := sq
	if !single {
		if cq, err = r.mmap(iouring.IORING_OFF_CQ_RING, cqSize); err != nil {
			return err
		}
	}
	sqes, err := r.mmap(iouring.IORING_OFF_SQES, int(p.SQEntries)*int(unsafe.Sizeof(iouring.SubmissionQueueEntry64{})))
	if err != nil {
		return err
	}
	r.point(p, sq, cq, sqes)
	return nil
}

// point sets the pointers into the mapped memory.
// liburing: io_uring_setup_ring_pointers
func (r *rings) point(p *iouring.IOURingParams, sq, cq, sqes []byte) {
	r.ksqTail = (*atomic.Uint32)(unsafe.Pointer(&sq[p.SQOffset.Tail]))
	r.ksqFlags = (*atomic.Uint32)(unsafe.Pointer(&sq[p.SQOffset.Flags]))
	r.sqMask = p.SQEntries - 1
	r.sqes = unsafe.Slice((*iouring.SubmissionQueueEntry64)(unsafe.Pointer(&sqes[0])), p.SQEntries)
	// The index array stays the identity: entries are used in order.
	array := unsafe.Slice((*uint32)(unsafe.Pointer(&sq[p.SQOffset.Array])), p.SQEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	r.kcqHead = (*atomic.Uint32)(unsafe.Pointer(&cq[p.CQOffset.Head]))
	r.kcqTail = (*atomic.Uint32)(unsafe.Pointer(&cq[p.CQOffset.Tail]))
	r.cqMask = p.CQEntries - 1
	r.cqes = unsafe.Slice((*iouring.CompletionQueueEvent16)(unsafe.Pointer(&cq[p.CQOffset.Cqes])), p.CQEntries)
}

func (r *rings) mmap(offset uint64, size int) ([]byte, error) {
	mem, err := unix.Mmap(r.fd, int64(offset), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of io_uring at %#x: %w", size, offset, err)
	}
	r.maps = append(r.maps, mem)
	return mem, nil
}

// registerSelf saves the kernel the look-up of the ring's file at each enter. An old kernel
// refuses; the plain descriptor then does.
// liburing: io_uring_register_ring_fd
func (r *rings) registerSelf() {
	up := rsrcUpdate{offset: ^uint32(0), data: uint64(r.fd)}
	if err := iouring.IOURingRegister(r.fd, registerRingFDs, unsafe.Pointer(&up), 1); err == nil {
		r.enterFD, r.enterFlags = int(up.offset), enterRegisteredRing
	}
}

// close gives everything back. Nothing may be in flight.
func (r *rings) close() error {
	var errs []error
	if r.enterFlags&enterRegisteredRing != 0 {
		up := rsrcUpdate{offset: uint32(r.enterFD)}
		errs = append(errs, iouring.IOURingRegister(r.fd, unregisterRingFDs, unsafe.Pointer(&up), 1))
	}
	for _, mem := range r.maps {
		errs = append(errs, unix.Munmap(mem))
	}
	errs = append(errs, unix.Close(r.fd))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close io_uring: %w", err)
	}
	return nil
}

// next is the entry to fill for one more submission, cleared. The caller knows that there is room.
// liburing: io_uring_get_sqe
func (r *rings) next() *iouring.SubmissionQueueEntry64 {
	e := &r.sqes[r.tail&r.sqMask]
	e.Reset()
	r.tail++
	return e
}

// unsubmitted counts entries that the kernel has not taken yet.
func (r *rings) unsubmitted() uint32 { return r.tail - r.taken }

// completionsWait says that the kernel holds completions back until the owner enters it.
func (r *rings) completionsWait() bool {
	if r.setup&(setupDeferTaskrun|iouring.IORING_SETUP_COOP_TASKRUN) == 0 {
		return r.ksqFlags.Load()&iouring.IORING_SQ_CQ_OVERFLOW != 0
	}
	return r.ksqFlags.Load()&(sqTaskrun|iouring.IORING_SQ_CQ_OVERFLOW) != 0
}

// enter submits what is unsubmitted and blocks until there are least completions. It returns
// after one system call, which may have taken only a part; EINTR is no error.
// liburing: io_uring_submit_and_wait
func (r *rings) enter(submit, least uint32) syscall.Errno {
	r.ksqTail.Store(r.tail)
	flags := r.enterFlags | iouring.IORING_ENTER_FLAGS_GETEVENTS
	var n uintptr
	var errno syscall.Errno
	if least > 0 || r.mayCopy {
		n, _, errno = syscall.Syscall6(iouring.SYS_IO_URING_ENTER, uintptr(r.enterFD), uintptr(submit), uintptr(least), uintptr(flags), 0, 0)
	} else {
		// Neither sleeps nor takes long, so Go's scheduler need not be told, which costs something too.
		n, _, errno = syscall.RawSyscall6(iouring.SYS_IO_URING_ENTER, uintptr(r.enterFD), uintptr(submit), uintptr(least), uintptr(flags), 0, 0)
	}
	if errno == 0 {
		r.taken += uint32(n)
	}
	if errno == unix.EINTR {
		return 0
	}
	return errno
}
