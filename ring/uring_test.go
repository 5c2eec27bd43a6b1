package ring

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	iouring "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// TestEntryLayout holds the ABI package's setters against struct io_uring_sqe, byte by byte.
func TestEntryLayout(t *testing.T) {
	var e iouring.SubmissionQueueEntry64
	e.PrepOperation(0x11, 0x22222222, 0x3333333333333333, 0x44444444, 0x5555555555555555)
	e.SetFlags(0x66)
	e.SetOpFlags(0x77777777)
	e.SetUserData(0x8888888888888888)
	e.SetBufIndex(0x9999)
	var want [64]byte
	want[0], want[1] = 0x11, 0x66
	binary.NativeEndian.PutUint32(want[4:], 0x22222222)
	binary.NativeEndian.PutUint64(want[8:], 0x5555555555555555)
	binary.NativeEndian.PutUint64(want[16:], 0x3333333333333333)
	binary.NativeEndian.PutUint32(want[24:], 0x44444444)
	binary.NativeEndian.PutUint32(want[28:], 0x77777777)
	binary.NativeEndian.PutUint64(want[32:], 0x8888888888888888)
	binary.NativeEndian.PutUint16(want[40:], 0x9999)
	if got := *(*[64]byte)(unsafe.Pointer(&e)); got != want {
		t.Errorf("entry\n%x, want\n%x", got, want)
	}
}

func TestSetupError(t *testing.T) {
	for _, c := range []struct {
		errno     unix.Errno
		sysctl    string
		forbidden bool
		says      string
	}{
		{unix.ENOSYS, "", true, "Linux 5.15"},
		{unix.EPERM, "2", true, "kernel.io_uring_disabled=0"},
		{unix.EPERM, "1", true, "kernel.io_uring_disabled is 1"},
		{unix.EPERM, "0", true, "seccomp"},
		{unix.EACCES, "", true, "security module"},
		{unix.ENOMEM, "0", false, "LimitMEMLOCK"},
		{unix.EMFILE, "0", false, "too many open files"},
	} {
		err := setupError(os.NewSyscallError("io_uring_setup", c.errno), c.sysctl)
		if errors.Is(err, ErrUringForbidden) != c.forbidden || !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, sysctl %q: %v", c.errno, c.sysctl, err)
		}
	}
}

func testQueue(t *testing.T, o QueueOptions) *uringQueue {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	devs, err := OpenUring([]string{file}, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q, err := devs.NewQueue(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(q.Close(), devs.Close()); err != nil {
			t.Error(err)
		}
	})
	return q.(*uringQueue)
}

// TestFixedBuffers: memory inside one registered buffer is used as such, other memory is not.
func TestFixedBuffers(t *testing.T) {
	arena, err := NewArena(8192)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { arena.Close() })
	q := testQueue(t, QueueOptions{Depth: 4, Arenas: []*Arena{arena}})
	heap := make([]byte, 8192)[:4096]
	out := make([]Completion, 1)
	for _, c := range []struct {
		op   Op
		buf  []byte
		want uint8
	}{
		{OpWrite, arena.Bytes()[4096:], iouring.IORING_OP_WRITE_FIXED},
		{OpRead, arena.Bytes()[:4096], iouring.IORING_OP_READ_FIXED},
		{OpWrite, heap, iouring.IORING_OP_WRITE},
		{OpRead, heap, iouring.IORING_OP_READ},
	} {
		q.Push(Request{Op: c.op, Buf: c.buf})
		if got := q.sqes[(q.tail-1)&q.sqMask].Opcode(); got != c.want {
			t.Errorf("%v: opcode %d, want %d", c.op, got, c.want)
		}
		if n, err := q.Reap(out, 1); n != 1 || err != nil || out[0].Err != nil {
			t.Errorf("%v: %d, %v, %v", c.op, n, err, out[0].Err)
		}
	}
	edge := uintptr(unsafe.Pointer(&arena.Bytes()[4096]))
	if i := q.fixedIndex(edge, 8192); i != -1 {
		t.Error("memory that reaches beyond the buffer counts as registered")
	}
}

// TestDurabilityFlags: nothing on a healthy machine would notice if these were missing.
func TestDurabilityFlags(t *testing.T) {
	q := testQueue(t, QueueOptions{Depth: 4})
	buf := make([]byte, 8192)[:4096]
	out := make([]Completion, 1)
	for _, c := range []struct {
		r    Request
		want uint32
	}{
		{Request{Op: OpWrite, Buf: buf}, 0},
		{Request{Op: OpWrite, Buf: buf, FUA: true}, unix.RWF_DSYNC},
		{Request{Op: OpRead, Buf: buf, FUA: true}, 0},
		{Request{Op: OpFlush}, iouring.IORING_FSYNC_DATASYNC},
	} {
		q.Push(c.r)
		e := (*[64]byte)(unsafe.Pointer(&q.sqes[(q.tail-1)&q.sqMask]))
		if got := binary.NativeEndian.Uint32(e[28:]); got != c.want {
			t.Errorf("%v, FUA %v: flags %#x, want %#x", c.r.Op, c.r.FUA, got, c.want)
		}
		if n, err := q.Reap(out, 1); n != 1 || err != nil || out[0].Err != nil {
			t.Errorf("%v: %d, %v, %v", c.r.Op, n, err, out[0].Err)
		}
	}
}

func TestArenaPieces(t *testing.T) {
	a, err := NewArena(2<<30 + 4096) // never touched, so it costs nothing
	if err != nil {
		t.Skipf("no address space for a large arena: %v", err)
	}
	defer a.Close()
	b, err := NewArena(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var sizes []uint64
	for _, v := range arenaPieces([]*Arena{a, b}) {
		sizes = append(sizes, v.Len)
	}
	if len(sizes) != 4 || sizes[0] != 1<<30 || sizes[1] != 1<<30 || sizes[2] != 4096 || sizes[3] != 8192 {
		t.Errorf("pieces %v", sizes)
	}
}

// TestContinuation feeds the queue's bookkeeping with results that a healthy file does not give.
func TestContinuation(t *testing.T) {
	q := testQueue(t, QueueOptions{Depth: 2})
	buf := make([]byte, 64<<10)[:32768]
	info := &q.infos[0]
	step := func(results ...int32) (submitted int, err error) {
		i := q.slots.take(Request{Op: OpRead, Off: 4096, Buf: buf})
		for _, res := range results {
			submitted++
			if q.finished(i, res) {
				return submitted, q.slots.end(i).Err
			}
		}
		q.slots.end(i)
		return -1, nil
	}
	sector := int32(info.SectorSize)
	for _, c := range []struct {
		name    string
		results []int32
		n       int
		err     error
	}{
		{"at once", []int32{32768}, 1, nil},
		{"in three parts", []int32{sector, 2 * sector, 32768 - 3*sector}, 3, nil},
		{"after interruptions", []int32{-int32(unix.EINTR), sector, -int32(unix.EAGAIN), 32768 - sector}, 4, nil},
		{"end of file", []int32{sector, 0}, 2, ErrShort},
		{"not aligned", []int32{sector + 1}, 1, ErrShort},
		{"error", []int32{-int32(unix.EIO)}, 1, unix.EIO},
		{"error in the second part", []int32{sector, -int32(unix.ENOSPC)}, 2, unix.ENOSPC},
	} {
		n, err := step(c.results...)
		if n != c.n || !errors.Is(err, c.err) {
			t.Errorf("%s: ended after %d results with %v; want %d, %v", c.name, n, err, c.n, c.err)
		}
	}
	again := make([]int32, maxRetries+1)
	for i := range again {
		again[i] = -int32(unix.EAGAIN)
	}
	if n, err := step(again...); n != maxRetries+1 || !errors.Is(err, unix.EAGAIN) {
		t.Errorf("endless EAGAIN: ended after %d results with %v", n, err)
	}
}

func TestQueueDepth(t *testing.T) {
	for depth, ok := range map[int]bool{0: true, 1: true, 64: true, maxDepth: true, 3: false, -1: false, 2 * maxDepth: false} {
		o := QueueOptions{Depth: depth}
		if _, err := o.depth(); (err == nil) != ok {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

// TestCloseByAnotherGoroutine: it is refused, and the owner can still close.
func TestCloseByAnotherGoroutine(t *testing.T) {
	q := testQueue(t, QueueOptions{Depth: 2})
	refused := make(chan error)
	go func() { refused <- q.Close() }()
	if err := <-refused; err == nil {
		t.Error("another goroutine closed the queue")
	}
}
