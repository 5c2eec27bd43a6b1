package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// workload measures something on a device. It may destroy what stands in the device's region, and
// leaves nothing open.
type workload struct {
	name string
	// what is one line for people.
	what string
	run  func(ctx context.Context, r *run) ([]Result, error)
	// own: it makes its devices itself, and has no use for the run's.
	own bool
}

// workloads in the order in which they run.
var workloads = []workload{
	{"floors", "what the bare device and the bare processor can do", runFloors, false},
	{"ingest", "random 4 KiB updates in process, a CG linked and released every second", runIngest, false},
	{"wire", "the same updates from another process over TCP on loopback", runWire, false},
	{"amplification", "device bytes per payload byte, over 30 s each time, journal and checkpoints included", runAmplification, false},
	{"steady", "minutes at full speed over a pool 50 % and 90 % full, throughput over time", runSteady, false},
	{"link", "LINK of small and large CGs, end to end", runLink, false},
	{"revert", "REVERT of the same", runRevert, false},
	{"memory", "bytes for each mapped block, and for each update of an open CG", runMemory, false},
	{"recovery", "start after a crash, beside one sequential read of pointer tables and journal", runRecovery, false},
	{"idle", "processor time of controls that have nothing to do", runIdle, true},
	{"growth", "updates of a volume of 4 TiB beside one of 4 GiB", runGrowth, false},
	{"alloc", "the allocator alone: reserve, take, release", runAlloc, true},
	{"reads", "random 4 KiB reads in process", runReads, false},
	{"reads-nbd", "random 4 KiB reads of a copy over NBD, beside qemu-nbd and nbdkit on bare devices", runReadsNBD, true},
	{"writes-primary", "host writes over NBD to a replicating primary control, beside qemu-nbd and nbdkit on bare devices", runWritesPrimary, true},
	{"rpo", "age of the copy at half of peak load, one primary and one secondary control", runRPO, true},
	{"group", "4 primary and 4 secondary controls: hold of host writes, age of the copy, LINK to FINAL", runGroup, true},
	{"peers", "the ingest beside journal-then-copy, Pebble, bbolt, badger, btrfs and qcow2 (built from source, needs root)", runPeers, true},
}

// Names lists the workloads.
func Names() []string {
	names := make([]string, len(workloads))
	for i, w := range workloads {
		names[i] = w.name
	}
	return names
}

// Describe is one line about a workload, "" if there is none of that name.
func Describe(name string) string {
	if w, err := find(name); err == nil {
		return w.what
	}
	return ""
}

// NeedDevice says whether any of these workloads measures on a device that the caller names or has made.
func NeedDevice(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		w, err := find(n)
		return err != nil || !w.own // "all" among them
	})
}

func find(name string) (workload, error) {
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
	if i < 0 {
		return workload{}, fmt.Errorf("bench: %q is not a workload: name some of %s, or all", name, strings.Join(Names(), ", "))
	}
	return workloads[i], nil
}
