package target

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// session is what the secondary knows of one stream. Its goroutine owns the writer; the fields without another
// owner are that goroutine's.
type session struct {
	node    *Node
	desk    *desk
	group   *engine.Group
	stream  wire.UUID
	volumes []volume // by handle
	bound   []*engine.Volume
	ctx     context.Context // done when the session has to end
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the volumes are free
	wake    chan struct{} // next was set

	// Guarded by desk.mu.
	next, current *link
	closed        bool // no connection is taken any more

	w        *engine.Writer
	link     *link
	resumed  bool   // a connection has been served before
	applied  uint64 // newest update frame that was placed
	credited uint64 // newest that was acknowledged on this connection
	pending  uint64 // payload bytes placed since
	frame    uint64 // number of the frame in work
	frameCG  uint64
	cg       uint64 // CG in work: some of it was received, its manifest was not; 0 none
	through  uint64 // CGs up to this are known to be discarded
	updates  wire.Updates
	zeroes   wire.ZeroRanges
	manifest wire.Manifest
	credit   wire.Credit

	stats sessionStats
}

// volume is an attached volume with what was received of it in the CG in work.
type volume struct {
	*engine.Volume
	blocks uint64
	digest wire.Digest
}

// sessionStats may be read by anybody.
type sessionStats struct {
	payload, updates, applied, cg, deviceBlocks atomic.Uint64
	full                                        atomic.Bool // waits because the pool is full

	mu    sync.Mutex
	peer  string // "" between connections
	since time.Time
	err   string // why the last connection ended
}

func newSession(n *Node, d *desk, g *engine.Group, a *wire.Attach, vols []*engine.Volume) *session {
	s := &session{node: n, desk: d, group: g, stream: a.Stream, bound: vols, volumes: make([]volume, len(vols)),
		done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for i, v := range vols {
		s.volumes[i] = volume{Volume: v, blocks: v.Size() / engine.BlockSize}
	}
	s.ctx, s.cancel = context.WithCancelCause(n.ctx)
	return s
}

func (s *session) binds(vols []*engine.Volume) bool { return slices.Equal(s.bound, vols) }

func (s *session) holds(vols []*engine.Volume) bool {
	return slices.ContainsFunc(vols, func(v *engine.Volume) bool { return slices.Contains(s.bound, v) })
}

// run is the session's goroutine: one writer, any number of connections one after the other.
func (s *session) run() {
	log := s.node.opts.Logger.With("group", s.group.Name(), "stream", uuidString(s.stream))
	err := s.open()
	var last *link // to be ended when the volumes are free: its primary may attach again at once
	for l := s.await(s.node.opts.ResumeTimeout); l != nil; l = s.await(s.node.opts.ResumeTimeout) {
		unhook := context.AfterFunc(s.ctx, func() { l.stop(context.Cause(s.ctx)) })
		if err == nil {
			s.met(l)
			log.Info("primary attached", "peer", l.name(), "resumed", s.resumed, "applied", s.applied)
			err = l.reason(s.serve(l))
			s.parted(err)
		}
		unhook()
		log.Info("primary left", "peer", l.name(), "applied", s.applied, "error", err)
		if blames(err) {
			last = l
			break
		}
		l.end(err, 0, "", 0)
		err = nil
	}
	s.shut()
	s.free(log)
	if last != nil {
		last.end(err, s.frame, s.group.Name(), s.frameCG)
	}
}

// free lets go of the writer and the volumes.
func (s *session) free(log *slog.Logger) {
	if s.w != nil {
		s.publish()
		if err := s.w.Close(); err != nil {
			log.Error("closing the writer failed; the pool tells more", "error", err)
		}
	}
	s.desk.leave(s)
	s.cancel(nil)
	close(s.done)
	log.Info("stream forgotten", "applied", s.applied)
}

// open gets the writer, for this goroutine, and binds the volumes to it.
func (s *session) open() error {
	w, err := s.node.opts.Pool.NewWriter()
	if err != nil {
		return fromEngine(err)
	}
	s.w = w
	for _, v := range s.bound {
		if err := w.Bind(v); err != nil {
			return fromEngine(err)
		}
	}
	return nil
}

// serve takes frames in until the connection ends; the error says why it did.
func (s *session) serve(l *link) error {
	s.link = l
	st, err := s.group.State(l.ctx)
	if err != nil {
		return fromEngine(err)
	}
	a := &wire.Attached{Applied: s.applied, Resumed: s.resumed, Complete: st.Complete, Window: s.node.opts.Window}
	if err := l.conn.WriteMessage(a); err != nil {
		return err
	}
	s.resumed, s.credited, s.pending, s.frame, s.frameCG = true, s.applied, 0, 0, 0
	l.sock.idle = s.idle
	for {
		h, body, err := l.conn.Next()
		if err != nil {
			return err
		}
		s.frame, s.frameCG = h.Number, 0
		if err := s.take(h, body); err != nil {
			return err
		}
		if s.pending >= s.creditBytes() {
			if err := s.acknowledge(); err != nil {
				return err
			}
		}
	}
}

// creditBytes is how much payload is acknowledged at once while the socket never runs dry.
func (s *session) creditBytes() uint64 { return min(s.node.opts.Window/4, 1<<20) }

// idle is called when nothing more has arrived: what was placed starts on its way to the device and is
// acknowledged. Thus latency is low when little comes, and bursts coalesce.
func (s *session) idle() error {
	if s.link.conn.PayloadLeft() > 0 {
		return nil // the rest of a frame is on its way
	}
	return s.flush()
}

func (s *session) flush() error {
	if err := s.w.Kick(); err != nil {
		return fromEngine(err)
	}
	s.publish()
	if s.applied == s.credited {
		return nil
	}
	return s.acknowledge()
}

func (s *session) acknowledge() error {
	s.credit.Applied = s.applied
	s.credited, s.pending = s.applied, 0
	return s.link.conn.WriteMessage(&s.credit)
}

// publish shows what the writer did.
func (s *session) publish() {
	now := s.w.Stats().DeviceBlocks
	s.node.counters.deviceBlocks.Add(now - s.stats.deviceBlocks.Swap(now))
}

func (s *session) met(l *link) {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.peer, s.stats.since, s.stats.err = l.peer.Node, l.since, ""
}

func (s *session) parted(err error) {
	s.stats.full.Store(false)
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.peer, s.stats.since, s.stats.err = "", time.Now(), err.Error()
}

// room is Writer.Space, but waits while the pool is full: not reading is the back-pressure. It ends with
// engine.ErrDropped if CG cg is discarded meanwhile, or with the reason for which the connection has to end.
func (s *session) room(blocks int, cg uint64) ([]byte, error) {
	mem, err := s.w.Space(blocks)
	if !errors.Is(err, engine.ErrPoolFull) {
		return mem, fromEngine(err)
	}
	s.stats.full.Store(true)
	defer s.stats.full.Store(false)
	s.node.opts.Logger.Warn("pool is full; a session waits", "group", s.group.Name(), "peer", s.link.name(), "cg", cg)
	for {
		// What is placed goes out and is acknowledged. The credit, repeated, also shows whether the peer
		// is still there, for nothing is read.
		if err := errors.Join(s.flush(), s.acknowledge()); err != nil {
			return nil, err
		}
		if dropped, err := s.isDiscarded(cg); err != nil {
			return nil, err
		} else if dropped {
			return nil, engine.ErrDropped
		}
		mem, err := s.w.Space(blocks)
		if !errors.Is(err, engine.ErrPoolFull) {
			return mem, fromEngine(err)
		}
		if err := s.waitSpace(); err != nil {
			return nil, err
		}
	}
}

// waitSpace waits until blocks were released, but not for long: a release just before the call would be missed.
func (s *session) waitSpace() error {
	ctx, cancel := context.WithTimeout(s.link.ctx, s.node.opts.FullRecheck)
	defer cancel()
	err := s.node.opts.Pool.WaitSpace(ctx)
	if why := context.Cause(s.link.ctx); why != nil {
		return why
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return fromEngine(err)
}
