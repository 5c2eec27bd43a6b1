package ring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// TestUnwokenReapsSeveral: a queue that nobody wakes gives as many completions as were waited for, fewer requests than
// that in flight are refused, and it can be closed.
func TestUnwokenReapsSeveral(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	devs, err := Open([]string{path}, OpenOptions{Kind: Uring, AllowBuffered: true})
	if errors.Is(err, ErrUringForbidden) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer devs.Close()
	arena, err := NewArena(16 * 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	q, err := devs.NewQueue(QueueOptions{Depth: 16, Arenas: []*Arena{arena}, Unwoken: true})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]Completion, 16)
	for round := range 50 {
		for i := range 16 {
			buf := arena.Bytes()[i*4096 : (i+1)*4096]
			copy(buf, bytes.Repeat([]byte{byte(round), byte(i)}, 8))
			off := int64(i) * 4096
			if i == 7 {
				off = -4096 // refused by the queue itself: it never comes to the kernel, and counts as well
			}
			if !q.Push(Request{Op: OpWrite, Off: off, Buf: buf, Tag: uint64(i)}) {
				t.Fatal("refused below the depth")
			}
		}
		n, err := q.Reap(out, 13)
		if err != nil || n < 13 {
			t.Fatalf("%d completions, %v; want at least 13", n, err)
		}
		if _, err := q.Reap(out, max(2, 17-n)); err == nil { // one may always be waited for, until Wake
			t.Fatal("more completions can be waited for than there are requests")
		}
		if m, err := q.Reap(out, 16-n); err != nil || n+m != 16 {
			t.Fatalf("%d and %d completions, %v; want 16", n, m, err)
		}
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// TestArenaFitsHugePages: a large arena begins where a huge page does, and all of it can be used, whatever its size.
func TestArenaFitsHugePages(t *testing.T) {
	for _, size := range []int{4096, hugePage - 4096, hugePage, hugePage + 4096, 5*hugePage - 4096} {
		a, err := NewArena(size)
		if err != nil {
			t.Fatal(err)
		}
		mem := a.Bytes()
		if at := uintptr(unsafe.Pointer(&mem[0])); len(mem) != size || at%4096 != 0 || size >= hugePage && at%hugePage != 0 {
			t.Errorf("arena of %d bytes has %d at %#x", size, len(mem), at)
		}
		for i := 0; i < size; i += 4096 {
			mem[i] = 1
		}
		mem[size-1] = 1
		if err := errors.Join(a.Close(), a.Close()); err != nil {
			t.Error(err)
		}
	}
}
