package primary

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/ring"
)

// The write-intent log says which regions of the volumes may differ from the copies, in the eyes of
// a primary that comes back from a crash with an empty memory. A region is marked, durably, before the first
// write to it begins; it is cleared some time after its changes are final everywhere.
//
// It lives in two files. One of them holds a snapshot and, behind it, records of the
// marks made since. When there is something to clear, or no more room, the next snapshot goes to the
// other file; once it is durable the old file is emptied, and only then are records appended to
// the new one. So a file that is not empty and damaged beside a sound one was never in use.

// IntentWrite is one write of the log: Data at Off of file File, then made durable. If Truncate is set the
// file is emptied before, and the other file afterwards, durably as well.
type IntentWrite struct {
	File     int // 0 or 1
	Off      int64
	Data     []byte
	Truncate bool
}

// intentLogRoom is how many bytes of records follow a snapshot before there is a new one.
const intentLogRoom = 1 << 20

// volumeIntent is the state of one volume's regions.
type volumeIntent struct {
	shift   uint    // log2 of blocks per region
	marked  *bitmap // in the log, durably
	wanted  *bitmap // waiting to be written, or being written
	touched *bitmap // written to since the last rotation
	before  *bitmap // written to in the period before
	// settled are marked regions that were clearable when a flush of the device was begun which
	// ended well, and that were not written to since: only these may be cleared. What the device has not
	// made durable it may lose with its power, and would then differ from the copy for good.
	settled  *bitmap
	settling *IO // the flush in progress, and in flushing what it covers
	flushing *bitmap
	// doubted are regions that were marked when a flush failed. The device may have dropped what it had not made
	// durable, and a later flush that ends well says nothing of it: they stay marked until a restart sends them
	// again.
	doubted *bitmap
}

func (v *volume) initIntent(c *Core) {
	vi, blocks := &v.intent, v.blocks
	for 1<<vi.shift*BlockSize < c.opt.IntentRegion {
		vi.shift++
	}
	regions := (blocks + 1<<vi.shift - 1) >> vi.shift
	vi.marked, vi.wanted = newBitmap(regions, &c.chunks), newBitmap(regions, &c.chunks)
	vi.touched, vi.before = newBitmap(regions, &c.chunks), newBitmap(regions, &c.chunks)
	vi.settled, vi.flushing = newBitmap(regions, &c.chunks), newBitmap(regions, &c.chunks)
	vi.doubted = newBitmap(regions, &c.chunks)
	for _, r := range v.replicas {
		r.lacking = newBitmap(regions, &c.chunks)
	}
}

func (vi *volumeIntent) touch(first, last uint64) {
	r := first >> vi.shift
	n := last>>vi.shift - r + 1
	vi.touched.set(r, n)
	vi.settled.clear(r, n)
	vi.flushing.clear(r, n)
}

type mark struct {
	volume int
	region uint64
}

// intentState is the write-intent log in memory.
type intentState struct {
	waiting []*IO  // host requests that want marks
	wanted  []mark // not written yet

	writing    bool
	write      IntentWrite
	served     []*IO // requests whose marks are being written
	marks      []mark
	good       int    // the file with the newest durable snapshot, -1 none; the next one goes to the other
	appendable bool   // records may follow in good: nothing failed since its snapshot
	end        int64  // where the next record goes
	snapshotAt int64  // where the records begin
	seq        uint64 // of the newest snapshot
	index      uint64 // of the next record behind it
	chain      uint64 // checksum of what the next record follows

	snapshotDue bool
	finalMoved  bool
	retryAt     time.Duration // after a failure, no snapshot is tried before, unless hosts wait
	rotateAt    time.Duration
	lastErr     string
}

// covers says whether every region of [first, last] is marked.
func (s *intentState) covers(v *volume, first, last uint64) bool {
	vi := &v.intent
	lo, hi := first>>vi.shift, last>>vi.shift
	if lo == hi {
		return vi.marked.has(lo)
	}
	return vi.marked.nextClear(lo, hi+1) == hi+1
}

// want has the regions of io marked; io goes on when that is durable.
func (s *intentState) want(v *volume, io *IO) {
	vi := &v.intent
	for r := io.first >> vi.shift; r <= io.last>>vi.shift; r++ {
		if !vi.marked.has(r) && !vi.wanted.has(r) {
			vi.wanted.set(r, 1)
			s.wanted = append(s.wanted, mark{v.index, r})
		}
	}
	s.waiting = append(s.waiting, io)
}

// nextWrite gives the next write to do, if any and if none is in progress.
func (s *intentState) nextWrite(c *Core) *IntentWrite {
	if s.writing {
		return nil
	}
	mayRetry := c.now >= s.retryAt
	if len(s.wanted) == 0 && !(s.snapshotDue && mayRetry) {
		return nil
	}
	s.writing = true
	s.served, s.waiting = append(s.served[:0], s.waiting...), s.waiting[:0]
	s.marks, s.wanted = append(s.marks[:0], s.wanted...), s.wanted[:0]
	if size := 2 * recordSize(len(s.marks)); !s.appendable || c.unlogged(s.marks) || (s.snapshotDue && mayRetry) || s.end+size > s.snapshotAt+intentLogRoom {
		s.startSnapshot(c)
	} else {
		s.write = IntentWrite{File: s.good, Off: s.end}
		s.write.Data = appendRecord(nil, s.seq, s.index, s.chain, c.logged(s.marks))
	}
	return &s.write
}

// unlogged says whether marks are of a volume that the newest snapshot does not have: it has joined since, while a
// failure held the next one back.
func (c *Core) unlogged(marks []mark) bool {
	return slices.ContainsFunc(marks, func(m mark) bool { return c.volumes[m.volume].logIndex < 0 })
}

// logged gives marks as the log writes them.
func (c *Core) logged(marks []mark) []mark {
	out := slices.Clone(marks)
	for i := range out {
		out[i].volume = c.volumes[out[i].volume].logIndex
	}
	return out
}

func (s *intentState) startSnapshot(c *Core) {
	s.snapshotDue, s.finalMoved = false, false
	for _, v := range c.volumes {
		v.clearRegions()
	}
	c.notedIn()
	s.seq++
	target := 0
	if s.good >= 0 {
		target = 1 - s.good
	}
	s.write = IntentWrite{File: target, Truncate: true, Data: encodeSnapshot(c.intentLog())}
}

// intentLog describes the log as it will be once the marks in progress are durable.
func (c *Core) intentLog() *IntentLog {
	log := &IntentLog{Seq: c.intent.seq, Region: c.opt.IntentRegion}
	for _, g := range c.groups {
		log.Groups = append(log.Groups, IntentGroup{g.name, g.final, g.epoch, g.leader})
	}
	for _, v := range c.volumes {
		if v.logIndex = -1; v.gone {
			continue
		}
		v.logIndex = len(log.Volumes)
		iv := IntentVolume{Group: v.group.name, Name: v.spec.Name, Size: v.spec.Size, Place: v.spec.Place,
			Copies: v.intentCopies(), Marks: make([]uint64, (v.intent.marked.size+63)/64)}
		v.intent.marked.orInto(iv.Marks)
		v.intent.wanted.orInto(iv.Marks)
		for _, r := range v.replicas {
			if r.synced {
				r.lacking.orInto(iv.Marks)
			}
		}
		log.Volumes = append(log.Volumes, iv)
	}
	log.Left = slices.Clone(c.left)
	return log
}

// intentCopies describes the copies of a volume.
func (v *volume) intentCopies() (out []IntentCopy) {
	for _, r := range v.replicas {
		ic := IntentCopy{Secondary: r.conn.secondary, Identity: r.identity, Synced: r.synced}
		if !r.synced {
			ic.Lacking = make([]uint64, (r.lacking.size+63)/64)
			r.lacking.orInto(ic.Lacking)
		}
		out = append(out, ic)
	}
	return out
}

// IntentDone reports the end of the write in Actions.Intent.
func (c *Core) IntentDone(err error) {
	s := c.intent
	s.writing = false
	if err != nil {
		s.failed(c, err)
		return
	}
	s.lastErr = ""
	s.advanceLog()
	if s.write.Truncate {
		c.notedDurably()
	}
	for _, m := range s.marks {
		vi := &c.volumes[m.volume].intent
		vi.wanted.clear(m.region, 1)
		vi.marked.set(m.region, 1)
	}
	for _, io := range s.served {
		c.advance(io)
	}
	clear(s.served)
	s.readvance(c)
}

// readvance looks again at requests that came while a write was in progress: they may want only marks that
// were in it.
func (s *intentState) readvance(c *Core) {
	late := append([]*IO(nil), s.waiting...)
	s.waiting = s.waiting[:0]
	for _, io := range late {
		c.advance(io)
	}
}

// advanceLog notes where the next record goes.
func (s *intentState) advanceLog() {
	if s.write.Truncate {
		s.good, s.appendable = s.write.File, true
		s.snapshotAt, s.index = int64(len(s.write.Data)), 0
		s.end = s.snapshotAt
	} else {
		s.end += int64(len(s.write.Data))
		s.index++
	}
	s.chain = chainSum(s.write.Data)
}

// failed ends the requests that wanted the marks: without them, a crash could leave the copy different for good.
// What the file holds behind its last good record is unknown now, so the next write is a snapshot.
func (s *intentState) failed(c *Core, err error) {
	s.lastErr = err.Error()
	s.appendable, s.snapshotDue, s.retryAt = false, true, c.now+time.Second
	c.dueAt(s.retryAt)
	c.notice(slog.LevelError, "cannot write the write-intent log: host writes to clean regions fail; check the disk of the state directory", "error", err)
	for _, m := range s.marks {
		c.volumes[m.volume].intent.wanted.clear(m.region, 1)
	}
	refused := append([]*IO(nil), s.served...)
	for _, io := range refused {
		v := c.volumes[io.Volume]
		io.Err = fmt.Errorf("volume %q: marking the region of a write at %d in the write-intent log: %w", v.spec.Name, io.Off, err)
		v.hosts--
		c.unlock(io, v)
		c.out.Done = append(c.out.Done, io)
		c.kickVolume(v)
	}
	s.readvance(c)
}

// tick rotates the record of what was written to lately, and has cleared what it can.
func (s *intentState) tick(c *Core) {
	if c.now < s.rotateAt {
		return
	}
	s.rotateAt = c.now + c.opt.IntentLinger
	for _, v := range c.volumes {
		if v.gone {
			continue
		}
		vi := &v.intent
		vi.before, vi.touched = vi.touched, vi.before
		vi.touched.reset()
		c.settleRegions(v)
	}
	s.snapshotDue = s.snapshotDue || s.finalMoved
}

// SaveIntent has the write-intent log brought up to date, as before a clean end.
func (c *Core) SaveIntent() {
	c.intent.snapshotDue = c.intent.snapshotDue || c.intent.finalMoved
}

// IntentPending says whether a write of the log is in progress, or will be asked for by the next Take.
func (c *Core) IntentPending() bool {
	s := c.intent
	return s.writing || len(s.wanted) > 0 || (s.snapshotDue && c.now >= s.retryAt)
}

// clearable says whether a marked region is the same everywhere, and has been left alone for a while.
func (v *volume) clearable(region uint64) bool {
	vi := &v.intent
	if vi.touched.has(region) || vi.before.has(region) {
		return false
	}
	first, end := region<<vi.shift, (region+1)<<vi.shift
	for _, g := range v.gens {
		if _, some := g.changed.next(first, end); some {
			return false
		}
	}
	for _, r := range v.replicas {
		if _, some := r.open.next(first, end); some {
			return false
		}
		if _, some := r.cut.next(first, end); some {
			return false
		}
		if _, some := r.pending.next(first, end); some {
			return false
		}
	}
	return true
}

// clearables adds to dst the regions of a set that may be cleared once the device is flushed.
func (v *volume) clearables(set, dst *bitmap) {
	for at, ok := set.next(0, set.size); ok; at, ok = set.next(at+1, set.size) {
		if !v.intent.doubted.has(at) && v.clearable(at) {
			dst.set(at, 1)
		}
	}
}

// settleRegions flushes the volume's device, if that makes regions clearable.
func (c *Core) settleRegions(v *volume) {
	vi := &v.intent
	if vi.settling != nil {
		return
	}
	v.clearables(vi.marked, vi.flushing)
	for _, r := range v.replicas {
		v.clearables(r.lacking, vi.flushing)
	}
	if vi.flushing.empty() {
		return
	}
	if plant.On(plant.IntentUnflushed) {
		vi.settled.or(vi.flushing)
		vi.flushing.reset()
		c.intent.snapshotDue = true
		return
	}
	vi.settling = &IO{Op: opSettle, Volume: v.index, stage: stageSettle}
	c.device(vi.settling, ring.OpFlush, 0, nil, 0)
}

// regionsSettled takes the outcome of that flush.
func (c *Core) regionsSettled(io *IO, v *volume) {
	vi := &v.intent
	vi.settling = nil
	if io.Err != nil {
		v.lastErr = fmt.Sprintf("flushing the device before regions are cleared in the write-intent log: %v", io.Err)
		c.FlushFailed(v.index, io.Err)
	} else {
		vi.settled.or(vi.flushing)
		c.intent.snapshotDue = true
	}
	vi.flushing.reset()
	c.checkGone(v)
}

// FlushFailed reports that a flush of a volume's device failed, a host's or our own.
func (c *Core) FlushFailed(volume int, cause error) {
	v := c.volumes[volume]
	v.intent.doubted.or(v.intent.marked)
	for _, r := range v.replicas {
		v.intent.doubted.or(r.lacking)
	}
	c.notice(slog.LevelError, "a device failed to flush: what was written to it may be lost with its power. These regions stay marked in the "+
		"write-intent log until this control is restarted, and are then sent again",
		"group", v.group.name, "volume", v.spec.Name, "regions", v.intent.doubted.count, "error", cause)
}

func (v *volume) clearRegions() {
	vi := &v.intent
	for at, ok := vi.settled.next(0, vi.settled.size); ok; at, ok = vi.settled.next(at+1, vi.settled.size) {
		if vi.doubted.has(at) || !v.clearable(at) {
			continue
		}
		vi.marked.clear(at, 1)
		for _, r := range v.replicas {
			r.lacking.clear(at, 1)
		}
	}
	vi.settled.reset()
}

// restoreIntent starts from what the log of an earlier run says.
func (c *Core) restoreIntent(prior *IntentLog) {
	c.intent = &intentState{snapshotDue: true, rotateAt: c.opt.IntentLinger}
	for _, v := range c.volumes {
		v.initIntent(c)
	}
	if prior == nil {
		prior = &IntentLog{Problem: "there is no write-intent log"}
	}
	c.intent.good, c.intent.seq = prior.File, prior.Seq
	if prior.Problem != "" {
		c.intent.good = -1
	}
	for _, g := range c.groups {
		was := prior.group(g.name)
		g.final, g.epoch, g.leader = was.Final, was.Epoch, was.Manager
		g.durable = g.epoch
	}
	for _, r := range prior.Repaired {
		c.notice(slog.LevelWarn, "damage in the write-intent log was repaired", "damage", r)
	}
	c.restoreLeft(prior)
	for _, v := range c.volumes {
		c.restoreVolume(v, prior)
	}
}

// restoreLeft remembers, besides those that had left before, the volumes that are in the log and not there any more:
// they left between two runs.
func (c *Core) restoreLeft(prior *IntentLog) {
	c.left = slices.Clone(prior.Left)
	for _, iv := range prior.Volumes {
		if _, there := c.Volume(iv.Group, iv.Name); !there {
			c.leave(iv.Group, VolumeSpec{Name: iv.Name, Size: iv.Size, Place: iv.Place}, iv.Copies)
		}
	}
}

func (c *Core) restoreVolume(v *volume, prior *IntentLog) {
	iv := prior.volume(v.group.name, v.spec.Name)
	usable := iv != nil && iv.Size == v.spec.Size
	if usable {
		c.restoreMarks(v, iv, prior.Region)
	}
	if iv == nil {
		c.comeBack(v)
	}
	for _, r := range v.replicas {
		var had IntentCopy
		if iv != nil {
			had = iv.copyOn(r.conn.secondary, v.spec.Secondaries)
			r.identity, r.noted, r.synced = had.Identity, had.Identity, usable && had.Synced
		}
		if r.synced {
			continue
		}
		if usable && len(had.Lacking) > 0 {
			c.restoreCopy(r, had.Lacking, prior.Region)
			continue
		}
		r.lacking.setAll()
		r.open.setAll()
		v.changed().setAll()
		r.whole = prior.Problem
		switch {
		case r.whole != "":
		case iv == nil:
			r.whole = "the write-intent log does not know the volume"
		case !usable:
			r.whole = fmt.Sprintf("its size was %d bytes", iv.Size)
		default:
			r.whole = "the secondary never had all of it"
		}
		c.notice(slog.LevelWarn, "the whole volume will be copied", "group", v.group.name, "volume", v.spec.Name,
			"secondary", r.conn.secondary, "reason", r.whole)
	}
}

// restoreCopy goes on with a first copy.
func (c *Core) restoreCopy(r *replica, lacking []uint64, region uint64) {
	v := r.volume
	v.eachRegion(lacking, region, func(first, count uint64) {
		v.changed().set(first, count)
		r.open.set(first, count)
		lo, hi := v.regions(first, count)
		r.lacking.set(lo, hi-lo+1)
	})
	r.whole = "the secondary never had all of it"
	c.notice(slog.LevelWarn, "the first copy of the volume goes on", "group", v.group.name, "volume", v.spec.Name,
		"secondary", r.conn.secondary, "blocks left", r.open.count, "blocks", v.blocks)
}

// restoreMarks has every marked region read again.
func (c *Core) restoreMarks(v *volume, iv *IntentVolume, region uint64) {
	v.eachRegion(iv.Marks, region, func(first, count uint64) {
		v.changed().set(first, count)
		for _, r := range v.replicas {
			r.open.set(first, count)
		}
		lo, hi := v.regions(first, count)
		v.intent.marked.set(lo, hi-lo+1)
	})
}

// regions gives the first and last one that blocks are in.
func (v *volume) regions(first, count uint64) (lo, hi uint64) {
	return first >> v.intent.shift, (first + count - 1) >> v.intent.shift
}

// eachRegion visits the blocks of the regions that a log has. Its grain, in bytes, may have been another one.
func (v *volume) eachRegion(words []uint64, region uint64, visit func(first, count uint64)) {
	per := region / BlockSize
	for i, w := range words {
		for bit := range uint64(64) {
			if first := (uint64(i)*64 + bit) * per; w>>bit&1 != 0 && first < v.blocks {
				visit(first, min(per, v.blocks-first))
			}
		}
	}
}
