package ringtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/farside-storage/farside/ring"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const sectorSize = 4096

// bench is one simulated device with one queue.
type bench struct {
	t   *testing.T
	d   *Devices
	q   ring.Queue
	out []ring.Completion
}

func newBench(t *testing.T, seed uint64) *bench {
	t.Helper()
	return onDevices(t, MustNew(Options{Seed: seed}, Spec{Size: 1 << 20}, Spec{Size: 1 << 20}))
}

func onDevices(t *testing.T, d *Devices) *bench {
	t.Helper()
	q, err := d.NewQueue(ring.QueueOptions{Depth: 64})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, d: d, q: q, out: make([]ring.Completion, 64)}
}

// sectors is memory for n sectors, filled with b, aligned as O_DIRECT wants it.
func sectors(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n*sectorSize) }

func (b *bench) push(r ring.Request) {
	b.t.Helper()
	if !b.q.Push(r) {
		b.t.Fatal("push was refused")
	}
}

// drain lets everything in flight end, and gives the first error.
func (b *bench) drain() error {
	var first error
	for b.q.InFlight() > 0 {
		n, err := b.q.Reap(b.out, 1)
		if err != nil {
			return err
		}
		for _, c := range b.out[:n] {
			if first == nil {
				first = c.Err
			}
		}
	}
	return first
}

func (b *bench) do(r ring.Request) error {
	b.t.Helper()
	b.push(r)
	return b.drain()
}

func (b *bench) must(r ring.Request) {
	b.t.Helper()
	if err := b.do(r); err != nil {
		b.t.Fatal(err)
	}
}

func write(i int, c byte) ring.Request {
	return ring.Request{Op: ring.OpWrite, Off: int64(i) * sectorSize, Buf: sectors(1, c)}
}

var flush = ring.Request{Op: ring.OpFlush}

// look is the first byte of each of the first n sectors of device 0; a torn sector fails the test.
func look(t *testing.T, d *Devices, n int) string {
	t.Helper()
	var s []byte
	for i := range n {
		p := make([]byte, sectorSize)
		d.ReadAt(0, p, int64(i)*sectorSize)
		if !bytes.Equal(p, bytes.Repeat(p[:1], sectorSize)) {
			t.Fatalf("sector %d is torn inside", i)
		}
		if p[0] == 0 {
			p[0] = '.'
		}
		s = append(s, p[0])
	}
	return string(s)
}

// outcomesOf collects what all crashes leave.
func outcomesOf(t *testing.T, d *Devices, n int) []string {
	t.Helper()
	var all []string
	for _, image := range d.Crashes(1000) {
		all = append(all, look(t, image, n))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestCrashLeavesAnyVersionOfEachSector(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.must(flush)
	b.must(write(0, 'b'))
	b.must(write(0, 'c'))
	b.must(write(1, 'd'))
	want := []string{"a.", "ad", "b.", "bd", "c.", "cd"}
	if diff := cmp.Diff(want, outcomesOf(t, b.d, 2)); diff != "" {
		t.Error(diff)
	}
	if _, err := b.q.Reap(b.out, 0); !errors.Is(err, ErrCrashed) {
		t.Errorf("reap after the crash: %v", err)
	}
	b.push(flush)
	if err := b.q.Submit(); !errors.Is(err, ErrCrashed) {
		t.Errorf("submit after the crash: %v", err)
	}
	if _, err := b.d.NewQueue(ring.QueueOptions{}); !errors.Is(err, ErrCrashed) {
		t.Errorf("new queue after the crash: %v", err)
	}
	if err := b.q.Close(); err != nil {
		t.Errorf("close after the crash: %v", err)
	}
}

// TestCrashTearsWrites: a write of two sectors may leave one of them.
func TestCrashTearsWrites(t *testing.T) {
	b := newBench(t, 1)
	b.must(ring.Request{Op: ring.OpWrite, Buf: sectors(2, 'x')})
	want := []string{"..", ".x", "x.", "xx"}
	if diff := cmp.Diff(want, outcomesOf(t, b.d, 2)); diff != "" {
		t.Error(diff)
	}
}

// TestFlushCoversCompletedOnly: what was still in flight when the flush was submitted stays in doubt.
func TestFlushCoversCompletedOnly(t *testing.T) {
	for seed := range uint64(20) {
		b := newBench(t, seed)
		b.must(write(0, 'a'))
		b.push(write(1, 'b'))
		if err := b.q.Submit(); err != nil {
			t.Fatal(err)
		}
		b.push(flush)
		if err := b.drain(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a.", "ab"}, outcomesOf(t, b.d, 2)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

func TestWritesInFlightAreInDoubt(t *testing.T) {
	b := newBench(t, 3)
	b.must(write(0, 'a'))
	b.must(flush)
	buf := sectors(1, 'b')
	b.push(ring.Request{Op: ring.OpWrite, Buf: buf})
	if err := b.q.Submit(); err != nil {
		t.Fatal(err)
	}
	none := b.d.Crash(None)
	copy(buf, sectors(1, 'z')) // the memory is ours again
	if got := look(t, none, 1) + look(t, b.d.Crash(All), 1); got != "ab" {
		t.Errorf("none, all: %q", got)
	}
}

func TestFUAIsDurable(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	r := write(0, 'b')
	r.FUA = true
	b.must(r)
	b.must(write(1, 'c'))
	want := []string{"b.", "bc"}
	if diff := cmp.Diff(want, outcomesOf(t, b.d, 2)); diff != "" {
		t.Error(diff)
	}
}

func TestZeroesAndDiscardsAreVolatile(t *testing.T) {
	b := newBench(t, 1)
	for i := range 4 {
		b.must(write(i, 'a'))
	}
	b.must(flush)
	b.must(ring.Request{Op: ring.OpWriteZeroes, Len: 2 * sectorSize})
	if got := look(t, b.d, 4); got != "..aa" {
		t.Errorf("after write zeroes: %q", got)
	}
	b.must(ring.Request{Op: ring.OpDiscard, Off: 2 * sectorSize, Len: 2 * sectorSize})
	if got := look(t, b.d.Crash(None), 4); got != "aaaa" {
		t.Errorf("crash lost what was durable: %q", got)
	}
}

// TestDiscardContents: over many seeds, a discarded sector is seen with its old contents, with zeros and with rubbish.
func TestDiscardContents(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(50) {
		b := newBench(t, seed)
		b.must(write(0, 'a'))
		b.must(ring.Request{Op: ring.OpDiscard, Len: sectorSize})
		p := make([]byte, sectorSize)
		b.d.ReadAt(0, p, 0)
		switch {
		case bytes.Equal(p, sectors(1, 'a')):
			seen["old"] = true
		case bytes.Equal(p, sectors(1, 0)):
			seen["zeros"] = true
		default:
			seen["rubbish"] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("seen only %v", seen)
	}
}

// TestRacingRead: a read that races with a write sees old and new, mixed by sectors; one after it only new.
func TestRacingRead(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(100) {
		b := newBench(t, seed)
		buf := sectors(2, 0)
		b.push(ring.Request{Op: ring.OpRead, Buf: buf})
		b.push(ring.Request{Op: ring.OpWrite, Buf: sectors(2, 'n')})
		if err := b.drain(); err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(buf[0], buf[sectorSize])] = true
		b.must(ring.Request{Op: ring.OpRead, Buf: buf})
		if !bytes.Equal(buf, sectors(2, 'n')) {
			t.Fatalf("seed %d: a read after the write does not see it", seed)
		}
	}
	if len(seen) != 4 {
		t.Errorf("seen %v, want all four mixtures", seen)
	}
}

// TestReadSeesWriteInFlight: a read may show what a write that has not completed is about to store.
func TestReadSeesWriteInFlight(t *testing.T) {
	seen := make(map[byte]bool)
	for seed := range uint64(100) {
		b := newBench(t, seed)
		buf := sectors(1, 'x')
		b.push(ring.Request{Op: ring.OpRead, Buf: buf, Tag: 1})
		b.push(write(0, 'n'))
		n, err := b.q.Reap(b.out[:1], 1)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if b.out[0].Tag == 1 {
			seen[buf[0]] = true
		}
		if err := b.drain(); err != nil {
			t.Fatal(err)
		}
	}
	if !seen[0] || !seen['n'] || len(seen) != 2 {
		t.Errorf("reads that ended before the write saw %v, want old and new", seen)
	}
}

func TestSameSeedSameWorld(t *testing.T) {
	run := func(seed uint64) string {
		// Large enough that the touched pages are found by walking a map.
		b := onDevices(t, MustNew(Options{Seed: seed}, Spec{Size: 1 << 40}))
		var order []uint64
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range 300 {
			b.push(ring.Request{Op: ring.OpWrite, Off: rng.Int64N(100) * sectorSize, Buf: sectors(1, byte(i)), Tag: uint64(i)})
			if i%20 == 19 {
				b.push(ring.Request{Op: ring.OpFlush, Tag: 1000})
			}
			n, err := b.q.Reap(b.out, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range b.out[:n] {
				order = append(order, c.Tag)
			}
		}
		b.push(ring.Request{Op: ring.OpDiscard, Len: 1 << 40})
		if err := b.drain(); err != nil {
			t.Fatal(err)
		}
		image := b.d.Crash(Random)
		p := make([]byte, 100*sectorSize)
		image.ReadAt(0, p, 0)
		for i := 0; i < len(p); i += sectorSize {
			order = append(order, uint64(p[i]))
		}
		return fmt.Sprint(order)
	}
	first, second := run(5), run(5)
	if first != second {
		t.Error("the same seed gave two worlds")
	}
	if first == run(6) {
		t.Error("two seeds gave the same world")
	}
}

func TestPolicies(t *testing.T) {
	fresh := func(seed uint64) *Devices {
		b := newBench(t, seed)
		for i := range 3 {
			b.must(write(i, byte('a'+i)))
		}
		b.must(ring.Request{Op: ring.OpWrite, Off: 3 * sectorSize, Buf: sectors(2, 'd')})
		return b.d
	}
	for _, c := range []struct {
		name   string
		policy Policy
		want   []string
	}{
		{"none", None, []string{"....."}},
		{"all", All, []string{"abcdd"}},
		{"prefix", Prefix, []string{".....", "a....", "ab...", "abc..", "abcdd"}},
		{"all but one", AllButOne, []string{".bcdd", "a.cdd", "ab.dd", "abc..", "abc.d", "abcd."}},
	} {
		var got []string
		for seed := range uint64(200) {
			got = append(got, look(t, fresh(seed).Crash(c.policy), 5))
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, slices.Compact(got)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	images := make(map[string]bool)
	for seed := range uint64(400) {
		images[look(t, fresh(seed).Crash(Random), 5)] = true
	}
	if len(images) != 32 {
		t.Errorf("random: %d different images, want 32", len(images))
	}
}

// TestCrashesSamples: a space too large to enumerate gives exactly as many images as asked for.
func TestCrashesSamples(t *testing.T) {
	b := newBench(t, 1)
	for i := range 20 {
		b.must(write(i, 'x'))
	}
	var names []string
	for name := range b.d.Crashes(12) {
		names = append(names, name)
	}
	want := []string{"none", "all", "prefix, sample 2", "all but one, sample 3", "random, sample 4", "prefix, sample 5"}
	if len(names) != 12 || !slices.Equal(names[:6], want) {
		t.Errorf("images %q", names)
	}
	names = nil
	for name := range b.d.Crashes(1) { // never less than one of each
		names = append(names, name)
	}
	if diff := cmp.Diff(want[:4], names); diff != "" {
		t.Error(diff)
	}
}

// TestSmallSectors: with sectors of 512 bytes a block of 4096 tears into any of 256 mixtures, and no sector tears inside.
func TestSmallSectors(t *testing.T) {
	d := MustNew(Options{Seed: 1}, Spec{Size: 1 << 20, SectorSize: 512})
	b := onDevices(t, d)
	b.must(ring.Request{Op: ring.OpWrite, Buf: sectors(1, 'o')})
	b.must(flush)
	b.must(ring.Request{Op: ring.OpWrite, Buf: sectors(1, 'n')})
	seen := make(map[string]bool)
	for name, image := range d.Crashes(256) {
		p := make([]byte, sectorSize)
		image.ReadAt(0, p, 0)
		mixture := ""
		for i := 0; i < len(p); i += 512 {
			if !bytes.Equal(p[i:i+512], bytes.Repeat(p[i:i+1], 512)) {
				t.Fatalf("%s: the sector at byte %d is torn inside", name, i)
			}
			mixture += string(p[i])
		}
		seen[mixture] = true
	}
	if len(seen) != 256 {
		t.Errorf("%d mixtures of 8 sectors, want 256", len(seen))
	}
	if n := d.Uncertain(); len(n) != 8 || n[1].Off != 512 {
		t.Errorf("in doubt: %+v", n)
	}
}

// TestAllButOneLosesOne: a change that another one covers would not be missed, so it is not the one that is lost.
func TestAllButOneLosesOne(t *testing.T) {
	for seed := range uint64(100) {
		b := newBench(t, seed)
		for _, c := range "abcdefgh" {
			b.must(write(0, byte(c)))
		}
		b.must(write(1, 'x'))
		if got := look(t, b.d.Crash(AllButOne), 2); got != "gx" && got != "h." {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

// TestKillKeepsTheCache: after the death of a process what had completed can be read, what was in flight may have arrived, and
// all of it can still be lost with the power, until it is flushed.
func TestKillKeepsTheCache(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(60) {
		b := newBench(t, seed)
		b.must(write(0, 'a'))
		b.must(flush)
		b.must(write(0, 'b'))
		b.push(ring.Request{Op: ring.OpWrite, Off: sectorSize, Buf: sectors(2, 'c')})
		if err := b.q.Submit(); err != nil {
			t.Fatal(err)
		}
		next := onDevices(t, b.d.Kill())
		now := look(t, next.d, 3)
		seen[now] = true
		if seed%2 == 0 {
			next.must(flush)
			if got := look(t, next.d.Crash(None), 3); got != now {
				t.Fatalf("seed %d: read and flushed %q, after the crash %q", seed, now, got)
			}
		} else if got := look(t, next.d.Crash(None), 3); got != "a.." {
			t.Fatalf("seed %d: nothing was flushed, after the crash %q", seed, got)
		}
	}
	if diff := cmp.Diff(map[string]bool{"b..": true, "bc.": true, "b.c": true, "bcc": true}, seen); diff != "" {
		t.Error(diff)
	}
}

// TestReset gives several futures of the same devices, none of which changes another.
func TestReset(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.must(write(0, 'b'))
	b.must(write(1, 'c'))
	one, two := onDevices(t, b.d.Reset(All)), onDevices(t, b.d.Reset(All))
	one.must(write(0, 'z'))
	one.must(flush)
	none := b.d.Reset(None)
	if got := look(t, two.d, 2) + look(t, none, 2) + look(t, one.d.Crash(None), 2); got != "bc..zc" {
		t.Errorf("all, none, and all flushed: %q", got)
	}
	middle := b.d.Reset(func(*rand.Rand, []Uncertain) []int { return []int{1, 0} })
	if diff := cmp.Diff([]string{"..", "a."}, outcomesOf(t, middle, 2)); diff != "" { // what is gone does not come back
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"..", ".c", "a.", "ac", "b.", "bc"}, outcomesOf(t, two.d, 2)); diff != "" {
		t.Error(diff)
	}
	if _, err := b.d.NewQueue(ring.QueueOptions{}); !errors.Is(err, ErrCrashed) {
		t.Errorf("a queue after the reset: %v", err)
	}
}

func TestUnchanged(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	for _, c := range []struct {
		r    ring.Request
		want bool
	}{{ring.Request{Op: ring.OpRead, Buf: sectors(1, 0)}, true}, {flush, false}, {write(0, 'b'), false}, {ring.Request{Op: ring.OpWriteZeroes, Len: sectorSize}, false}} {
		d := b.d.Reset(All)
		onDevices(t, d).must(c.r)
		if got := d.Unchanged(); got != c.want {
			t.Errorf("after a %v: %t", c.r.Op, got)
		}
	}
	d := b.d.Reset(All)
	n := onDevices(t, d)
	n.push(write(0, 'c'))
	if err := n.q.Submit(); err != nil {
		t.Fatal(err)
	}
	if d.Uncertain(); d.Unchanged() {
		t.Error("unchanged with a write in flight at the crash")
	}
}

// TestDigest is that of what can be read, however it came there.
func TestDigest(t *testing.T) {
	one, two := newBench(t, 1), newBench(t, 2)
	if one.d.Digest() != two.d.Digest() {
		t.Error("empty devices differ")
	}
	for i := range 3 {
		one.must(write(i, 'a'))
		two.must(write(2-i, 'a'))
	}
	one.must(flush)
	if one.d.Digest() != two.d.Digest() {
		t.Error("the same contents differ")
	}
	other := write(0, 'a')
	other.Device = 1
	for _, r := range []ring.Request{write(1, 'b'), write(30, 'a'), other} {
		before := two.d.Digest()
		if two.must(r); two.d.Digest() == before {
			t.Errorf("a write to device %d at %d changes nothing", r.Device, r.Off)
		}
	}
}

// TestCrashPoints goes through every point at which a small run can crash. The oracle: what was flushed is there.
func TestCrashPoints(t *testing.T) {
	for e, want := range map[Event]uint64{Submission: 12, Completion: 12, FlushEnd: 3} {
		n := uint64(1)
		for ; ; n++ {
			b := newBench(t, n)
			b.d.CrashAt(e, n)
			durable := 0
			var err error
			for i := 0; i < 3 && err == nil; i++ {
				for j := range 3 {
					b.push(write(i*3+j, 'x'))
				}
				if err = b.drain(); err == nil {
					err = b.do(flush)
				}
				if err == nil {
					durable = (i + 1) * 3
				}
			}
			if !b.d.Crashed() {
				break
			}
			if !errors.Is(err, ErrCrashed) {
				t.Fatalf("event %d, %d: %v", e, n, err)
			}
			if got := look(t, b.d.Crash(None), durable); got != string(bytes.Repeat([]byte{'x'}, durable)) {
				t.Fatalf("event %d, %d: of %d durable sectors there are %q", e, n, durable, got)
			}
		}
		if n-1 != want {
			t.Errorf("event %d: %d crash points, want %d", e, n-1, want)
		}
	}
}

// TestImagesAreIndependent: writing to one image changes neither another nor the past.
func TestImagesAreIndependent(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.must(flush)
	one, two := onDevices(t, b.d.Crash(All)), onDevices(t, b.d.Crash(All))
	for i := range 50 {
		one.must(write(0, byte('A'+i%20)))
		one.must(flush)
	}
	two.must(write(1, 'c'))
	two.must(write(1, 'd'))
	two.must(flush)
	if got := look(t, two.d, 2) + look(t, b.d.Crash(All), 2); got != "ada." {
		t.Errorf("second image, then a third: %q", got)
	}
}

func TestReopenKeepsTheCache(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	if err := b.d.Close(); err == nil {
		t.Error("closed under an open queue")
	}
	if err := errors.Join(b.q.Close(), b.d.Close()); err != nil {
		t.Fatal(err)
	}
	next := b.d.Reopen()
	if got := look(t, next, 1); got != "a" {
		t.Errorf("after reopening: %q", got)
	}
	if diff := cmp.Diff([]string{".", "a"}, outcomesOf(t, next, 1)); diff != "" {
		t.Error(diff)
	}
}

// TestNeverHangs: a stepped caller gets control back although nothing can happen.
func TestNeverHangs(t *testing.T) {
	b := newBench(t, 1)
	if n, err := b.q.Reap(b.out, 1); n != 0 || err != nil {
		t.Errorf("reap: %d, %v", n, err)
	}
}

func TestBlockedQueueLearnsOfCrash(t *testing.T) {
	d := MustNew(Options{Blocking: true}, Spec{Size: 1 << 20})
	w, err := ring.NewWorker(d, ring.QueueOptions{Depth: 4})
	if err != nil {
		t.Fatal(err)
	}
	d.Crash(None)
	if err := w.Do(write(0, 'a')); !errors.Is(err, ErrCrashed) {
		t.Errorf("call after the crash: %v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrCrashed) {
		t.Errorf("close of the worker: %v", err)
	}
}

func TestFaultFails(t *testing.T) {
	b := newBench(t, 1)
	b.d.Inject(Fault{Kind: Fails, Op: ring.OpWrite, Off: 2 * sectorSize, Len: sectorSize, Skip: 1, Count: 1})
	b.must(write(2, 'a'))
	b.must(write(1, 'a'))
	err := b.do(write(2, 'b'))
	var e *ring.Error
	if !errors.Is(err, unix.EIO) || !errors.As(err, &e) || e.Off != 2*sectorSize {
		t.Errorf("the second write of sector 2: %v", err)
	}
	b.must(write(2, 'c'))
	b.d.Inject(Fault{Kind: Fails, Op: ring.OpRead, Err: unix.EILSEQ})
	if err := b.do(ring.Request{Op: ring.OpRead, Buf: sectors(1, 0)}); !errors.Is(err, unix.EILSEQ) {
		t.Errorf("read: %v", err)
	}
	b.d.Heal()
	b.must(ring.Request{Op: ring.OpRead, Buf: sectors(1, 0)})
}

// TestFailedFlush: what it should have made durable may be gone, at once or with the next crash; a good flush does not bring it back, and writing
// it again does.
func TestFailedFlush(t *testing.T) {
	seen, left := make(map[string]bool), make(map[string]bool)
	hidden := false // reads showed what a crash after a good flush lost
	for seed := range uint64(200) {
		b := newBench(t, seed)
		b.must(write(0, 'a'))
		b.must(flush)
		b.must(write(0, 'x')) // two versions in doubt: the sector is named twice
		b.must(write(0, 'b'))
		b.must(write(1, 'c'))
		b.d.Inject(Fault{Kind: Fails, Op: ring.OpFlush, Count: 1})
		if err := b.do(flush); !errors.Is(err, unix.EIO) {
			t.Fatalf("failed flush: %v", err)
		}
		b.must(write(2, 'd')) // after the failure: the next flush covers it
		b.must(flush)
		now := look(t, b.d, 3)
		seen[now] = true
		if seed%2 == 0 {
			b.must(write(0, 'e'))
			b.must(write(1, 'e'))
			b.must(flush)
			if got := look(t, b.d.Crash(None), 3); got != "eed" {
				t.Fatalf("seed %d: written again and flushed, after the crash %q", seed, got)
			}
			continue
		}
		warm := b.d.Reset(All) // with the cache kept the doubt stays, too
		onDevices(t, warm).must(flush)
		for _, d := range []*Devices{b.d, warm} {
			after := look(t, d.Crash(Random), 3)
			left[after] = true
			hidden = hidden || after != now
			if after[2] != 'd' {
				t.Fatalf("seed %d: what was written after the failed flush and flushed is gone: %q", seed, after)
			}
		}
	}
	if len(seen) != 6 || len(left) != 6 || !hidden {
		t.Errorf("reads saw %v, crashes left %v; want six of each, not always the same", seen, left)
	}
}

func TestFaultLies(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.d.Inject(Fault{Kind: Lies, Op: ring.OpFlush, Count: 1})
	b.must(flush)
	b.d.Inject(Fault{Kind: Lies, Op: ring.OpWrite, Count: 1})
	b.must(write(1, 'b'))
	if diff := cmp.Diff([]string{"..", "a."}, outcomesOf(t, b.d, 2)); diff != "" {
		t.Error(diff)
	}
}

func TestFaultShort(t *testing.T) {
	lengths := make(map[int]bool)
	for seed := range uint64(40) {
		b := newBench(t, seed)
		b.d.Inject(Fault{Kind: Short, Op: ring.OpWrite})
		if err := b.do(ring.Request{Op: ring.OpWrite, Buf: sectors(3, 'x')}); !errors.Is(err, ring.ErrShort) {
			t.Fatal(err)
		}
		got := look(t, b.d, 3)
		lengths[len(bytes.TrimRight([]byte(got), "."))] = true
		b.d.Inject(Fault{Kind: Short, Op: ring.OpRead})
		if err := b.do(ring.Request{Op: ring.OpRead, Buf: sectors(3, 'x')}); !errors.Is(err, ring.ErrShort) {
			t.Fatal(err)
		}
	}
	if len(lengths) != 3 || lengths[3] {
		t.Errorf("lengths seen: %v, want 0, 1 and 2", lengths)
	}
}

// TestFailedWriteTears: of a write that failed any sector may have arrived.
func TestFailedWriteTears(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(60) {
		b := newBench(t, seed)
		b.d.Inject(Fault{Kind: Fails, Op: ring.OpWrite})
		if err := b.do(ring.Request{Op: ring.OpWrite, Buf: sectors(2, 'x')}); !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		seen[look(t, b.d, 2)] = true
	}
	if len(seen) != 4 {
		t.Errorf("seen %v, want all four mixtures", seen)
	}
}

// TestDamageOutlivesCrashes: rot is in every version, a misdirected write in flight lands where it was going, and a device that vanished
// stays away until it is healed.
func TestDamageOutlivesCrashes(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.must(flush)
	b.must(write(0, 'b'))
	b.d.Rot(0, 0, 1, 8)
	b.d.Inject(Fault{Kind: Misdirected, Op: ring.OpWrite, Shift: sectorSize, Count: 1})
	b.push(write(1, 'm'))
	b.d.Inject(Fault{Kind: Vanishes, Device: 1, Op: ring.OpRead})
	if err := b.do(ring.Request{Op: ring.OpRead, Device: 1, Buf: sectors(1, 0)}); !errors.Is(err, unix.ENXIO) {
		t.Fatal(err)
	}
	for _, d := range []*Devices{b.d.Crash(None), b.d.Crash(All), b.d.Kill()} {
		var got [3]byte
		for i := range got {
			d.ReadAt(0, got[i:i+1], int64(i)*sectorSize)
		}
		if got[0] != 'a'^0xff && got[0] != 'b'^0xff || got[1] != 0 || got[2] != 0 && got[2] != 'm' {
			t.Errorf("after the crash: %q", got)
		}
		n := onDevices(t, d)
		if err := n.do(ring.Request{Op: ring.OpRead, Device: 1, Buf: sectors(1, 0)}); !errors.Is(err, unix.ENXIO) {
			t.Errorf("the device is back by itself: %v", err)
		}
		d.Heal()
		n.must(ring.Request{Op: ring.OpRead, Device: 1, Buf: sectors(1, 0)})
	}
}

func TestBitRotMisdirectionAndLoss(t *testing.T) {
	b := newBench(t, 1)
	b.must(write(0, 'a'))
	b.must(flush)
	b.d.Rot(0, 100, 8, 3)
	p := make([]byte, sectorSize)
	b.d.ReadAt(0, p, 0)
	flipped := 0
	for i, c := range p {
		for x := c ^ 'a'; x != 0; x &= x - 1 {
			flipped++
			if i < 100 || i >= 108 {
				t.Errorf("byte %d changed", i)
			}
		}
	}
	if flipped != 3 {
		t.Errorf("%d bits flipped, want 3", flipped)
	}
	b.d.Inject(Fault{Kind: Flips, Op: ring.OpRead, Count: 1})
	buf := sectors(1, 0)
	b.must(ring.Request{Op: ring.OpRead, Off: sectorSize, Buf: buf})
	if bytes.Equal(buf, sectors(1, 0)) {
		t.Error("the read has no bit wrong")
	}
	b.d.Inject(Fault{Kind: Misdirected, Op: ring.OpWrite, Shift: 2 * sectorSize, Count: 1})
	b.must(write(1, 'm'))
	b.must(write(0, 'a')) // sound again
	if got := look(t, b.d, 4)[1:]; got != "..m" {
		t.Errorf("misdirected by two sectors: %q", got)
	}
	b.d.Inject(Fault{Kind: Vanishes, Op: ring.OpWrite})
	if err := b.do(write(0, 'v')); !errors.Is(err, unix.ENXIO) {
		t.Errorf("vanishing: %v", err)
	}
	if err := b.do(ring.Request{Op: ring.OpRead, Buf: buf}); !errors.Is(err, unix.ENXIO) {
		t.Errorf("read of a vanished device: %v", err)
	}
	other := write(0, 'o')
	other.Device = 1
	b.must(other)
}

func TestStats(t *testing.T) {
	b := newBench(t, 1)
	b.must(ring.Request{Op: ring.OpWrite, Buf: sectors(3, 'x')})
	b.must(ring.Request{Op: ring.OpRead, Buf: sectors(2, 0)})
	b.must(flush)
	want := Stats{Reads: 1, Writes: 1, Flushes: 1, ReadBytes: 2 * sectorSize, WriteBytes: 3 * sectorSize}
	if diff := cmp.Diff(want, b.d.Stats(0)); diff != "" {
		t.Error(diff)
	}
}

// TestSparse: a large device costs what was written.
func TestSparse(t *testing.T) {
	d := MustNew(Options{}, Spec{Size: 1 << 45})
	b := onDevices(t, d)
	b.must(ring.Request{Op: ring.OpWrite, Off: 1<<45 - sectorSize, Buf: sectors(1, 'x')})
	b.must(ring.Request{Op: ring.OpDiscard, Len: 1 << 45})
	b.must(ring.Request{Op: ring.OpWriteZeroes, Len: 1 << 45})
	if n := len(d.disks[0].pages); n != 1 {
		t.Errorf("%d pages for one sector written", n)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, s := range []Spec{{Size: 0}, {Size: 100}, {Size: 1 << 20, SectorSize: 1024}} {
		if _, err := New(Options{}, s); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

func BenchmarkWrites(b *testing.B) {
	d := MustNew(Options{}, Spec{Size: 1 << 36})
	q, err := d.NewQueue(ring.QueueOptions{Depth: 64})
	if err != nil {
		b.Fatal(err)
	}
	buf := sectors(1, 'x')
	out := make([]ring.Completion, 64)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%1000 == 0 {
			q.Push(flush)
		}
		q.Push(ring.Request{Op: ring.OpWrite, Off: rng.Int64N(20000) * sectorSize, Buf: buf})
		if q.InFlight() >= 60 {
			if _, err := q.Reap(out, 1); err != nil {
				b.Fatal(err)
			}
		}
	}
}
