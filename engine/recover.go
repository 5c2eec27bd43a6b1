package engine

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/farside-storage/farside/alloc"
	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/ring"
)

// Open opens the pool on devs, given in any order, and recovers it after a crash. It reads the newest root, the table
// pages that it names, and the journal from the root's tail on; it derives the allocator's bitmap from what is linked.
//
// Open repairs damaged superblock copies (see [Pool.Repairs]). Of all else it writes only what is already there: the
// root, and the end of the journal that may never have been flushed, so that both are durable before anything is
// acknowledged.
//
// The pool uses devs until it is closed, and leaves them open.
func Open(devs ring.Devices, o Options) (*Pool, error) {
	p, err := newPool(devs, o)
	if err != nil {
		return nil, err
	}
	if o.Manual {
		if err := p.recover(); err != nil {
			return nil, err
		}
		p.reads = []submitter{controlSubmitter{p.ctl}}
		return p, nil
	}
	opened := make(chan error)
	go p.run(opened)
	if err := <-opened; err != nil {
		return nil, err
	}
	for range p.opts.ReadWorkers {
		q := ring.QueueOptions{Depth: p.opts.QueueDepth, Arenas: p.opts.ReadArenas, Notice: func(text string) { p.opts.Logger.Warn("reads", "notice", text) }}
		w, err := ring.NewThroughputWorker(devs, q, new(verifier).endAll)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.reads = append(p.reads, w)
	}
	return p, nil
}

func newPool(devs ring.Devices, o Options) (*Pool, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	return &Pool{opts: o, devices: devs, info: devs.Info(), memory: newTableMemory(), byName: map[string]*Group{},
		vols: map[volumeKey]*Volume{}, space: make(chan struct{}), ended: make(chan struct{})}, nil
}

// recovery is the work of opening a pool.
type recovery struct {
	p       *Pool
	io      *controlIO
	scratch []byte // pieceMaxBlocks+1 blocks at least
	window  []byte // for streams; a pool that is open has other use for it
	root    *root
	groups  map[uint32]*Group
	volumes map[uint32]*Volume
	// building are CGs of which parts but no COMPLETE were replayed yet.
	building map[buildKey]*building
	memory   replayMemory // of these, and of those that are complete and not final; until the journal has ended
	end      journalPos   // where the journal goes on
	doubtful []journalPos // pieces of which none says that they were flushed
	readOnly bool         // repair nothing
	pieces   uint64       // replayed
}

type buildKey struct {
	group uint32
	cg    uint64
}

const scratchBlocks = 256

// recover opens the pool on the calling goroutine, which becomes the control loop's. On error everything is given back.
func (p *Pool) recover() (err error) {
	arena, err := p.opts.Arenas.New(recoveryBytes)
	if err != nil {
		return err
	}
	mem := arena.Bytes()
	io, err := newControlIO(p.devices, 64, arena)
	if err != nil {
		return errors.Join(err, arena.Close())
	}
	p.ctl = &control{pool: p, io: io}
	p.ctl.ckpt.arena = arena
	p.readers.wake = io.q.Wake
	r := newRecovery(p, io, mem)
	if err = r.load(); err == nil {
		err = r.secure()
	}
	if err != nil {
		return errors.Join(err, r.close())
	}
	p.ctl.journal = newJournal(p.ctl.fail, io, p.sb.pool, &p.sb.zones, r.end, r.root.tail.block, mem)
	for i := range checkpointBuffers {
		at := (journalBuffers + i) * pieceBytes
		p.ctl.ckpt.buffers = append(p.ctl.ckpt.buffers, mem[at:at+pieceBytes])
	}
	return nil
}

// recoveryBytes is how much memory for I/O a recovery wants: what is the journal's and the checkpointer's afterwards,
// and scratch.
const recoveryBytes = windowBytes + scratchBlocks*BlockSize

const windowBytes = (journalBuffers + checkpointBuffers) * pieceBytes

func newRecovery(p *Pool, io *controlIO, mem []byte) *recovery {
	return &recovery{p: p, io: io, window: mem[:windowBytes], scratch: mem[windowBytes:],
		groups: map[uint32]*Group{}, volumes: map[uint32]*Volume{}, building: map[buildKey]*building{}}
}

// load reads everything, in the order in which it depends on each other. The letters are those of FORMAT.md.
func (r *recovery) load() error {
	for _, stage := range []func() error{
		r.loadSuperblocks, // A
		r.loadRoot,        // B
		r.loadTables,      // C
		r.replay,          // D
		r.settle,          // E
		r.deriveBitmap,    // F
	} {
		if err := stage(); err != nil {
			return err
		}
	}
	return nil
}

// A: every device's superblock, and that the devices are all of one pool.
func (r *recovery) loadSuperblocks() error {
	p := r.p
	found := make([]*superblock, len(p.info))
	for d, info := range p.info {
		if info.Size < blocksToBytes(headerBlocks) {
			return fmt.Errorf("%s holds %d bytes: it is no device of a pool", info.Path, info.Size)
		}
		sb, err := r.superblockOf(d)
		if err != nil {
			return err
		}
		found[d] = sb
	}
	first := found[0]
	p.order = make([]int, len(first.devices))
	for i := range p.order {
		p.order[i] = -1
	}
	for d, sb := range found {
		switch {
		case sb.pool != first.pool:
			return fmt.Errorf("%s is of pool %s (%q), %s of pool %s (%q)", p.info[0].Path, first.pool, first.name, p.info[d].Path, sb.pool, sb.name)
		case p.order[sb.index] >= 0:
			return fmt.Errorf("%s and %s are both device %d of pool %q", p.info[p.order[sb.index]].Path, p.info[d].Path, sb.index, sb.name)
		case sb.devices[sb.index].id != sb.device:
			return fmt.Errorf("%s: device UUID %s is not device %d of pool %q", p.info[d].Path, sb.device, sb.index, sb.name)
		case uint64(p.info[d].Size)/BlockSize < sb.devices[sb.index].blocks:
			return fmt.Errorf("%s holds %d bytes; it was formatted with %d", p.info[d].Path, p.info[d].Size, blocksToBytes(sb.devices[sb.index].blocks))
		}
		p.order[sb.index] = d
	}
	for i, d := range p.order {
		if d < 0 {
			return fmt.Errorf("pool %q (%s): device %d of %d (UUID %s) is missing", first.name, first.pool, i, len(p.order), first.devices[i].id)
		}
	}
	p.sb = found[p.order[0]]
	r.io.order = p.order
	return nil
}

func (r *recovery) superblockOf(device int) (*superblock, error) {
	var copies [superblockCopies][]byte
	var unread []error
	for i := range copies {
		buf := r.scratch[i*BlockSize : (i+1)*BlockSize]
		if err := r.io.read(device, uint64(i*superblockStride), buf); err != nil {
			r.p.repairs = append(r.p.repairs, err)
			unread = append(unread, err)
			clear(buf)
		}
		copies[i] = buf
	}
	path := r.p.info[device].Path
	sb, damaged, err := chooseSuperblock(path, copies)
	if err != nil {
		return nil, errors.Join(append(unread, err)...)
	}
	for _, i := range damaged {
		if r.readOnly {
			r.p.repairs = append(r.p.repairs, &CorruptionError{Device: path, Offset: blocksToBytes(uint64(i * superblockStride)),
				Structure: "superblock", Reason: fmt.Sprintf("copy %d is damaged; opening the pool repairs it from the others", i)})
			continue
		}
		r.p.repairs = append(r.p.repairs, &CorruptionError{Device: path, Offset: blocksToBytes(uint64(i * superblockStride)),
			Structure: "superblock", Reason: fmt.Sprintf("copy %d was damaged; repaired from the others", i)})
		copy(r.scratch[:BlockSize], sb.encode(i))
		if err := r.io.write(device, uint64(i*superblockStride), r.scratch[:BlockSize]); err != nil {
			return nil, fmt.Errorf("repair superblock: %w", err)
		}
	}
	return sb, nil
}

// corrupt makes an error about a structure in a block of device 0.
func (r *recovery) corrupt(block uint64, structure, reason string, cause error) error {
	return &CorruptionError{Device: r.p.info[r.p.order[0]].Path, Offset: blocksToBytes(block), Structure: structure, Reason: reason, Err: cause}
}

// B: the newest root whose header and body are whole. An older one is as good as long as its table pages and its
// part of the journal are still there, which C and D find out.
func (r *recovery) loadRoot() error {
	z := &r.p.sb.zones
	var errs []error
	for slot := range uint64(2) {
		root, err := r.readRoot(z.rootSlot(slot))
		switch {
		case err != nil:
			errs = append(errs, r.corrupt(z.rootSlot(slot), "root", fmt.Sprintf("slot %d", slot), err))
		case root.checkpoint%2 != slot:
			errs = append(errs, r.corrupt(z.rootSlot(slot), "root", fmt.Sprintf("slot %d holds checkpoint %d", slot, root.checkpoint), nil))
		case r.root == nil || root.checkpoint > r.root.checkpoint:
			r.root = root
		}
	}
	if r.root == nil {
		return errors.Join(append(errs, r.corrupt(z.root, "root", "neither slot holds a whole root", nil))...)
	}
	r.p.repairs = append(r.p.repairs, errs...)
	return nil
}

func (r *recovery) readRoot(at uint64) (*root, error) {
	z := &r.p.sb.zones
	if err := r.io.read(0, at, r.scratch[:BlockSize]); err != nil {
		return nil, err
	}
	image := bytes.Clone(r.scratch[:BlockSize])
	root, n, sum, err := decodeRootHeader(image, r.p.sb.pool)
	if err != nil {
		return nil, err
	}
	blocks := bytesToBlocks(n)
	if n > uint64(blocksToBytes(z.rootBlocks-1)) {
		return nil, fmt.Errorf("body of %d bytes in a slot of %d blocks", n, z.rootBlocks)
	}
	body := make([]byte, 0, blocksToBytes(blocks))
	for done := uint64(0); done < blocks; {
		k := min(blocks-done, scratchBlocks)
		if err := r.io.read(0, at+1+done, r.scratch[:k*BlockSize]); err != nil {
			return nil, err
		}
		body = append(body, r.scratch[:k*BlockSize]...)
		done += k
	}
	if got := Sum(body); got != sum {
		return nil, fmt.Errorf("body checksum %016x, stored %016x", got, sum)
	}
	root.image = append(image, body...)
	root.bodySum = sum
	return root, root.decodeBody(body[:n])
}

// C: groups and volumes of the root, and the table pages that its directory names.
func (r *recovery) loadTables() error {
	p, z := r.p, &r.p.sb.zones
	p.nextGroup, p.nextVolume, p.retired = r.root.nextGroup, r.root.nextVolume, r.root.retired
	for _, cg := range r.root.groups {
		g := p.addGroup(cg.id, cg.state.name)
		g.state, g.folded = cg.state, cg.folded
		r.groups[cg.id] = g
	}
	for _, cv := range r.root.volumes {
		if err := r.addVolume(cv.group, cv.id, cv.name, cv.size, cv.member); err != nil {
			return r.corrupt(z.rootSlot(r.root.checkpoint%2), "root", "catalog", err)
		}
	}
	if uint64(len(r.root.directory)) > z.tablePairs {
		return r.corrupt(z.rootSlot(r.root.checkpoint%2), "root", fmt.Sprintf("directory of %d pairs, the table area has %d", len(r.root.directory), z.tablePairs), nil)
	}
	return r.loadPages()
}

func (r *recovery) addVolume(group, id uint32, name string, size uint64, m Membership) error {
	g := r.groups[group]
	if g == nil {
		return fmt.Errorf("volume %q is of unknown group %d", name, group)
	}
	if r.volumes[id] != nil {
		return fmt.Errorf("volume number %d twice", id)
	}
	if err := checkVolumeSize(size); err != nil {
		return err
	}
	v, err := r.p.addVolume(g, id, name, size, m)
	if err == nil {
		r.volumes[id] = v
	}
	return err
}

func (r *recovery) loadPages() error {
	k, z, dir := &r.p.ctl.ckpt, &r.p.sb.zones, r.root.directory
	k.number, k.newest, k.used = r.root.checkpoint, rootMark{r.root.tail, r.root.bodySum}, uint32(len(dir))
	var err error
	if k.directory, err = mapSlice[uint64](z.tablePairs); err != nil {
		return err
	}
	k.owner = make([]pageRef, len(dir))
	copy(k.directory, dir)
	if err := r.streamPages(); err != nil {
		return err
	}
	for pair, e := range dir {
		if e == 0 {
			k.free = append(k.free, uint32(pair))
		}
	}
	return nil
}

// slotRun is neighbouring pairs, and the slot that is read of them: some of them have their newest image there.
type slotRun struct {
	first, end uint32
	slot       uint8
}

// slotRuns lists what is to be read of the table area, as it stands there, but for the order of the two halves.
func slotRuns(dir []uint64) (runs []slotRun) {
	const most = streamPiece / BlockSize
	for base := 0; base < len(dir); base += most {
		var of [2]slotRun
		for i, e := range dir[base:min(base+most, len(dir))] {
			if e == 0 {
				continue
			}
			x := &of[e&1]
			pair := uint32(base + i)
			if x.end == 0 {
				*x = slotRun{first: pair, slot: uint8(e & 1)}
			}
			x.end = pair + 1
		}
		for _, x := range of {
			if x.end > 0 {
				runs = append(runs, x)
			}
		}
	}
	return runs
}

// streamPages reads the pages that the directory names.
func (r *recovery) streamPages() error {
	z, runs := &r.p.sb.zones, slotRuns(r.root.directory)
	s := newStream(r.io, r.window, len(runs), func(i int) (block, n uint64) {
		x := runs[i]
		return z.tableSlot(x.first, x.slot), uint64(x.end - x.first)
	})
	for i, x := range runs {
		err := s.need(i, i)
		if err != nil {
			err = r.corrupt(z.tableSlot(x.first, x.slot), "table page", "cannot be read", err)
		} else {
			err = r.loadRun(x, s.at(i))
		}
		if err != nil {
			return errors.Join(err, s.close())
		}
	}
	return s.close()
}

// loadRun takes those pages in that have their newest image in the slot that was read.
func (r *recovery) loadRun(x slotRun, buf []byte) error {
	for pair := x.first; pair < x.end; pair++ {
		want := r.root.directory[pair]
		if want == 0 || uint8(want&1) != x.slot {
			continue
		}
		at := pair - x.first
		if err := r.loadPage(buf[at*BlockSize:(at+1)*BlockSize], pair, want); err != nil {
			return r.corrupt(r.p.sb.zones.tableSlot(pair, x.slot), "table page", fmt.Sprintf("pair %d slot %d", pair, x.slot), err)
		}
	}
	return nil
}

func (r *recovery) loadPage(b []byte, pair uint32, want uint64) error {
	if got := directoryEntry(b, uint8(want&1)); got != want && !plant.On(plant.PageUnchecked) {
		return fmt.Errorf("checksum %016x, the directory has %016x", got, want)
	}
	d := &decoder{b: b}
	magic, id, page, number := d.u32("magic"), d.u32("volume"), d.u64("page"), d.u64("checkpoint")
	if magic != tablePageMagic || number > r.root.checkpoint {
		return fmt.Errorf("magic %#x, checkpoint %d", magic, number)
	}
	v := r.volumes[id]
	if v == nil {
		return fmt.Errorf("of unknown volume %d", id)
	}
	if page >= uint64(len(v.table.pair)) || v.table.pair[page] != 0 {
		return fmt.Errorf("page %d of volume %q: it has %d, or it was found twice", page, v.name, len(v.table.pair))
	}
	v.table.loadPage(page, pair, b[tablePageHeader:])
	r.p.ctl.ckpt.owner[pair] = pageRef{vol: v, page: uint32(page), pair: pair}
	return nil
}

// E: every group is left with at most one CG that is complete and not final, and views that show it.
func (r *recovery) settle() error {
	for _, g := range r.groups {
		g.discarded.Store(g.state.through)
		last := max(g.state.final, g.state.through)
		if len(g.live) > 1 || (len(g.live) == 1) != (g.state.complete > g.state.final) ||
			len(g.live) == 1 && g.live[0].cg != g.state.complete {
			return r.corrupt(r.p.sb.zones.journal, "journal", fmt.Sprintf("group %s: %d CGs are held where state says complete %d, final %d",
				g.name, len(g.live), g.state.complete, g.state.final), nil)
		}
		if g.state.linked > g.state.final && g.state.linked != g.state.complete {
			return r.corrupt(r.p.sb.zones.journal, "journal", fmt.Sprintf("group %s: linked %d, complete %d, final %d",
				g.name, g.state.linked, g.state.complete, g.state.final), nil)
		}
		v := g.final.Load().with(g.state.final, nil)
		g.final.Store(v)
		g.linked.Store(v)
		g.folded = g.state.final
		if g.state.linked > g.state.final {
			g.linked.Store(v.with(g.state.linked, g.live[0].tables))
		}
		g.receiving.Store(max(last, g.state.complete))
	}
	return nil
}

// F: the allocator learns what is linked. A block found twice, or outside of the data, is corruption.
func (r *recovery) deriveBitmap() error {
	if n := r.p.opts.processors(); n > 1 {
		if err := r.markAll(n); err == nil {
			return nil
		}
		// Which of two pointers to a block is found first depends on the order: what is reported shall not.
		if err := r.p.alloc.Close(); err != nil {
			return err
		}
	}
	return r.markAll(1)
}

// markAll makes the allocator, with so many goroutines at work.
func (r *recovery) markAll(goroutines int) error {
	p, z := r.p, &r.p.sb.zones
	last := p.sb.devices[len(p.sb.devices)-1]
	var err error
	if p.alloc, err = alloc.New(alloc.Options{Blocks: uint64(last.base) + last.blocks, ExtentBlocks: z.extentBlocks}); err != nil {
		return err
	}
	if err := p.retireMetadata(); err != nil {
		return err
	}
	for _, x := range p.retired {
		if err := p.alloc.Retire(uint64(x.first), x.n); err != nil {
			return r.corrupt(z.rootSlot(r.root.checkpoint%2), "root", "retired blocks, of the catalog or of the journal after it", err)
		}
	}
	for _, g := range p.groups {
		for _, v := range g.volumes {
			if v == nil {
				continue
			}
			if err := r.markTable(v, goroutines); err != nil {
				return err
			}
		}
	}
	for _, g := range p.groups {
		for _, l := range g.live {
			if err := r.markCG(g, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// markCG marks the blocks that the tables of a live CG name.
func (r *recovery) markCG(g *Group, l *liveCG) error {
	var err error
	for _, t := range l.tables {
		t.blocks(func(b PBlock) {
			if e := r.p.alloc.MarkUsedOne(uint64(b)); e != nil && err == nil {
				err = r.corrupt(r.p.sb.zones.journal, "journal", fmt.Sprintf("CG %d of group %s, volume %s", l.cg, g.name, t.vol.name), e)
			}
		})
	}
	return err
}

// retireMetadata takes everything that is not data out of the allocator's hands.
func (p *Pool) retireMetadata() error {
	z := &p.sb.zones
	for i, d := range p.sb.devices {
		head := roundUp(headerBlocks, uint64(z.extentBlocks))
		if i == 0 {
			head = z.data
		}
		if err := p.alloc.Retire(uint64(d.base), head); err != nil {
			return err
		}
		if i+1 < len(p.sb.devices) { // blocks between this device's end and the next one's base do not exist
			end := uint64(d.base) + d.blocks
			if next := uint64(p.sb.devices[i+1].base); next > end {
				if err := p.alloc.Retire(end, next-end); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// markBranches is how many branches of a table a goroutine marks the blocks of before it takes more.
const markBranches = 64

func (r *recovery) markTable(v *Volume, goroutines int) error {
	branches := uint64(len(v.table.dir))
	var next atomic.Uint64
	work := func() error {
		for {
			first := next.Add(markBranches) - markBranches
			if first >= branches {
				return nil
			}
			for i := first; i < min(first+markBranches, branches); i++ {
				if err := r.markBranch(v, VBlock(i*branchEntries)); err != nil {
					return err
				}
			}
		}
	}
	goroutines = min(goroutines, int((branches+markBranches-1)/markBranches))
	errs := make([]error, max(goroutines, 1))
	var others sync.WaitGroup
	for i := 1; i < goroutines; i++ {
		others.Go(func() { errs[i] = work() })
	}
	errs[0] = work()
	others.Wait()
	return errors.Join(errs...)
}

// markBranch marks what the entries of the branch of block first name.
func (r *recovery) markBranch(v *Volume, first VBlock) error {
	if v.table.skipUnused(first) >= first+branchEntries {
		return nil
	}
	var blocks [branchEntries]uint64
	var at [branchEntries]uint16
	n := 0
	for leaf := range VBlock(branchLeaves) {
		for i, e := range v.table.leaf(first + leaf*leafEntries) {
			if b := entry(e).block(); b != 0 {
				blocks[n], at[n] = uint64(b), uint16(int(leaf)*leafEntries+i)
				n++
			}
		}
	}
	k, err := r.p.alloc.MarkUsedEach(blocks[:n])
	if err == nil {
		return nil
	}
	wrong := first + VBlock(at[k])
	block := r.p.sb.zones.tables
	if pair := v.table.pair[wrong/tablePageEntries]; pair != 0 {
		block = r.p.sb.zones.tableSlot(pair-1, uint8(r.root.directory[pair-1]&1))
	}
	return r.corrupt(block, "table page", fmt.Sprintf("volume %s block %d", v.name, wrong), err)
}

// catalog makes the root of a checkpoint that begins now. Control loop only.
func (p *Pool) catalog(number uint64, tail journalPos) *root {
	k := &p.ctl.ckpt
	r := &root{checkpoint: number, tail: tail, nextGroup: p.nextGroup, nextVolume: p.nextVolume,
		retired: append([]prange(nil), p.retired...), directory: make([]uint64, k.used)}
	copy(r.directory, k.directory)
	for _, g := range p.groups {
		r.groups = append(r.groups, catalogGroup{id: g.id, state: g.state, folded: g.folded})
		for _, v := range g.volumes {
			if v != nil {
				r.volumes = append(r.volumes, catalogVolume{id: v.id, group: g.id, size: v.size, name: v.name, member: v.Membership()})
			}
		}
	}
	return r
}
