package scale

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/farside-storage/farside/bench"
	"github.com/farside-storage/farside/wire"
)

// layouts of the workload; the first is the one of which most CGs are formed.
var layouts = []Layout{{8, 8, 64}, {2, 2, 8}, {2, 2, 64}, {4, 4, 8}, {4, 4, 64}, {8, 8, 8}, {2, 8, 64}, {8, 2, 64}}

const (
	fullCGs, otherCGs   = 1000, 100
	quickCGs, quickRest = 50, 10
)

// Workload is what "farside bench scale" runs: each layout twice, with nothing in between for the times, and with every
// frame counted.
func Workload() bench.Workload {
	return bench.Workload{Name: "scale", What: "messages and time of a CG, by controls and volumes, up to 8 x 8 controls", Run: measureAll}
}

func measureAll(ctx context.Context, o bench.Options) ([]bench.Result, error) {
	var out []bench.Result
	for i, l := range layouts {
		run := Options{Layout: l, CGs: cgs(o.Quick, i == 0), Dir: folder(o), Kind: o.Kind, Progress: o.Progress}
		timed, err := Run(ctx, run)
		if err != nil {
			return out, err
		}
		run.Counted = true
		counted, err := Run(ctx, run)
		if err != nil {
			return out, err
		}
		out = append(out, figures(timed, counted)...)
	}
	return out, nil
}

func cgs(quick, most bool) int {
	n := [2][2]int{{otherCGs, fullCGs}, {quickRest, quickCGs}}
	at := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return n[at(quick)][at(most)]
}

// memory is where files cost no device.
const memory = "/dev/shm"

// folder keeps the files in memory, unless a loop device was asked to be on disk.
func folder(o bench.Options) string {
	if st, err := os.Stat(memory); o.Loop == "disk" || err != nil || !st.IsDir() {
		return o.Dir
	}
	return memory
}

func figures(timed, counted Measured) []bench.Result {
	name := func(what string) string {
		return fmt.Sprintf("scale/%dx%d/%d/%s", timed.Primaries, timed.Secondaries, timed.Volumes, what)
	}
	frames := number(name("messages"), "messages/CG", counted.ManagerFrames, float64(ManagerMessages(counted.Primaries, counted.Secondaries)))
	frames.FloorName = "6 for each primary and 5 for each secondary"
	frames.Notes = []string{fmt.Sprintf("%d of %d CGs with exactly these: %s", counted.AsFormula, counted.CGs, kinds(counted.PerCG)),
		fmt.Sprintf("%.4g more for each CG by time: states asked for and pings", counted.ByTime)}
	frames.Notes = append(frames.Notes, disturbed(counted)...)
	manifests := number(name("manifests"), "messages/CG", counted.PerCG[wire.TypeManifest], float64(counted.Connections()))
	manifests.FloorName = "1 for each data connection"
	manifests.Notes = []string{fmt.Sprintf("%.0f bytes", counted.ManifestBytes)}
	bytes := number(name("bytes"), "bytes/CG", counted.ManagerBytes, 0)
	return append([]bench.Result{frames, manifests, bytes}, times(name, timed)...)
}

func times(name func(string) string, m Measured) []bench.Result {
	stages := fmt.Sprintf("the cut to complete everywhere %s, to decided %s, to final everywhere %s (medians)",
		millis(m.Drain.P50), millis(m.Link.P50), millis(m.Release.P50))
	median := number(name("time"), "ms", inMillis(m.Period.P50), 0)
	median.Min, median.Max = inMillis(m.Period.Min), inMillis(m.Period.Max)
	median.Notes = append([]string{fmt.Sprintf("median of %d CGs from cut to cut, without a pause between them; %s", m.CGs, stages)}, disturbed(m)...)
	if m.Hold.P50 != nil {
		median.Notes = append(median.Notes, fmt.Sprintf("hosts held %.4g ms at most in the median, %.4g ms in the 99th percentile", *m.Hold.P50, *m.Hold.P99))
	}
	return []bench.Result{median, number(name("time-p99"), "ms", inMillis(m.Period.P99), 0)}
}

func disturbed(m Measured) []string {
	if m.Failed == 0 && m.Reconnects == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d CGs or holds given up, %d connections made anew meanwhile", m.Failed, m.Reconnects)}
}

// number is a result that stands for one figure, with what it should be.
func number(name, unit string, value, floor float64) bench.Result {
	r := bench.Result{Name: name, Unit: unit, Value: value, Min: value, Median: value, Max: value, Floor: floor,
		Repetitions: []bench.Repetition{{Value: value, Floor: floor}}}
	if floor > 0 {
		r.Ratio = value / floor
		r.RatioMin, r.RatioMax = r.Ratio, r.Ratio
	}
	return r
}

// kinds lists messages in the order of their types.
func kinds(m map[wire.Type]float64) string {
	text := ""
	for _, kind := range slices.Sorted(maps.Keys(m)) {
		if kind != wire.TypeManifest {
			text += fmt.Sprintf(" %v %.4g,", kind, m[kind])
		}
	}
	return strings.Trim(text, " ,")
}

func inMillis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
func millis(d time.Duration) string    { return fmt.Sprintf("%.3g ms", inMillis(d)) }
