package target

import (
	"context"
	"errors"
	"fmt"
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
	node   *Node
	desk   *desk
	group  *engine.Group
	stream wire.UUID
	bound  []*engine.Volume
	ctx    context.Context // done when the session has to end
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the volumes are free
	wake   chan struct{} // next was set

	// Guarded by desk.mu.
	next, current *link
	closed        bool // no connection is taken any more

	rx       *Receiver
	link     *link
	resumed  bool   // a connection has been served before
	credited uint64 // newest update frame that was acknowledged on this connection
	pending  uint64 // payload bytes placed since
	frame    uint64 // number of the frame in work
	credit   wire.Credit

	stats sessionStats
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
	s := &session{node: n, desk: d, group: g, stream: a.Stream, bound: vols,
		done: make(chan struct{}), wake: make(chan struct{}, 1)}
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
	err := s.join()
	if err == nil {
		s.rx, err = NewReceiver(s.node.opts.Pool, s.group, s.bound) // its writer is this goroutine's
	} else {
		s.rx = idleReceiver(s.node.opts.Pool, s.group, s.bound)
	}
	var last *link // to be ended when the volumes are free: its primary may attach again at once
	for l := s.await(s.node.opts.ResumeTimeout); l != nil; l = s.await(s.node.opts.ResumeTimeout) {
		unhook := context.AfterFunc(s.ctx, func() { l.stop(context.Cause(s.ctx)) })
		if err == nil {
			s.met(l)
			log.Info("primary attached", "peer", l.name(), "resumed", s.resumed, "applied", s.rx.Applied())
			err = l.reason(s.serve(l))
			s.parted(err)
		}
		unhook()
		log.Info("primary left", "peer", l.name(), "applied", s.rx.Applied(), "error", err)
		if blames(err) {
			last = l
			break
		}
		l.end(err, 0, "", 0)
		if told, ok := errors.AsType[*wire.RemoteError](err); ok && told.Message.Code == wire.CodeShuttingDown {
			break // its primary has ended, and with it the stream: nobody comes back to it
		}
		err = nil
	}
	s.shut()
	s.free(log)
	if last != nil {
		last.end(err, s.frame, s.group.Name(), s.rx.frameCG)
	}
}

// join has the group wait for the volumes. Where a CG is complete without one of them, it waits until that is final,
// or was discarded. It may be the primary that is waited for: it cannot say that its part of the CG is sent. So after
// a while the manager is told to give it up.
func (s *session) join() error {
	opts := &s.node.opts
	ctx, cancel := context.WithTimeout(s.ctx, opts.JoinPatience)
	err := s.group.Join(ctx, s.bound...)
	cancel()
	if errors.Is(err, context.DeadlineExceeded) && s.ctx.Err() == nil {
		if st, err := s.group.State(s.ctx); err == nil && st.Complete > st.Linked {
			opts.Events.Refused(s.group.Name(), st.Complete, fmt.Errorf("group %q: CG %d became complete without volumes to which a primary attaches now", s.group.Name(), st.Complete))
		}
		err = s.group.Join(s.ctx, s.bound...)
	}
	if why := context.Cause(s.ctx); err != nil && why != nil {
		return why
	}
	return fromEngine(err)
}

// free lets go of the writer and the volumes.
func (s *session) free(log *slog.Logger) {
	s.publish()
	if err := s.rx.Close(); err != nil {
		log.Error("closing the writer failed; the pool tells more", "error", err)
	}
	s.desk.leave(s)
	s.cancel(nil)
	close(s.done)
	log.Info("stream forgotten", "applied", s.rx.Applied())
}

// serve takes frames in until the connection ends; the error says why it did.
func (s *session) serve(l *link) error {
	s.link = l
	st, err := s.group.State(l.ctx)
	if err != nil {
		return fromEngine(err)
	}
	a := &wire.Attached{Applied: s.rx.Applied(), Resumed: s.resumed, Complete: st.Complete, Window: s.node.opts.Window}
	if a.Volumes, err = Identify(l.ctx, s.node.opts.Pool, s.bound); err != nil {
		return err
	}
	if err := l.conn.WriteMessage(a); err != nil {
		return err
	}
	s.resumed, s.credited, s.pending, s.frame, s.rx.frameCG = true, s.rx.Applied(), 0, 0, 0
	if err := l.sock.begin(s.idle); err != nil {
		return err
	}
	for {
		h, body, err := l.conn.Next()
		if err != nil {
			return err
		}
		s.frame, s.rx.frameCG = h.Number, 0
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

// creditBytes is how much payload is acknowledged at once while the socket never runs dry. Each credit wakes the
// primary.
func (s *session) creditBytes() uint64 { return min(s.node.opts.Window/4, 4<<20) }

// idle is called when nothing more has arrived: what was placed starts on its way to the device and is acknowledged.
// Thus latency is low when little comes, and bursts coalesce. It returns how many bytes are certain to come.
func (s *session) idle() (int, error) {
	if left := s.link.conn.PayloadLeft(); left > 0 {
		return left, nil // the rest of a frame is on its way
	}
	return 1, s.flush()
}

func (s *session) flush() error {
	if err := s.rx.w.Kick(); err != nil {
		return fromEngine(err)
	}
	s.publish()
	if s.rx.Applied() == s.credited {
		return nil
	}
	return s.acknowledge()
}

func (s *session) acknowledge() error {
	s.credit.Applied = s.rx.Applied()
	s.credited, s.pending = s.credit.Applied, 0
	return s.link.conn.WriteMessage(&s.credit)
}

// publish shows what the writer did.
func (s *session) publish() {
	if s.rx.w == nil {
		return
	}
	now := s.rx.w.Stats().DeviceBlocks
	s.node.counters.deviceBlocks.Add(now - s.stats.deviceBlocks.Swap(now))
}

func (s *session) met(l *link) {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.peer, s.stats.since, s.stats.err = l.peer.Node, l.since, ""
}

// connected gives the node of the primary that is connected, or about to be; "" if none is.
func (s *session) connected() string {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	for _, l := range []*link{s.next, s.current} {
		if l != nil {
			return l.peer.Node
		}
	}
	return ""
}

func (s *session) parted(err error) {
	s.desk.mu.Lock()
	s.current = nil // nobody is connected
	s.desk.mu.Unlock()
	s.stats.full.Store(false)
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.peer, s.stats.since, s.stats.err = "", time.Now(), err.Error()
}

// full is called while there is no room: not reading is the back-pressure. It returns when there may be room
// again, or with the reason for which the connection has to end.
func (s *session) full(cg uint64) error {
	if !s.stats.full.Swap(true) {
		s.node.opts.Logger.Warn("pool is full; a session waits", "group", s.group.Name(), "peer", s.link.name(), "cg", cg)
	}
	// What is placed goes out and is acknowledged. The credit, repeated, also shows whether the peer
	// is still there, for nothing is read.
	if err := errors.Join(s.flush(), s.acknowledge()); err != nil {
		return err
	}
	if s.rx.hasRoom() {
		return nil
	}
	return s.waitSpace()
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
