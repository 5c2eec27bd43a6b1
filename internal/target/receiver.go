package target

import (
	"context"
	"errors"
	"slices"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/wire"
)

// Receiver is what a secondary knows of one stream, and all that is decided about its frames: which come next, which
// CG they belong to, whether that was discarded, and whether a manifest tells of what was received. It has no
// goroutine, clock or socket: sessions drive it from connections, the simulator from its loop. It belongs to the
// goroutine that made it, as its writer does.
type Receiver struct {
	group   *engine.Group
	pool    *engine.Pool
	volumes []attached // by handle
	bound   []*engine.Volume
	w       *engine.Writer

	applied  uint64 // newest update frame that was placed
	frameCG  uint64 // of the frame in work
	placed   uint64 // descriptors and payload bytes of the frame that was taken in last; 0 if it was dropped
	payload  uint64
	cg       uint64 // CG in work: some of it was received, its manifest was not; 0 none
	through  uint64 // CGs up to this are known to be discarded
	runs     []engine.Run
	updates  wire.Updates
	zeroes   wire.ZeroRanges
	manifest wire.Manifest
	partial  []*engine.Volume // of the manifest in work
	rest     []*engine.Volume
}

// attached is a volume with what was received of it in the CG in work.
type attached struct {
	*engine.Volume
	blocks uint64
	digest wire.Digest
}

// Source is where a frame's payload comes from; a *wire.Conn is one.
type Source interface {
	// Payload fills mem with the next bytes of the payload.
	Payload(mem []byte) error
	// SkipPayload drops the rest of it.
	SkipPayload() error
}

// NewReceiver makes a receiver of a stream for volumes of g, with a writer that it owns. Close it in any case, also
// after an error. The volumes should have joined their group (engine.Group.Join): else that is tried, without waiting.
func NewReceiver(pool *engine.Pool, g *engine.Group, vols []*engine.Volume) (*Receiver, error) {
	r := idleReceiver(pool, g, vols)
	w, err := pool.NewWriter()
	if err != nil {
		return r, fromEngine(err)
	}
	r.w = w
	for _, v := range vols {
		if err := w.Bind(v); err != nil {
			return r, fromEngine(err)
		}
	}
	return r, nil
}

// idleReceiver takes nothing in.
func idleReceiver(pool *engine.Pool, g *engine.Group, vols []*engine.Volume) *Receiver {
	r := &Receiver{pool: pool, group: g, bound: vols, volumes: make([]attached, len(vols))}
	for i, v := range vols {
		r.volumes[i] = attached{Volume: v, blocks: v.Size() / engine.BlockSize}
	}
	return r
}

// Close lets go of the volumes. What was received and not sealed is forgotten.
func (r *Receiver) Close() error {
	if r.w == nil {
		return nil
	}
	return r.w.Close()
}

// Bound are the volumes of the stream, by handle.
func (r *Receiver) Bound() []*engine.Volume { return r.bound }

// Binds says whether the stream is of exactly these volumes, with the same handles.
func (r *Receiver) Binds(vols []*engine.Volume) bool { return slices.Equal(r.bound, vols) }

// Holds says whether the stream has any of these volumes.
func (r *Receiver) Holds(vols []*engine.Volume) bool {
	return slices.ContainsFunc(vols, func(v *engine.Volume) bool { return slices.Contains(r.bound, v) })
}

// Applied is the number of the newest update frame that was taken in.
func (r *Receiver) Applied() uint64 { return r.applied }

// taken counts the descriptors and the bytes of payload of the newest frame.
func (r *Receiver) taken() (updates, payload uint64) { return r.placed, r.payload }

// hasRoom says whether the pool is not full any more.
func (r *Receiver) hasRoom() bool {
	_, err := r.w.Space(1)
	return !errors.Is(err, engine.ErrPoolFull)
}

// Writer of the stream.
func (r *Receiver) Writer() *engine.Writer { return r.w }

// Take takes one frame of the stream in. full is called each time there is no room; Take goes on when it returns
// nil, and ends with its error else. A frame that Take ended with an error was not applied, and may be given
// again from its beginning.
func (r *Receiver) Take(ctx context.Context, h wire.Header, body []byte, src Source, full func(cg uint64) error) error {
	r.frameCG, r.placed, r.payload = 0, 0, 0
	err := r.pool.Failure() // what is received then can never become complete
	switch {
	case err != nil:
		return fromEngine(err)
	case !h.Type.InStream():
		return unexpected(h)
	case h.Sequence != r.applied+1:
		return refuse(wire.CodeProtocol, "%v frame %d: stream sequence is %d, expected %d", h.Type, h.Number, h.Sequence, r.applied+1)
	case h.Type == wire.TypeUpdates:
		err = r.takeUpdates(ctx, h, body, src, full)
	case h.Type == wire.TypeZeroes:
		err = r.takeZeroes(ctx, body)
	default:
		err = r.takeManifest(ctx, body)
	}
	if errors.Is(err, engine.ErrDropped) {
		// The CG was discarded, perhaps in the middle of the frame: the rest of it is nobody's.
		r.dropped(r.frameCG)
		err = src.SkipPayload()
	}
	if err == nil {
		r.applied = h.Sequence
	}
	return err
}

func (r *Receiver) takeUpdates(ctx context.Context, h wire.Header, body []byte, src Source, full func(uint64) error) error {
	u := &r.updates
	if err := u.Decode(h, body); err != nil {
		return err
	}
	if err := r.enter(ctx, u.CG()); err != nil {
		return err
	}
	for i := range u.Len() {
		d := u.At(i)
		if err := r.check(d.Volume, d.Block, uint64(d.Count)); err != nil {
			return err
		}
	}
	if err := r.place(ctx, u, src, full); err != nil {
		return err
	}
	for d, sums := range u.All() {
		r.volumes[d.Volume].digest.AddUpdate(d, sums)
	}
	r.placed, r.payload = uint64(u.Len()), uint64(h.Payload)
	return nil
}

// place receives the payload into the writer's memory, as much at once as that gives, and puts all updates that are
// in it. The writer's memory runs on behind what was put: one read from the socket serves many updates.
func (r *Receiver) place(ctx context.Context, u *wire.Updates, src Source, full func(uint64) error) error {
	sums, left := u.Sums(), u.Blocks()
	at, done := 0, 0 // descriptor in work, blocks of it that are placed
	for left > 0 {
		mem, err := r.room(ctx, left, u.CG(), full)
		if err != nil {
			return err
		}
		if err := src.Payload(mem); err != nil {
			return err
		}
		n := len(mem) / engine.BlockSize
		at, done = r.collect(u, at, done, n)
		if err := r.w.PutAll(u.CG(), r.runs, sums[:n]); err != nil {
			return fromWriter(err)
		}
		sums, left = sums[n:], left-n
	}
	return nil
}

// collect makes runs of the next n blocks of a frame, from block done of descriptor at on. It returns where the next
// ones begin.
func (r *Receiver) collect(u *wire.Updates, at, done, n int) (int, int) {
	r.runs = r.runs[:0]
	for n > 0 {
		d := u.At(at)
		k := min(n, int(d.Count)-done)
		r.runs = append(r.runs, engine.Run{Volume: r.volumes[d.Volume].Volume, First: engine.VBlock(d.Block) + engine.VBlock(done), Blocks: k})
		n, done = n-k, done+k
		if done == int(d.Count) {
			at, done = at+1, 0
		}
	}
	return at, done
}

// room is Writer.Space, but asks full while the pool is full. It ends with engine.ErrDropped if CG cg is discarded
// meanwhile.
func (r *Receiver) room(ctx context.Context, blocks int, cg uint64, full func(uint64) error) ([]byte, error) {
	for {
		mem, err := r.w.Space(blocks)
		if !errors.Is(err, engine.ErrPoolFull) {
			return mem, fromEngine(err)
		}
		if dropped, err := r.isDiscarded(ctx, cg); err != nil {
			return nil, err
		} else if dropped {
			return nil, engine.ErrDropped
		}
		if err := full(cg); err != nil {
			return nil, err
		}
	}
}

func (r *Receiver) takeZeroes(ctx context.Context, body []byte) error {
	z := &r.zeroes
	if err := wire.DecodeInto(z, body); err != nil {
		return err
	}
	if err := r.enter(ctx, z.CG); err != nil {
		return err
	}
	for _, x := range z.Ranges {
		if err := r.check(x.Volume, x.Block, x.Count); err != nil {
			return err
		}
	}
	for _, x := range z.Ranges {
		if err := r.w.Zero(r.volumes[x.Volume].Volume, z.CG, engine.VBlock(x.Block), x.Count); err != nil {
			return fromWriter(err)
		}
	}
	for _, x := range z.Ranges {
		r.volumes[x.Volume].digest.AddZeroes(x)
	}
	r.placed = uint64(len(z.Ranges))
	return nil
}

// check looks at one descriptor.
func (r *Receiver) check(handle uint32, block, count uint64) error {
	if uint64(handle) >= uint64(len(r.volumes)) {
		return refuse(wire.CodeUnknown, "volume handle %d: %d volumes are attached", handle, len(r.volumes))
	}
	v := &r.volumes[handle]
	if block > v.blocks || count > v.blocks-block {
		return refuse(wire.CodeSize, "volume %q: %d blocks from block %d end past the end, which is block %d", v.Name(), count, block, v.blocks)
	}
	return nil
}

// enter checks that CG cg may be received now. engine.ErrDropped: it was discarded. That cg was not
// ended before is for the writer to check: it knows what is sealed and complete.
func (r *Receiver) enter(ctx context.Context, cg uint64) error {
	r.frameCG = cg
	if cg == r.cg {
		return nil
	}
	if r.cg != 0 || cg <= r.through {
		// Out of order, unless a discard that this goroutine has not heard of explains it.
		if dropped, err := r.isDiscarded(ctx, cg); err != nil {
			return err
		} else if dropped {
			return engine.ErrDropped
		}
	}
	if r.cg != 0 {
		return refuse(wire.CodeProtocol, "group %q: update of CG %d before the manifest of CG %d", r.group.Name(), cg, r.cg)
	}
	r.cg = cg
	return nil
}

// isDiscarded asks which CGs were discarded, lets go of what was received of them, and says whether cg is one.
func (r *Receiver) isDiscarded(ctx context.Context, cg uint64) (bool, error) {
	if cg <= r.through {
		return true, nil
	}
	st, err := r.group.State(ctx)
	if err != nil {
		return false, fromEngine(err)
	}
	if st.Discarded > r.through {
		r.dropped(st.Discarded)
		for _, v := range r.bound {
			// Nothing is zeroed: the writer learns that the CG is gone and gives its blocks back.
			if err := r.w.Zero(v, st.Discarded, 0, 0); err != nil && !errors.Is(err, engine.ErrDropped) {
				return false, fromEngine(err)
			}
		}
	}
	return cg <= r.through, nil
}

// dropped notes that CGs up to through were discarded.
func (r *Receiver) dropped(through uint64) {
	r.through = max(r.through, through)
	if r.cg != 0 && r.cg <= r.through {
		r.begin()
	}
}

// begin makes ready for the next CG.
func (r *Receiver) begin() {
	r.cg = 0
	for i := range r.volumes {
		r.volumes[i].digest.Reset()
	}
}

// takeManifest ends the CG in work: it is sealed if what was received is what was sent.
func (r *Receiver) takeManifest(ctx context.Context, body []byte) error {
	m := &r.manifest
	if err := wire.DecodeInto(m, body); err != nil {
		return err
	}
	if err := r.enter(ctx, m.CG); err != nil {
		return err
	}
	if err := r.compare(m); err != nil {
		// What was received of a CG may be less because it was discarded meanwhile.
		if dropped, derr := r.isDiscarded(ctx, m.CG); derr != nil {
			return errors.Join(err, derr)
		} else if dropped {
			return engine.ErrDropped
		}
		return err
	}
	if err := r.seal(m); err != nil {
		return fromWriter(err)
	}
	r.begin()
	return nil
}

// seal ends the CG for every volume: for those of which the manifest says so, with blocks of the first copy still
// missing.
func (r *Receiver) seal(m *wire.Manifest) error {
	r.partial, r.rest = r.partial[:0], r.rest[:0]
	for i, v := range r.bound {
		if m.Volumes[i].Partial && !plant.On(plant.WholeEarly) {
			r.partial = append(r.partial, v)
		} else {
			r.rest = append(r.rest, v)
		}
	}
	if len(r.partial) > 0 {
		if err := r.w.SealPartial(m.CG, r.partial...); err != nil {
			return err
		}
	}
	return r.w.Seal(m.CG, r.rest...)
}

func (r *Receiver) compare(m *wire.Manifest) error {
	if len(m.Volumes) != len(r.volumes) {
		return refuse(wire.CodeManifest, "manifest of CG %d has %d volumes, %d are attached", m.CG, len(m.Volumes), len(r.volumes))
	}
	for i, want := range m.Volumes {
		v := &r.volumes[i]
		got := v.digest.Manifest(uint32(i))
		got.Partial = want.Partial
		if since := v.Membership().WholeSince; want.Partial && since > 0 {
			// Not a protocol error: CG since may have become final after the primary was told what is here.
			return refuse(wire.CodeManifest, "manifest of CG %d, volume %q (handle %d): it says partial, and the volume is whole since CG %d: "+
				"attach again, and send what changed within one CG", m.CG, v.Name(), i, since)
		}
		if plant.On(plant.ManifestCountOnly) {
			got.Digest = want.Digest
		}
		if got != want {
			return refuse(wire.CodeManifest, "manifest of CG %d, volume %q (handle %d): %d blocks in %d updates with digest %016x were announced for handle %d; received %d blocks in %d updates with digest %016x",
				m.CG, v.Name(), i, want.Blocks, want.Updates, want.Digest, want.Volume, got.Blocks, got.Updates, got.Digest)
		}
	}
	return nil
}
