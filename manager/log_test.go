package manager

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

func openLog(t *testing.T, path string) Log {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLogKeepsWhatAManagerMustKnow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions")
	l := openLog(t, path)
	rec, err := l.Begin("g", 0)
	if err != nil || rec.Known || rec.Epoch != 1 {
		t.Fatalf("%+v, %v", rec, err)
	}
	if err := l.Append("nobody", Record{Reserve: 1}); err == nil {
		t.Fatal("a group that was never begun was written")
	}
	set, yes := DefaultSettings(), true
	set.Interval = 7 * time.Second
	d := Decision{CG: 5, Epoch: 1, Cut: time.Unix(77, 5).UTC(), FirstCopy: true, Primaries: []string{"p"}, Secondaries: []string{"s", "t"}}
	for _, r := range []Record{
		{Decided: &Decision{CG: 4}}, {Decided: &d}, {Reserve: 70}, {Settings: &set}, {Paused: &yes},
	} {
		if err := l.Append("g", r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenLog(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("opened twice: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, path)
	rec, err = l.Begin("g", 40)
	want := Recovered{Known: true, Epoch: 40, Reserved: 70, Decided: d, Settings: &set, Paused: true}
	if diff := cmp.Diff(want, rec); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
	if rec, _ = l.Begin("g", 3); rec.Epoch != 41 {
		t.Fatalf("epoch %d after 40", rec.Epoch)
	}
	if rec, _ = l.Begin("h", 0); rec.Known || rec.Epoch != 1 {
		t.Fatalf("another group got %+v", rec)
	}
}

func TestLogIsBounded(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "decisions"))
	l.(*boltLog).db.NoSync = true
	if _, err := l.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(decisionsKept + 50) {
		if err := l.Append("g", Record{Decided: &Decision{CG: 2*n + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	h, err := l.History("g", 10*decisionsKept)
	if err != nil || len(h) != decisionsKept || h[0].CG != 2*(decisionsKept+49)+1 {
		t.Fatalf("%d decisions, %v", len(h), err)
	}
}

// TestLogRefusesDamage: a foreign database, a later format and a damaged value are named, never guessed around.
func TestLogRefusesDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions")
	edit := func(f func(tx *bolt.Tx) error) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(f); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
	edit(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("other")); return err })
	if _, err := OpenLog(path); err == nil || !strings.Contains(err.Error(), "other") {
		t.Fatalf("foreign database: %v", err)
	}
	os.Remove(path)
	l := openLog(t, path)
	if _, err := l.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	l.Append("g", Record{Decided: &Decision{CG: 4}})
	l.Close()
	group := func(tx *bolt.Tx) *bolt.Bucket { return tx.Bucket(groupsBucket).Bucket([]byte("g")) }
	for name, damage := range map[string]func(tx *bolt.Tx) error{
		"reserved": func(tx *bolt.Tx) error { return group(tx).Put(reservedKey, []byte{1}) },
		"settings": func(tx *bolt.Tx) error { return group(tx).Put(settingsKey, []byte("{}")) },
		"decision": func(tx *bolt.Tx) error {
			return group(tx).Bucket(decidedBucket).Put([]byte{9, 0, 0, 0, 0, 0, 0, 0}, []byte(`{"cg":3}`))
		},
	} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		edit(damage)
		l := openLog(t, path)
		if _, err := l.Begin("g", 0); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(tx *bolt.Tx) error { return putUint(tx.Bucket(metaBucket), formatKey, 2) })
	if _, err := OpenLog(path); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Fatalf("later format: %v", err)
	}
}

func TestAuditLogRotatesAndMendsItsLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	if err := os.WriteFile(path, []byte(`{"cut off`), 0o640); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuditLog(path)
	if err != nil {
		t.Fatal(err)
	}
	a.limit = 2000
	for i := range 200 {
		if err := a.Write(Entry{CG: uint64(i), Kind: EntryVisit, Control: "s", Did: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	files, _ := filepath.Glob(path + "*")
	if len(files) != auditFiles+1 {
		t.Fatalf("%d files: %v", len(files), files)
	}
	next := -1
	for i := auditFiles; i >= 0; i-- {
		name := fmt.Sprintf("%s.%d", path, i)
		if i == 0 {
			name = path
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var e Entry
			if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
				t.Fatalf("%s: %v in %q", name, err, sc.Text())
			}
			if next >= 0 && e.CG != uint64(next) {
				t.Fatalf("%s: entry %d, want %d", name, e.CG, next)
			}
			next = int(e.CG) + 1
		}
	}
	if tail := a.Tail(3); next != 200 || len(tail) != 3 || tail[2].CG != 199 {
		t.Fatalf("ends at %d, tail %v", next, tail)
	}
}

func TestAuditTailIsBounded(t *testing.T) {
	a, _ := OpenAuditLog("")
	for i := range auditTail + 10 {
		a.Write(Entry{CG: uint64(i)})
	}
	tail := a.Tail(1 << 20)
	if len(tail) != auditTail || tail[0].CG != 10 || tail[auditTail-1].CG != auditTail+9 {
		t.Fatalf("%d entries from %d", len(tail), tail[0].CG)
	}
}
