package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// elements is how many elements the requirements for the remote copy have.
const elements = 21

var (
	testFunc  = regexp.MustCompile(`(?m)^func (Test(?:_?Req\d\d)+_\w+)\(`)
	reqNumber = regexp.MustCompile(`Req(\d\d)`)
)

// TestEveryElementHasATest reads the whole module: each element 1 to 21 must have a test that names it.
func TestEveryElementHasATest(t *testing.T) {
	named := map[string][]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		// The go command sees what a test looks at, but not what the program is built of: without this, results
		// of this package would be taken from the cache when only the program has changed.
		if _, err := os.Stat(path); err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(source), -1) {
			for _, n := range reqNumber.FindAllStringSubmatch(m[1], -1) {
				named[n[1]] = append(named[n[1]], m[1])
			}
		}
		return nil
	})
	check(t, err)
	for i := range elements {
		n := fmt.Sprintf("%02d", i+1)
		t.Logf("element %s: %v", n, named[n])
		if len(named[n]) == 0 {
			t.Errorf("no test names element %d: write one called TestReq%s_...", i+1, n)
		}
		delete(named, n)
	}
	for n, tests := range named {
		t.Errorf("there is no element %s, which %v names", n, tests)
	}
}
