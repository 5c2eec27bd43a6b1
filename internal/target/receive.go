package target

import (
	"errors"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// take takes one frame of the stream in.
func (s *session) take(h wire.Header, body []byte) error {
	err := s.node.opts.Pool.Failure() // what is received then can never become complete
	switch {
	case err != nil:
		return fromEngine(err)
	case !h.Type.InStream():
		return unexpected(h)
	case h.Sequence != s.applied+1:
		return refuse(wire.CodeProtocol, "%v frame %d: stream sequence is %d, expected %d", h.Type, h.Number, h.Sequence, s.applied+1)
	case h.Type == wire.TypeUpdates:
		err = s.takeUpdates(h, body)
	case h.Type == wire.TypeZeroes:
		err = s.takeZeroes(body)
	default:
		err = s.takeManifest(body)
	}
	if errors.Is(err, engine.ErrDropped) {
		// The CG was discarded, perhaps in the middle of the frame: the rest of it is nobody's.
		s.dropped(s.frameCG)
		err = s.link.conn.SkipPayload()
	}
	if err != nil {
		return err
	}
	s.applied = h.Sequence
	s.pending += uint64(h.Payload)
	s.stats.applied.Store(s.applied)
	s.stats.cg.Store(s.cg)
	return nil
}

func (s *session) takeUpdates(h wire.Header, body []byte) error {
	u := &s.updates
	if err := u.Decode(h, body); err != nil {
		return err
	}
	if err := s.enter(u.CG()); err != nil {
		return err
	}
	for i := range u.Len() {
		d := u.At(i)
		if err := s.check(d.Volume, d.Block, uint64(d.Count)); err != nil {
			return err
		}
	}
	if err := s.place(u); err != nil {
		return err
	}
	for d, sums := range u.All() {
		s.volumes[d.Volume].digest.AddUpdate(d, sums)
	}
	s.count(uint64(u.Len()), uint64(h.Payload))
	return nil
}

// place receives the payload into the writer's memory, as much at once as that gives, and puts each update.
// The writer's memory runs on behind what was put: one read from the socket serves many updates.
func (s *session) place(u *wire.Updates) error {
	sums, left := u.Sums(), u.Blocks()
	at, done := 0, 0 // descriptor in work, blocks of it that are placed
	for left > 0 {
		mem, err := s.room(left, u.CG())
		if err != nil {
			return err
		}
		if err := s.link.conn.Payload(mem); err != nil {
			return err
		}
		n := len(mem) / engine.BlockSize
		left -= n
		for n > 0 {
			d := u.At(at)
			k := min(n, int(d.Count)-done)
			err := s.w.Put(s.volumes[d.Volume].Volume, u.CG(), engine.VBlock(d.Block)+engine.VBlock(done), sums[:k])
			if err != nil {
				return fromWriter(err)
			}
			sums, n, done = sums[k:], n-k, done+k
			if done == int(d.Count) {
				at, done = at+1, 0
			}
		}
	}
	return nil
}

func (s *session) takeZeroes(body []byte) error {
	z := &s.zeroes
	if err := wire.DecodeInto(z, body); err != nil {
		return err
	}
	if err := s.enter(z.CG); err != nil {
		return err
	}
	for _, r := range z.Ranges {
		if err := s.check(r.Volume, r.Block, r.Count); err != nil {
			return err
		}
	}
	for _, r := range z.Ranges {
		if err := s.w.Zero(s.volumes[r.Volume].Volume, z.CG, engine.VBlock(r.Block), r.Count); err != nil {
			return fromWriter(err)
		}
	}
	for _, r := range z.Ranges {
		s.volumes[r.Volume].digest.AddZeroes(r)
	}
	s.count(uint64(len(z.Ranges)), 0)
	return nil
}

func (s *session) count(updates, payload uint64) {
	s.stats.updates.Add(updates)
	s.stats.payload.Add(payload)
	s.node.counters.updates.Add(updates)
	s.node.counters.payload.Add(payload)
}

// check looks at one descriptor.
func (s *session) check(handle uint32, block, count uint64) error {
	if uint64(handle) >= uint64(len(s.volumes)) {
		return refuse(wire.CodeUnknown, "volume handle %d: %d volumes are attached", handle, len(s.volumes))
	}
	v := &s.volumes[handle]
	if block > v.blocks || count > v.blocks-block {
		return refuse(wire.CodeSize, "volume %q: %d blocks from block %d end past the end, which is block %d", v.Name(), count, block, v.blocks)
	}
	return nil
}

// enter checks that CG cg may be received now. engine.ErrDropped: it was discarded. That cg was not
// ended before is for the writer to check: it knows what is sealed and complete.
func (s *session) enter(cg uint64) error {
	s.frameCG = cg
	if cg == s.cg {
		return nil
	}
	if s.cg != 0 || cg <= s.through {
		// Out of order, unless a discard that this goroutine has not heard of explains it.
		if dropped, err := s.isDiscarded(cg); err != nil {
			return err
		} else if dropped {
			return engine.ErrDropped
		}
	}
	if s.cg != 0 {
		return refuse(wire.CodeProtocol, "group %q: update of CG %d before the manifest of CG %d", s.group.Name(), cg, s.cg)
	}
	s.cg = cg
	return nil
}

// isDiscarded asks which CGs were discarded, lets go of what was received of them, and says whether cg is one.
func (s *session) isDiscarded(cg uint64) (bool, error) {
	if cg <= s.through {
		return true, nil
	}
	st, err := s.group.State(s.link.ctx)
	if err != nil {
		return false, fromEngine(err)
	}
	if st.Discarded > s.through {
		s.dropped(st.Discarded)
		for _, v := range s.bound {
			// Nothing is zeroed: the writer learns that the CG is gone and gives its blocks back.
			if err := s.w.Zero(v, st.Discarded, 0, 0); err != nil && !errors.Is(err, engine.ErrDropped) {
				return false, fromEngine(err)
			}
		}
	}
	return cg <= s.through, nil
}

// dropped notes that CGs up to through were discarded.
func (s *session) dropped(through uint64) {
	s.through = max(s.through, through)
	if s.cg != 0 && s.cg <= s.through {
		s.begin()
	}
}

// begin makes ready for the next CG.
func (s *session) begin() {
	s.cg = 0
	for i := range s.volumes {
		s.volumes[i].digest.Reset()
	}
}

// takeManifest ends the CG in work: it is sealed if what was received is what was sent.
func (s *session) takeManifest(body []byte) error {
	m := &s.manifest
	if err := wire.DecodeInto(m, body); err != nil {
		return err
	}
	if err := s.enter(m.CG); err != nil {
		return err
	}
	if err := s.compare(m); err != nil {
		// What was received of a CG may be less because it was discarded meanwhile.
		if dropped, derr := s.isDiscarded(m.CG); derr != nil {
			return errors.Join(err, derr)
		} else if dropped {
			return engine.ErrDropped
		}
		return err
	}
	if err := s.w.Seal(m.CG, s.bound...); err != nil {
		return fromWriter(err)
	}
	s.begin()
	return nil
}

func (s *session) compare(m *wire.Manifest) error {
	if len(m.Volumes) != len(s.volumes) {
		return refuse(wire.CodeManifest, "manifest of CG %d has %d volumes, %d are attached", m.CG, len(m.Volumes), len(s.volumes))
	}
	for i, want := range m.Volumes {
		v := &s.volumes[i]
		if got := v.digest.Manifest(uint32(i)); got != want {
			return refuse(wire.CodeManifest, "manifest of CG %d, volume %q (handle %d): %d blocks in %d updates with digest %016x were announced for handle %d; received %d blocks in %d updates with digest %016x",
				m.CG, v.Name(), i, want.Blocks, want.Updates, want.Digest, want.Volume, got.Blocks, got.Updates, got.Digest)
		}
	}
	return nil
}
