package primary

import (
	"testing"

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
	if err := c.Attached(0, wire.Attached{Window: 1 << 30}); err != nil {
		b.Fatal(err)
	}
	c.volumes[0].replicas[0].open.reset()
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
