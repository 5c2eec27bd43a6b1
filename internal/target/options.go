package target

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// Options of a Node. Pool and Name must be given.
type Options struct {
	Pool *engine.Pool
	Name string // of the node, as peers are told
	// Events must be the one whose methods were given to engine.Open as OnComplete and OnFailure. Without
	// it managers learn of a complete CG only when they ask.
	Events *Events
	// Instance identifies this run of the process; zero: a random one.
	Instance wire.UUID
	// Logger gets beginnings and ends of sessions and commands refused; nil: none.
	Logger *slog.Logger

	// Window is how many payload bytes a primary may have unacknowledged on one connection. Default 16 MiB.
	Window uint64
	// ResumeTimeout is how long a session whose connection broke waits for the primary to
	// come back, holding what it received. Default 30 s.
	ResumeTimeout time.Duration
	// TakeoverTimeout bounds how long a new stream waits for the older one to let go of its volumes, which
	// takes as long as writes in progress. Default 10 s.
	TakeoverTimeout time.Duration
	// JoinPatience is how long a primary that attaches to a new volume waits for a CG that is complete without it
	// before the manager is told to give that CG up. Default 1 s.
	JoinPatience time.Duration
	// FullRecheck is how often a session looks again while the pool is full, beyond being told. Default
	// 250 ms.
	FullRecheck time.Duration
	// MaxConnections bounds peers at a time. Default 1024.
	MaxConnections int
	// Wire are the timeouts of connections.
	Wire wire.Options
}

const minWindow = 2 * wire.MaxPayload // so that one frame can be sent while one is acknowledged

func (o *Options) fill() error {
	if o.Pool == nil {
		return errors.New("target: Options.Pool is missing")
	}
	if o.Name == "" || len(o.Name) > wire.MaxName {
		return fmt.Errorf("target: Options.Name has %d bytes: want 1 to %d", len(o.Name), wire.MaxName)
	}
	if o.ResumeTimeout < 0 || o.TakeoverTimeout < 0 || o.FullRecheck < 0 || o.JoinPatience < 0 || o.MaxConnections < 0 {
		return errors.New("target: Options: timeouts and limits must not be negative")
	}
	def(&o.Window, 16<<20)
	if o.Window < minWindow {
		return fmt.Errorf("target: Options.Window is %d bytes: want at least %d", o.Window, minWindow)
	}
	def(&o.ResumeTimeout, 30*time.Second)
	def(&o.TakeoverTimeout, 10*time.Second)
	def(&o.JoinPatience, time.Second)
	def(&o.FullRecheck, 250*time.Millisecond)
	def(&o.MaxConnections, 1024)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Events == nil {
		o.Events = &Events{}
	}
	if o.Instance == (wire.UUID{}) {
		rand.Read(o.Instance[:]) // never fails: crypto/rand ends the program instead
	}
	return nil
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
