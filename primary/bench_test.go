package primary

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// BenchmarkCoreWrite is what replication adds to a 4 KiB host write: the core's work from Submit to the
// credit, without device and network; and with the checksum.
func BenchmarkCoreWrite(b *testing.B) {
	for _, bb := range []struct {
		name string
		seal bool
	}{{"core", false}, {"core+checksum", true}} {
		b.Run(bb.name, func(b *testing.B) { benchCoreWrite(b, bb.seal) })
	}
}

func benchCoreWrite(b *testing.B, seal bool) {
	const depth, size = 32, 1 << 30
	c, err := NewCore(CoreOptions{}, []GroupSpec{{Name: "g", Volumes: []VolumeSpec{{Name: "v", Size: size, Secondaries: []string{"s"}}}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	c.volumes[0].replicas[0].open.reset() // no first copy
	c.volumes[0].intent.marked.setAll()
	c.Manage(1, &wire.Open{Command: wire.Command{Group: "g", CG: 1}})
	c.volumes[0].replicas[0].open.reset()
	if err := c.Attached(0, wire.Attached{Window: 1 << 30, Volumes: []wire.VolumeState{{Identity: wire.UUID{1}}}}); err != nil {
		b.Fatal(err)
	}
	c.volumes[0].replicas[0].open.reset()
	c.conns[0].unnoted = false
	data := allocHeap(BlockSize)
	ios := make([]*IO, depth)
	for i := range ios {
		ios[i] = &IO{Op: OpWrite, Len: BlockSize, Payload: data}
	}
	var a Actions
	block := uint64(1)
	b.ReportAllocs()
	b.SetBytes(BlockSize)
	for n := 0; b.Loop(); n++ {
		io := ios[n%depth]
		block = block*6364136223846793005 + 1442695040888963407
		io.Off = block >> 34 % (size / BlockSize) * BlockSize
		c.Submit(io)
		if n%depth != depth-1 {
			continue
		}
		c.Take(&a)
		for _, d := range a.Device {
			c.DeviceDone(d)
		}
		for f := c.TakeFrame(0); f != nil; f = c.TakeFrame(0) {
			if seal {
				f.Seal()
			}
			c.ReturnFrame(f)
			if err := c.Credit(0, f.Seq); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkNodeWrite is a random 4 KiB host write at depth 32 through a node over a file, without any
// secondary ("bare": what the shell costs), and with one that is away ("recording"). Device is the
// ring's worker alone.
func BenchmarkNodeWrite(b *testing.B) {
	b.Run("device", func(b *testing.B) { benchNodeWrite(b, nil, true) })
	b.Run("bare", func(b *testing.B) { benchNodeWrite(b, nil, false) })
	b.Run("recording", func(b *testing.B) { benchNodeWrite(b, []string{"away"}, false) })
}

func benchNodeWrite(b *testing.B, secondaries []string, deviceOnly bool) {
	const depth, size = 32, 64 << 20
	dir := b.TempDir()
	path := filepath.Join(dir, "v")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	devs, err := ring.Open([]string{path}, ring.OpenOptions{AllowBuffered: true})
	if err != nil {
		b.Fatal(err)
	}
	defer devs.Close()
	n, err := Open(Options{Name: "p", StateDir: dir, Devices: devs, Secondaries: map[string]string{"away": "127.0.0.1:1"},
		Groups: []GroupSpec{{Name: "g", Volumes: []VolumeSpec{{Name: "v", Size: size, Secondaries: secondaries}}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	v := n.Volumes()[0]
	free := make(chan *Request, depth)
	var calls [depth]ring.Call
	for i := range depth {
		r := &Request{Kind: Write, Len: BlockSize, Data: n.memory.get(BlockSize), Owner: &calls[i], Done: func(r *Request, _ error) { free <- r }}
		calls[i].Done = func(*ring.Call) { free <- r }
		free <- r
	}
	block := uint64(1)
	one := make([]*Request, 1)
	b.ReportAllocs()
	for b.Loop() {
		r := <-free
		block = block*6364136223846793005 + 1442695040888963407
		r.Off = block >> 34 % (size / BlockSize) * BlockSize
		if deviceOnly {
			c := r.Owner.(*ring.Call)
			c.Request = ring.Request{Op: ring.OpWrite, Off: int64(r.Off), Buf: r.Data.Bytes()}
			n.worker.Go(c)
			continue
		}
		one[0] = r
		v.Start(one)
	}
	for range depth {
		<-free
	}
}
