package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrServerClosed is what Serve returns when the server was closed before.
var ErrServerClosed = errors.New("nbd: server is closed")

// Options configure a Server. Only Exports must be given.
type Options struct {
	Exports Exports
	// TLS, when given, is offered to clients (NBD_OPT_STARTTLS).
	TLS *tls.Config
	// TLSRequired refuses clients that do not start TLS.
	TLSRequired bool
	// Logger gets connections' beginnings and ends; nil discards. Nothing is logged per request.
	Logger *slog.Logger

	// MaxConnections bounds clients at a time. Default 256.
	MaxConnections int
	// MaxRequests bounds requests in flight per connection. Default 256.
	MaxRequests int
	// MaxInFlight bounds bytes of payload in flight per connection; a client is never offered a
	// larger MaxPayload. Default 64 MiB.
	MaxInFlight int64
	// NegotiationTimeout bounds the time from connecting to the transmission phase. Default 15 s.
	NegotiationTimeout time.Duration
	// CloseTimeout bounds how long answers are still sent to a client that is disconnecting
	// or, by Close, being disconnected. Default 10 s.
	CloseTimeout time.Duration
}

// Validate reports what is wrong with the options.
func (o *Options) Validate() error {
	switch {
	case o.Exports == nil:
		return errors.New("nbd: Options.Exports is missing")
	case o.TLSRequired && o.TLS == nil:
		return errors.New("nbd: Options.TLSRequired without Options.TLS")
	case o.MaxConnections < 0 || o.MaxRequests < 0 || o.MaxInFlight < 0:
		return errors.New("nbd: limits in Options must not be negative")
	case o.MaxInFlight > 0 && o.MaxInFlight < minInFlight:
		return fmt.Errorf("nbd: Options.MaxInFlight %d is below %d", o.MaxInFlight, int64(minInFlight))
	case o.NegotiationTimeout < 0 || o.CloseTimeout < 0:
		return errors.New("nbd: timeouts in Options must not be negative")
	}
	return nil
}

// minInFlight lets a connection hold one block status answer, or one largest minimum block.
const minInFlight = 64 << 10

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxConnections, 256)
	setDefault(&o.MaxRequests, 256)
	setDefault(&o.MaxInFlight, 64<<20)
	setDefault(&o.NegotiationTimeout, 15*time.Second)
	setDefault(&o.CloseTimeout, 10*time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Server serves exports to any number of clients on any number of listeners.
type Server struct {
	opts     Options
	counters counters

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	running   sync.WaitGroup // Serve calls and connections
}

// NewServer checks the options and makes a server. Nothing runs before Serve.
func NewServer(o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	return &Server{opts: o, listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{}}, nil
}

// Serve accepts clients from l until ctx is done or Close is called, then closes l, lets the
// clients of l finish what is in flight, disconnects them and returns nil. It returns an error if accepting
// fails for another reason. It may be called several times, with different listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		return errors.Join(ErrServerClosed, l.Close())
	}
	defer s.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept's error tells the same
	err := s.accept(ctx, l)
	stopped := ctx.Err() != nil || s.removeListener(l)
	stop()
	closeErr := l.Close()
	if errors.Is(closeErr, net.ErrClosed) {
		closeErr = nil
	}
	s.stopConns(l)
	cancel()
	if stopped {
		err = nil
	}
	return errors.Join(err, closeErr)
}

// Close stops accepting, lets requests in flight finish and be answered, disconnects all
// clients and waits for everything the server started. A device that never finishes a request makes it
// wait for ever: the request's memory is the device's until then.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	for l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close listener %s: %w", l.Addr(), err))
		}
	}
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(errs...)
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	s.running.Add(1)
	return true
}

// removeListener forgets l and says whether the server was closed.
func (s *Server) removeListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	return s.closed
}

// accept takes clients until the listener is closed. Running out of descriptors or memory
// is waited out: it passes, and the clients that are connected must not suffer.
func (s *Server) accept(ctx context.Context, l net.Listener) error {
	const maxPause = time.Second
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.startConn(ctx, l, nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) || !acceptAgain(err) {
			return fmt.Errorf("nbd: accept on %s: %w", l.Addr(), err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), maxPause)
		s.opts.Logger.Warn("nbd: accept failed, trying again", "listener", l.Addr().String(), "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// acceptAgain tells shortages, and clients that left before they were accepted, from
// errors that stay.
func acceptAgain(err error) bool {
	for _, passing := range []unix.Errno{
		unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED, unix.EINTR, unix.EAGAIN,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// startConn runs a client's connection, or refuses it when there are too many.
func (s *Server) startConn(ctx context.Context, l net.Listener, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	c := newConn(s, l, nc, cancel)
	s.mu.Lock()
	full := len(s.conns) >= s.opts.MaxConnections
	if !full && !s.closed {
		s.conns[c] = struct{}{}
		s.running.Add(1)
		s.mu.Unlock()
		s.counters.connections.Add(1)
		go func() {
			defer s.running.Done()
			c.serve(ctx)
			cancel()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			close(c.ended)
		}()
		return
	}
	s.mu.Unlock()
	cancel()
	if full {
		s.counters.refused.Add(1)
		s.opts.Logger.Warn("nbd: client refused, too many connections", "client", c.peer(), "limit", s.opts.MaxConnections)
	}
	_ = nc.Close() // nothing was sent to the client
}

// stopConns ends the connections that came in through l and waits for them.
func (s *Server) stopConns(l net.Listener) {
	var mine []*conn
	s.mu.Lock()
	for c := range s.conns {
		if c.listener == l {
			mine = append(mine, c)
		}
	}
	s.mu.Unlock()
	for _, c := range mine {
		c.stop()
	}
	for _, c := range mine {
		<-c.ended
	}
}
