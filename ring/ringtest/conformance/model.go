package conformance

import (
	"bytes"
	"testing"

	"github.com/farside-storage/farside/ring"
	"pgregory.net/rapid"
)

// modelBlocks is how many blocks of each device the model test uses.
const modelBlocks = 64

// testModel does batches of random requests that do not overlap each other, and compares every read, and
// at the end the whole area, to plain memory.
func testModel(t *testing.T, devs ring.Devices) {
	r := newRig(t, devs, 8)
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{rig: r, t: rt, want: make([][]byte, len(r.infos))}
		for dev := range m.want {
			m.want[dev] = make([]byte, modelBlocks*block)
			r.must(ring.Request{Op: ring.OpWriteZeroes, Device: dev, Len: modelBlocks * block})
		}
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			m.batch()
		}
		for dev, want := range m.want {
			got := r.mem[:len(want)]
			r.must(r.read(dev, 0, got))
			if !bytes.Equal(got, want) {
				rt.Fatalf("device %d differs from the model", dev)
			}
		}
	})
}

type model struct {
	*rig
	t    *rapid.T
	want [][]byte
	seed uint64
}

// batch covers a stretch of one device with neighbouring requests, so that none overlap.
func (m *model) batch() {
	dev := rapid.IntRange(0, len(m.want)-1).Draw(m.t, "device")
	sector := m.infos[dev].SectorSize
	per := block / sector
	var reqs []ring.Request
	at := rapid.IntRange(0, modelBlocks*per/2).Draw(m.t, "start")
	for range rapid.IntRange(1, 16).Draw(m.t, "requests") {
		n := rapid.IntRange(1, 3*per).Draw(m.t, "sectors")
		if at+n > modelBlocks*per {
			break
		}
		reqs = append(reqs, m.request(dev, int64(at*sector), n*sector))
		at += n + rapid.IntRange(0, per).Draw(m.t, "gap")
	}
	m.must(reqs...)
	for _, q := range reqs {
		if q.Op == ring.OpRead && !bytes.Equal(q.Buf, m.want[dev][q.Off:][:len(q.Buf)]) {
			m.t.Fatalf("read of device %d at %d, length %d differs from the model", dev, q.Off, len(q.Buf))
		}
	}
}

func (m *model) request(dev int, off int64, n int) ring.Request {
	mem := m.mem[off:][:n]
	want := m.want[dev][off:][:n]
	switch rapid.SampledFrom([]ring.Op{ring.OpWrite, ring.OpRead, ring.OpWriteZeroes, ring.OpFlush}).Draw(m.t, "op") {
	case ring.OpRead:
		return m.read(dev, off, mem)
	case ring.OpWriteZeroes:
		clear(want)
		return ring.Request{Op: ring.OpWriteZeroes, Device: dev, Off: off, Len: int64(n)}
	case ring.OpFlush:
		return ring.Request{Op: ring.OpFlush, Device: dev}
	}
	m.seed++
	fill(mem, m.seed)
	copy(want, mem)
	w := m.write(dev, off, mem)
	w.FUA = rapid.Bool().Draw(m.t, "fua")
	return w
}
