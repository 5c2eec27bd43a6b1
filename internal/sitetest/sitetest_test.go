package sitetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/manager"
)

func TestAuditLogLeavesOutWhatIsBeingWritten(t *testing.T) {
	a := AuditLog{Path: filepath.Join(t.TempDir(), "log")}
	line := func(cg uint64, kind manager.EntryKind, control, said, did string) string {
		b, err := json.Marshal(manager.Entry{CG: cg, Kind: kind, Control: control, Said: said, Did: did})
		Check(t, err)
		return string(b) + "\n"
	}
	whole := line(6, manager.EntryCut, "", "", "") +
		line(7, manager.EntryVisit, "s1", "links show CG 7, final 6", "CG 7 reverted to CG 6") + line(7, manager.EntryReverted, "s1", "", "") +
		line(7, manager.EntryVisit, "s2", "links show CG 6, final 6", "") + line(8, manager.EntryReverted, "s2", "", "")
	Check(t, os.WriteFile(a.Path, []byte(whole+whole[:20]), 0o600))
	all, err := a.Entries()
	if err != nil || len(all) != 5 || a.Seen(t) != 5 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	got := a.Await(t, "the second visit", 1, func(e manager.Entry) bool { return e.Control == "s2" })
	if len(got) != 3 || got[0].Control != "s1" {
		t.Errorf("awaited %+v", got)
	}
	for _, c := range []struct {
		control string
		to      uint64
		want    Visit
	}{
		{"s1", 0, Visit{Linked: true, Reverted: true}}, {"s1", 6, Visit{Linked: true, Reverted: true}},
		{"s1", 5, Visit{NotLinked: true, Reverted: true}}, {"s2", 0, Visit{NotLinked: true}}, {"s3", 0, Visit{}},
	} {
		if v := VisitOf(all, c.control, 7, c.to); v != c.want {
			t.Errorf("%s, back to %d: %+v, want %+v", c.control, c.to, v, c.want)
		}
	}
	Check(t, os.WriteFile(a.Path, []byte("no entry\n"), 0o600))
	if _, err := a.Entries(); !errors.As(err, new(hopeless)) {
		t.Errorf("a damaged log: %v", err)
	}
}

func TestGroup(t *testing.T) {
	for _, c := range []struct {
		what     string
		status   string
		err      string
		hopeless bool
	}{
		{"one", `{"groups":[{"group":"g","state":"IDLE"}]}`, "", false},
		{"two", `{"groups":[{"state":"IDLE"},{"state":"IDLE"}]}`, "2 groups", true},
		{"on standby", `{"leadership":{},"groups":[]}`, "stands by", false},
		{"none", `no`, "invalid character", false},
	} {
		s, err := Group("m1", func(into any) error { return json.Unmarshal([]byte(c.status), into) })
		if (err == nil) != (c.err == "") || !strings.Contains(fmt.Sprint(err), c.err) && err != nil || errors.As(err, new(hopeless)) != c.hopeless {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && s.Group != "g" {
			t.Errorf("%s: %+v", c.what, s)
		}
	}
}

func TestCopy(t *testing.T) {
	for _, c := range []struct {
		what     string
		status   string
		err      string
		hopeless bool
	}{
		{"one", `{"groups":[{"name":"g","final":7}]}`, "", false},
		{"none", `{"groups":[]}`, "s1 reports", true},
		{"a pool that failed", `{"groups":[{"name":"g"}],"pool":{"failure":"gone"}}`, "gone", true},
		{"not known yet", `{"groups":[{"name":"g","error":"soon"}]}`, "soon", false},
	} {
		g, err := Copy("s1", func(into any) error { return json.Unmarshal([]byte(c.status), into) })
		if (err == nil) != (c.err == "") || !strings.Contains(fmt.Sprint(err), c.err) && err != nil || errors.As(err, new(hopeless)) != c.hopeless {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && g.Final != 7 {
			t.Errorf("%s: %+v", c.what, g)
		}
	}
}

// fatal is a test that notes why it ends.
type fatal struct {
	testing.TB
	why string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.why = fmt.Sprintf(format, args...)
	panic(f)
}

func TestAwaitEndsAtOnceWhereNothingMends(t *testing.T) {
	f := &fatal{TB: t}
	defer func() {
		if recover() != f || !strings.Contains(f.why, "in vain for x: dead") {
			t.Errorf("ended with %q", f.why)
		}
	}()
	Await(f, "x", func() error { return fmt.Errorf("%w", Hopeless(errors.New("dead"))) })
}
