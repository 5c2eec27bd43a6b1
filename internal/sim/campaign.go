package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/farside-storage/farside/ring/ringtest"
)

// Report counts what runs did.
type Report struct {
	Seeds      uint64 `json:"seeds"`
	Steps      uint64 `json:"steps"` // after which invariants were checked
	Events     uint64 `json:"events"`
	IOs        uint64 `json:"ios"`         // requests to devices
	Frames     uint64 `json:"frames"`      // of data connections
	HostWrites uint64 `json:"host_writes"` //
	CGs        uint64 `json:"cgs"`         // decided
	Reverts    uint64 `json:"reverts"`     // visits of controls by reverts
	Crashes    uint64 `json:"crashes"`     // power failures
	Kills      uint64 `json:"kills"`
	AtIO       uint64 `json:"at_io"` // power failures and kills at an I/O
	Failovers  uint64 `json:"failovers"`
	Recoveries uint64 `json:"recoveries"` // pools opened and compared
	Reads      uint64 `json:"reads"`      // of whole copies
	PoolFull   uint64 `json:"pool_full"`
	Members    uint64 `json:"members"` // controls that began to take part, or ceased to
	Pools      uint64 `json:"pools"`   // that were made anew
	Volumes    uint64 `json:"volumes"` // that were made, deleted, set aside or had to rejoin
	Parts      uint64 `json:"parts"`   // final CGs with a part of a first copy
	Spread     uint64 `json:"spread"`  // first copies that ended after parts
}

// Add sums up.
func (r *Report) Add(o Report) {
	r.Seeds += o.Seeds
	r.Steps += o.Steps
	r.Events += o.Events
	r.IOs += o.IOs
	r.Frames += o.Frames
	r.HostWrites += o.HostWrites
	r.CGs += o.CGs
	r.Reverts += o.Reverts
	r.Crashes += o.Crashes
	r.Kills += o.Kills
	r.AtIO += o.AtIO
	r.Failovers += o.Failovers
	r.Recoveries += o.Recoveries
	r.Reads += o.Reads
	r.PoolFull += o.PoolFull
	r.Members += o.Members
	r.Pools += o.Pools
	r.Volumes += o.Volumes
	r.Parts += o.Parts
	r.Spread += o.Spread
}

// count adds what an incarnation of devices did.
func (r *Report) count(d *ringtest.Devices) { r.IOs += d.Count(ringtest.Submission) }

// Failure is a run that broke an invariant.
type Failure struct {
	Seed      uint64     `json:"seed"`
	Violation *Violation `json:"violation"`
	// Ops is the shortest list found that breaks the same invariant.
	Ops []Op `json:"-"`
	// Replay is Ops as text, for "farside sim --replay".
	Replay string `json:"replay"`
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d: %v", f.Seed, f.Violation)
}

// Options of a run.
type Options struct {
	// Trace is told, in words, of what happens; nil: nothing.
	Trace func(line string)
	// Keep leaves the operations of a failure as they are; else those that do not matter are taken out.
	Keep bool
}

// Run simulates one seed. A *Failure says that an invariant was broken; other errors that the
// simulation could not be made.
func Run(seed uint64, o Options) (Report, error) {
	return Draw(seed).Run(o)
}

// Run does a replay.
func (r Replay) Run(o Options) (Report, error) {
	report, v, err := r.once(o.Trace)
	if err != nil || v == nil {
		return report, err
	}
	f := &Failure{Seed: r.Seed, Violation: v, Ops: r.Ops}
	if !o.Keep {
		f.Ops, f.Violation = reduce(r.Ops, v, func(ops []Op) *Violation {
			_, v, err := Replay{r.Seed, ops, r.system}.once(nil)
			if err != nil {
				return nil
			}
			return v
		})
	}
	var b strings.Builder
	_, _ = Replay{r.Seed, f.Ops, r.system}.WriteTo(&b) // a Builder takes everything
	f.Replay = b.String()
	return report, f
}

func (r Replay) once(trace func(string)) (Report, *Violation, error) {
	w, err := newWorld(r.Seed, &r.system)
	if err != nil {
		return Report{}, nil, err
	}
	defer w.close()
	w.verbose = trace
	v := w.run(r.Ops)
	for _, s := range w.sec {
		if s.up {
			w.report.count(s.devs)
		}
	}
	w.report.Seeds, w.report.Events = 1, w.seq
	return w.report, v, nil
}

// reductions bounds the runs that shortening a failure may take.
var reductions = 250

// reduce takes operations out for as long as breaks finds the same invariant broken: first large pieces, then single
// ones.
func reduce(ops []Op, v *Violation, breaks func([]Op) *Violation) ([]Op, *Violation) {
	tries := 0
	for size := (len(ops) + 1) / 2; size > 0 && tries < reductions; {
		shorter := false
		for at := 0; at < len(ops) && tries < reductions; {
			rest := slices.Concat(ops[:at], ops[min(at+size, len(ops)):])
			tries++
			if again := breaks(rest); again != nil && again.Invariant == v.Invariant {
				ops, v, shorter = rest, again, true
				continue
			}
			at += size
		}
		if !shorter || size > 1 {
			size /= 2
		}
	}
	return ops, v
}
