package engine

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/farside-storage/farside/ring"
)

// gathering is a submitter of a manual pool that ends device reads together, in the reverse of the order in which they were
// submitted: when so many are through.
type gathering struct {
	controlSubmitter
	want   int
	broken map[int]error // by number of the device read
	calls  []*ring.Call
	v      verifier
}

func (s *gathering) Go(calls ...*ring.Call) {
	for _, c := range calls {
		n := len(s.calls)
		s.calls = append(s.calls, c)
		s.c.io.start(c.Request, func(err error) {
			c.Err = errors.Join(err, s.broken[n])
			if s.want--; s.want == 0 {
				var ended []*ring.Call
				for i := range s.calls {
					ended = append(ended, s.calls[len(s.calls)-1-i])
				}
				s.v.endAll(ended)
			}
		})
	}
}

// TestReadsThatEndTogether: each of them gets what is its own, data or error, although all their blocks are summed up at
// once, and one that is started again at its end spoils nothing of the others.
func TestReadsThatEndTogether(t *testing.T) {
	r, v := oneVolume(t, 1, 64)
	r.final(v, 1, 0, 32)
	r.write(v, 2, 4, 1) // apart from its neighbours: a read across it is two or three device reads
	r.seal(2, v)
	r.commit(v.group, 2)
	r.final(v, 3, 20, 1)
	device, block := r.pool.locate(r.where(v, 20))
	r.devs.WriteAt(device, make([]byte, 512), blocksToBytes(block))

	broken := errors.New("broken")
	reads := []struct {
		first, blocks VBlock
		calls         int
		damaged, fail bool
	}{
		{0, 4, 1, false, false},
		{3, 4, 3, false, false},  // 3, 4 and 5..6
		{18, 4, 3, true, false},  // 18..19, 20 and 21
		{32, 8, 0, false, false}, // nothing there
		{8, 8, 1, false, true},   // the device fails
		{30, 4, 1, false, false}, // half of it is not there
		{20, 1, 1, true, false},  // the damaged block alone
		{21, 1, 1, false, false}, // its neighbour
		{22, 1, 1, false, false}, // one that is started again
	}
	s := &gathering{controlSubmitter: controlSubmitter{r.pool.ctl}, broken: map[int]error{}}
	n := 0
	for _, x := range reads {
		if x.fail {
			s.broken[n] = broken
		}
		n += x.calls
	}
	s.want = n
	r.pool.reads = []submitter{s}
	done := make(chan error, 1)
	left := len(reads) + 1
	started := make([]*Read, len(reads))
	for i, x := range reads {
		arena, err := ring.NewArena(int(x.blocks) * BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		defer arena.Close()
		copy(arena.Bytes(), bytes.Repeat([]byte{0xee}, len(arena.Bytes())))
		rd := &Read{Volume: v, Off: uint64(x.first) * BlockSize, Buf: arena.Bytes()}
		again := i == len(reads)-1
		rd.Done = func(rd *Read) {
			if again {
				again = false
				s.want, s.calls, s.broken = 1, nil, nil
				rd.Start()
			}
			if left--; left == 0 {
				done <- nil
			}
		}
		started[i] = rd
		rd.Start()
	}
	if got := len(s.calls); got != n {
		t.Fatalf("%d device reads, want %d", got, n)
	}
	if err := r.pool.stepUntil(done); err != nil {
		t.Fatal(err)
	}
	for i, x := range reads {
		rd := started[i]
		var damage *CorruptionError
		if errors.As(rd.Err, &damage) != x.damaged || errors.Is(rd.Err, broken) != x.fail || (rd.Err == nil) == (x.damaged || x.fail) {
			t.Errorf("read of %d blocks from %d: %v", x.blocks, x.first, rd.Err)
		}
		for k := range x.blocks {
			b, version := x.first+k, uint64(1)
			switch {
			case b >= 32 || rd.Err != nil:
				version = 0
			case b == 4:
				version = 2
			}
			if !bytes.Equal(rd.Buf[k*BlockSize:(k+1)*BlockSize], pattern(v.name, b, version)) {
				t.Errorf("read of %d blocks from %d: block %d is not of version %d", x.blocks, x.first, b, version)
			}
		}
	}
}

// TestManyReadsAtOnce: reads in flight by the hundred, on a real file, into memory registered and not.
func TestManyReadsAtOnce(t *testing.T) {
	arena, err := ring.NewArena(128 * BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	other, err := ring.NewArena(128 * BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	complete := make(chan uint64, 1)
	p, _ := filePool(t, 64<<20, Options{ReadArenas: []*ring.Arena{arena}, OnComplete: func(_ string, cg uint64) { complete <- cg }})
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	v, err := p.CreateVolume(t.Context(), "g", "v", 1024*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	fillVolume(t, p, v, complete)
	const each = 20
	ended := make(chan error, 256)
	for i := range VBlock(256) {
		mem := arena.Bytes()
		if i >= 128 {
			mem = other.Bytes()
		}
		left := each
		rd := &Read{Volume: v, Off: uint64(i) * BlockSize, Buf: mem[i%128*BlockSize:][:BlockSize]}
		rd.Done = func(rd *Read) {
			b := VBlock(rd.Off / BlockSize)
			if rd.Err == nil && !bytes.Equal(rd.Buf, pattern(v.name, b, 1)) {
				rd.Err = errors.New("not what was written")
			}
			if left--; left == 0 || rd.Err != nil {
				ended <- rd.Err
				return
			}
			rd.Off = uint64((b*7+1)%1024) * BlockSize
			rd.Start()
		}
		rd.Start()
	}
	for range 256 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// fillVolume writes all of v as CG 1 and makes it final.
func fillVolume(t *testing.T, p *Pool, v *Volume, complete <-chan uint64) {
	t.Helper()
	w, err := p.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Bind(v); err != nil {
		t.Fatal(err)
	}
	for b := range VBlock(v.Size() / BlockSize) {
		if err := put(w, v, 1, b, pattern(v.name, b, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Seal(1, v); err != nil {
		t.Fatal(err)
	}
	<-complete
	for _, f := range []func(context.Context, Command) error{v.Group().Link, v.Group().Release} {
		if err := f(t.Context(), Command{Epoch: 1, CG: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
