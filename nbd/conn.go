package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// conn is one client, from being accepted to being closed.
type conn struct {
	srv      *Server
	listener net.Listener
	raw      net.Conn      // as accepted; TLS lies above it
	ended    chan struct{} // closed when nothing of the connection is left
	cancel   context.CancelFunc

	mu           sync.Mutex
	stopping     bool
	transmitting bool
}

func newConn(s *Server, l net.Listener, nc net.Conn, cancel context.CancelFunc) *conn {
	return &conn{srv: s, listener: l, raw: nc, ended: make(chan struct{}), cancel: cancel}
}

// peer is the client's address, for logs.
func (c *conn) peer() string {
	if _, unix := c.raw.(*net.UnixConn); unix {
		return "unix:" + c.raw.LocalAddr().String()
	}
	return c.raw.RemoteAddr().String()
}

// stop makes the connection read nothing more. What was received is still finished and
// answered; a negotiation is cut off.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if !c.transmitting {
		c.cancel()
		_ = c.raw.Close() // the negotiation reports its own error
		return
	}
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // fails only if it is closed already
}

// enter begins the transmission phase, unless the connection was stopped before.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping || c.raw.SetDeadline(time.Time{}) != nil {
		return false
	}
	c.transmitting = true
	return true
}

// serve runs the connection until nothing of it is left.
func (c *conn) serve(ctx context.Context) {
	log := c.srv.opts.Logger.With("client", c.peer())
	nc, exp, err := c.negotiate(ctx)
	if err != nil {
		if !errors.Is(err, errAborted) {
			c.srv.counters.negotiationsFailed.Add(1)
			log.Info("nbd: negotiation ended", "error", err)
		}
		_ = nc.Close() // the negotiation's error is the one that says something
		return
	}
	defer exp.release()
	log.Info("nbd: client connected", "bytes", exp.info.Size, "read_only", exp.info.ReadOnly, "structured_replies", exp.structured)
	err = c.transmit(nc, exp)
	if closeErr := nc.Close(); err == nil && !errors.Is(closeErr, net.ErrClosed) {
		err = closeErr
	}
	if err != nil {
		log.Warn("nbd: connection ended", "error", err)
		return
	}
	log.Info("nbd: client disconnected")
}

// negotiate returns the connection to go on with, also when it fails.
func (c *conn) negotiate(ctx context.Context) (net.Conn, *export, error) {
	opts := &c.srv.opts
	ctx, cancel := context.WithTimeout(ctx, opts.NegotiationTimeout)
	defer cancel()
	if err := c.raw.SetDeadline(time.Now().Add(opts.NegotiationTimeout)); err != nil {
		return c.raw, nil, err
	}
	n := negotiator{opts: opts, nc: c.raw}
	exp, err := n.negotiate(ctx)
	if err == nil && !c.enter() {
		exp.release()
		err = ErrServerClosed
	}
	return n.nc, exp, err
}

// transmit serves the export until the client leaves or the connection breaks, and
// returns what broke it.
func (c *conn) transmit(nc net.Conn, exp *export) error {
	opts := &c.srv.opts
	f := newFlight(opts.MaxRequests, opts.MaxInFlight)
	var sendErr error
	s := &sender{exp: exp, flight: f, counters: &c.srv.counters, out: newGatherer(nc)}
	s.fail = func(err error) {
		sendErr = err
		_ = c.raw.Close() // wakes the receiver; the reason is in sendErr
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.run()
	}()
	r := &receiver{nc: nc, exp: exp, flight: f, counters: &c.srv.counters}
	err := r.run()
	// Whatever is still to be sent must not hang on a client that does not read.
	_ = c.raw.SetWriteDeadline(time.Now().Add(opts.CloseTimeout)) // fails only if it is closed already
	f.end()
	<-sent
	if sendErr != nil {
		return sendErr
	}
	return c.ordinaryEnd(err)
}

// ordinaryEnd turns the ways in which connections normally end into nil.
func (c *conn) ordinaryEnd(err error) error {
	if errors.Is(err, errDisconnect) || (errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
