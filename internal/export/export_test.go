package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/nbd"
	"github.com/farside-storage/farside/ring"
)

const (
	block  = engine.BlockSize
	blocks = 4096 // of the test's volume
)

// rig is a pool in a temporary file with volume "shop/data", written by the test.
type rig struct {
	t    testing.TB
	path string
	pool *engine.Pool
	vol  *engine.Volume
	want []byte // what the volume shows when the CG sealed last is final
	put  chan func(*engine.Writer)
	cg   uint64
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "pool"), want: make([]byte, blocks*block), put: make(chan func(*engine.Writer))}
	f, err := os.Create(r.path)
	check(t, errors.Join(err, f.Truncate(96<<20), f.Close()))
	devs, err := ring.Open([]string{r.path}, ring.OpenOptions{Kind: ring.Auto, AllowBuffered: true})
	check(t, err)
	t.Cleanup(func() { check(t, devs.Close()) })
	_, err = engine.Format(devs, engine.FormatOptions{Name: "pool", ExtentBlocks: 64})
	check(t, err)
	r.pool, err = engine.Open(devs, engine.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, r.pool.Close()) })
	r.vol, err = r.pool.CreateVolume(t.Context(), "shop", "data", blocks*block)
	check(t, err)
	ended := make(chan error, 1)
	go func() { ended <- r.write() }() // a writer stays on one goroutine
	t.Cleanup(func() {
		close(r.put)
		check(t, <-ended)
	})
	return r
}

func (r *rig) write() error {
	w, err := r.pool.NewWriter()
	if err != nil {
		return err
	}
	if err := w.Bind(r.vol); err != nil {
		return errors.Join(err, w.Close())
	}
	for f := range r.put {
		f(w)
	}
	return w.Close()
}

// complete makes a CG with n blocks from first on, and waits until it is complete.
func (r *rig) complete(first, n int) {
	r.t.Helper()
	r.cg++
	done := make(chan error, 1)
	r.put <- func(w *engine.Writer) { done <- r.fill(w, first, n) }
	check(r.t, <-done)
	g := r.vol.Group()
	for {
		st, err := g.State(r.t.Context())
		check(r.t, err)
		if st.Complete == r.cg {
			return
		}
	}
}

func (r *rig) fill(w *engine.Writer, first, n int) error {
	for b := first; b < first+n; b++ {
		mem, err := w.Space(1)
		if err != nil {
			return err
		}
		clear(mem)
		binary.LittleEndian.PutUint64(mem, uint64(b))
		binary.LittleEndian.PutUint64(mem[8:], r.cg)
		copy(r.want[b*block:], mem)
		if err := w.Put(r.vol, r.cg, engine.VBlock(b), []uint64{engine.Sum(mem)}); err != nil {
			return err
		}
	}
	return w.Seal(r.cg, r.vol)
}

func (r *rig) finish() {
	r.t.Helper()
	c := engine.Command{Epoch: 1, CG: r.cg}
	check(r.t, r.vol.Group().Link(r.t.Context(), c))
	check(r.t, r.vol.Group().Release(r.t.Context(), c))
}

// do sends one request to the device and waits for its answer.
func do(dev nbd.Device, cmd nbd.Command, off, length uint64, look func(*nbd.Request)) error {
	done := make(chan error, 1)
	dev.Start([]*nbd.Request{nbd.NewRequest(cmd, off, length, func(r *nbd.Request, err error) {
		if look != nil && err == nil {
			look(r)
		}
		done <- err
	})})
	return <-done
}

func (r *rig) device() nbd.Device {
	r.t.Helper()
	dev, _, err := Volumes(r.pool).Lookup(r.t.Context(), "shop/data")
	check(r.t, err)
	return dev
}

func (r *rig) shows(dev nbd.Device, first, n int, want []byte) {
	r.t.Helper()
	var got []byte
	check(r.t, do(dev, nbd.CmdRead, uint64(first)*block, uint64(n)*block, func(r *nbd.Request) { got = bytes.Clone(r.Data.Bytes()) }))
	if !bytes.Equal(got, want) {
		r.t.Errorf("%d blocks from %d on differ", n, first)
	}
}

// TestReq10_ReadsShowTheFinalView: a CG that is complete or linked is not seen before it is final.
func TestReq10_ReadsShowTheFinalView(t *testing.T) {
	r := newRig(t)
	r.complete(3, 40)
	r.finish()
	dev := r.device()
	before := bytes.Clone(r.want)
	r.shows(dev, 0, blocks, before)
	r.complete(10, 500)
	r.shows(dev, 0, blocks, before)
	check(t, r.vol.Group().Link(t.Context(), engine.Command{Epoch: 1, CG: 2}))
	r.shows(dev, 0, blocks, before)
	r.finish()
	r.shows(dev, 0, blocks, r.want)
	r.shows(dev, 505, 10, r.want[505*block:515*block])
}

// TestOnlyWholeVolumesAreServed: not before a CG with all of the volume is final, and no longer when it rejoined its group, to those neither who have
// it open.
func TestOnlyWholeVolumesAreServed(t *testing.T) {
	r := newRig(t)
	refused := func(when string) {
		t.Helper()
		if _, _, err := Volumes(r.pool).Lookup(t.Context(), "shop/data"); !errors.Is(err, engine.ErrNotWhole) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("nothing is final")
	r.complete(0, 9)
	refused("CG 1 is complete")
	r.finish()
	dev := r.device()
	if _, err := r.pool.CreateVolume(t.Context(), "shop", "other", block); err != nil {
		t.Fatal(err)
	}
	g := r.vol.Group()
	check(t, g.Join(t.Context(), must(g.Volume("other")))) // one must stay
	done := make(chan error, 1)
	r.put <- func(w *engine.Writer) { done <- w.Unbind(r.vol) }
	check(t, <-done)
	check(t, g.SetAside(t.Context(), "data"))
	r.shows(dev, 0, 9, r.want[:9*block])
	check(t, g.Rejoin(t.Context(), "data"))
	refused("rejoined")
	for _, cmd := range []nbd.Command{nbd.CmdRead, nbd.CmdBlockStatus} {
		if err := do(dev, cmd, 0, block, nil); !errors.Is(err, engine.ErrNotWhole) {
			t.Errorf("%v: %v", cmd, err)
		}
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

func TestNothingIsWritten(t *testing.T) {
	r := newRig(t)
	r.complete(0, 1)
	r.finish()
	dev := r.device()
	for _, cmd := range []nbd.Command{nbd.CmdWrite, nbd.CmdTrim, nbd.CmdWriteZeroes, nbd.CmdFlush} {
		if err := do(dev, cmd, 0, block, nil); !errors.Is(err, unix.EPERM) {
			t.Errorf("%v: %v, want EPERM", cmd, err)
		}
	}
	if i := dev.Info(); !i.ReadOnly || i.MinBlock != block || i.Size != blocks*block {
		t.Errorf("info %+v", i)
	}
}

func TestBlockStatus(t *testing.T) {
	r := newRig(t)
	r.complete(16, 4)
	r.finish()
	dev := r.device()
	var runs []nbd.Run
	keep := func(r *nbd.Request) { runs = slices.Clone(r.Status) }
	check(t, do(dev, nbd.CmdBlockStatus, 8*block, 16*block, keep))
	want := []nbd.Run{{Len: 8 * block, Hole: true, Zero: true}, {Len: 4 * block}, {Len: 4 * block, Hole: true, Zero: true}}
	if diff := cmp.Diff(want, runs); diff != "" {
		t.Error(diff)
	}
	done := make(chan error, 1)
	one := nbd.NewRequest(nbd.CmdBlockStatus, 8*block, 16*block, func(r *nbd.Request, err error) { keep(r); done <- err })
	one.One = true
	dev.Start([]*nbd.Request{one})
	check(t, <-done)
	if diff := cmp.Diff(want[:1], runs); diff != "" {
		t.Error(diff)
	}
}

// TestReq06_DamageIsAnError: a bit that changed on the device gives an error, not data.
func TestReq06_DamageIsAnError(t *testing.T) {
	r := newRig(t)
	r.complete(0, 8)
	r.finish()
	dev := r.device()
	r.damage(r.want[3*block : 4*block])
	if err := do(dev, nbd.CmdRead, 0, 8*block, nil); err == nil || !strings.Contains(err.Error(), "block 3") {
		t.Errorf("read of a damaged block: %v", err)
	}
	r.shows(dev, 4, 4, r.want[4*block:8*block])
}

// damage flips a bit of a block, found by its contents, behind the pool's back.
func (r *rig) damage(contents []byte) {
	r.t.Helper()
	all, err := os.ReadFile(r.path)
	check(r.t, err)
	at := bytes.Index(all, contents)
	if at < 0 {
		r.t.Fatal("the block is not on the device")
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	check(r.t, err)
	_, err = f.WriteAt([]byte{contents[100] ^ 1}, int64(at+100))
	check(r.t, errors.Join(err, f.Sync(), f.Close()))
}

func TestLookup(t *testing.T) {
	r := newRig(t)
	e := Volumes(r.pool)
	if diff := cmp.Diff([]string{"shop/data"}, e.List()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"", "data", "shop/date", "ship/data"} {
		if _, _, err := e.Lookup(t.Context(), name); err == nil || !strings.Contains(err.Error(), "shop") {
			t.Errorf("export %q: %v, want an error that names what is known", name, err)
		}
	}
}

// immediate finishes every request at once: what a request itself allocates.
type immediate struct{ nbd.Device }

func (immediate) Start(batch []*nbd.Request) {
	for _, r := range batch {
		r.Finish(nil)
	}
}

func TestNoAllocationPerRead(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRig(t)
	r.complete(0, 64)
	r.finish()
	allocs := func(dev nbd.Device) float64 {
		return testing.AllocsPerRun(200, func() { check(t, do(dev, nbd.CmdRead, 0, 64*block, nil)) })
	}
	if floor, got := allocs(immediate{}), allocs(r.device()); got > floor {
		t.Errorf("%v allocations per read, of which %v are the test's", got, floor)
	}
}

// serve exports the pool on a Unix socket and returns its path.
func (r *rig) serve() string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "nbd")
	l, err := nbd.ListenAddr("unix:"+path, false)
	check(r.t, err)
	s, err := nbd.NewServer(nbd.Options{Exports: Volumes(r.pool)})
	check(r.t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	r.t.Cleanup(func() { check(r.t, errors.Join(s.Close(), <-served)) })
	return path
}

func run(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	var errs bytes.Buffer
	c := exec.CommandContext(t.Context(), program, args...)
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, errs.Bytes())
	}
	return out
}

// TestReq05_NbdcopyReadsTheCopy: a real client reads the final CG, byte for byte.
func TestReq05_NbdcopyReadsTheCopy(t *testing.T) {
	nbdcopy := testtool.Need(t, "nbdcopy", "libnbd-bin")
	r := newRig(t)
	for i := range 4 {
		r.complete(i*700, 1000)
		r.finish()
	}
	uri := "nbd+unix:///shop/data?socket=" + r.serve()
	out := filepath.Join(t.TempDir(), "copy")
	run(t, nbdcopy, uri, out)
	got, err := os.ReadFile(out)
	check(t, err)
	if !bytes.Equal(got, r.want) {
		t.Error("the copy differs")
	}
}

func TestNbdinfoSeesTheExport(t *testing.T) {
	nbdinfo := testtool.Need(t, "nbdinfo", "libnbd-bin")
	r := newRig(t)
	r.complete(0, 256)
	r.finish()
	socket := r.serve()
	var info struct {
		Exports []struct {
			Name      string `json:"export-name"`
			Size      uint64 `json:"export-size"`
			ReadOnly  bool   `json:"is_read_only"`
			MultiConn bool   `json:"can_multi_conn"`
			MinBlock  uint64 `json:"block_size_minimum"`
		} `json:"exports"`
	}
	check(t, json.Unmarshal(run(t, nbdinfo, "--list", "--json", "nbd+unix:///?socket="+socket), &info))
	if len(info.Exports) != 1 {
		t.Fatalf("exports %+v", info.Exports)
	}
	if e := info.Exports[0]; e.Name != "shop/data" || e.Size != blocks*block || !e.ReadOnly || !e.MultiConn || e.MinBlock != block {
		t.Errorf("export %+v", e)
	}
	var extents []struct {
		Offset, Length uint64
		Type           int
	}
	check(t, json.Unmarshal(run(t, nbdinfo, "--map", "--json", "nbd+unix:///shop/data?socket="+socket), &extents))
	if len(extents) != 2 || extents[0].Length != 256*block || extents[0].Type != 0 || extents[1].Type != 3 {
		t.Errorf("map %+v", extents)
	}
}
