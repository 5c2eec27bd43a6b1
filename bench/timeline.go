package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// formed is what the manager's audit log says of a CG that became final: when all primaries were held, LINK was sent
// to all, the decision was durable, and the last secondary had made it final.
type formed struct {
	cg                        uint64
	cut, link, decided, ended time.Time
}

// Kinds of audit entries of a CG that is formed as it should be.
const (
	auditCut     = "cut"
	auditLink    = "link"
	auditDecided = "decided"
	auditFinal   = "final"
)

// auditRotated is how many older files an audit log has at most.
const auditRotated = 4

// timeline reads the CGs that became final in [from, to), in order, and the one before them.
func (c *cluster) timeline(from, to time.Time) ([]formed, error) {
	path := filepath.Join(c.dir, "m1.d", "audit.jsonl")
	byCG := map[uint64]*formed{}
	for i := auditRotated; i >= 0; i-- {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		text, err := os.ReadFile(name)
		if err != nil && (i == 0 || !errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
		if err := readAudit(text, byCG); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return between(byCG, from, to), nil
}

// readAudit notes the moments of CGs.
func readAudit(text []byte, byCG map[uint64]*formed) error {
	for line := range bytes.Lines(text) {
		var e struct {
			Time time.Time `json:"time"`
			CG   uint64    `json:"cg"`
			Kind string    `json:"kind"`
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			return nil // being written
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		f := byCG[e.CG]
		if f == nil {
			f = &formed{cg: e.CG}
			byCG[e.CG] = f
		}
		switch e.Kind {
		case auditCut:
			f.cut = e.Time
		case auditLink:
			f.link = e.Time
		case auditDecided:
			f.decided = e.Time
		case auditFinal:
			f.ended = e.Time
		}
	}
	return nil
}

func between(byCG map[uint64]*formed, from, to time.Time) (out []formed) {
	var before *formed
	for _, f := range byCG {
		switch {
		case f.cut.IsZero() || f.link.IsZero() || f.decided.IsZero() || f.ended.IsZero() || !f.ended.Before(to):
		case f.ended.Before(from):
			if before == nil || before.cg < f.cg {
				before = f
			}
		default:
			out = append(out, *f)
		}
	}
	if before != nil {
		out = append(out, *before)
	}
	slices.SortFunc(out, func(a, b formed) int { return cmp.Compare(a.cg, b.cg) })
	return out
}

// ages are the ages that the recovery point had each time just before the next one: the worst of each CG. A recovery
// point counts from when its CG is final on the last secondary.
func ages(cgs []formed) (out []time.Duration) {
	for i := 1; i < len(cgs); i++ {
		out = append(out, cgs[i].ended.Sub(cgs[i-1].cut))
	}
	return out
}

// phases are the times of one part of each CG's way, without the CG before the window.
func phases(cgs []formed, part func(formed) time.Duration) (out []time.Duration) {
	for i := 1; i < len(cgs); i++ {
		out = append(out, part(cgs[i]))
	}
	return out
}

func (f formed) drained() time.Duration  { return f.link.Sub(f.cut) }
func (f formed) linked() time.Duration   { return f.decided.Sub(f.link) }
func (f formed) released() time.Duration { return f.ended.Sub(f.decided) }
func (f formed) whole() time.Duration    { return f.ended.Sub(f.link) }
