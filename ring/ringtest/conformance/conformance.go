// Package conformance is the one suite of tests that every implementation of [ring.Queue] passes,
// so that what holds for the simulated device holds for the real ones.
package conformance

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/farside-storage/farside/ring"
)

// Opener opens devices for one test: at least one, writable, each of 4 MiB or more, and closes them
// when the test ends. Their contents may be anything.
type Opener func(t *testing.T) ring.Devices

// block is the unit of the tests: a multiple of any sector size.
const block = 4096

// area is how much of each device the tests use.
const area = 4 << 20

// Run runs the suite.
func Run(t *testing.T, open Opener) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, ring.Devices)
	}{
		{"RoundTrip", testRoundTrip},
		{"Large", testLarge},
		{"BoundedByDepth", testBounded},
		{"RefusesWrongRequests", testRefuses},
		{"ReapLimits", testReapLimits},
		{"FlushAndFUA", testFlushAndFUA},
		{"WriteZeroes", testWriteZeroes},
		{"Discard", testDiscard},
		{"Wake", testWake},
		{"CloseWaits", testCloseWaits},
		{"Forget", testForget},
		{"TwoQueues", testTwoQueues},
		{"Model", testModel},
		{"NoAllocation", testNoAllocation},
		{"WorkerDo", testWorkerDo},
		{"WorkerOrder", testWorkerOrder},
		{"WorkerChain", testWorkerChain},
		{"WorkerClose", testWorkerClose},
		{"WorkerNoAllocation", testWorkerNoAllocation},
		{"WorkerTogether", testWorkerTogether},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// rig is a queue with some memory that the kernel may have registered.
type rig struct {
	t     *testing.T
	q     ring.Queue
	infos []ring.DeviceInfo
	mem   []byte
}

func newRig(t *testing.T, devs ring.Devices, depth int) *rig {
	t.Helper()
	arena := newArena(t, area)
	q, err := devs.NewQueue(ring.QueueOptions{Depth: depth, Arenas: []*ring.Arena{arena}, Notice: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil && !errors.Is(err, ring.ErrClosed) {
			t.Error(err)
		}
	})
	return &rig{t: t, q: q, infos: devs.Info(), mem: arena.Bytes()}
}

func newArena(t *testing.T, size int) *ring.Arena {
	t.Helper()
	a, err := ring.NewArena(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// all pushes the requests, as many at once as fit, and gives their errors in the same order.
func (r *rig) all(reqs ...ring.Request) []error {
	r.t.Helper()
	errs := make([]error, len(reqs))
	seen := make([]bool, len(reqs))
	out := make([]ring.Completion, r.q.Depth())
	for next, ended := 0, 0; ended < len(reqs); {
		for ; next < len(reqs); next++ {
			req := reqs[next]
			req.Tag = uint64(next)
			if !r.q.Push(req) {
				break
			}
		}
		n, err := r.q.Reap(out, 1)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, c := range out[:n] {
			if seen[c.Tag] {
				r.t.Fatalf("request %d completed twice", c.Tag)
			}
			seen[c.Tag], errs[c.Tag] = true, c.Err
			ended++
		}
	}
	return errs
}

// must is all for requests that have to succeed.
func (r *rig) must(reqs ...ring.Request) {
	r.t.Helper()
	for i, err := range r.all(reqs...) {
		if err != nil {
			r.t.Fatalf("request %d: %v", i, err)
		}
	}
}

func (r *rig) write(dev int, off int64, p []byte) ring.Request {
	return ring.Request{Op: ring.OpWrite, Device: dev, Off: off, Buf: p}
}

func (r *rig) read(dev int, off int64, p []byte) ring.Request {
	return ring.Request{Op: ring.OpRead, Device: dev, Off: off, Buf: p}
}

// fill makes p recognisable.
func fill(p []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
}

func testRoundTrip(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 8)
	heap := make([]byte, 64*block) // not registered
	for dev := range r.infos {
		var writes, reads []ring.Request
		for i := range 32 {
			src := r.mem[i*block:][:block]
			if i%3 == 0 {
				src = heap[i*block:][:block]
			}
			fill(src, uint64(dev*1000+i))
			writes = append(writes, r.write(dev, int64(i)*2*block, src))
			reads = append(reads, r.read(dev, int64(i)*2*block, r.mem[(100+i)*block:][:block]))
		}
		r.must(writes...)
		r.must(reads...)
		for i := range 32 {
			if !bytes.Equal(writes[i].Buf, reads[i].Buf) {
				t.Fatalf("device %d, block %d: read differs from what was written", dev, i)
			}
		}
	}
}

func testLarge(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 2)
	half := area / 2
	fill(r.mem[:half], 1)
	r.must(r.write(0, block, r.mem[:half-block]))
	r.must(r.read(0, block, r.mem[half:2*half-block]))
	if !bytes.Equal(r.mem[:half-block], r.mem[half:2*half-block]) {
		t.Fatal("read differs from what was written")
	}
}

func testBounded(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	if r.q.Depth() != 4 {
		t.Fatalf("depth %d, asked for 4", r.q.Depth())
	}
	for round := range 3 {
		for i := range 4 {
			if !r.q.Push(ring.Request{Op: ring.OpRead, Buf: r.mem[i*block:][:block], Tag: uint64(i)}) {
				t.Fatalf("round %d: push %d was refused", round, i)
			}
			if round == 1 {
				if err := r.q.Submit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r.q.Push(ring.Request{Op: ring.OpFlush}) {
			t.Fatal("a fifth push was taken")
		}
		if n := r.q.InFlight(); n != 4 {
			t.Fatalf("%d in flight, want 4", n)
		}
		var tags []uint64
		out := make([]ring.Completion, 3)
		for len(tags) < 4 {
			n, err := r.q.Reap(out, min(2, 4-len(tags)))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range out[:n] {
				tags = append(tags, c.Tag)
			}
		}
		slices.Sort(tags)
		if !slices.Equal(tags, []uint64{0, 1, 2, 3}) || r.q.InFlight() != 0 {
			t.Fatalf("tags %v, %d still in flight", tags, r.q.InFlight())
		}
	}
}

func testRefuses(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 16)
	size, sector := r.infos[0].Size, int64(r.infos[0].SectorSize)
	buf := r.mem[:block]
	wrong := []ring.Request{
		r.read(len(r.infos), 0, buf),
		r.read(-1, 0, buf),
		r.write(0, size, buf),
		r.write(0, size-sector, r.mem[:2*sector]),
		r.write(0, -sector, buf),
		r.write(0, 1, buf),
		r.read(0, 0, r.mem[:sector-1]),
		r.read(0, 0, nil),
		{Op: ring.OpWriteZeroes, Off: 0, Len: size + sector},
		{Op: ring.OpWriteZeroes, Off: 0, Len: 1<<63 - 1},
		{Op: ring.OpWriteZeroes, Off: sector, Len: -sector},
		{Op: 99},
		{},
	}
	good := r.read(0, size-sector, r.mem[:sector])
	errs := r.all(append(wrong, good)...)
	for i, err := range errs[:len(wrong)] {
		var e *ring.Error
		if !errors.As(err, &e) {
			t.Errorf("%+v: %v, want a ring.Error", wrong[i], err)
		}
	}
	if err := errs[len(wrong)]; err != nil {
		t.Errorf("the last sector: %v", err)
	}
}

func testReapLimits(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	out := make([]ring.Completion, 4)
	if n, err := r.q.Reap(out, 0); n != 0 || err != nil {
		t.Errorf("reap of nothing: %d, %v", n, err)
	}
	if _, err := r.q.Reap(out, 2); err == nil {
		t.Error("reap of at least 2 with nothing in flight: no error")
	}
	if _, err := r.q.Reap(out[:1], 2); err == nil {
		t.Error("reap of at least 2 into room for 1: no error")
	}
}

func testFlushAndFUA(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	fill(r.mem[:block], 5)
	for dev := range r.infos {
		w := r.write(dev, 0, r.mem[:block])
		w.FUA = true
		r.must(w)
		r.must(r.write(dev, block, r.mem[:block]))
		r.must(ring.Request{Op: ring.OpFlush, Device: dev})
		r.must(r.read(dev, 0, r.mem[block:3*block]))
		if !bytes.Equal(r.mem[:block], r.mem[block:2*block]) || !bytes.Equal(r.mem[:block], r.mem[2*block:3*block]) {
			t.Fatal("read differs from what was written")
		}
	}
}

func testWriteZeroes(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	for _, n := range []int{int(r.infos[0].SectorSize), 16 * block, 1 << 20} {
		span := n + 2*block
		fill(r.mem[:span], 9)
		r.must(r.write(0, 0, r.mem[:span]))
		r.must(ring.Request{Op: ring.OpWriteZeroes, Off: block, Len: int64(n)})
		r.must(r.read(0, 0, r.mem[area/2:][:span]))
		clear(r.mem[block : block+n])
		if !bytes.Equal(r.mem[:span], r.mem[area/2:][:span]) {
			t.Fatalf("%d bytes: not zeros, or the neighbours changed", n)
		}
	}
}

func testDiscard(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	span := 64 * block
	fill(r.mem[:span], 11)
	r.must(r.write(0, 0, r.mem[:span]))
	err := r.all(ring.Request{Op: ring.OpDiscard, Off: 16 * block, Len: 32 * block})[0]
	if !r.infos[0].Discard {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Fatalf("device cannot discard, but says %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := r.mem[area/2:][:span]
	r.must(r.read(0, 0, got))
	if !bytes.Equal(got[:16*block], r.mem[:16*block]) || !bytes.Equal(got[48*block:], r.mem[48*block:span]) {
		t.Fatal("discard changed its neighbours")
	}
	r.must(r.write(0, 16*block, r.mem[:block]))
	r.must(r.read(0, 16*block, got[:block]))
	if !bytes.Equal(got[:block], r.mem[:block]) {
		t.Fatal("a discarded block cannot be written again")
	}
}

func testWake(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	out := make([]ring.Completion, 4)
	for i := range 50 {
		// Sometimes the wake-up comes first, sometimes the sleep.
		if i%2 == 0 {
			r.q.Wake()
			r.q.Wake()
		} else {
			go r.q.Wake()
		}
		if n, err := r.q.Reap(out, 1); n != 0 || err != nil {
			t.Fatalf("reap: %d, %v", n, err)
		}
	}
	// A wake-up costs no completion.
	r.q.Wake()
	r.must(r.read(0, 0, r.mem[:block]), r.read(0, block, r.mem[block:2*block]))
}

func testCloseWaits(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 16)
	fill(r.mem[:16*block], 13)
	for i := range 16 {
		if !r.q.Push(r.write(0, int64(i)*block, r.mem[i*block:][:block])) {
			t.Fatal("push was refused")
		}
	}
	if err := r.q.Close(); err != nil {
		t.Fatal(err)
	}
	if r.q.Push(ring.Request{Op: ring.OpFlush}) {
		t.Error("a closed queue took a request")
	}
	r.q.Wake() // must do no harm
	again := newRig(t, devs, 16)
	again.must(again.read(0, 0, again.mem[:16*block]))
	if !bytes.Equal(again.mem[:16*block], r.mem[:16*block]) {
		t.Fatal("close did not wait for the writes")
	}
}

// testForget: a device that was given up can be closed, while the queue goes on with the others.
func testForget(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 4)
	last := len(r.infos) - 1
	r.must(r.write(last, 0, r.mem[:block]), ring.Request{Op: ring.OpFlush, Device: last})
	r.must(ring.Request{Op: ring.OpForget, Device: last})
	if d, ok := devs.(ring.DeviceCloser); ok {
		for range 2 {
			if err := d.CloseDevice(last); err != nil {
				t.Fatal(err)
			}
		}
	}
	for dev := range last {
		r.must(r.write(dev, 0, r.mem[:block]))
	}
	if err := r.all(ring.Request{Op: ring.OpForget, Device: last + 1})[0]; err == nil {
		t.Error("a device that is not there was forgotten")
	}
}
