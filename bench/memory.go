package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/farside-storage/farside/engine"
)

// inUse is memory that this process uses, in bytes: what is resident of anonymous mappings other than Go's heap,
// where tables and buffers are, and what is live on Go's heap. Neither depends on when the collector runs; the Go
// runtime's own tables are in it, which change by some tens of kilobytes.
func inUse() (int64, error) {
	runtime.GC()
	runtime.GC() // the first one may only have finished a cycle that had begun
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	resident, err := anonymous(f, uint64(uintptr(unsafe.Pointer(onHeap))))
	return resident + int64(m.HeapAlloc), err
}

// onHeap tells Go's heap from other memory: its address differs from run to run.
var onHeap = new([1 << 10]byte)

// anonymous sums up the resident bytes of mappings without a file or a name, but for the one that holds the address.
func anonymous(smaps io.Reader, heap uint64) (total int64, err error) {
	counts := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		key, rest, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasSuffix(key, ":") {
			var from, to uint64
			if _, err := fmt.Sscanf(key, "%x-%x", &from, &to); err != nil {
				return 0, fmt.Errorf("smaps: mapping %q: %w", lines.Text(), err)
			}
			fields := strings.Fields(rest) // permissions, offset, device, inode, and a name if there is one
			counts = len(fields) == 4 && fields[3] == "0" && (heap < from || heap >= to)
			continue
		}
		if counts && key == "Rss:" {
			var kib int64
			if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kib); err != nil {
				return 0, fmt.Errorf("smaps: %q: %w", lines.Text(), err)
			}
			total += kib << 10
		}
	}
	return total, lines.Err()
}

func runMemory(ctx context.Context, r *run) (out []Result, err error) {
	err = inOwnThread(func() error {
		mapped, err := r.mappedMemory(ctx)
		if err != nil {
			return err
		}
		open, err := r.openMemory(ctx)
		out = append(mapped, open...)
		return err
	})
	return out, err
}

// mappedFull is how full the pool is when bytes per mapped block are measured, in percent: the allocator's bitmap is
// for all blocks of the pool, the table for those that are mapped.
const mappedFull = 90

// mappedMemory compares a pool that was just opened with the same pool when its volume is mapped.
func (r *run) mappedMemory(ctx context.Context) ([]Result, error) {
	s, err := newSession(r.dev, sessionOptions{full: mappedFull})
	if err != nil {
		return nil, err
	}
	if err := s.close(); err != nil {
		return nil, err
	}
	if _, _, err := r.openedMemory(); err != nil { // what only the first one takes
		return nil, err
	}
	empty, blocks, err := r.openedMemory()
	if err != nil {
		return nil, err
	}
	if s, err = newSession(r.dev, sessionOptions{full: mappedFull}); err != nil {
		return nil, err
	}
	if err := errors.Join(s.fill(ctx), s.close()); err != nil {
		return nil, err
	}
	var reps []Repetition
	for range r.o.Repetitions {
		full, _, err := r.openedMemory()
		if err != nil {
			return nil, err
		}
		reps = append(reps, Repetition{Value: float64(full-empty) / float64(blocks)})
	}
	note := fmt.Sprintf("resident memory of a pool opened with all %d blocks of its volume mapped, minus that of the pool opened with none", blocks)
	out := result(Result{Name: "memory/mapped-block", Goal: "P8", Unit: "bytes/block", Target: atMost(8.1), Notes: []string{note}}, reps)
	all := uint64(r.dev.forPool().Info()[0].Size) / engine.BlockSize
	out.Notes = append(out.Notes, parts(out.Value, blocks, all))
	return []Result{out}, nil
}

// parts takes the memory for each mapped block apart, by calculation; what is measured beyond that is the rest.
func parts(measured float64, mapped, pool uint64) string {
	const entry, branch, directory, page = 8.0, 4.0 / 32, 4.0 / 512, 4.0 / 508
	bitmap := float64(pool) / float64(mapped) / 8
	return fmt.Sprintf("by calculation: %.3f table entry, %.3f branches and %.3f directory of the table, %.3f page numbers, %.3f the allocator's bitmap (one bit for each of %d blocks of the pool, it is %d %% full); %.3f are the rest",
		entry, branch, directory, page, bitmap, pool, mappedFull, measured-entry-branch-directory-page-bitmap)
}

// openedMemory opens the pool on the device: how much memory that takes, and how many blocks its volume has.
func (r *run) openedMemory() (bytes int64, blocks uint64, err error) {
	before, err := inUse()
	if err != nil {
		return 0, 0, err
	}
	pool, err := engine.Open(r.dev.forPool(), engine.Options{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	for _, g := range pool.Groups() {
		for _, v := range g.Volumes() {
			blocks += v.Size() / engine.BlockSize
		}
	}
	after, err := inUse()
	return after - before, blocks, err
}

// openMemory is what an open CG takes: just after the index of its table has grown, where it is most for each update,
// and just before that happens again.
func (r *run) openMemory(ctx context.Context) (out []Result, err error) {
	var most, least []Repetition
	var updates [2]uint64
	for range r.o.Repetitions {
		reps, at, err := r.openOnce(ctx)
		if err != nil {
			return nil, err
		}
		most, least, updates = append(most, reps[0]), append(least, reps[1]), at
	}
	note := "resident memory with so many updates, of as many blocks, in the open CG, minus that without; the first CG of a pool, so that nothing is reused"
	return []Result{
		result(Result{Name: "memory/open-cg", Goal: "P8", Unit: "bytes/update", Target: atMost(48),
			Notes: []string{note, fmt.Sprintf("%d updates: the index has just grown, which is the worst case", updates[0])}}, most),
		result(Result{Name: "memory/open-cg-dense", Goal: "P8", Unit: "bytes/update", Target: atMost(48),
			Notes: []string{note, fmt.Sprintf("%d updates: the index is about to grow", updates[1])}}, least),
	}, nil
}

func (r *run) openOnce(ctx context.Context) (reps [2]Repetition, at [2]uint64, err error) {
	s, err := newSession(r.dev, sessionOptions{blocks: 1 << 22})
	if err != nil {
		return reps, at, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	// An index of 2^k slots grows when it is three quarters full: as large a CG as the pool holds, 2^20 slots at most.
	slots := uint64(1 << 20)
	for slots/4*3 > s.pool.FreeBlocks()/2 {
		slots /= 2
	}
	at = [2]uint64{slots/8*3 + 1, slots/4*3 - 1}
	before, err := inUse()
	if err != nil {
		return reps, at, err
	}
	put := uint64(0)
	for i, n := range at {
		for ; put < n; put++ {
			if err := s.putAt(engine.VBlock(put * 5)); err != nil {
				return reps, at, err
			}
		}
		now, err := inUse()
		if err != nil {
			return reps, at, err
		}
		reps[i] = Repetition{Value: float64(now-before) / float64(n)}
	}
	return reps, at, ctx.Err()
}
