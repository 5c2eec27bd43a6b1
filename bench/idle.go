package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// runIdle measures the processor time of controls that have nothing to do: connected, a group replicating, no host
// writes.
func runIdle(ctx context.Context, r *run) (_ []Result, err error) {
	c, err := r.openCluster(ctx, 1, "1s")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	roles := []struct {
		name string
		pid  int
	}{
		{"secondary", c.secondaries[0].cmd.Process.Pid},
		{"primary", c.primaries[0].cmd.Process.Pid},
		{"manager", c.manager.cmd.Process.Pid},
	}
	reps := make([][]Repetition, len(roles))
	for range r.o.Repetitions {
		begin, before := time.Now(), make([]time.Duration, len(roles))
		for i, x := range roles {
			if before[i], err = cpuOf(x.pid); err != nil {
				return nil, err
			}
		}
		select {
		case <-time.After(min(r.duration(), 10*time.Second)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		for i, x := range roles {
			now, err := cpuOf(x.pid)
			if err != nil {
				return nil, err
			}
			reps[i] = append(reps[i], Repetition{Value: 100 * float64(now-before[i]) / float64(time.Since(begin))})
		}
	}
	var out []Result
	for i, x := range roles {
		out = append(out, result(Result{Name: "idle/" + x.name, Goal: "P13", Unit: "% of a core", Target: atMost(0.5), Notes: []string{
			"one primary and one secondary control and a manager, connected, with a group that has nothing to replicate, interval 1 s; processor time by the scheduler's count, all threads; nobody asks for the status meanwhile",
			c.what()}}, reps[i]))
	}
	return out, nil
}

// cpuOf is the processor time that the live threads of a process have used: to the nanosecond, which the figures in
// /proc/PID/stat are not.
func cpuOf(pid int) (total time.Duration, err error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	for _, t := range threads {
		line, err := os.ReadFile(filepath.Join(tasks, t.Name(), "schedstat"))
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		used, _, _ := strings.Cut(string(line), " ") // nanoseconds on a processor, waiting for one, time slices
		ns, err := strconv.ParseInt(used, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %q: %w", pid, line, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}
