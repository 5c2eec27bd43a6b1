package nbd

import (
	"io"
	"testing"
)

// load is a client that sends the same requests again and again, without garbage.
type load struct {
	c        *client
	requests []byte
	answers  []byte // memory for them
}

func newLoad(t testing.TB, s *testServer, depth int, wire uint16) *load {
	l := &load{c: s.dial(t)}
	l.c.transmission(true, false)
	const block = 4096
	for i := range uint64(depth) {
		if wire == 1 {
			l.requests = append(l.requests, rawRequest(0, 1, i, i*block, block, make([]byte, block))...)
			l.answers = append(l.answers, make([]byte, 16)...)
		} else {
			l.requests = append(l.requests, rawRequest(0, 0, i, i*block, block)...)
			l.answers = append(l.answers, make([]byte, 28+block)...)
		}
	}
	return l
}

func (l *load) round() error {
	if _, err := l.c.Write(l.requests); err != nil {
		return err
	}
	_, err := io.ReadFull(l.c, l.answers)
	return err
}

// filledMemory is a device without holes, whose reads carry data.
func filledMemory(size uint64) *Memory {
	m := NewMemory(size)
	m.zero(0, size, true)
	return m
}

func TestNoAllocationPerRequest(t *testing.T) {
	const depth = 32
	for _, wire := range []uint16{0, 1} {
		s := serve(t, Options{Exports: exportsOf(filledMemory(1 << 20))})
		l := newLoad(t, s, depth, wire)
		var err error
		round := func() {
			if err == nil {
				err = l.round()
			}
		}
		for range 100 { // pools and slices grow
			round()
		}
		perRequest := testing.AllocsPerRun(300, round) / depth
		if err != nil {
			t.Fatal(err)
		}
		if perRequest > 0.01 {
			t.Errorf("command %d: %.3f allocations per request", wire, perRequest)
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	for name, wire := range map[string]uint16{"read": 0, "write": 1} {
		b.Run(name+"/4KiB/depth=32", func(b *testing.B) {
			const depth = 32
			s := serve(b, Options{Exports: exportsOf(filledMemory(1 << 20))})
			l := newLoad(b, s, depth, wire)
			b.ReportAllocs()
			b.SetBytes(4096 * depth)
			for b.Loop() {
				if err := l.round(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*depth/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
