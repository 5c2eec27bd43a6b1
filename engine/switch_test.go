package engine

import (
	"fmt"
	"testing"
)

// BenchmarkSwitchOfView is what LINK does to the linked view once its record is durable: goals P6 and P7
// ask for 10 us, whatever the size of the CG.
func BenchmarkSwitchOfView(b *testing.B) {
	for _, n := range []uint64{1e3, 1e6} {
		b.Run(fmt.Sprintf("updates=%d", n), func(b *testing.B) {
			memory := newTableMemory()
			defer memory.close()
			g := &Group{name: "g"}
			vol := &Volume{group: g, name: "v"}
			cg, err := newCGTable(vol, 1, memory)
			if err != nil {
				b.Fatal(err)
			}
			defer cg.free()
			for v := range n {
				if _, _, err := cg.put(VBlock(v*7919), PBlock(v+1), v); err != nil {
					b.Fatal(err)
				}
			}
			final := &View{group: g, vols: []volumeView{{vol: vol}}}
			g.final.Store(final)
			g.linked.Store(final)
			g.live = []*liveCG{{cg: 1, tables: []*cgTable{cg}}}
			link := &record{kind: recLinked, cg: 1}
			b.ReportAllocs()
			for b.Loop() {
				g.apply(link)
				if g.linked.Load().CG() != 1 {
					b.Fatal("the view did not change")
				}
				g.linked.Store(final) // what REVERT does
				g.state.linked = 0
			}
		})
	}
}
