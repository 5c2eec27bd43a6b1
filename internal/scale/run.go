package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// Options of a run.
type Options struct {
	Layout
	// CGs that are looked at: those that are formed, one after the other without a pause, once the first copies are
	// final.
	CGs int
	// Counted has every frame pass through a socket in between, where it is counted; that takes time, too.
	Counted bool
	// Dir is where the files of a run are made, in a folder that is removed; "": the folder for temporary files.
	Dir string
	// Kind of queue to the devices; zero: io_uring.
	Kind ring.Kind
	// Progress, if set, is told what goes on.
	Progress func(line string)
}

const mostCGs = 10_000 // the audit log keeps that many in one file

func (o *Options) check() error {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Primaries < 1 || o.Secondaries < 1 || o.Volumes < max(o.Primaries, o.Secondaries) || o.CGs < 1 || o.CGs > mostCGs {
		return fmt.Errorf("scale: %d primaries, %d secondaries, %d volumes, %d CGs: want at least 1 of each, as many volumes as controls of a role, and at most %d CGs",
			o.Primaries, o.Secondaries, o.Volumes, o.CGs, mostCGs)
	}
	for i := range o.Secondaries { // a secondary without a volume has no part in a CG
		if !slices.ContainsFunc(seq(o.Volumes), func(v int) bool { _, s := o.Of(v); return s == i }) {
			return fmt.Errorf("scale: %d volumes of %d primaries leave secondary %d without one: take more volumes", o.Volumes, o.Primaries, i)
		}
	}
	return nil
}

func seq(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Times are percentiles of a duration over the CGs of a run.
type Times struct{ Min, P50, P99, Max time.Duration }

func percentiles(v []time.Duration) Times {
	if len(v) == 0 {
		return Times{}
	}
	s := slices.Sorted(slices.Values(v))
	return Times{s[0], s[(len(s)-1)/2], s[(len(s)*99+99)/100-1], s[len(s)-1]}
}

// Measured is what a run came to.
type Measured struct {
	Layout
	CGs int

	// Of the frames that carry the number of a CG, counted in a run that counts: how many of each kind a CG had, on
	// average.
	PerCG map[wire.Type]float64
	// AsFormula is how many of the CGs had exactly the frames that [PerCG] says, and no others.
	AsFormula int
	// ManagerFrames and ManagerBytes are those of them between manager and controls, ManifestBytes those on data
	// connections; for each CG.
	ManagerFrames, ManagerBytes, ManifestBytes float64
	// ByTime are the manager's other frames for each CG: state asked once a second, pings.
	ByTime float64

	// Period is from one cut to the next, Final from the cut to the last final; that is Drain (until all are
	// complete), Link (until the decision is durable) and Release.
	Period, Final, Drain, Link, Release Times
	// Hold is how long hosts were held for a cut, at most.
	Hold manager.Percentiles
	// Failed counts CGs and holds that were given up during the run.
	Failed uint64
	// Reconnects counts connections that were made anew during the run; known of a run that counts.
	Reconnects uint64
}

// Run forms CGs with real roles in this process, and at the end compares every copy with its volume.
func Run(ctx context.Context, o Options) (m Measured, err error) {
	if err := o.check(); err != nil {
		return m, err
	}
	in, err := install(ctx, o)
	if err != nil {
		return m, fmt.Errorf("scale: %w", err)
	}
	defer func() { err = errors.Join(err, in.close()) }()
	stop := in.hosts(ctx)
	begin, end, before, err := in.form(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return m, err
	}
	if err := in.settle(ctx); err != nil {
		return m, err
	}
	return in.measure(begin, end, before)
}

// form waits until the CGs to look at were formed. begin and end are the states of the group before and after, before
// what had been counted.
func (in *installation) form(ctx context.Context) (begin, end manager.Status, before map[wire.Type]count, err error) {
	begin, err = in.await(ctx, func(s manager.Status) bool { return s.CGsFormed >= 2 }) // the first copies are among them
	if err != nil {
		return begin, end, nil, err
	}
	if in.tally != nil {
		before = in.tally.snapshot()
	}
	const behind = 3 // until nothing is under way any more of those looked at, and the first is whole
	tenth := 1
	end, err = in.await(ctx, func(s manager.Status) bool {
		done := int(s.CGsFormed - begin.CGsFormed)
		for ; done*10 >= tenth*in.o.CGs && tenth < 10; tenth++ {
			in.o.Progress(fmt.Sprintf("  %d primaries, %d secondaries, %d volumes: %d of %d CGs", in.o.Primaries, in.o.Secondaries, in.o.Volumes, done, in.o.CGs))
		}
		return done >= in.o.CGs+behind
	})
	return begin, end, before, err
}

// settle waits until everything that hosts wrote is final, and compares.
func (in *installation) settle(ctx context.Context) error {
	now := time.Now()
	if _, err := in.await(ctx, func(s manager.Status) bool {
		return s.RecoveryCut != nil && s.RecoveryCut.After(now) && s.CGsFormed > 0 && s.State != manager.StateRelease
	}); err != nil {
		return err
	}
	return in.verify(ctx)
}

// await asks the manager until ok holds for the group, or a role has failed.
func (in *installation) await(ctx context.Context, ok func(manager.Status) bool) (manager.Status, error) {
	pause := time.NewTicker(20 * time.Millisecond) // between two questions
	defer pause.Stop()
	for {
		s, err := in.status(ctx)
		if err := errors.Join(err, in.trouble()); err != nil {
			return s, err
		}
		switch {
		case s.Halted != "":
			return s, fmt.Errorf("scale: the group halted: %s", s.Halted)
		case ok(s):
			return s, nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return s, fmt.Errorf("%w: the group is in %v, with %d CGs formed, and waits for %q", context.Cause(ctx), s.State, s.CGsFormed, s.Waiting)
		}
	}
}

func (in *installation) status(ctx context.Context) (s manager.Status, err error) {
	c, err := wire.Dial(ctx, in.socket("m"), wire.Options{IdleTimeout: time.Minute, WriteTimeout: time.Minute})
	if err != nil {
		return s, err
	}
	defer c.Close() // nothing is lost
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "scale"}); err != nil {
		return s, err
	}
	if err := c.WriteMessage(&wire.Status{}); err != nil {
		return s, err
	}
	h, body, err := c.Next()
	if err != nil {
		return s, err
	}
	var reply wire.StatusReply
	if h.Type != wire.TypeStatusReply {
		return s, fmt.Errorf("scale: the manager answers with %v", h.Type)
	}
	if err := wire.DecodeInto(&reply, body); err != nil {
		return s, err
	}
	var document manager.NodeStatus
	if err := json.Unmarshal(reply.JSON, &document); err != nil || len(document.Groups) != 1 {
		return s, fmt.Errorf("scale: the manager's status has %d groups: %w", len(document.Groups), err)
	}
	return document.Groups[0], nil
}

// stamps are the times at which a CG came to its stages, by the audit log.
type stamps struct {
	cg                           uint64
	cut, linked, decided, finals time.Time
}

// history reads the CGs that were formed from the audit log, in order.
func (in *installation) history() ([]stamps, error) {
	b, err := os.ReadFile(filepath.Join(in.path("m.d"), node.AuditLogFile))
	if err != nil {
		return nil, err
	}
	var out []stamps
	at := map[uint64]*stamps{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var e manager.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("scale: audit log: %w", err)
		}
		if at[e.CG] == nil {
			at[e.CG] = &stamps{cg: e.CG}
		}
		s := at[e.CG]
		switch e.Kind {
		case manager.EntryCut:
			s.cut = e.Time
		case manager.EntryLink:
			s.linked = e.Time
		case manager.EntryDecided:
			s.decided = e.Time
		case manager.EntryFinal:
			s.finals = e.Time
			out = append(out, *s)
		}
	}
	return out, lines.Err()
}

// measure looks at the first CGs that were opened after begin.
func (in *installation) measure(begin, end manager.Status, before map[wire.Type]count) (Measured, error) {
	m := Measured{Layout: in.o.Layout, CGs: in.o.CGs, Hold: end.Hold, Failed: end.CGsFailed + end.HoldsFailed - begin.CGsFailed - begin.HoldsFailed}
	all, err := in.history()
	if err != nil {
		return m, err
	}
	first := slices.IndexFunc(all, func(s stamps) bool { return s.cg > begin.OpenCG })
	if first < 0 || first+in.o.CGs+1 > len(all) {
		return m, fmt.Errorf("scale: the audit log has %d CGs, not enough", len(all))
	}
	m.time(all[first : first+in.o.CGs+1])
	if in.tally != nil {
		m.count(in.tally, all[first:first+in.o.CGs], before, end.CGsFormed-begin.CGsFormed)
	}
	return m, nil
}

// time takes one CG more than is looked at: a period ends with the next cut.
func (m *Measured) time(all []stamps) {
	var period, final, drain, link, release []time.Duration
	for i, s := range all[:len(all)-1] {
		period = append(period, all[i+1].cut.Sub(s.cut))
		final = append(final, s.finals.Sub(s.cut))
		drain = append(drain, s.linked.Sub(s.cut))
		link = append(link, s.decided.Sub(s.linked))
		release = append(release, s.finals.Sub(s.decided))
	}
	m.Period, m.Final, m.Drain, m.Link, m.Release = percentiles(period), percentiles(final), percentiles(drain), percentiles(link), percentiles(release)
}

func (m *Measured) count(t *tally, cgs []stamps, before map[wire.Type]count, formed uint64) {
	want := PerCG(m.Primaries, m.Secondaries, m.Connections())
	sum := map[wire.Type]count{}
	for _, s := range cgs {
		got := t.of(s.cg)
		same := len(got) == len(want)
		for kind, c := range got {
			same = same && c.frames == uint64(want[kind])
			total := sum[kind]
			total.add(c)
			sum[kind] = total
		}
		if same {
			m.AsFormula++
		}
	}
	m.PerCG = map[wire.Type]float64{}
	n := float64(len(cgs))
	for kind, c := range sum {
		m.PerCG[kind] = float64(c.frames) / n
		if kind == wire.TypeManifest {
			m.ManifestBytes = float64(c.bytes) / n
			continue
		}
		m.ManagerFrames += float64(c.frames) / n
		m.ManagerBytes += float64(c.bytes) / n
	}
	now := t.snapshot()
	m.Reconnects = (now[wire.TypeHello].frames - before[wire.TypeHello].frames) / 2
	for _, kind := range []wire.Type{wire.TypeQuery, wire.TypeState, wire.TypePing, wire.TypePong} {
		m.ByTime += float64(now[kind].frames-before[kind].frames) / float64(formed)
	}
}
