package ringtest_test

import (
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
	"github.com/farside-storage/farside/ring/ringtest/conformance"
)

func TestConformance(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		conformance.Run(t, func(t *testing.T) ring.Devices {
			return ringtest.MustNew(ringtest.Options{Seed: 1, Blocking: true},
				ringtest.Spec{Size: 8 << 20, SectorSize: sector}, ringtest.Spec{Size: 4 << 20, SectorSize: sector, NoDiscard: true})
		})
	}
}
