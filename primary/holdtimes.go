package primary

import (
	"slices"
	"time"

	"github.com/farside-storage/farside/wire"
)

// holdTimes keeps the newest hold times, and counts all.
type holdTimes struct {
	samples   [1024]time.Duration
	n         uint64 // ever added
	histogram wire.HoldHistogram
}

func (h *holdTimes) add(d time.Duration) {
	h.histogram.Add(d)
	h.samples[h.n%uint64(len(h.samples))] = d
	h.n++
}

// HoldTimes sums up how long host writes were held, over the newest 1024 holds.
type HoldTimes struct {
	Holds   uint64        `json:"holds"` // ever
	Expired uint64        `json:"expired"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Max     time.Duration `json:"max_ns"`
}

func (h *holdTimes) summary() HoldTimes {
	n := min(h.n, uint64(len(h.samples)))
	if n == 0 {
		return HoldTimes{}
	}
	s := slices.Clone(h.samples[:n])
	slices.Sort(s)
	return HoldTimes{Holds: h.n, P50: s[n/2], P99: s[(n*99)/100], Max: s[n-1]}
}

// rateMeter is a rate over the last few seconds, without a clock of its own.
type rateMeter struct {
	start     time.Duration // of the window
	bytes     int64         // in it
	perSecond float64       // of the window before
}

const rateWindow = 2 * time.Second

func (r *rateMeter) add(now time.Duration, bytes int64) {
	r.turn(now)
	r.bytes += bytes
}

func (r *rateMeter) turn(now time.Duration) {
	d := now - r.start
	if d < rateWindow {
		return
	}
	r.perSecond = float64(r.bytes) / d.Seconds()
	r.start, r.bytes = now, 0
}

// value is the rate in bytes per second.
func (r *rateMeter) value(now time.Duration) float64 {
	r.turn(now)
	return r.perSecond
}
