package ring_test

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	iouring "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/ring"
)

// TestUringForbidden lets a seccomp filter deny io_uring, as containers do.
func TestUringForbidden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		onDoomedThread(t, func() {
			if err := denyUring(errno); err != nil {
				t.Logf("skipped, no seccomp here: %v", err)
				return
			}
			_, err := ring.Open([]string{file}, ring.OpenOptions{Kind: ring.Uring})
			if !errors.Is(err, ring.ErrUringForbidden) || !errors.Is(err, errno) || !strings.Contains(err.Error(), "seccomp") {
				t.Errorf("%v: error %v", errno, err)
			}
			devs, err := ring.Open([]string{file}, ring.OpenOptions{})
			if err != nil {
				t.Errorf("%v: no fall-back: %v", errno, err)
				return
			}
			defer devs.Close()
			info := devs.Info()[0]
			if info.Kind != ring.Plain || !strings.Contains(info.Notice, "plain reads and writes are used") || !strings.Contains(info.Notice, errno.Error()) {
				t.Errorf("%v: opened as %+v", errno, info)
			}
		})
	}
}

func TestAutoPrefersUring(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	if info := open(t, []string{file}, ring.OpenOptions{}).Info()[0]; info.Kind != ring.Uring || info.Notice != "" {
		t.Errorf("opened as %+v", info)
	}
}

// TestLockedMemoryLimit: buffers that may not be locked are used unregistered, which is said.
func TestLockedMemoryLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: 1 << 20, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Skipf("cannot lower the limit of locked memory: %v", err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	file := filepath.Join(t.TempDir(), "f")
	newFile(t, file, 1<<20)
	arena, err := ring.NewArena(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	devs := open(t, []string{file}, ring.OpenOptions{Kind: ring.Uring})
	onDoomedThread(t, func() {
		if err := dropIPCLock(); err != nil {
			t.Error(err)
			return
		}
		var notices []string
		q, err := devs.NewQueue(ring.QueueOptions{Arenas: []*ring.Arena{arena}, Notice: func(s string) { notices = append(notices, s) }})
		if err != nil {
			t.Error(err)
			return
		}
		if len(notices) != 1 || !strings.Contains(notices[0], "LimitMEMLOCK") {
			t.Errorf("notices %q", notices)
		}
		var out [1]ring.Completion
		q.Push(ring.Request{Op: ring.OpWrite, Buf: arena.Bytes()[:1<<20]})
		if n, err := q.Reap(out[:], 1); n != 1 || err != nil || out[0].Err != nil {
			t.Errorf("write from unregistered memory: %d, %v, %v", n, err, out[0].Err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

// onDoomedThread runs f on a thread that ends with it, and with it whatever f did to the thread.
func onDoomedThread(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		f()
	}()
	<-done
}

// denyUring installs a filter for the calling thread that answers io_uring_setup with errno.
func denyUring(errno unix.Errno) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the system call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: iouring.SYS_IO_URING_SETUP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}

// dropIPCLock takes the right to lock any amount of memory from the calling thread.
func dropIPCLock() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return err
	}
	data[unix.CAP_IPC_LOCK/32].Effective &^= 1 << (unix.CAP_IPC_LOCK % 32)
	return unix.Capset(&h, &data[0])
}
