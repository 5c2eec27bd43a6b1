package primary

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
	"pgregory.net/rapid"
)

// world is a primary's core with everything around it made of plain memory: devices, the
// write-intent log's files, connections, secondaries that remember images, and a manager. Nothing happens in it
// unless a test says so.
type world struct {
	tb     rapid.TB
	opt    CoreOptions
	spec   []GroupSpec
	core   *Core
	now    time.Duration
	images [][]byte // of each volume's device, by index in the core
	names  []string
	flight []*DeviceIO
	intent *IntentWrite
	files  [2][]byte
	peers  []*peer // by connection
	acts   Actions
	stamp  uint64
	hosts  int // requests that have not ended
	gone   int // volumes that have left
	ended  []*IO
	fresh  byte
	// crowded: rounds have hosts write while a CG drains.
	crowded bool

	// the manager
	epoch    uint64
	open     uint64
	highest  uint64
	final    uint64
	cut      uint64 // thawed, neither final nor abandoned
	held     uint64
	drained  uint64
	lost     uint64
	thawed   map[uint64]bool
	cuts     map[uint64]map[string][]byte // images at each cut, by volume
	replies  []wire.Message
	verified int
	partials int // CGs with a volume that is not whole
}

// peer is a secondary, reduced to one primary's connection.
type peer struct {
	w    *world
	name string
	conn int // index of the connection in the core
	id   byte
	// The volumes that the peer ever had stand in slots; handles gives those that are attached.
	volumes  []string
	handles  []int
	made     []int             // how many times the volume was made again
	whole    []bool            // final CGs have brought the whole first copy
	partial  map[uint64][]bool // what manifests say, by CG; of what is not attached: true
	up       bool
	stream   wire.UUID
	known    bool
	applied  uint64
	finalImg [][]byte            // by slot
	overlay  map[uint64][]change // received and not final, by CG
	digests  map[uint64][]wire.Digest
	complete uint64
	through  uint64
	net      []message
	credits  []uint64
	window   uint64
}

type change struct {
	volume int // handle, and slot once received
	block  uint64
	count  uint64
	data   []byte // nil: zeros
}

type message struct {
	seq, cg  uint64
	changes  []change
	manifest *wire.Manifest
}

func newWorld(tb rapid.TB, opt CoreOptions, spec []GroupSpec) *world {
	w := &world{tb: tb, opt: opt, spec: spec, thawed: map[uint64]bool{}, cuts: map[uint64]map[string][]byte{}, epoch: 1}
	for _, g := range spec {
		for _, v := range g.Volumes {
			w.images = append(w.images, make([]byte, v.Size))
			w.names = append(w.names, v.Name)
		}
	}
	for v := range w.images { // devices that existed before
		for b := 0; b < len(w.images[v]); b += 3 * BlockSize {
			copy(w.images[v][b:], w.stamped(BlockSize))
		}
	}
	w.boot()
	for i, cs := range w.core.Connections() {
		p := &peer{w: w, name: cs.Secondary, conn: i, id: byte(i + 1), overlay: map[uint64][]change{}, digests: map[uint64][]wire.Digest{}, partial: map[uint64][]bool{}, window: 1 << 20}
		for _, v := range spec[0].Volumes {
			for _, s := range v.Secondaries {
				if s == cs.Secondary {
					p.makeVolume(v)
				}
			}
		}
		w.peers = append(w.peers, p)
	}
	return w
}

func (w *world) boot() {
	core, err := NewCore(w.opt, w.spec, LoadIntent(w.files))
	if err != nil {
		w.tb.Fatalf("NewCore: %v", err)
	}
	w.core = core
	w.renumberPeers()
	w.core.Tick(w.now)
	w.pump()
}

func (w *world) stamped(n int) []byte {
	w.stamp++
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], w.stamp<<16|uint64(i/8))
	}
	return b
}

// pump takes the core's actions: device I/O begins (half of it is done at once, so that two that
// overlap would show), the manager's messages are understood.
func (w *world) pump() {
	w.core.Take(&w.acts)
	for _, d := range w.acts.Device {
		w.flight = append(w.flight, d)
		w.half(d, 0)
	}
	w.gone += len(w.acts.Gone)
	for _, io := range w.acts.Done {
		w.hosts--
		w.ended = append(w.ended, io)
	}
	for _, m := range w.acts.Manager {
		w.reply(m.Message)
	}
	if w.acts.Intent != nil {
		if w.intent != nil {
			w.tb.Fatal("two intent writes at a time")
		}
		cp := *w.acts.Intent
		cp.Data = bytes.Clone(cp.Data)
		w.intent = &cp
	}
	for _, i := range slices.Clone(w.acts.Reattach) { // the last thing: it comes back here
		for _, p := range w.peers {
			if p.conn == i && p.up {
				p.drop(ErrListChanged)
				p.connect()

			}
		}
	}
}

func (w *world) half(d *DeviceIO, which int) {
	img := w.images[d.Device]
	n := int64(len(d.Buf))
	if d.Op == ring.OpWriteZeroes {
		n = d.Len
	}
	lo, hi := int64(0), n/2
	if which == 1 {
		lo, hi = n/2, n
	}
	switch d.Op {
	case ring.OpRead:
		copy(d.Buf[lo:hi], img[d.Off+lo:d.Off+hi])
	case ring.OpWrite:
		copy(img[d.Off+lo:d.Off+hi], d.Buf[lo:hi])
	case ring.OpWriteZeroes:
		clear(img[d.Off+lo : d.Off+hi])
	}
}

var errDevice = errors.New("device error")

// finish ends the i-th device I/O in flight.
func (w *world) finish(i int, err error) {
	d := w.flight[i]
	w.flight = append(w.flight[:i], w.flight[i+1:]...)
	if err == nil {
		w.half(d, 1)
	}
	d.Err = err
	w.core.DeviceDone(d)
	w.pump()
}

func (w *world) finishIntent(err error) {
	iw := w.intent
	w.intent = nil
	if err == nil {
		w.putIntent(iw, len(iw.Data))
		if iw.Truncate {
			w.files[1-iw.File] = nil
		}
	}
	w.core.IntentDone(err)
	w.pump()
}

// putIntent does the first n bytes of an intent write.
func (w *world) putIntent(iw *IntentWrite, n int) {
	f := w.files[iw.File]
	if iw.Truncate {
		f = nil
	}
	if need := int(iw.Off) + n; len(f) < need {
		f = append(f, make([]byte, need-len(f))...)
	}
	copy(f[iw.Off:], iw.Data[:n])
	w.files[iw.File] = f
}

func (w *world) submit(io *IO) {
	w.hosts++
	w.core.Submit(io)
	w.pump()
}

func (w *world) write(volume int, off, n uint64) *IO {
	p := allocHeap(int(n))
	copy(p.Bytes(), w.stamped(int(n)+8))
	io := &IO{Op: OpWrite, Volume: volume, Off: off, Len: n, Payload: p}
	w.submit(io)
	return io
}

func (w *world) zeroes(op Op, volume int, off, n uint64) *IO {
	io := &IO{Op: op, Volume: volume, Off: off, Len: n}
	w.submit(io)
	return io
}

func (w *world) tick(d time.Duration) {
	w.now += d
	w.core.Tick(w.now)
	w.pump()
}

// crash ends the primary. Of each device write in flight, all, half or nothing was done; of an intent write
// the first keep bytes.
func (w *world) crash(outcome func() int, keep int) {
	for _, d := range w.flight {
		if outcome() == 1 {
			w.half(d, 1)
		}
	}
	if w.intent != nil {
		w.putIntent(w.intent, min(keep, len(w.intent.Data)))
	}
	w.flight, w.intent, w.hosts, w.ended = nil, nil, 0, nil
	w.renumberVolumes()
	for _, p := range w.peers {
		p.up, p.net, p.credits = false, nil, nil
	}
	w.boot()
}

// renumberPeers finds the connections of a new core.
func (w *world) renumberPeers() {
	for i, c := range w.core.Connections() {
		for _, p := range w.peers {
			if p.name == c.Secondary {
				p.conn = i
			}
		}
	}
}

// renumberVolumes gives the devices the indexes that a new core gives to their volumes.
func (w *world) renumberVolumes() {
	images, names := w.images, w.names
	w.images, w.names = nil, nil
	for _, v := range w.spec[0].Volumes {
		w.images, w.names = append(w.images, images[slices.Index(names, v.Name)]), append(w.names, v.Name)
	}
}

// add has a volume join, with a copy on a peer.
func (w *world) add(name string, p *peer) {
	w.tb.Helper()
	s := VolumeSpec{Name: name, Size: testBlocks * BlockSize, Secondaries: []string{p.name}, Place: "here"}
	handles := p.handles
	p.makeVolume(s)
	p.handles = handles // until it is attached
	w.join(s)
}

// join has a volume join that its secondary has.
func (w *world) join(s VolumeSpec) {
	w.tb.Helper()
	index, err := w.core.AddVolume("g", s)
	if err != nil || index != len(w.images) {
		w.tb.Fatalf("volume %d of %d was added: %v", index, len(w.images), err)
	}
	w.images, w.names = append(w.images, w.stamped(testBlocks*BlockSize)), append(w.names, s.Name)
	w.spec = []GroupSpec{{Name: "g", Volumes: append(slices.Clone(w.spec[0].Volumes), s)}}
	w.pump()
}

// remove has a volume leave.
func (w *world) remove(name string) error {
	index, known := w.core.Volume("g", name)
	if !known {
		w.tb.Fatalf("no volume %q", name)
	}
	if err := w.core.RemoveVolume(index); err != nil {
		return err
	}
	w.spec = []GroupSpec{{Name: "g", Volumes: slices.DeleteFunc(slices.Clone(w.spec[0].Volumes), func(v VolumeSpec) bool { return v.Name == name })}}
	w.pump()
	return nil
}

// --- manager

func (w *world) manage(m wire.Commanded) {
	m.Head().Group, m.Head().Epoch = w.spec[0].Name, w.epoch
	w.core.Manage(1, m)
}

func (w *world) reply(m wire.Message) {
	w.replies = append(w.replies, m)
	switch m := m.(type) {
	case *wire.Held:
		w.held = m.CG
	case *wire.Thawed:
		w.thawed[m.CG] = m.OK
	case *wire.Drained:
		w.drained = m.CG
	case *wire.Lost:
		w.lost = m.CG
	}
}

func (w *world) openCG(cg uint64) {
	w.open, w.highest, w.cut, w.held, w.lost = cg, max(w.highest, cg), 0, 0, 0
	w.manage(&wire.Open{Command: wire.Command{CG: cg}, Final: w.final})
	w.pump()
}

func (w *world) hold(timeout time.Duration) {
	w.held = 0
	w.manage(&wire.Hold{Command: wire.Command{CG: w.open}, TimeoutMicros: uint64(timeout.Microseconds())})
	w.pump()
}

// thaw cuts; the images at this instant are what every copy has to look like at CG n.
func (w *world) thaw() bool {
	n := w.open
	w.manage(&wire.Thaw{Command: wire.Command{CG: n}})
	snap := map[string][]byte{}
	for i, img := range w.images {
		snap[w.names[i]] = bytes.Clone(img)
	}
	w.pump()
	w.held = 0
	if !w.thawed[n] {
		return false
	}
	w.cuts[n] = snap
	w.cut, w.open, w.highest = n, n+1, max(w.highest, n+1)
	return true
}

func (w *world) allComplete() bool {
	for _, p := range w.peers {
		if p.complete != w.cut {
			return false
		}
	}
	return w.cut != 0 && w.drained == w.cut
}

func (w *world) finalize() {
	for _, p := range w.peers {
		p.finalImg = p.imageAt(w.cut)
		delete(p.overlay, w.cut)
		for h, partial := range p.partial[w.cut] {
			p.whole[h] = p.whole[h] || !partial
		}
		clear(p.partial)
	}
	w.final = w.cut
	w.cut = 0
	w.manage(&wire.FinalNote{Command: wire.Command{CG: w.final}})
	w.pump()
}

// abandon gives up everything after the last final CG, as a manager does.
func (w *world) abandon() {
	for _, p := range w.peers {
		p.discard(w.highest)
	}
	w.openCG(w.highest + 1)
}

// --- secondary

func (p *peer) discard(through uint64) {
	clear(p.overlay)
	clear(p.digests)
	clear(p.partial)
	p.complete, p.through = p.w.final, through
}

func (p *peer) imageAt(cg uint64) [][]byte {
	imgs := make([][]byte, len(p.finalImg))
	for i := range imgs {
		imgs[i] = bytes.Clone(p.finalImg[i])
	}
	for n := p.w.final + 1; n <= cg; n++ {
		for _, ch := range p.overlay[n] {
			dst := imgs[ch.volume][ch.block*BlockSize : (ch.block+ch.count)*BlockSize]
			if ch.data == nil {
				clear(dst)
			} else {
				copy(dst, ch.data)
			}
		}
	}
	return imgs
}

// restart forgets what a secondary loses in a crash.
func (p *peer) restart() {
	p.known = false
	p.forgetReceiving()
}

func (p *peer) forgetReceiving() {
	for n := range p.overlay {
		if n > p.complete {
			delete(p.overlay, n)
			delete(p.digests, n)
		}
	}
}

func (p *peer) drop(err error) {
	p.up, p.net, p.credits = false, nil, nil
	p.w.core.Down(p.conn, err)
	p.w.pump()
}

func (p *peer) makeVolume(v VolumeSpec) {
	p.handles = append(p.handles, len(p.volumes))
	p.volumes = append(p.volumes, v.Name)
	p.finalImg = append(p.finalImg, make([]byte, v.Size))
	p.made = append(p.made, 0)
	p.whole = append(p.whole, false)
}

// states tells of the volumes.
func (p *peer) states() (states []wire.VolumeState) {
	for _, h := range p.handles {
		img := p.finalImg[h]
		states = append(states, wire.VolumeState{Identity: wire.UUID{p.id, byte(h), byte(p.made[h])}, Holds: len(bytes.Trim(img, "\x00")) > 0, Whole: p.whole[h]})
	}
	return states
}

// remake deletes a volume and makes it again. A secondary does so only between CGs, and while nobody is attached.
func (p *peer) remake(h int) bool {
	if p.up || p.complete != p.w.final {
		return false
	}
	p.restart()
	p.made[h]++
	p.whole[h] = false
	clear(p.finalImg[h])
	return true
}

func (p *peer) connect() {
	w := p.w
	w.fresh++
	a := w.core.Attach(p.conn, wire.UUID{w.fresh, 1})
	p.handles = nil
	for _, v := range a.Volumes {
		p.handles = append(p.handles, slices.Index(p.volumes, v.Name))
	}
	m := wire.Attached{Complete: p.complete, Window: p.window, Volumes: p.states()}
	if p.known && a.Stream == p.stream {
		m.Resumed, m.Applied = true, p.applied
	} else {
		p.forgetReceiving()
		p.known, p.stream, p.applied = true, a.Stream, 0
	}
	if err := w.core.Attached(p.conn, m); err != nil {
		w.tb.Fatalf("Attached(%+v): %v", m, err)
	}
	p.up = true
	w.pump()
}

// send takes one frame from the core and puts a copy of it on the net.
func (p *peer) send() bool {
	f := p.w.core.TakeFrame(p.conn)
	if f == nil {
		return false
	}
	f.Seal()
	m := message{seq: f.Seq, cg: f.CG}
	switch f.Kind {
	case wire.TypeManifest:
		m.manifest = &wire.Manifest{CG: f.Manifest.CG, Volumes: append([]wire.VolumeManifest(nil), f.Manifest.Volumes...)}
	case wire.TypeUpdates:
		for i := range f.Len() {
			u, sums, data := f.Update(i)
			m.changes = append(m.changes, change{int(u.Volume), u.Block, uint64(u.Count), bytes.Clone(data)})
			p.checkSums(u, sums, data)
		}
	case wire.TypeZeroes:
		for i := range f.Len() {
			z := f.ZeroRange(i)
			m.changes = append(m.changes, change{int(z.Volume), z.Block, z.Count, nil})
		}
	}
	p.net = append(p.net, m)
	p.w.core.ReturnFrame(f)
	p.w.pump()
	return true
}

func (p *peer) checkSums(u wire.Update, sums []uint64, data []byte) {
	fresh := &shared{data: data}
	if got := fresh.blockSums(); len(sums) != int(u.Count) || fmt.Sprint(got) != fmt.Sprint(sums) {
		p.w.tb.Fatalf("update %+v: checksums differ from the payload", u)
	}
}

// receive takes one message off the net.
func (p *peer) receive() bool {
	if len(p.net) == 0 {
		return false
	}
	m := p.net[0]
	p.net = p.net[1:]
	if m.seq != p.applied+1 {
		p.w.tb.Fatalf("peer %d: frame %d after %d", p.conn, m.seq, p.applied)
	}
	p.applied = m.seq
	p.credits = append(p.credits, m.seq)
	if m.cg <= p.through {
		return true
	}
	if m.cg <= p.complete {
		p.w.tb.Fatalf("peer %d: frame %d is of CG %d, but %d is complete", p.conn, m.seq, m.cg, p.complete)
	}
	for n := range p.overlay {
		if n > m.cg {
			p.w.tb.Fatalf("peer %d: frame of CG %d after one of %d", p.conn, m.cg, n)
		}
	}
	p.take(m)
	return true
}

func (p *peer) take(m message) {
	d := p.digests[m.cg]
	if d == nil {
		d = make([]wire.Digest, len(p.handles))
		p.digests[m.cg] = d
	}
	for _, ch := range m.changes {
		if ch.data == nil {
			d[ch.volume].AddZeroes(wire.Zeroes{Volume: uint32(ch.volume), Block: ch.block, Count: ch.count})
		} else {
			d[ch.volume].AddUpdate(wire.Update{Volume: uint32(ch.volume), Block: ch.block, Count: uint32(ch.count)}, (&shared{data: ch.data}).blockSums())
		}
	}
	for _, ch := range m.changes {
		ch.volume = p.handles[ch.volume]
		p.overlay[m.cg] = append(p.overlay[m.cg], ch)
	}
	if m.manifest != nil {
		p.completed(m.manifest, d)
	}
}

// completed checks a CG that is complete: this is what everything is about.
func (p *peer) completed(m *wire.Manifest, d []wire.Digest) {
	some := false
	p.partial[m.CG] = make([]bool, len(p.volumes))
	for slot := range p.volumes {
		p.partial[m.CG][slot] = true
	}
	for h := range d {
		slot := p.handles[h]
		want := d[h].Manifest(uint32(h))
		want.Partial = m.Volumes[h].Partial
		if want.Partial && p.whole[slot] {
			p.w.tb.Fatalf("peer %d: CG %d is called partial for volume %d, which is whole", p.conn, m.CG, h)
		}
		p.partial[m.CG][slot] = want.Partial
		some = some || want.Partial
		if m.Volumes[h] != want {
			p.w.tb.Fatalf("peer %d: manifest of CG %d says %+v, received %+v", p.conn, m.CG, m.Volumes[h], want)
		}
	}
	snap := p.w.cuts[m.CG]
	if snap == nil {
		p.w.tb.Fatalf("peer %d: manifest of CG %d, which was never cut", p.conn, m.CG)
	}
	for slot, img := range p.imageAt(m.CG) {
		if p.partial[m.CG][slot] {
			continue
		}
		want := snap[p.volumes[slot]]
		for b := 0; b < len(img); b += BlockSize {
			if !bytes.Equal(img[b:b+BlockSize], want[b:b+BlockSize]) {
				p.w.tb.Fatalf("peer %d: CG %d: block %d of volume %s differs from the primary's at the cut", p.conn, m.CG, b/BlockSize, p.volumes[slot])
			}
		}
	}
	p.complete = m.CG
	p.w.verified++
	if some {
		p.w.partials++
	}
}

func (p *peer) credit() bool {
	if len(p.credits) == 0 {
		return false
	}
	n := p.credits[0]
	p.credits = p.credits[1:]
	if err := p.w.core.Credit(p.conn, n); err != nil {
		p.w.tb.Fatalf("Credit: %v", err)
	}
	p.w.pump()
	return true
}

// settle lets everything go on until nothing more happens by itself.
func (w *world) settle() { w.drainBut(func(*DeviceIO) bool { return false }) }

// round forms one CG and expects it to become final.
func (w *world) round() {
	w.tb.Helper()
	w.hold(time.Second)
	w.settle()
	if w.held != w.open {
		w.tb.Fatalf("CG %d is not held; replies %v", w.open, w.describe())
	}
	if !w.thaw() {
		w.tb.Fatalf("CG %d was not cut", w.open)
	}
	for v := range w.images { // the next CG fills the queue meanwhile
		for b := uint64(0); b < testBlocks && w.crowded; b += 2 {
			w.write(v, b*BlockSize, BlockSize)
		}
	}
	w.settle()
	if !w.allComplete() {
		w.tb.Fatalf("CG %d is not complete everywhere: %+v", w.cut, w.core.Status())
	}
	w.finalize()
	w.settle()
}

func (w *world) describe() (s []string) {
	for _, m := range w.replies {
		s = append(s, fmt.Sprintf("%T%+v", m, m))
	}
	return s
}
