package target

import "github.com/farside-storage/farside/wire"

// take takes one frame of the stream in.
func (s *session) take(h wire.Header, body []byte) error {
	err := s.rx.Take(s.link.ctx, h, body, s.link.conn, s.full)
	s.stats.full.Store(false)
	if err != nil {
		return err
	}
	s.pending += uint64(h.Payload)
	s.stats.applied.Store(h.Sequence)
	s.stats.cg.Store(s.rx.cg)
	s.count(s.rx.taken())
	return nil
}

func (s *session) count(updates, payload uint64) {
	s.stats.updates.Add(updates)
	s.stats.payload.Add(payload)
	s.node.counters.updates.Add(updates)
	s.node.counters.payload.Add(payload)
}
