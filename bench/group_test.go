package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/ring"
)

func init() { tasks["role"] = playRole }

// roles has this binary play the roles of farside.
func roles(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"/usr/bin/env", assistVariable + "=role", self}
}

// playRole is what "farside ROLE --config FILE" does.
func playRole(context.Context, *assignment) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	role := config.Role(os.Args[1])
	f, err := config.Load(os.Args[3], role, nil)
	if err != nil {
		return err
	}
	play := map[config.Role]func(context.Context, *config.File, *slog.Logger, func()) error{
		config.RolePrimary: node.Primary, config.RoleSecondary: node.Secondary, config.RoleManager: node.Manager}[role]
	if err := play(ctx, f, slog.New(slog.NewTextHandler(os.Stderr, nil)), func() {}); ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// small options for workloads that run whole controls, with everything in a folder that is looked at afterwards.
func small(t *testing.T, names ...string) Options {
	t.Helper()
	dir, err := os.MkdirTemp("", "fb") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		running, err := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range running {
			if line, _ := os.ReadFile(name); strings.Contains(string(line), dir+"/") {
				t.Errorf("still running: %q", line)
			}
		}
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return Options{Names: names, Command: roles(t), Loop: loopDisk, Dir: dir, Kind: ring.Plain, Seconds: 1, Repetitions: 1,
		cluster: clusterShape{volume: 8 << 20, pool: 96 << 20, interval: "50ms", settle: 20 * time.Millisecond, span: 200 * time.Millisecond}, Progress: func(line string) { t.Log(line) }}
}

// TestGroupOfControls runs the workload of groups on one pair of controls, and looks at what it reports.
func TestGroupOfControls(t *testing.T) {
	r, err := Run(t.Context(), small(t, "rpo"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range r.Results {
		names = append(names, x.Name)
		if x.Value <= 0 || len(x.Repetitions) != 1 {
			t.Errorf("%s: %+v", x.Name, x)
		}
		if x.FloorName != "" && x.Floor <= 0 {
			t.Errorf("%s has no floor: %+v", x.Name, x)
		}
		if (x.Target != nil) != (x.Reached != nil) {
			t.Errorf("%s: target %v, reached %v", x.Name, x.Target, x.Reached)
		}
	}
	if d := cmp.Diff([]string{"rpo/peak", "rpo/hold", "rpo/rpo", "rpo/link-to-final"}, names); d != "" {
		t.Error(d)
	}
}

// TestBesideQemu runs the workloads that compare with qemu-nbd.
func TestBesideQemu(t *testing.T) {
	testtool.Need(t, "qemu-nbd", "qemu-utils")
	if raceEnabled {
		t.Skip("takes long with the race detector, which TestGroupOfControls has look at nearly the same code")
	}
	r, err := Run(t.Context(), small(t, "writes-primary", "reads-nbd"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"writes-primary", "reads-nbd"}
	if _, err := exec.LookPath("nbdkit"); err == nil {
		want = []string{"writes-primary", "writes-primary/nbdkit", "reads-nbd", "reads-nbd/nbdkit"}
	} else if !strings.Contains(strings.Join(r.Results[0].Notes, "\n"), "nbdkit") {
		t.Errorf("nothing says that nbdkit is not here: %q", r.Results[0].Notes)
	}
	var names []string
	for _, x := range r.Results {
		names = append(names, x.Name)
		if goal := !strings.HasSuffix(x.Name, "/nbdkit"); x.Value <= 0 || x.Floor <= 0 || x.Ratio <= 0 || (x.Reached != nil) != goal {
			t.Errorf("%+v", x)
		}
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

// TestCancelledGroupLeavesNothing interrupts a workload with controls while hosts write; small looks for what is left.
func TestCancelledGroupLeavesNothing(t *testing.T) {
	o := small(t, "rpo")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(line string) {
		if strings.Contains(line, "hosts reach") {
			cancel()
		}
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("run ended with %v", err)
	}
}

func TestAbsoluteGoal(t *testing.T) {
	reps := []Repetition{{Value: 3, Floor: 2}}
	if r := result(Result{Target: atMost(2), Absolute: true}, reps); *r.Reached || r.Ratio != 1.5 {
		t.Errorf("3 ms is taken to be at most 2 ms: %+v", r)
	}
	if r := result(Result{Target: atMost(2)}, reps); !*r.Reached {
		t.Errorf("a ratio of 1.5 is not taken to be at most 2: %+v", r)
	}
}

// TestTimeline: of an audit log with a CG before the window, two in it, one that failed and one that is not final.
func TestTimeline(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var log strings.Builder
	for i, e := range []struct {
		cg   uint64
		kind string
	}{
		{4, auditCut}, {4, auditLink}, {4, auditDecided}, {4, auditFinal}, // 0 to 3 ms
		{5, auditCut}, {5, auditLink}, {5, auditDecided}, {5, auditFinal}, // 4 to 7
		{6, auditCut}, {6, auditLink}, {6, "revert-begin"}, {7, "hold-failed"}, // 8 to 11
		{9, auditCut}, {9, auditLink}, {9, auditDecided}, {9, auditFinal}, // 12 to 15
		{10, auditCut}, {10, auditLink}, // 16, 17
	} {
		fmt.Fprintf(&log, "{\"time\":%q,\"cg\":%d,\"kind\":%q}\n", at(i).Format(time.RFC3339Nano), e.cg, e.kind)
	}
	log.WriteString(`{"time":"2026-01-02T03:04:06Z","cg":10,"ki`)
	byCG := map[uint64]*formed{}
	if err := readAudit([]byte(log.String()), byCG); err != nil {
		t.Fatal(err)
	}
	cgs := between(byCG, at(4), at(30))
	if d := cmp.Diff([]time.Duration{7 * time.Millisecond, 11 * time.Millisecond}, ages(cgs)); d != "" {
		t.Errorf("ages: cut of 4 to end of 5, and cut of 5 to end of 9:\n%s", d)
	}
	if d := cmp.Diff([]time.Duration{2 * time.Millisecond, 2 * time.Millisecond}, phases(cgs, formed.whole)); d != "" {
		t.Errorf("LINK to FINAL:\n%s", d)
	}
	if err := readAudit([]byte("nonsense\n"), byCG); err == nil {
		t.Error("nonsense is no error")
	}
}

func TestQuantile(t *testing.T) {
	v := []time.Duration{3, 1, 2, 4}
	for p, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 4, 1: 4} {
		if got := quantile(v, p); got != want {
			t.Errorf("quantile %v is %v, want %v", p, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("a quantile of nothing")
	}
}
