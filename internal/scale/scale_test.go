package scale

import (
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

var flagCGs = flag.Int("scale.cgs", 0, "CGs that the real roles form, instead of the usual few")

// TestMessagesPerCG: with real roles a CG costs what the formula says, and volumes cost nothing but bytes.
func TestMessagesPerCG(t *testing.T) {
	for _, c := range []struct {
		Layout
		cgs int
	}{
		{Layout{2, 2, 8}, 30}, {Layout{2, 2, 64}, 30}, {Layout{8, 8, 64}, 50},
	} {
		if *flagCGs > 0 {
			c.cgs = *flagCGs
		}
		if raceEnabled && c.Primaries > 2 {
			continue
		}
		m, err := Run(t.Context(), Options{Layout: c.Layout, CGs: c.cgs, Counted: true, Kind: ring.Plain})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", m)
		judge(t, m)
	}
}

func judge(t *testing.T, m Measured) {
	want := map[wire.Type]float64{}
	for kind, n := range PerCG(m.Primaries, m.Secondaries, m.Connections()) {
		want[kind] = float64(n)
	}
	if m.Failed > 0 || m.Reconnects > 0 { // as on a machine that stands still for seconds: then there is more of some
		t.Logf("disturbed: %d CGs or holds failed, %d connections made anew; %d of %d CGs as the formula says", m.Failed, m.Reconnects, m.AsFormula, m.CGs)
		return
	}
	// RELEASE is repeated by time, and what is answered twice is not more costly by volumes.
	for _, kind := range []wire.Type{wire.TypeRelease, wire.TypeFinal} {
		if m.PerCG[kind] < want[kind] {
			t.Errorf("%+v: %v of %v for each CG, want %v", m.Layout, m.PerCG[kind], kind, want[kind])
		}
		delete(want, kind)
		delete(m.PerCG, kind)
	}
	if d := cmp.Diff(want, m.PerCG); d != "" {
		t.Errorf("%+v: messages per CG (-formula +measured):\n%s", m.Layout, d)
	}
}
