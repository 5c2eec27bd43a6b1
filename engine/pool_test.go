package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/farside-storage/farside/ring/ringtest"
)

// rig is a pool on simulated devices, driven from the test's goroutine.
type rig struct {
	t    testing.TB
	devs *ringtest.Devices
	pool *Pool
	w    *Writer
}

func newRig(t testing.TB, seed uint64, sizes ...int64) *rig {
	t.Helper()
	if len(sizes) == 0 {
		sizes = []int64{32 << 20}
	}
	var specs []ringtest.Spec
	for _, s := range sizes {
		specs = append(specs, ringtest.Spec{Size: s})
	}
	r := &rig{t: t, devs: ringtest.MustNew(ringtest.Options{Seed: seed}, specs...)}
	if _, err := Format(r.devs, smallFormat()); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

// oneVolume is a rig with a volume v in group g.
func oneVolume(t testing.TB, seed, blocks uint64) (*rig, *Volume) {
	t.Helper()
	r := newRig(t, seed)
	return r, r.volume("g", "v", blocks)
}

func smallFormat() FormatOptions {
	n := byte(0)
	return FormatOptions{Name: "test", ExtentBlocks: 64, NewUUID: func() UUID { n++; return UUID{n} }}
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.pool, err = Open(r.devs, Options{Manual: true, WriterBuffers: 4, WriterBufferBlocks: 8}); err != nil {
		r.t.Fatal(err)
	}
	if r.w, err = r.pool.NewWriter(); err != nil {
		r.t.Fatal(err)
	}
	for _, g := range r.pool.Groups() {
		for _, v := range g.Volumes() {
			if v.Membership().Standing == SetAside {
				continue
			}
			if err := r.w.Bind(v); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.w.Close(); err != nil {
		r.t.Fatal(err)
	}
	if err := r.pool.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reopen() {
	r.t.Helper()
	r.close()
	r.devs = r.devs.Reopen()
	r.open()
}

func (r *rig) volume(group, name string, blocks uint64) *Volume {
	r.t.Helper()
	v, err := r.pool.CreateVolume(context.Background(), group, name, blocks*BlockSize)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.w.Bind(v); err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) vol(group, name string) *Volume {
	r.t.Helper()
	g, err := r.pool.Group(group)
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := g.Volume(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// pattern is the contents of a block: version 0 is zeros.
func pattern(vol string, b VBlock, version uint64) []byte {
	p := make([]byte, BlockSize)
	if version == 0 {
		return p
	}
	copy(p, vol)
	binary.LittleEndian.PutUint64(p[64:], uint64(b))
	binary.LittleEndian.PutUint64(p[72:], version)
	binary.LittleEndian.PutUint64(p[BlockSize-8:], version*0x9E3779B97F4A7C15)
	return p
}

func put(w *Writer, v *Volume, cg uint64, b VBlock, data []byte) error {
	for len(data) > 0 {
		space, err := w.Space(len(data) / BlockSize)
		if err != nil {
			return err
		}
		n := copy(space, data)
		var sums []uint64
		for i := 0; i < n; i += BlockSize {
			sums = append(sums, Sum(data[i:i+BlockSize]))
		}
		if err := w.Put(v, cg, b, sums); err != nil {
			return err
		}
		data, b = data[n:], b+VBlock(len(sums))
	}
	return nil
}

func (r *rig) put(v *Volume, cg uint64, b VBlock, version uint64) {
	r.t.Helper()
	if err := put(r.w, v, cg, b, pattern(v.name, b, version)); err != nil {
		r.t.Fatal(err)
	}
}

// write puts n blocks from first on, all of version cg.
func (r *rig) write(v *Volume, cg uint64, first VBlock, n uint64) {
	r.t.Helper()
	for i := range VBlock(n) {
		r.put(v, cg, first+i, cg)
	}
}

// final writes n blocks as a CG of their own and makes it final; v is the only volume of its group.
func (r *rig) final(v *Volume, cg uint64, first VBlock, n uint64) {
	r.t.Helper()
	r.write(v, cg, first, n)
	r.seal(cg, v)
	r.commit(v.group, cg)
}

// used is how many blocks hold something.
func (r *rig) used() uint64 { return r.pool.alloc.Stats().Used - reserved(r.w) }

// reserved is what the writer's extent holds that no update has: it counts as used.
func reserved(w *Writer) uint64 { return uint64(w.extent.Free()) + uint64(w.runLeft) }

// written is how many bytes the devices have been given to write.
func (r *rig) written() uint64 {
	n := uint64(0)
	for i := range r.devs.Info() {
		n += r.devs.Stats(i).WriteBytes
	}
	return n
}

// settle steps the pool until nothing goes on by itself.
func (r *rig) settle() {
	r.t.Helper()
	for {
		progress, err := r.pool.Step()
		if err != nil {
			r.t.Fatal(err)
		}
		if !progress {
			return
		}
	}
}

func (r *rig) seal(cg uint64, vols ...*Volume) {
	r.t.Helper()
	if err := r.w.Seal(cg, vols...); err != nil {
		r.t.Fatal(err)
	}
	r.settle()
}

func (r *rig) do(f func(context.Context, Command) error, cg uint64) {
	r.t.Helper()
	if err := f(context.Background(), Command{Epoch: 1, CG: cg}); err != nil {
		r.t.Fatal(err)
	}
	r.settle()
}

// commit takes a sealed CG all the way.
func (r *rig) commit(g *Group, cg uint64) {
	r.t.Helper()
	r.do(g.Link, cg)
	r.do(g.Release, cg)
}

func (r *rig) want(v *Volume, b VBlock, version uint64) {
	r.t.Helper()
	got := make([]byte, BlockSize)
	if _, err := v.ReadAt(got, int64(b)*BlockSize); err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(got, pattern(v.name, b, version)) {
		r.t.Fatalf("volume %s block %d is not version %d but %d", v.name, b, version, binary.LittleEndian.Uint64(got[72:]))
	}
}

func (r *rig) wantLinked(v *Volume, b VBlock, version uint64) {
	r.t.Helper()
	got := make([]byte, BlockSize)
	if _, err := v.ReadLinkedAt(got, int64(b)*BlockSize); err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(got, pattern(v.name, b, version)) {
		r.t.Fatalf("linked view of volume %s: block %d is not version %d", v.name, b, version)
	}
}

func (r *rig) state(g *Group) GroupState {
	r.t.Helper()
	s, err := g.State(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestCGLife(t *testing.T) {
	r := newRig(t, 1)
	a, b := r.volume("g", "a", 1000), r.volume("g", "b", 5000)
	g := a.Group()
	r.put(a, 1, 3, 1)
	r.put(b, 1, 4999, 1)
	r.want(a, 3, 0)
	r.seal(1, a)
	if s := r.state(g); s.Complete != 0 {
		t.Fatalf("complete with volume b not sealed: %+v", s)
	}
	r.seal(1, b)
	if s := r.state(g); s.Complete != 1 {
		t.Fatalf("not complete: %+v", s)
	}
	r.want(a, 3, 0)
	r.do(g.Link, 1)
	r.want(a, 3, 0)
	r.wantLinked(a, 3, 1)
	r.do(g.Release, 1)
	r.want(a, 3, 1)
	r.want(b, 4999, 1)
	if s := r.state(g); !s.Folded || s.Final != 1 {
		t.Fatalf("not folded: %+v", s)
	}
	r.put(a, 2, 3, 2)
	r.seal(2, a, b)
	r.do(g.Link, 2)
	r.wantLinked(a, 3, 2)
	r.do(g.Revert, 2)
	r.wantLinked(a, 3, 1)
	r.commit(g, 2)
	r.want(a, 3, 2)
	r.reopen()
	a, b = r.vol("g", "a"), r.vol("g", "b")
	r.want(a, 3, 2)
	r.want(b, 4999, 1)
	r.want(b, 0, 0)
	r.close()
}

func TestRestartFromJournal(t *testing.T) {
	r := newRig(t, 2)
	a := r.volume("g", "a", 1000)
	g := a.Group()
	for cg := uint64(1); cg <= 20; cg++ {
		for i := range 50 {
			r.put(a, cg, VBlock(cg*7+uint64(i)*13)%1000, cg)
		}
		r.seal(cg, a)
		r.commit(g, cg)
	}
	r.put(a, 21, 5, 21)
	r.seal(21, a)
	r.do(g.Link, 21)
	image := readAll(t, a, FinalView)
	linked := readAll(t, a, LinkedView)
	// No Close: what is on the devices is what a crash leaves when nothing was volatile.
	r.devs = r.devs.Crash(ringtest.All)
	r.open()
	a = r.vol("g", "a")
	if !bytes.Equal(image, readAll(t, a, FinalView)) || !bytes.Equal(linked, readAll(t, a, LinkedView)) {
		t.Fatal("the image changed over a restart")
	}
	g = a.Group()
	if s := r.state(g); s.Linked != 21 || s.Final != 20 {
		t.Fatalf("%+v", s)
	}
	r.do(g.Release, 21)
	if !bytes.Equal(linked, readAll(t, a, FinalView)) {
		t.Fatal("release after restart shows something else")
	}
	r.close()
}

func readAll(t testing.TB, v *Volume, kind ViewKind) []byte {
	t.Helper()
	buf := make([]byte, v.Size())
	if _, err := v.read(buf, 0, kind, nil); err != nil {
		t.Fatal(err)
	}
	return buf
}

// TestDeleteVolumeOfASealedCG: a CG that waits for one volume only does not become complete because another one of it is deleted.
func TestDeleteVolumeOfASealedCG(t *testing.T) {
	for _, deleted := range []string{"sealed", "awaited"} {
		t.Run(deleted, func(t *testing.T) {
			r := newRig(t, 29)
			a, b := r.volume("g", "sealed", 100), r.volume("g", "awaited", 100)
			r.write(a, 1, 0, 50)
			r.seal(1, a)
			ctx := context.Background()
			if err := errors.Join(r.w.Unbind(a), r.w.Unbind(b)); err != nil {
				t.Fatal(err)
			}
			if err := r.pool.DeleteVolume(ctx, "g", deleted); !errors.Is(err, ErrState) {
				t.Fatalf("deleted: %v", err)
			}
			if st := r.state(a.group); st.Complete != 0 {
				t.Errorf("CG %d is complete without volume %s", st.Complete, b.Name())
			}
			if err := errors.Join(a.group.Discard(ctx, Command{1, 1}, 2), r.pool.DeleteVolume(ctx, "g", deleted)); err != nil {
				t.Errorf("after the CG was given up: %v", err)
			}
		})
	}
}

func TestDeleteVolume(t *testing.T) {
	r, v := oneVolume(t, 28, 2000)
	r.final(v, 1, 0, 2000)
	ctx := context.Background()
	if err := r.pool.DeleteVolume(ctx, "g", "v"); !errors.Is(err, ErrState) {
		t.Fatalf("a volume bound to a writer was deleted: %v", err)
	}
	if err := errors.Join(r.pool.Checkpoint(ctx), r.w.Unbind(v), r.pool.DeleteVolume(ctx, "g", "v")); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if r.used() != 0 {
		t.Fatalf("%d blocks used", r.used())
	}
	r.reopen()
	v = r.volume("g", "v", 2000)
	r.want(v, 5, 0)
	r.put(v, 2, 5, 9)
	r.seal(2, v)
	r.commit(v.group, 2)
	r.reopen()
	r.want(r.vol("g", "v"), 5, 9)
	r.close()
}
