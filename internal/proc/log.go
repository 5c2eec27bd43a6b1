package proc

import (
	"bytes"
	"os"
	"path/filepath"
)

// logEnd is how much of a log goes into an error, in bytes: several of them must fit where output is cut.
const logEnd = 800

// noise is what lines of a log hold that tell nothing of a failure: clients come and go all the time.
var noise = [][]byte{[]byte("nbd: client connected"), []byte("nbd: client disconnected")}

func (r *Role) logFile() string { return filepath.Join(r.Dir, r.Name+".log") }

// Log is everything that it printed, in all its lives.
func (r *Role) Log() ([]byte, error) { return os.ReadFile(r.logFile()) }

// LogEnd is the end of its log, at most n bytes, without the lines of NBD clients that come and go. What it says if
// there is no log is why not.
func (r *Role) LogEnd(n int) string {
	all, err := r.Log()
	if err != nil {
		return err.Error()
	}
	var kept []byte
	for line := range bytes.Lines(all) {
		if !isNoise(line) {
			kept = append(kept, line...)
		}
	}
	return string(kept[max(0, len(kept)-n):])
}

func isNoise(line []byte) bool {
	for _, n := range noise {
		if bytes.Contains(line, n) {
			return true
		}
	}
	return false
}
