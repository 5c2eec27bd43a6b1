package ring

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/farside-storage/farside/internal/loopdev"
	"golang.org/x/sys/unix"
)

// BenchmarkRandomWrite4K writes 4 KiB blocks at random places of a loop device in memory.
func BenchmarkRandomWrite4K(b *testing.B) {
	for _, c := range []struct {
		name  string
		kind  Kind
		depth int
		fixed bool
	}{
		{"uring/depth=32", Uring, 32, true},
		{"uring/depth=128", Uring, 128, true},
		{"uring/depth=128/unregistered", Uring, 128, false},
		{"plain/depth=32", Plain, 32, false},
	} {
		b.Run(c.name, func(b *testing.B) { benchWrites(b, c.kind, c.depth, 4096, c.fixed, true) })
	}
}

// BenchmarkSequentialWrite256K writes 256 KiB pieces one after the other.
func BenchmarkSequentialWrite256K(b *testing.B) {
	benchWrites(b, Uring, 16, 256<<10, true, false)
}

func benchWrites(b *testing.B, kind Kind, depth, size int, fixed, random bool) {
	w := newWriter(b, kind, depth, size, fixed)
	for i := range w.places() {
		w.write(i) // so that the file behind the device has all its blocks
	}
	w.finish()
	rng := rand.New(rand.NewPCG(1, 2))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	cpu, n := cpuTime(b), int64(0)
	b.ResetTimer()
	for b.Loop() {
		if random {
			w.write(rng.Int64N(w.places()))
		} else {
			w.write(n % w.places())
		}
		n++
	}
	w.finish()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric((cpuTime(b)-cpu)/float64(n), "cpu-ns/op")
}

const benchDevice = 256 << 20

// writer keeps a queue full of writes.
type writer struct {
	b     *testing.B
	q     Queue
	size  int
	arena *Arena
	free  []uint64
	out   []Completion
}

func newWriter(b *testing.B, kind Kind, depth, size int, fixed bool) *writer {
	loop := loopdev.ForTest(b, loopdev.Memory, benchDevice, loopdev.Options{})
	devs, err := Open([]string{loop.Path}, OpenOptions{Kind: kind})
	if err != nil {
		b.Fatal(err)
	}
	arena, err := NewArena(depth * size)
	if err != nil {
		b.Fatal(err)
	}
	o := QueueOptions{Depth: depth}
	if fixed {
		o.Arenas = []*Arena{arena}
	}
	q, err := devs.NewQueue(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(q.Close(), devs.Close(), arena.Close()); err != nil {
			b.Error(err)
		}
	})
	w := &writer{b: b, q: q, size: size, arena: arena, out: make([]Completion, depth)}
	for i := range depth {
		w.free = append(w.free, uint64(i))
	}
	return w
}

// places is how many writes cover the device.
func (w *writer) places() int64 { return benchDevice / int64(w.size) }

func (w *writer) write(place int64) {
	if len(w.free) == 0 {
		w.reap()
	}
	i := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.q.Push(Request{Op: OpWrite, Off: place * int64(w.size), Buf: w.arena.Bytes()[int(i)*w.size:][:w.size], Tag: i})
}

func (w *writer) reap() {
	n, err := w.q.Reap(w.out, 1)
	if err != nil {
		w.b.Fatal(err)
	}
	for i := range w.out[:n] {
		if w.out[i].Err != nil {
			w.b.Fatal(w.out[i].Err)
		}
		w.free = append(w.free, w.out[i].Tag)
	}
}

func (w *writer) finish() {
	for w.q.InFlight() > 0 {
		w.reap()
	}
}

// cpuTime is what this process has used, in nanoseconds; the kernel's loop threads are not in it.
func cpuTime(b *testing.B) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWorkerWrite4K is the same through a worker: calls handed over from another goroutine, 16 at a time.
func BenchmarkWorkerWrite4K(b *testing.B) {
	const depth, batch = 128, 16
	loop := loopdev.ForTest(b, loopdev.Memory, benchDevice, loopdev.Options{})
	devs, err := Open([]string{loop.Path}, OpenOptions{Kind: Uring})
	if err != nil {
		b.Fatal(err)
	}
	arena, err := NewArena(depth * 4096)
	if err != nil {
		b.Fatal(err)
	}
	w, err := NewWorker(devs, QueueOptions{Depth: depth, Arenas: []*Arena{arena}})
	if err != nil {
		b.Fatal(err)
	}
	free := make(chan *Call, depth)
	for i := range depth {
		free <- &Call{
			Request: Request{Op: OpWrite, Buf: arena.Bytes()[i*4096:][:4096]},
			Done:    func(c *Call) { free <- c },
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	calls := make([]*Call, 0, batch)
	b.ReportAllocs()
	for b.Loop() {
		c := <-free
		if c.Err != nil {
			b.Fatal(c.Err)
		}
		c.Off = rng.Int64N(benchDevice/4096) * 4096
		if calls = append(calls, c); len(calls) == batch {
			w.Go(calls...)
			calls = calls[:0]
		}
	}
	w.Go(calls...)
	if err := errors.Join(w.Close(), devs.Close(), arena.Close()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}
