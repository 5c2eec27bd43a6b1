package sitetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/farside-storage/farside/manager"
)

// AuditLog is the audit log of a manager, which writes it.
type AuditLog struct {
	Path string
	// Alive is an error if a role has ended by itself, so that there is no use in waiting; nil: nobody knows.
	Alive func() error
}

// Entries are all that there are now.
func (a AuditLog) Entries() (entries []manager.Entry, err error) {
	b, err := os.ReadFile(a.Path)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e manager.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, Hopeless(fmt.Errorf("%s: %w: %s", a.Path, err, line))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Seen is how many entries there are now.
func (a AuditLog) Seen(t testing.TB) int {
	t.Helper()
	all, err := a.Entries()
	Check(t, err)
	return len(all)
}

// Await waits for an entry behind the first seen ones, and returns all from there to it.
func (a AuditLog) Await(t testing.TB, what string, seen int, ok func(manager.Entry) bool) (entries []manager.Entry) {
	t.Helper()
	Await(t, what, func() error {
		all, err := a.Entries()
		if err != nil {
			return err
		}
		for i := seen; i < len(all); i++ {
			if ok(all[i]) {
				entries = all[seen : i+1]
				return nil
			}
		}
		err = fmt.Errorf("the audit log ends with %+v", all[max(seen, len(all)-5):])
		if a.Alive != nil {
			err = errors.Join(a.Alive(), err)
		}
		return err
	})
	return entries
}

// Visit is what the audit log has of how a revert visited one secondary.
type Visit struct {
	Linked    bool // it said that it had linked the CG, and was told to go back
	NotLinked bool // it said something else
	Reverted  bool // it did what it was told
}

// VisitOf looks for the visit of a secondary because of a CG, from which one that had linked it must go back to
// another; 0: to any.
func VisitOf(entries []manager.Entry, control string, cg, to uint64) (v Visit) {
	back := ""
	if to > 0 {
		back = fmt.Sprintf("CG %d reverted to CG %d", cg, to)
	}
	for _, e := range entries {
		if e.Control != control || e.CG != cg {
			continue
		}
		shows := strings.HasPrefix(e.Said, fmt.Sprintf("links show CG %d,", cg)) && strings.Contains(e.Did, back)
		v.Linked = v.Linked || e.Kind == manager.EntryVisit && shows
		v.NotLinked = v.NotLinked || e.Kind == manager.EntryVisit && !shows
		v.Reverted = v.Reverted || e.Kind == manager.EntryReverted
	}
	return v
}
