package primary

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farside-storage/farside/wire"
)

// markedIn says which regions of volume a the log on disk marks.
func markedIn(w *world) []uint64 {
	l := LoadIntent(w.files)
	if v := l.volume("g", "a"); v != nil {
		return v.Marks
	}
	return nil
}

func TestWriteWaitsForItsMark(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 20*BlockSize, BlockSize) // region 1
	if len(w.flight) != 0 || w.intent == nil {
		t.Fatal("a write to a clean region began before the region was marked")
	}
	w.finishIntent(nil)
	if len(w.flight) != 1 {
		t.Fatal("the write did not go on")
	}
	if m := markedIn(w); m[0] != 1<<1 {
		t.Fatalf("marks %x, want region 1", m)
	}
	w.settle()
	w.write(0, 21*BlockSize, BlockSize)
	if w.intent != nil || len(w.flight) != 1 {
		t.Fatal("a write to a marked region waits")
	}
}

func TestIntentFailureFailsTheWriteThenRecovers(t *testing.T) {
	w := synced(t, testOptions())
	io := w.write(0, 20*BlockSize, BlockSize)
	w.finishIntent(errDevice)
	if io.Err == nil || w.hosts != 0 {
		t.Fatalf("the write ended with %v, %d wait", io.Err, w.hosts)
	}
	if w.core.Status().Intent.LastError == "" {
		t.Fatal("the status hides the failure")
	}
	io = w.write(0, 20*BlockSize, BlockSize)
	if !w.intent.Truncate {
		t.Fatal("a record is appended where an earlier one failed")
	}
	w.settle()
	if io.Err != nil || markedIn(w)[0] != 1<<1 {
		t.Fatalf("%v, marks %x", io.Err, markedIn(w))
	}
}

func TestRegionsAreClearedAfterTheyAreFinal(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 20*BlockSize, BlockSize)
	w.settle()
	w.tick(25 * time.Millisecond)
	w.tick(25 * time.Millisecond)
	w.settle()
	if markedIn(w)[0] == 0 {
		t.Fatal("cleared although the change is not final")
	}
	w.round()
	w.tick(25 * time.Millisecond)
	w.settle()
	w.tick(25 * time.Millisecond)
	w.settle()
	if m := markedIn(w); m[0] != 0 {
		t.Fatalf("still marked: %x", m)
	}
	if got := LoadIntent(w.files).group("g").Final; got != w.final {
		t.Fatalf("the log says final %d, want %d", got, w.final)
	}
}

func TestMarksOutgrowTheLogsRoom(t *testing.T) {
	w := synced(t, testOptions())
	w.core.intent.end = w.core.intent.snapshotAt + intentLogRoom // as if full
	w.write(0, 20*BlockSize, BlockSize)
	if !w.intent.Truncate {
		t.Fatal("want a snapshot")
	}
	w.settle()
	if markedIn(w)[0] != 1<<1 {
		t.Fatalf("marks %x", markedIn(w))
	}
}

// TestCrashAtEachStep ends the primary after every step of a write, with every outcome of what was
// in progress, and expects the next CG to bring the copy up to whatever the device holds.
func TestCrashAtEachStep(t *testing.T) {
	steps := []func(w *world){
		func(w *world) { w.write(0, 20*BlockSize, 3*BlockSize) },
		func(w *world) { w.finishIntent(nil) },
		func(w *world) { w.finish(0, nil) },
		func(w *world) { w.peers[0].send() },
		func(w *world) { w.peers[0].receive() },
		func(w *world) { w.hold(time.Second) },
		func(w *world) { w.thaw() },
		func(w *world) { w.settle() },
		func(w *world) { w.finalize() },
		func(w *world) { w.tick(25 * time.Millisecond) },
		func(w *world) { w.tick(25 * time.Millisecond) }, // a snapshot that clears is being written
	}
	for n := range len(steps) + 1 {
		for _, keep := range []int{0, 1, 4095, 4096, 1 << 20} {
			for outcome := range 2 {
				w := synced(t, testOptions())
				for _, s := range steps[:n] {
					s(w)
				}
				if (keep > 0 && w.intent == nil) || (outcome > 0 && len(w.flight) == 0) {
					continue // the same as before
				}
				w.crash(func() int { return outcome }, keep)
				if p := LoadIntent(w.files).Problem; p != "" {
					t.Fatalf("step %d, %d bytes kept: the log is lost: %s", n, keep, p)
				}
				for _, v := range w.core.Status().Groups[0].Volumes {
					if v.ChangedBlocks > 3*16 {
						t.Fatalf("step %d: %d blocks of %s are copied again", n, v.ChangedBlocks, v.Name)
					}
				}
				w.abandon()
				for _, p := range w.peers {
					p.connect()
				}
				w.settle()
				w.round()
			}
		}
	}
}

func TestDamagedLogMeansAFullCopySaidLoudly(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 20*BlockSize, BlockSize)
	w.settle()
	for i := range w.files {
		if len(w.files[i]) > 0 {
			w.files[i][50] ^= 1
		}
	}
	core, err := NewCore(w.opt, w.spec, LoadIntent(w.files))
	if err != nil {
		t.Fatal(err)
	}
	var a Actions
	core.Take(&a)
	if len(a.Notices) != 3 {
		t.Fatalf("%d notices, want one for each copy: %+v", len(a.Notices), a.Notices)
	}
	for _, c := range core.Status().Groups[0].Connections {
		if c.CatchupBlocks%testBlocks != 0 || c.CatchupBlocks == 0 {
			t.Fatalf("%d blocks to copy", c.CatchupBlocks)
		}
	}
}

// TestDamagedLogIsNeverTakenForASoundOne changes each byte of a log with records: it is refused, or it says what it said, the last
// record included; and damage in a record that its second copy makes good is told.
func TestDamagedLogIsNeverTakenForASoundOne(t *testing.T) {
	w := synced(t, testOptions())
	for _, b := range []uint64{20, 40, 60} {
		w.write(0, b*BlockSize, BlockSize)
		w.settle()
	}
	want := LoadIntent(w.files)
	file := bytes.Clone(w.files[want.File])
	snapshot := len(file) - 3*2*intentAlign
	step := 1
	if raceEnabled {
		step = 7 // the detector slows this down and learns nothing from it
	}
	for i := 0; i < len(file); i += step {
		file[i] ^= 0x10
		got := LoadIntent([2][]byte{file})
		file[i] ^= 0x10
		repaired := got.Repaired
		got.File, got.Repaired = want.File, nil
		if got.Problem == "" && !cmp.Equal(want, got) {
			t.Fatalf("byte %d of %d changed, and nobody noticed: %s", i, len(file), cmp.Diff(want, got))
		}
		if i >= snapshot && got.Problem != "" {
			t.Fatalf("byte %d of %d changed: %s", i, len(file), got.Problem)
		}
		if first := (i-snapshot)/intentAlign%2 == 0; i >= snapshot && (i-snapshot)%intentAlign < recordFixed && first != (len(repaired) == 1) {
			t.Fatalf("byte %d of %d changed, repaired %q", i, len(file), repaired)
		}
	}
}

func TestIntentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(1, 300).Draw(t, "regions") << 20
		words := int(size>>20+63) / 64
		first := IntentCopy{Secondary: "first", Identity: wire.UUID{9}, Lacking: rapid.SliceOfN(rapid.Uint64(), words, words).Draw(t, "lacking")}
		l := &IntentLog{Seq: rapid.Uint64().Draw(t, "seq"), Region: 1 << 20,
			Groups:  []IntentGroup{{rapid.StringN(1, 20, 200).Draw(t, "group"), rapid.Uint64().Draw(t, "final"), rapid.Uint64().Draw(t, "epoch"), rapid.StringN(0, 20, 200).Draw(t, "manager")}},
			Volumes: []IntentVolume{{Group: "g", Name: "v", Size: size, Copies: []IntentCopy{{"s", wire.UUID{rapid.Byte().Draw(t, "identity")}, true, nil}, first}, Marks: make([]uint64, words)}}}
		if rapid.Bool().Draw(t, "left") {
			l.Volumes[0].Place = rapid.StringN(0, 20, 200).Draw(t, "place")
			l.Left = []IntentLeft{{"g", "w", strings.Repeat("p", rapid.IntRange(1, maxIntentPlace).Draw(t, "long")), rapid.Uint64().Draw(t, "size"), "s", wire.UUID{3}}}
		}
		file := encodeSnapshot(l)
		got, err := decodeIntent(file)
		if err != nil || !cmp.Equal(l, got) {
			t.Fatalf("%v: %s", err, cmp.Diff(l, got))
		}
		chain := chainSum(file)
		for i := range rapid.IntRange(0, 3).Draw(t, "records") {
			r := rapid.Uint64Range(0, size>>20-1).Draw(t, "region")
			rec := appendRecord(nil, l.Seq, uint64(i), chain, []mark{{0, r}})
			l.Volumes[0].Marks[r/64] |= 1 << (r % 64)
			chain, file = chainSum(rec), append(file, rec...)
		}
		if got, err = decodeIntent(file); err != nil || !cmp.Equal(l, got) {
			t.Fatalf("%v: %s", err, cmp.Diff(l, got))
		}
	})
}

// TestIntentOfTheVersionBefore: its log is read; what it does not have is not known.
func TestIntentOfTheVersionBefore(t *testing.T) {
	l := &IntentLog{Seq: 3, Region: 1 << 20, Groups: []IntentGroup{{"g", 9, 4, "m1"}},
		Volumes: []IntentVolume{{Group: "g", Name: "v", Size: 8 << 20, Copies: []IntentCopy{{"s", wire.UUID{7}, true, nil}}, Marks: []uint64{5}}}}
	now := encodeSnapshot(l)
	end := int(binary.LittleEndian.Uint64(now[16:])) - 4 // without the count of copies that are left
	at := bytes.Index(now, []byte("\x01\x00v")) + 3 + 8  // of the empty place
	old := slices.Concat(now[:at], now[at+2:end])
	binary.LittleEndian.PutUint32(old[8:], intentOld)
	binary.LittleEndian.PutUint64(old[16:], uint64(len(old)))
	old = pad(binary.LittleEndian.AppendUint64(old, xxhash.Sum64(old)))
	got, err := decodeIntent(append(old, appendRecord(nil, 3, 0, chainSum(old), []mark{{0, 1}})...))
	l.Volumes[0].Marks[0] |= 2
	if err != nil || !cmp.Equal(l, got) {
		t.Fatalf("%v: %s", err, cmp.Diff(l, got))
	}
	binary.LittleEndian.PutUint32(old[8:], intentOld-1)
	if _, err := decodeIntent(old); err == nil {
		t.Error("a log of an unknown version was read")
	}
}

func FuzzLoadIntent(f *testing.F) {
	l := &IntentLog{Seq: 3, Region: 1 << 20, Groups: []IntentGroup{{"g", 9, 4, "m1"}},
		Volumes: []IntentVolume{{Group: "g", Name: "v", Size: 8 << 20, Copies: []IntentCopy{{"s", wire.UUID{7}, true, nil}, {"t", wire.UUID{8}, false, []uint64{1}}}, Marks: []uint64{5}}}, Left: []IntentLeft{{"g", "v", "here", 8 << 20, "u", wire.UUID{9}}}}
	snap := encodeSnapshot(l)
	f.Add(snap, []byte(nil))
	f.Add(append(bytes.Clone(snap), appendRecord(nil, 3, 0, chainSum(snap), []mark{{0, 1}})...), snap[:100])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		got := LoadIntent([2][]byte{a, b})
		if _, err := NewCore(CoreOptions{}, []GroupSpec{{Name: "g", Volumes: []VolumeSpec{{Name: "v", Size: 8 << 20, Secondaries: []string{"s"}}}}}, got); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteThatComesWhileItsMarkIsWritten(t *testing.T) {
	w := synced(t, testOptions())
	w.write(0, 20*BlockSize, BlockSize)
	w.write(0, 21*BlockSize, BlockSize) // wants nothing that is not being written already
	w.finishIntent(nil)
	if len(w.flight) != 2 {
		t.Fatalf("%d of 2 writes went on", len(w.flight))
	}
}

// What a crash leaves of the last record, at any length, is a record or none: both copies being bad says that it was never relied upon.
func TestTornLastRecordIsNotDamage(t *testing.T) {
	w := synced(t, testOptions())
	for _, b := range []uint64{20, 40} {
		w.write(0, b*BlockSize, BlockSize)
		w.settle()
	}
	whole := LoadIntent(w.files)
	file := w.files[whole.File]
	begin := len(file) - 2*intentAlign
	before := LoadIntent([2][]byte{file[:begin]})
	if len(before.Volumes) == 0 || cmp.Equal(before.Volumes, whole.Volumes) {
		t.Fatal("the last record says nothing")
	}
	for n := begin; n <= len(file); n += 512 {
		for _, zeros := range []int{0, len(file) - n} { // the file ends there, or the rest was not written
			got := LoadIntent([2][]byte{append(bytes.Clone(file[:n]), make([]byte, zeros)...)})
			if got.Problem != "" || !cmp.Equal(got.Volumes, before.Volumes) && !cmp.Equal(got.Volumes, whole.Volumes) {
				t.Fatalf("%d bytes of the last record, %d zeros: %+v", n-begin, zeros, got)
			}
		}
	}
}
