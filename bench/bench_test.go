package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/ring"
)

func TestResultJudgesTheRatio(t *testing.T) {
	reps := []Repetition{{Value: 90, Floor: 100}, {Value: 50, Floor: 100}, {Value: 100, Floor: 125}}
	r := result(Result{Name: "x", Target: atLeast(0.8)}, reps)
	if r.Ratio != 0.8 || r.RatioMin != 0.5 || r.RatioMax != 0.9 || r.Value != 90 || r.Min != 50 || r.Max != 100 || !*r.Reached {
		t.Errorf("%+v", r)
	}
	if r := result(Result{Target: atMost(0.7)}, reps); *r.Reached {
		t.Errorf("0.8 is taken to be at most 0.7: %+v", r)
	}
	if r := result(Result{Target: atMost(95)}, []Repetition{{Value: 94}}); !*r.Reached || r.Ratio != 0 {
		t.Errorf("without a floor the value counts: %+v", r)
	}
	if r := result(Result{}, reps); r.Reached != nil {
		t.Error("reached, but there is no target")
	}
}

func TestAlternate(t *testing.T) {
	var order strings.Builder
	floors := []float64{10, 20, 40}
	r := &run{o: Options{Repetitions: 2, Progress: func(string) {}}}
	reps, err := r.alternate(t.Context(), func() (float64, error) {
		order.WriteByte('A')
		f := floors[0]
		floors = floors[1:]
		return f, nil
	}, func() (float64, error) {
		order.WriteByte('B')
		return 30, nil
	})
	if err != nil || order.String() != "ABABA" {
		t.Errorf("order %s, %v", order.String(), err)
	}
	if d := cmp.Diff([]Repetition{{30, 15}, {30, 30}}, reps); d != "" {
		t.Error(d)
	}
	broken := errors.New("broken")
	if _, err := r.alternate(t.Context(), func() (float64, error) { return 1, nil }, func() (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error of the subject: %v", err)
	}
}

func TestReportFormats(t *testing.T) {
	r := Report{Host: Host{Kernel: "Linux 6", CPU: "some", Go: "go1", Device: "dev", Scheduler: "none", SectorSize: 4096},
		Results: []Result{
			result(Result{Name: "ingest", Goal: "P1", Unit: "blocks/s", Target: atLeast(0.9), FloorName: "bare writes"}, []Repetition{{Value: 500, Floor: 1000}}),
			result(Result{Name: "floors/write-flush", Unit: "us"}, []Repetition{{Value: 12.5}}),
		}, Missing: []string{"peers: several\nlines"}}
	var text, js, gof, md bytes.Buffer
	for _, err := range []error{r.WriteText(&text), r.WriteJSON(&js), r.WriteGo(&gof), r.WriteMarkdown(&md)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"kernel: Linux 6\n", "missing: peers: several; lines\n", "0.500", "P1 >= 0.9", "NO", "ingest: floor: bare writes\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text has no %q:\n%s", want, &text)
		}
	}
	if want := "BenchmarkIngest 1 500 blocks/s 0.5 ratio\nBenchmarkFloors/write-flush 1 12.5 us\n"; !strings.HasSuffix(gof.String(), want) {
		t.Errorf("Go format:\n%s\nwant at its end\n%s", &gof, want)
	}
	if !strings.Contains(md.String(), "| ingest | 500.0 | blocks/s |") {
		t.Errorf("markdown:\n%s", &md)
	}
	var back Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, back); d != "" {
		t.Errorf("JSON does not hold everything:\n%s", d)
	}
}

func TestOptionsRefuse(t *testing.T) {
	missing, file := filepath.Join(t.TempDir(), "missing"), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"workload": {Device: "x", Names: []string{"nonsense"}},
		"device":   {},
		"both":     {Device: "x", Loop: "tmpfs"},
		"loop":     {Loop: "floppy"},
		"size":     {Device: "x", Size: minSize + 1},
		"seconds":  {Device: "x", Seconds: -1},
		"full":     {Device: "x", Full: 91},
		"profile":  {Device: "x", Profile: "heap"},
		"pictures": {Device: "x", Pictures: missing},
		"file":     {Device: "x", Pictures: file},
		"folder":   {Device: "x", Profile: "cpu", ProfileDir: missing},
	} {
		if err := o.fill(); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: error %v for %+v, want an ErrOptions", name, err, o)
		}
	}
	if _, err := Run(t.Context(), Options{Device: "x", Pictures: missing}); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), missing) {
		t.Errorf("error for a folder that is not there: %v", err)
	}
	o := Options{Device: "x"}
	if err := o.fill(); err != nil || len(o.Names) != len(workloads) || o.Repetitions != 3 || o.Seconds != 10 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestSmallDeviceIsRefusedUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	want := bytes.Repeat([]byte("precious"), 1<<10)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Run(t.Context(), Options{Device: path, Kind: ring.Plain, Names: []string{"floors"}})
	if err == nil || !strings.Contains(err.Error(), "at least") || !strings.Contains(err.Error(), path) {
		t.Errorf("error: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Error("a device that was refused was written to")
	}
}

// TestFailedRunKeepsWhatItMeasured: the report of a run that fails in the middle has the results of before, and says what
// is missing.
func TestFailedRunKeepsWhatItMeasured(t *testing.T) {
	broken := errors.New("broken")
	before := workloads
	defer func() { workloads = before }()
	Add(Workload{Name: "good", Run: func(context.Context, Options) ([]Result, error) { return []Result{{Name: "good"}}, nil }})
	Add(Workload{Name: "bad", Run: func(context.Context, Options) ([]Result, error) { return nil, broken }})
	r, err := Run(t.Context(), Options{Names: []string{"good", "bad", "alloc"}})
	if !errors.Is(err, broken) || len(r.Results) != 1 || r.Results[0].Name != "good" {
		t.Errorf("%v, results %+v", err, r.Results)
	}
	if d := cmp.Diff([]string{"bad, alloc: broken"}, r.Missing); d != "" {
		t.Error(d)
	}
}

// TestPeersNeedTheirSource: without it they are an error of their own, but do not cost others' figures.
func TestPeersNeedTheirSource(t *testing.T) {
	t.Chdir(t.TempDir())
	told := func(string) {}
	if _, err := runPeers(t.Context(), &run{o: Options{Names: []string{"peers"}, Progress: told}}); err == nil || !strings.Contains(err.Error(), peersFolder) {
		t.Errorf("error: %v", err)
	}
	r := &run{o: Options{Names: []string{"floors", "peers"}, Progress: told}}
	if out, err := runPeers(t.Context(), r); err != nil || len(out) > 0 || len(r.missing) != 1 || !strings.Contains(r.missing[0], peersFolder) {
		t.Errorf("%v, %v; missing: %q", out, err, r.missing)
	}
}

// TestSession runs the ingest workload's parts on a file and reads the sample back; a block that was
// changed behind the session's back must be noticed.
func TestSession(t *testing.T) {
	err := inOwnThread(func() error {
		s, err := openSession(openFile(t, 256<<20), 0, 20)
		if err != nil {
			return err
		}
		if err := errors.Join(s.fill(t.Context()), s.updateFor(t.Context(), time.Millisecond), s.awaitFinal(t.Context()), s.verify()); err != nil {
			return errors.Join(err, s.close())
		}
		if s.final.Load() != 2 {
			t.Errorf("CG %d is final, want 2: the fill and one of updates", s.final.Load())
		}
		s.sample[1] ^= 1
		if err := s.verify(); err == nil {
			t.Error("a wrong block was not noticed")
		}
		return s.close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFullPool updates a pool that holds one CG beside the volume at most: cuts come early, nothing fails.
func TestFullPool(t *testing.T) {
	err := inOwnThread(func() error {
		s, err := openSession(openFile(t, 128<<20), 0, 85)
		if err != nil {
			return err
		}
		if err := s.fill(t.Context()); err != nil {
			return errors.Join(err, s.close())
		}
		for put := uint64(0); put < 2*s.blocks; {
			n, err := s.updates(pieceBlocks)
			if errors.Is(err, engine.ErrPoolFull) {
				err = s.makeRoom(t.Context())
			}
			if err != nil {
				return errors.Join(err, s.close())
			}
			put += uint64(n)
		}
		if s.early == 0 {
			t.Error("the pool never was full: the test shows nothing")
		}
		return errors.Join(s.cut(), s.awaitFinal(t.Context()), s.verify(), s.close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCancelledRunLeavesNothing(t *testing.T) {
	loopdev.ForTest(t, "", 1<<20, loopdev.Options{}) // skips where there are no loop devices
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	reached := false
	_, err := Run(ctx, Options{Loop: loopDisk, Dir: dir, Size: minSize, Names: []string{"ingest"}, Seconds: 60, Kind: ring.Plain,
		Progress: func(line string) {
			if strings.HasPrefix(line, "ingest:") {
				reached = true
				cancel()
			}
		}})
	if !errors.Is(err, context.Canceled) || !reached {
		t.Fatalf("run ended with %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if loops := loopsIn(t, dir); len(loops) > 0 {
		t.Errorf("these loop devices still belong to the run: %v", loops)
	}
}
