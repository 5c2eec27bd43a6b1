package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// history drives a pool with operations and knows what it may hold afterwards: an oracle that is told what was acknowledged. It is
// used by generated histories (see step) and by scripted ones (see scripts).
type history struct {
	rng  *rand.Rand
	devs *ringtest.Devices
	pool *Pool
	w    *Writer

	group   *Group
	open    uint64         // CG being received
	version uint64         // of the newest put
	made    int            // volumes created so far
	changes map[key]uint64 // of the open CG
	images  map[uint64]map[key]uint64
	held    []heldView
	partial map[string]bool // volumes of which more of the first copy is to come
	// becoming are the volumes of which the complete CG has all, and how often they had rejoined then.
	becoming map[string]int
	rejoined map[string]int

	// The crash that is ordered: the n-th event of this kind, over all incarnations.
	crash   ringtest.Event
	crashIn uint64

	formatted bool // a pool is there; before, there may be none
	// What the pool acknowledged, and what was asked for last: after a crash one of the two holds.
	acked, asked facts
}

// facts are what a group promises to keep.
type facts struct {
	Epoch, Final, Linked, Complete, Discarded uint64
	Volumes                                   [6]volumeFact // by name; then zeros
}

type volumeFact struct {
	name   string
	blocks uint64
	Membership
}

type key struct {
	vol   string
	block VBlock
}

// heldView is a snapshot, and what it must show for as long as it is open.
type heldView struct {
	snap  *Snapshot
	vols  []*Volume
	image map[key]uint64
}

// Blocks of the two volumes that every history begins with: one has more than a table page.
const (
	historyLarge = tablePageEntries + 30
	historySmall = 60
)

func historyDevices(seed uint64) *ringtest.Devices {
	return ringtest.MustNew(ringtest.Options{Seed: seed}, ringtest.Spec{Size: 8 << 20, SectorSize: 512 << (3 * (seed % 2))}, ringtest.Spec{Size: 4 << 20})
}

func newHistory(seed uint64) *history {
	return &history{rng: rand.New(rand.NewPCG(seed, 1)), devs: historyDevices(seed), open: 1, changes: map[key]uint64{},
		images: map[uint64]map[key]uint64{0: {}}, partial: map[string]bool{}, becoming: map[string]int{}, rejoined: map[string]int{}}
}

// from is the same history, to go on with other devices.
func (h *history) from(devs *ringtest.Devices) *history {
	n := *h
	n.devs, n.pool, n.w, n.group, n.held = devs, nil, nil, nil, nil
	n.changes, n.images = map[key]uint64{}, maps.Clone(h.images)
	n.partial, n.becoming, n.rejoined = maps.Clone(h.partial), maps.Clone(h.becoming), maps.Clone(h.rejoined)
	return &n
}

func historyFormat() FormatOptions {
	o := smallFormat()
	o.VirtualBytes = 4 << 20
	return o
}

// start formats and opens; it is part of what can crash.
func (h *history) start() error {
	if _, err := Format(h.devs, historyFormat()); err != nil {
		return err
	}
	h.formatted = true
	if err := h.openPool(); err != nil {
		return err
	}
	if err := h.create("a", historyLarge); err != nil {
		return err
	}
	return h.create("b", historySmall)
}

func historyOptions() Options {
	return Options{Manual: true, WriterBuffers: 3, WriterBufferBlocks: 4}
}

// openPool opens, and binds every volume that its group waits for to one writer.
func (h *history) openPool() (err error) {
	h.changes, h.group = map[key]uint64{}, nil
	if h.pool, err = Open(h.devs, historyOptions()); err != nil {
		h.pool = nil
		return err
	}
	if h.w, err = h.pool.NewWriter(); err != nil {
		h.w = nil
		return err
	}
	for _, g := range h.pool.Groups() {
		h.group = g
		for _, v := range g.Volumes() {
			if v.Membership().Standing != Awaited {
				continue
			}
			if err := h.w.Bind(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// leave gives the memory of a pool back whose devices crashed.
func (h *history) leave() {
	if h.w != nil {
		_ = h.w.Close() // it cannot end well
	}
	if h.pool != nil {
		_ = h.pool.shut()
	}
	h.w, h.pool, h.held = nil, nil, nil
}

// closePool ends in good order.
func (h *history) closePool() error {
	h.unhold()
	w, p := h.w, h.pool
	h.w = nil
	if err := w.Close(); err != nil {
		return err
	}
	if err := p.Close(); err != nil {
		return err
	}
	h.pool = nil
	return nil
}

// next goes on with other devices; the crash that is ordered stays ordered.
func (h *history) next(devs func() *ringtest.Devices) error {
	seen := h.devs.Count(h.crash)
	h.devs = devs()
	if h.crashIn > seen {
		h.crashIn -= seen
		h.devs.CrashAt(h.crash, h.crashIn)
	}
	return h.openPool()
}

// restart closes and opens again; what was received of the open CG is gone.
func (h *history) restart() error {
	if err := h.closePool(); err != nil {
		return err
	}
	return h.next(h.devs.Reopen)
}

// kill ends the process, but not the power, and opens again. What was acknowledged is there.
func (h *history) kill() error {
	old := h.devs
	old.Uncertain()
	h.leave()
	if err := h.next(old.Kill); err != nil {
		return err
	}
	got, err := factsOf(h.pool)
	if err == nil && got != h.acked {
		err = fmt.Errorf("after the process was killed: %+v, acknowledged %+v", got, h.acked)
	}
	return err
}

// ask carries out a command that changes the facts.
func (h *history) ask(change func(*facts), do func() error) error {
	h.asked = h.acked
	change(&h.asked)
	err := do()
	switch {
	case err == nil:
		h.acked = h.asked
	case errors.Is(err, ErrJournalFull): // open snapshots hold it; nothing was changed
		h.asked = h.acked
	}
	return err
}

// volume gives what is known of a volume; add makes it known.
func (f *facts) volume(name string) *volumeFact {
	for i := range f.Volumes {
		if f.Volumes[i].name == name {
			return &f.Volumes[i]
		}
	}
	panic(name)
}

func (f *facts) add(x volumeFact) {
	*f.volume("") = x
	f.sort()
}

func (f *facts) sort() {
	slices.SortFunc(f.Volumes[:], func(a, b volumeFact) int {
		if (a.name == "") != (b.name == "") {
			return cmp.Compare(b.name, a.name)
		}
		return cmp.Compare(a.name, b.name)
	})
}

// each changes what is known of every volume.
func (f *facts) each(change func(*volumeFact)) {
	for i := range f.Volumes {
		if f.Volumes[i].name != "" {
			change(&f.Volumes[i])
		}
	}
}

func (h *history) create(name string, blocks uint64) error {
	fresh := h.group == nil || h.pool.Inspect().State(h.group).Receiving == 0
	return h.ask(func(f *facts) {
		m := Membership{Standing: Unattached}
		if fresh {
			m.Standing = Awaited
		}
		f.add(volumeFact{name, blocks, m})
	}, func() error {
		v, err := h.pool.CreateVolume(context.Background(), "g", name, blocks*BlockSize)
		if err != nil {
			return err
		}
		h.group = v.group
		if v.Membership().Standing == Awaited {
			return h.w.Bind(v)
		}
		return nil
	})
}

// attach binds a volume for the first time, or the first since it rejoined. Where a CG is complete without it, that is refused.
func (h *history) attach(v *Volume) error {
	if h.acked.Complete != h.acked.Final {
		if err := h.w.Bind(v); !errors.Is(err, ErrState) {
			return fmt.Errorf("volume %s joined while a CG is complete without it: %v", v.name, err)
		}
		return nil
	}
	return h.ask(func(f *facts) { f.volume(v.name).Standing = Awaited }, func() error { return h.w.Bind(v) })
}

// aside sets a volume aside; what was received of it is gone.
func (h *history) aside(v *Volume) error {
	if v.writer.Load() != nil {
		if err := h.group.SetAside(context.Background(), v.name); !errors.Is(err, ErrState) {
			return fmt.Errorf("volume %s was set aside while it is bound: %v", v.name, err)
		}
	}
	if err := h.release1(v); err != nil {
		return err
	}
	err := h.ask(func(f *facts) { x := f.volume(v.name); x.Standing, x.AsideAt = SetAside, f.Complete },
		func() error { return h.group.SetAside(context.Background(), v.name) })
	if errors.Is(err, ErrJournalFull) && v.Membership().Standing == Awaited {
		return errors.Join(err, h.w.Bind(v))
	}
	return err
}

func (h *history) rejoin(v *Volume) error {
	if err := h.w.Bind(v); !errors.Is(err, ErrSetAside) {
		return fmt.Errorf("volume %s was bound although it is set aside: %v", v.name, err)
	}
	err := h.ask(func(f *facts) { f.volume(v.name).Membership = Membership{} },
		func() error { return h.group.Rejoin(context.Background(), v.name) })
	if err == nil {
		h.rejoined[v.name]++
	}
	return err
}

// release1 lets go of a volume, if it is bound.
func (h *history) release1(v *Volume) error {
	if v.writer.Load() == nil {
		return nil
	}
	maps.DeleteFunc(h.changes, func(k key, _ uint64) bool { return k.vol == v.name })
	return h.w.Unbind(v)
}

func (h *history) remove(v *Volume) error {
	bound := v.writer.Load() != nil
	if err := h.release1(v); err != nil {
		return err
	}
	err := h.ask(func(f *facts) {
		*f.volume(v.name) = volumeFact{}
		f.sort()
	}, func() error { return h.pool.DeleteVolume(context.Background(), "g", v.name) })
	if errors.Is(err, ErrJournalFull) && bound {
		return errors.Join(err, h.w.Bind(v))
	}
	if err != nil {
		return err
	}
	delete(h.becoming, v.name)
	for cg, image := range h.images { // another volume may take the name; snapshots keep the image they have
		image = maps.Clone(image)
		maps.DeleteFunc(image, func(k key, _ uint64) bool { return k.vol == v.name })
		h.images[cg] = image
	}
	return nil
}

func (h *history) vol(name string) *Volume {
	v, err := h.group.Volume(name)
	if err != nil {
		panic(err)
	}
	return v
}

// put writes blocks of the open CG. A full pool is no error: there is nothing to be done but to go on with less.
func (h *history) put(v *Volume, b VBlock, n uint64) error {
	for i := range VBlock(n) {
		h.version++
		err := put(h.w, v, h.open, b+i, pattern(v.name, b+i, h.version))
		if errors.Is(err, ErrPoolFull) {
			return nil
		}
		if err != nil {
			return err
		}
		h.changes[key{v.name, b + i}] = h.version
	}
	return nil
}

func (h *history) zero(v *Volume, b VBlock, n uint64) error {
	if err := h.w.Zero(v, h.open, b, n); err != nil {
		return err
	}
	for i := range VBlock(n) {
		h.changes[key{v.name, b + i}] = 0
	}
	return nil
}

// seal ends the open CG and waits until it is complete.
func (h *history) seal() error {
	image := maps.Clone(h.images[h.acked.Final])
	maps.Copy(image, h.changes)
	h.images[h.open] = image
	h.becoming = map[string]int{}
	err := h.ask(func(f *facts) { f.Complete = h.open }, func() error {
		for _, v := range h.awaited() {
			seal := h.w.Seal
			if h.partial[v.name] && !h.acked.volume(v.name).Whole() {
				seal = h.w.SealPartial
			} else {
				h.becoming[v.name] = h.rejoined[v.name]
			}
			if err := seal(h.open, v); err != nil {
				return err
			}
		}
		for idle := false; ; {
			s, err := h.group.State(context.Background())
			if err != nil || s.Complete == h.open {
				return err
			}
			switch {
			case !idle:
			case len(h.held) == 0:
				return fmt.Errorf("CG %d does not become complete", h.open)
			default:
				h.unhold() // they keep CGs from being folded, which hold the journal
			}
			progress, err := h.pool.Step()
			if err != nil {
				return err
			}
			idle = !progress
		}
	})
	if err == nil {
		h.open++
		h.changes = map[key]uint64{}
	}
	return err
}

func (h *history) link() error {
	cg := h.acked.Complete
	return h.ask(func(f *facts) { f.Linked = cg }, func() error { return h.group.Link(context.Background(), Command{h.acked.Epoch, cg}) })
}

func (h *history) revert() error {
	cg := h.acked.Complete
	return h.ask(func(f *facts) { f.Linked = f.Final }, func() error { return h.group.Revert(context.Background(), Command{h.acked.Epoch, cg}) })
}

func (h *history) release() error {
	cg := h.acked.Complete
	return h.ask(func(f *facts) {
		f.Final = cg
		f.each(func(x *volumeFact) {
			if n, ok := h.becoming[x.name]; ok && n == h.rejoined[x.name] && !x.Whole() {
				x.WholeSince = cg
			}
		})
	}, func() error { return h.group.Release(context.Background(), Command{h.acked.Epoch, cg}) })
}

// discard drops what is complete and not final, and what has been received of the open CG.
func (h *history) discard() error {
	c := Command{h.acked.Epoch, h.open}
	if h.acked.Complete > h.acked.Final {
		c.CG = h.acked.Complete
	}
	err := h.ask(func(f *facts) {
		f.Linked, f.Complete, f.Discarded = f.Final, f.Final, h.open
		f.each(func(x *volumeFact) { x.AsideAt = min(x.AsideAt, f.Final) })
	},
		func() error { return h.group.Discard(context.Background(), c, h.open) })
	if err == nil {
		h.open++
		h.changes = map[key]uint64{}
	}
	return err
}

func (h *history) fence() error {
	return h.ask(func(f *facts) { f.Epoch++ }, func() error { return h.group.Fence(context.Background(), h.asked.Epoch) })
}

// commit takes the open CG all the way.
func (h *history) commit() error {
	for _, f := range []func() error{h.seal, h.link, h.release} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) checkpoint() error { return h.pool.Checkpoint(context.Background()) }

// settle steps until nothing goes on by itself.
func (h *history) settle() error {
	for {
		if progress, err := h.pool.Step(); err != nil || !progress {
			return err
		}
	}
}

// hold opens a snapshot.
func (h *history) hold(kind ViewKind) {
	cg := h.acked.Final
	if kind == LinkedView {
		cg = h.acked.Linked
	}
	h.held = append(h.held, heldView{h.group.Snapshot(kind), h.group.Volumes(), h.images[cg]})
}

func (h *history) unhold() {
	for _, x := range h.held {
		x.snap.Close()
	}
	h.held = nil
}

// look compares what the open snapshots show.
func (h *history) look() error {
	for _, x := range h.held {
		for _, v := range x.vols {
			if err := compareVolume(v, FinalView, x.snap, x.image); err != nil {
				return fmt.Errorf("snapshot of CG %d: %w", x.snap.CG(), err)
			}
		}
	}
	return nil
}

// step does one random operation, or finds that the journal is full.
func (h *history) step() error {
	if err := h.operation(); err != nil && !errors.Is(err, ErrJournalFull) {
		return err
	}
	return nil
}

func (h *history) operation() error {
	switch n := h.rng.IntN(100); {
	case n < 50:
		v, b, n := h.pick(6)
		return h.put(v, b, n)
	case n < 56:
		v, b, n := h.pick(54) // ranges as well as points
		return h.zero(v, b, n)
	case n < 71:
		if h.acked.Complete != h.acked.Final {
			return nil // the one before is on its way
		}
		return h.seal()
	case n < 84:
		return h.command()
	case n < 86:
		return h.fence()
	case n < 88:
		return h.changeVolumes()
	case n < 91:
		return h.checkpoint()
	case n < 93:
		return h.restart()
	case n < 95:
		return h.kill()
	case n < 97:
		return h.changeSnapshots()
	case n < 99:
		return h.changeMembers()
	default:
		_, err := h.pool.Step()
		return err
	}
}

func (h *history) pick(most uint64) (*Volume, VBlock, uint64) {
	vols := h.awaited()
	v := vols[h.rng.IntN(len(vols))]
	n := min(1+h.rng.Uint64N(most), v.table.blocks())
	return v, VBlock(h.rng.Uint64N(v.table.blocks() - n + 1)), n
}

// awaited lists the volumes that the group waits for.
func (h *history) awaited() []*Volume {
	return slices.DeleteFunc(h.group.Volumes(), func(v *Volume) bool { return v.Membership().Standing != Awaited })
}

// command moves the complete CG a step forward or back.
func (h *history) command() error {
	if h.acked.Complete == h.acked.Final {
		return nil
	}
	switch n := h.rng.IntN(10); {
	case n == 0:
		return h.discard()
	case h.acked.Linked == h.acked.Final:
		return h.link()
	case n < 3:
		return h.revert()
	default:
		return h.release()
	}
}

// changeVolumes makes a volume, or deletes one if that is allowed.
func (h *history) changeVolumes() error {
	vols := h.group.Volumes()
	if len(vols) < 4 {
		h.made++
		name := fmt.Sprintf("n%d", h.made)
		h.partial[name] = h.rng.IntN(3) > 0
		return h.create(name, 20)
	}
	v := vols[2+h.rng.IntN(2)] // a and b stay
	if h.group.inProgress(v) {
		return nil
	}
	return h.remove(v)
}

// changeMembers has a volume that is neither a nor b join, be set aside or rejoin, or sends the last of its first copy.
func (h *history) changeMembers() error {
	vols := h.group.Volumes()
	if len(vols) < 3 {
		return nil
	}
	v := vols[2+h.rng.IntN(len(vols)-2)]
	switch s := v.Membership().Standing; {
	case s == SetAside:
		return h.rejoin(v)
	case s == Unattached:
		return h.attach(v)
	case h.partial[v.name]:
		h.partial[v.name] = false
		return nil
	default:
		h.partial[v.name] = true // in its next life
		return h.aside(v)
	}
}

func (h *history) changeSnapshots() error {
	if err := h.look(); err != nil {
		return err
	}
	if len(h.held) < 2 {
		h.hold(ViewKind(h.rng.IntN(2)))
		return nil
	}
	i := h.rng.IntN(2)
	h.held[i].snap.Close()
	h.held = slices.Delete(h.held, i, i+1)
	return nil
}

// run plays a generated history until it ends or the device crashes.
func (h *history) run(steps int) error {
	if err := h.start(); err != nil {
		return err
	}
	for range steps {
		if err := h.step(); err != nil {
			return err
		}
	}
	if err := h.look(); err != nil {
		return err
	}
	return h.closePool()
}

// factsOf asks a pool what it holds.
func factsOf(p *Pool) (f facts, err error) {
	g, err := p.Group("g")
	if errors.Is(err, ErrUnknown) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	s, err := g.State(context.Background())
	if err != nil {
		return f, err
	}
	f = facts{Epoch: s.Epoch, Final: s.Final, Linked: s.Linked, Complete: s.Complete, Discarded: s.Discarded}
	for _, v := range g.Volumes() {
		m := v.Membership()
		m.turn = 0
		f.add(volumeFact{v.name, v.table.blocks(), m})
	}
	return f, nil
}

// compareViews reads all of a pool: each view shows exactly one CG on all volumes.
func (h *history) compareViews(p *Pool, f facts) error {
	for _, g := range p.Groups() {
		for _, v := range g.Volumes() {
			if err := compareVolume(v, FinalView, nil, h.images[f.Final]); err != nil {
				return fmt.Errorf("final %d: %w", f.Final, err)
			}
			if f.Linked == f.Final && g.linked.Load() == g.final.Load() {
				continue
			}
			if err := compareVolume(v, LinkedView, nil, h.images[f.Linked]); err != nil {
				return fmt.Errorf("linked %d: %w", f.Linked, err)
			}
		}
	}
	return nil
}

// readMemory is used again and again: the first touch of fresh memory would be most of the time that crash tests take.
var readMemory = sync.OnceValue(func() []byte {
	arena, err := ring.NewArena(64 * BlockSize)
	if err != nil {
		panic(err)
	}
	return arena.Bytes()
})

// compareVolume reads all of a volume of a manual pool.
func compareVolume(v *Volume, kind ViewKind, s *Snapshot, image map[key]uint64) error {
	done := make(chan error, 1)
	r := Read{Volume: v, View: kind, Snapshot: s, Done: func(r *Read) { done <- r.Err }}
	for first := uint64(0); first < v.table.blocks(); first += 64 {
		n := min(64, v.table.blocks()-first)
		r.Off, r.Buf = first*BlockSize, readMemory()[:n*BlockSize]
		r.Start()
		if err := v.pool.stepUntil(done); err != nil {
			return err
		}
		for i := range n {
			got, b := r.Buf[i*BlockSize:(i+1)*BlockSize], VBlock(first+i)
			if want := image[key{v.name, b}]; !isPattern(got, v.name, b, want) {
				return fmt.Errorf("volume %s block %d: want version %d, got %d", v.name, b, want, le.Uint64(got[72:]))
			}
		}
	}
	return nil
}

var zeroBlock [BlockSize]byte

// isPattern is bytes.Equal(p, pattern(vol, b, version)) without making the pattern. Where the zeros in it are not compared, the checksum
// that every read verifies covers them.
func isPattern(p []byte, vol string, b VBlock, version uint64) bool {
	if version == 0 {
		return bytes.Equal(p, zeroBlock[:])
	}
	return bytes.HasPrefix(p, []byte(vol)) && le.Uint64(p[64:]) == uint64(b) && le.Uint64(p[72:]) == version &&
		le.Uint64(p[BlockSize-8:]) == version*0x9E3779B97F4A7C15
}

// goOn shows that the pool works: the CG that was held is finished, another one follows.
func (h *history) goOn(p *Pool, f facts) error {
	g, err := p.Group("g")
	if err != nil || len(g.Volumes()) == 0 {
		return nil
	}
	ctx, image := context.Background(), h.images[f.Final]
	if f.Complete != f.Final {
		c := Command{f.Epoch, f.Complete}
		if err := errors.Join(g.Link(ctx, c), g.Release(ctx, c)); err != nil {
			return err
		}
		image = h.images[f.Complete]
		f.Final, f.Linked = f.Complete, f.Complete
		for range 3 { // through before, during and after the fold
			if err := (&history{images: map[uint64]map[key]uint64{f.Final: image}}).compareViews(p, f); err != nil {
				return err
			}
			if _, err := p.Step(); err != nil {
				return err
			}
		}
	}
	return h.another(p, g, f, image)
}

// another receives one more CG on what was recovered.
func (h *history) another(p *Pool, g *Group, f facts, image map[key]uint64) error {
	n := &history{pool: p, group: g, open: max(f.Complete, f.Discarded) + 1, version: h.version + 1000, acked: f,
		changes: map[key]uint64{}, images: map[uint64]map[key]uint64{f.Final: image}, rejoined: map[string]int{}}
	var err error
	if n.w, err = p.NewWriter(); err != nil {
		return err
	}
	for _, v := range g.Volumes() {
		if v.Membership().Standing == SetAside {
			continue
		}
		if err := errors.Join(n.w.Bind(v), n.put(v, 3, 5)); err != nil {
			return err
		}
	}
	if err := errors.Join(n.commit(), n.settle(), n.compareViews(p, n.acked)); err != nil {
		return err
	}
	return n.w.Close()
}

// blocksAddUp: with nothing in progress, what is used is what the tables name.
func blocksAddUp(p *Pool) error {
	for {
		progress, err := p.Step()
		if err != nil {
			return err
		}
		if !progress {
			return p.Inspect().Blocks()
		}
	}
}
