package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// run is what a workload gets.
type run struct {
	o   Options
	dev *device // nil if only workloads with devices of their own run
	// missing is the report's.
	missing []string
}

// leaveOut notes that a workload was not measured, or a part of it.
func (r *run) leaveOut(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.progress("  %s", text)
	r.missing = append(r.missing, text)
}

// alone: no other workload was asked for, whose figures would be lost with an error of this one.
func (r *run) alone() bool { return len(r.o.Names) == 1 }

func (r *run) progress(format string, args ...any) { r.o.Progress(fmt.Sprintf(format, args...)) }

func (r *run) duration() time.Duration { return time.Duration(r.o.Seconds) * time.Second }

// floorTime is how long one run of a floor lasts: there is one more of them than of the subject.
func (r *run) floorTime() time.Duration {
	if r.o.Quick {
		return min(r.duration(), 500*time.Millisecond)
	}
	return min(r.duration(), 3*time.Second)
}

// Run measures. If it fails on the way, the report holds what was measured before, and says what is missing.
func Run(ctx context.Context, o Options) (rep Report, err error) {
	if err := o.fill(); err != nil {
		return rep, err
	}
	rep.Host = describeHost()
	var dev *device
	if NeedDevice(o.Names) {
		o.Progress("prepare the device: everything in the region that is measured is overwritten")
		if dev, err = openDevice(ctx, o); err != nil {
			return rep, fmt.Errorf("bench: %w", err)
		}
		defer func() {
			rep.Host.Notices = append(rep.Host.Notices, dev.told.all()...)
			err = errors.Join(err, dev.close())
		}()
		rep.Host.describe(dev)
	}
	stop, err := startProfile(o)
	if err != nil {
		return rep, err
	}
	defer stop()
	r := &run{o: o, dev: dev}
	defer func() { rep.Missing = r.missing }()
	for i, name := range o.Names {
		w, err := find(name)
		if err != nil {
			return rep, err
		}
		r.progress("%s: %s", w.name, w.what)
		results, err := w.run(ctx, r)
		rep.Results = append(rep.Results, results...)
		if err != nil {
			r.missing = append(r.missing, fmt.Sprintf("%s: %v", strings.Join(o.Names[i:], ", "), err))
			return rep, fmt.Errorf("bench %s: %w", w.name, err)
		}
	}
	return rep, nil
}

// alternate runs floor and subject in turn, floor first and last. A single subject's floor is the
// mean of its two neighbours.
func (r *run) alternate(ctx context.Context, floor, subject func() (float64, error)) ([]Repetition, error) {
	before, err := floor()
	if err != nil {
		return nil, err
	}
	var out []Repetition
	for i := range r.o.Repetitions {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		value, err := subject()
		if err != nil {
			return out, err
		}
		after, err := floor()
		if err != nil {
			return out, err
		}
		out = append(out, Repetition{Value: value, Floor: (before + after) / 2})
		r.progress("  repetition %d of %d: %.4g, floor %.4g before and %.4g after", i+1, r.o.Repetitions, value, before, after)
		before = after
	}
	return out, nil
}
