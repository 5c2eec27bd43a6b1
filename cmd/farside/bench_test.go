package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/bench"
)

// benchFails is a benchmark that measures one figure and then fails.
func benchFails(err error) services {
	s := fakes()
	s.bench = func(context.Context, bench.Options) (result, error) {
		return benchReport{bench.Report{Results: []bench.Result{{Name: "reads", Unit: "reads/s", Repetitions: []bench.Repetition{{Value: 7}}}},
			Missing: []string{"rpo: " + err.Error()}}}, err
	}
	return s
}

// TestBenchKeepsWhatItMeasured: an error in the middle does not cost the figures of before, and is the status all the same.
func TestBenchKeepsWhatItMeasured(t *testing.T) {
	s := benchFails(errors.New("the device is gone"))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"text": {[]string{"bench", "reads", "rpo", "--loop", "tmpfs"}, "missing: rpo: the device is gone\n"},
		"go":   {[]string{"bench", "reads", "rpo", "--loop", "tmpfs", "--go"}, "BenchmarkReads 1 7 reads/s\n"},
	} {
		got := farsideContext(t.Context(), s, test.args...)
		if got.code != exitFailed || !strings.Contains(got.out, test.want) || !strings.Contains(got.err, "the device is gone") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	got := farsideContext(t.Context(), s, "bench", "reads", "rpo", "--loop", "tmpfs", "--output", "json")
	var r bench.Report
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || len(r.Results) != 1 || len(r.Missing) != 1 || got.code != exitFailed {
		t.Errorf("json: %v, %+v", err, got)
	}
}

// TestBenchWrongUse: what is wrong with the options is wrong use, and nothing is done.
func TestBenchWrongUse(t *testing.T) {
	s := fakes()
	s.bench = runBench
	missing := filepath.Join(t.TempDir(), "missing")
	for name, test := range map[string]struct{ args, want string }{
		"seconds":  {"alloc --seconds -1", "want 1 to"},
		"loop":     {"ingest --loop floppy", "tmpfs or disk"},
		"size":     {"ingest --loop tmpfs --size 1MiB", "512 MiB"},
		"profile":  {"alloc --profile heap", "mutex"},
		"pictures": {"alloc --pictures " + missing, missing},
		"device":   {"ingest --device " + missing, "truncate"},
		"forms":    {"alloc --go --output json", "--go"},
	} {
		got := farsideContext(t.Context(), s, append([]string{"bench"}, strings.Fields(test.args)...)...)
		if got.code != exitUsage || !strings.Contains(got.err, test.want) || got.out != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
