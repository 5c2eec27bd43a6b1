//go:build plant

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/plant"
)

// TestSimFails: a campaign and a replay that break an invariant end with status 1, and print what --replay takes.
func TestSimFails(t *testing.T) {
	plant.Active = plant.FlushBeforeComplete
	defer func() { plant.Active = plant.None }()
	got := farside(t, fakes(), "sim", "--seeds", "20")
	_, replay, found := strings.Cut(got.out, "does it again:\n\n")
	if got.code != exitFailed || !found || strings.Contains(got.out, "20 passed, 0 failed") {
		t.Fatalf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	replay, _, _ = strings.Cut(replay, "\n\n")
	file := filepath.Join(t.TempDir(), "replay")
	if err := os.WriteFile(file, []byte(replay+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := farside(t, fakes(), "sim", "--replay", file); got.code != exitFailed || !strings.HasSuffix(got.out, "\n0 passed, 1 failed\n") {
		t.Errorf("status %d, output %q, errors %q", got.code, got.out, got.err)
	}
	plant.Active = plant.None
	if got := farside(t, fakes(), "sim", "--replay", file); got.code != exitOK {
		t.Errorf("without the fault: status %d, output %q, errors %q", got.code, got.out, got.err)
	}
}
