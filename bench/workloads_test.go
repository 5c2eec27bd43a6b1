package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/ring"
)

// fileRun is a run on a file, reached by pread and pwrite.
func fileRun(t *testing.T, size int64) *run {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	devs, err := ring.Open([]string{path}, ring.OpenOptions{Kind: ring.Plain, AllowBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	d := &device{Devices: devs, infos: devs.Info(), size: size, what: path, told: &notices{}}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return &run{o: Options{Full: 20, Kind: ring.Plain, Repetitions: 1, Seconds: 1, Progress: func(string) {}}, dev: d}
}

// TestWire has another process send CGs that are compared afterwards, and bytes to the floor.
func TestWire(t *testing.T) {
	t.Parallel()
	r := fileRun(t, 128<<20)
	x, err := r.overWire(t.Context(), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if x.Last < 3 || x.Blocks == 0 || x.rate <= 0 {
		t.Errorf("%+v: want the fill, one CG to get going and one that is counted", x)
	}
	m, err := r.receiveFloor(t.Context(), 10*time.Millisecond)
	if err != nil || m.ops == 0 || m.ops%pieceBlocks != 0 {
		t.Errorf("floor: %+v, %v", m, err)
	}
}

// TestMerge: what was sent replaces what was there before, where something was sent.
func TestMerge(t *testing.T) {
	if d := cmp.Diff([]uint64{1, 7, 3}, merge([]uint64{1, 2, 3}, []uint64{0, 7, 0, 9})); d != "" {
		t.Error(d)
	}
}

// TestRecovery kills a secondary and starts it again.
func TestRecovery(t *testing.T) {
	t.Parallel()
	r := fileRun(t, 128<<20)
	if err := r.crash(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	perByte, err := r.scanFloor(t.Context())
	if err != nil || perByte <= 0 {
		t.Errorf("floor of %v s/byte, %v", perByte, err)
	}
	x, err := r.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if x.mapped == 0 || x.used <= 0 || x.used > x.whole || x.elapsed <= 0 {
		t.Errorf("%+v", x)
	}
	journal, tables, err := r.dev.zones(t.Context())
	if err != nil || journal.start+journal.length != tables.start || tables.start+tables.length > r.dev.region() {
		t.Errorf("zones %v and %v of a device of %d bytes, %v", journal, tables, r.dev.region(), err)
	}
}

func TestZonesNeedAPool(t *testing.T) {
	r := fileRun(t, 1<<20)
	if _, _, err := r.dev.zones(t.Context()); err == nil {
		t.Error("a superblock was found on an empty device")
	}
}

func TestLinkAndRevertAreTimed(t *testing.T) {
	t.Parallel()
	r := fileRun(t, 128<<20)
	err := inOwnThread(func() error {
		s, err := openSession(r.dev, 4000, 0)
		if err != nil {
			return err
		}
		if _, err := s.completeOne(t.Context(), 1000); err != nil {
			return errors.Join(err, s.close())
		}
		link, revert, err := s.timeLinks(t.Context())
		if link <= 0 || revert <= 0 {
			t.Errorf("link %v us, revert %v us", link, revert)
		}
		return errors.Join(err, s.close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	r := fileRun(t, 64<<20)
	g, err := r.growth(t.Context(), largeVolume, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if g.updates == 0 || g.steady <= 0 || g.cold <= 0 {
		t.Errorf("%+v", g)
	}
}

// TestScatter: each place is visited once.
func TestScatter(t *testing.T) {
	for _, n := range []uint64{4, 1000, 1 << 15, 98_304} {
		s, seen := scatter{blocks: n, stride: 3}, map[engine.VBlock]bool{}
		for i := range n {
			seen[s.shuffled(i)] = true
		}
		if uint64(len(seen)) != n || !seen[0] || !seen[engine.VBlock(3*(n-1))] {
			t.Errorf("%d of %d places are visited", len(seen), n)
		}
	}
}

// TestExtentsComeBack: measuring leaves the map as it was.
func TestExtentsComeBack(t *testing.T) {
	m, err := alloc.New(alloc.Options{Blocks: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := occupy(m, 1<<16, 50); err != nil {
		t.Fatal(err)
	}
	before := m.Stats()
	x := extents{m: m}
	if err := errors.Join(x.reserveAndReturn(time.Microsecond), x.takeAll(t.Context(), time.Hour)); err != nil {
		t.Fatal(err)
	}
	if share := float64(before.Used) / (1 << 16); share < 0.45 || share > 0.55 {
		t.Errorf("%.3f of the blocks are used, want half", share)
	}
	if after := m.Stats(); after.Used != before.Used || len(x.runs) == 0 || x.take <= 0 || x.release <= 0 || x.reserve <= 0 {
		t.Errorf("%+v after %+v, %d runs, %+v", after, before, len(x.runs), x)
	}
}

func TestAnonymousMemory(t *testing.T) {
	const smaps = `00400000-00401000 r-xp 00000000 08:01 123                                /bin/x
Rss:                   4 kB
c000000000-c000400000 rw-p 00000000 00:00 0 
Rss:                1000 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
Size:               1024 kB
Rss:                 300 kB
Pss:                 300 kB
7f0000200000-7f0000300000 rw-s 00000000 00:0e 77                         anon_inode:[io_uring]
Rss:                  20 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                   7 kB
7f0000400000-7f0000500000 rw-p 00000000 00:00 0 
Rss:                  50 kB
`
	got, err := anonymous(strings.NewReader(smaps), 0xc000001000)
	if err != nil || got != 350<<10 {
		t.Errorf("%d bytes, %v; want 350 KiB", got, err)
	}
	for _, bad := range []string{"nonsense\n", "7f00-7f01 rw-p 0 0 0\nRss: some\n"} {
		if _, err := anonymous(strings.NewReader(bad), 0); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
	before, err := inUse()
	if err != nil {
		t.Fatal(err)
	}
	arena, err := ring.NewArena(32 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	newRandom(1).fill(arena.Bytes())
	after, err := inUse()
	if grown := after - before; err != nil || grown < 31<<20 || grown > 40<<20 {
		t.Errorf("32 MiB were touched, %d bytes are in use in addition, %v", grown, err)
	}
}

func TestFioReport(t *testing.T) {
	const report = "note: both iodepth >= 1 and synchronous I/O engine are selected\n" +
		`{"fio version":"fio-3.39","jobs":[{"error":0,"read":{"iops":0.0},"write":{"iops":1250},"usr_cpu":10.5,"sys_cpu":40.5}]}`
	if x, err := fioReport([]byte(report), ring.OpWrite); err != nil || x != (fioFigures{1250, 408000}) {
		t.Errorf("%v, %v", x, err)
	}
	for _, bad := range []string{"", "fio: engine not loadable", `{"jobs":[]}`, `{"jobs":[{"error":5,"write":{"iops":1}}]}`, `{"jobs":[{`} {
		if x, err := fioReport([]byte(bad), ring.OpWrite); err == nil {
			t.Errorf("%q: %v and no error", bad, x)
		}
	}
	if _, err := fioReport([]byte(report), ring.OpRead); err == nil {
		t.Error("a rate of reads was found where there were none")
	}
}

func TestFloorsAreJudgedByFio(t *testing.T) {
	f := floor{name: "x", unit: "blocks/s", fio: &sequentialLoad}
	if got := f.ofFio(10); got != 640 {
		t.Errorf("10 requests of 256 KiB are %v blocks", got)
	}
	if x := f.judge([]Repetition{{94, 100}}, ""); *x.Reached || len(x.Notes) < 2 {
		t.Errorf("6 %% below fio passes: %+v", x)
	}
	if x := f.judge([]Repetition{{96, 100}}, ""); !*x.Reached {
		t.Errorf("4 %% below fio does not pass: %+v", x)
	}
	f.unit = "us"
	if x := f.judge([]Repetition{{106, 100}}, ""); *x.Reached {
		t.Errorf("6 %% slower than fio passes: %+v", x)
	}
	if x := f.judge([]Repetition{{1, 2}}, "not compared: why"); x.Reached != nil || x.Floor != 0 || x.Notes[1] != "not compared: why" {
		t.Errorf("without fio: %+v", x)
	}
}

func TestSteadyPhases(t *testing.T) {
	x := steady{full: 50, floor: 1000, random: 100}
	x.elapsed = 10 * time.Minute
	for s := range 601 { // 100 blocks a second, in the last minute 80
		n := uint64(100 * s)
		if s > 540 {
			n = 54000 + 80*uint64(s-540)
		}
		x.instants = append(x.instants, instant{float64(s), n, n, n / 4})
	}
	out := x.results()
	byName := map[string]Result{}
	for _, r := range out {
		byName[r.Name] = r
	}
	last := byName["steady/full=50%/last"]
	if last.Value != 80 || last.Floor != 100 || *last.Reached {
		t.Errorf("the last minute: %+v", last)
	}
	if whole := byName["steady/full=50%"]; math.Abs(whole.Ratio-0.098) > 0.001 || len(whole.Series) != 600 {
		t.Errorf("the whole: ratio %v, %d points", whole.Ratio, len(whole.Series))
	}
}

// TestPicture: it is well-formed, and has every line with all its points inside of the frame.
func TestPicture(t *testing.T) {
	c := chart{title: "a < b", x: "minutes", y: "blocks", lines: []line{
		{name: "first", points: []point{{0, 10}, {1, 900}, {2, 87}}},
		{name: "level", points: []point{{0, 50}, {2, 50}}, dashed: true},
		{name: "empty"},
	}}
	svg := c.svg()
	d, lines := xml.NewDecoder(bytes.NewReader(svg)), 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		e, ok := tok.(xml.StartElement)
		if !ok || e.Name.Local != "polyline" {
			continue
		}
		for _, a := range e.Attr {
			if a.Name.Local == "points" {
				inFrame(t, a.Value, len(c.lines[lines].points))
			}
		}
		lines++
	}
	if lines != 3 || !bytes.Contains(svg, []byte("a &lt; b")) || !bytes.Contains(svg, []byte("stroke-dasharray")) {
		t.Errorf("%d lines:\n%s", lines, svg)
	}
}

func inFrame(t *testing.T, points string, want int) {
	t.Helper()
	fields := strings.Fields(points)
	if len(fields) != want {
		t.Errorf("%d points, want %d", len(fields), want)
	}
	for _, f := range fields {
		var p point
		if _, err := fmt.Sscanf(f, "%g,%g", &p.x, &p.y); err != nil || p.x < chartLeft || p.x > chartWidth-chartRight || p.y < chartTop || p.y > chartHeight-chartB {
			t.Errorf("point %q is outside of the frame, or none: %v", f, err)
		}
	}
}

func TestAxes(t *testing.T) {
	for most, want := range map[float64]float64{0.9: 0.2, 1: 0.2, 7: 2, 12: 2, 13: 2.5, 900: 200, 1300: 250, 6000: 1000} {
		if got := tickStep(most); math.Abs(got-want) > 1e-9 {
			t.Errorf("axis up to %v has steps of %v, want %v", most, got, want)
		}
		if end := roundUpTo(most); end < most || end > 1.5*most {
			t.Errorf("axis for %v ends at %v", most, end)
		}
	}
}

// TestProfiles: each kind writes its file.
func TestProfiles(t *testing.T) {
	for _, mode := range profileNames() {
		dir := t.TempDir()
		stop, err := startProfile(Options{Profile: mode, ProfileDir: dir, Progress: func(string) {}})
		if err != nil {
			t.Fatal(err)
		}
		stop()
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %v, %v", mode, files, err)
		}
		if info, err := files[0].Info(); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v is empty, %v", mode, files[0], err)
		}
	}
}
