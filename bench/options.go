package bench

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// Options say what to measure, where and for how long.
type Options struct {
	// Names of workloads (see [Names]); "all" or none: all of them.
	Names []string
	// Device is a block device or a regular file; everything in its first Size bytes is destroyed.
	Device string
	// Loop makes a loop device for the run instead, with 4 KiB sectors and direct I/O: "tmpfs" has its
	// backing file in memory, "disk" in Dir. Needs root.
	// Workloads that make their devices themselves (see [NeedDevice]) make loop devices of this kind, too: in memory
	// unless it is "disk".
	Loop string
	// Dir holds the backing file of a "disk" loop device; "": the folder for temporary files.
	Dir string
	// Size in bytes of a loop device, or of the part of Device that is used. 0: 4 GiB for a
	// loop device; all of Device up to 16 GiB.
	Size int64
	// Seconds that each repetition of a workload lasts; 0: 10, with Quick 2.
	Seconds int
	// Repetitions of each workload, alternating with its floor; 0: 3.
	Repetitions int
	// Full is how many percent of the pool the volume of the ingest workloads takes when all of it is mapped,
	// 1 to 90; 0: 25. The fuller the pool, the shorter the runs of free blocks that updates go to.
	Full int
	// Minutes that each run of workload steady lasts; 0: 10. With Quick it is six seconds.
	Minutes int
	// Pictures is an existing folder for pictures of figures over time, as SVG; "": none are made.
	Pictures string
	// Quick makes everything short: good enough to see that it works.
	Quick bool
	// Command runs farside: the program and its first arguments, for workloads that start whole controls as processes.
	Command []string
	// Kind of queue; zero: io_uring or nothing.
	Kind ring.Kind
	// Profile, if not empty, is cpu, mem, mutex, block or trace: a profile of the workloads, floors
	// included, is written to ProfileDir ("": the current folder).
	Profile    string
	ProfileDir string
	// Progress, if set, is told what goes on; from one goroutine at a time.
	Progress func(line string)

	cluster clusterShape // of workloads that run whole controls; zero: usualShape
}

const (
	defaultLoopSize   = 4 << 30
	defaultDeviceSize = 16 << 30
	minSize           = 512 << 20
)

func (o *Options) fill() error {
	if o.Kind == ring.Auto {
		o.Kind = ring.Uring
	}
	if o.Seconds == 0 {
		o.Seconds = 10
		if o.Quick {
			o.Seconds = 2
		}
	}
	if o.Repetitions == 0 {
		o.Repetitions = 3
	}
	if o.Minutes == 0 {
		o.Minutes = 10
	}
	if o.Full == 0 {
		o.Full = 25
	}
	if o.cluster == (clusterShape{}) {
		o.cluster = usualShape
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if len(o.Names) == 0 || slices.Contains(o.Names, "all") {
		o.Names = Names()
	}
	if err := errors.Join(o.check(), o.checkFolders()); err != nil {
		return &optionsError{err}
	}
	return nil
}

// ErrOptions is what an error of [Run] is when its options make no sense or cannot be met; nothing was done then.
var ErrOptions = errors.New("wrong options")

// optionsError is an ErrOptions whose text is that of its cause.
type optionsError struct{ error }

func (e *optionsError) Is(target error) bool { return target == ErrOptions }
func (e *optionsError) Unwrap() error        { return e.error }

// checkFolders finds out beforehand what would else be known only when there is something to write: after minutes of
// measuring, and for a profile from a library that ends the process then.
func (o *Options) checkFolders() error {
	var errs []error
	if o.Pictures != "" {
		errs = append(errs, mayWriteIn("pictures", o.Pictures))
	}
	if o.Profile != "" {
		errs = append(errs, mayWriteIn("the profile", o.ProfileDir))
	}
	return errors.Join(errs...)
}

// mayWriteIn says why files cannot be made in a folder, "": the current one. Permissions alone do not tell that.
func mayWriteIn(what, dir string) error {
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, ".farside-bench-*")
	if err != nil {
		return fmt.Errorf("bench: folder of %s: %w: make it, or choose another one", what, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (o *Options) check() error {
	for _, n := range o.Names {
		if _, err := find(n); err != nil {
			return err
		}
	}
	switch {
	case o.Seconds < 1 || o.Seconds > 86400:
		return fmt.Errorf("bench: %d seconds: want 1 to 86400", o.Seconds)
	case o.Repetitions < 1 || o.Repetitions > 100:
		return fmt.Errorf("bench: %d repetitions: want 1 to 100", o.Repetitions)
	case o.Minutes < 1 || o.Minutes > 1440:
		return fmt.Errorf("bench: %d minutes: want 1 to 1440", o.Minutes)
	case o.Full < 1 || o.Full > 90:
		return fmt.Errorf("bench: pool %d %% full: want 1 to 90", o.Full)
	case o.Size != 0 && (o.Size < minSize || o.Size%engine.BlockSize != 0):
		return fmt.Errorf("bench: size of %d bytes: want at least %d (512 MiB), a multiple of %d", o.Size, minSize, engine.BlockSize)
	case o.Device != "" && o.Loop != "" || o.Device == "" && o.Loop == "" && NeedDevice(o.Names):
		return errors.New("bench: name one device to measure on: either --device PATH or --loop tmpfs|disk")
	case o.Loop != "" && o.Loop != loopMemory && o.Loop != loopDisk:
		return fmt.Errorf("bench: loop device on %q: want %s or %s", o.Loop, loopMemory, loopDisk)
	case o.Profile != "" && profileModes[o.Profile] == nil:
		return fmt.Errorf("bench: profile %q: want one of %s", o.Profile, strings.Join(profileNames(), ", "))
	}
	return nil
}
