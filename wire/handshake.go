package wire

import (
	"errors"
	"fmt"
)

// Handshake opens the connection on the dialing side: sends own and awaits the listener's Hello.
// own.Version 0 means Version. On error the connection is closed, after the peer was told
// if it was the one in the wrong.
func (c *Conn) Handshake(own Hello) (peer Hello, err error) {
	own = c.introduce(own)
	if err := c.w.WriteMessage(&own); err != nil {
		return Hello{}, errors.Join(err, c.Close())
	}
	peer, err = c.awaitHello()
	if err != nil {
		return Hello{}, c.abandon(err)
	}
	if !mayDial(own.Role, peer.Role) {
		return Hello{}, c.abandon(fmt.Errorf("wire: %w: a %v has nothing to say to a %v; dialed the wrong address?", ErrRefused, own.Role, peer.Role))
	}
	if own.Role == RolePrimary {
		c.patience = c.options.StallTimeout
	} else { // a secondary may push back: see Conn
		if err := boundUnacknowledged(c.nc, c.options.unacknowledged()); err != nil {
			return Hello{}, c.abandon(err)
		}
	}
	c.open(peer)
	return peer, nil
}

// Answer opens the connection on the listening side: awaits the dialer's Hello, asks admit (may
// be nil) whether the peer is welcome, and sends own. An error of admit is told to the peer; let it
// wrap a sentinel such as ErrRefused.
func (c *Conn) Answer(own Hello, admit func(peer Hello) error) (peer Hello, err error) {
	own = c.introduce(own)
	peer, err = c.awaitHello()
	if err == nil && !mayDial(peer.Role, own.Role) {
		err = fmt.Errorf("wire: %w: a %v has nothing to say to a %v; dialed the wrong address?", ErrRefused, peer.Role, own.Role)
	}
	if err == nil && admit != nil {
		err = admit(peer)
	}
	if err != nil {
		return Hello{}, c.abandon(err)
	}
	if err := errors.Join(boundUnacknowledged(c.nc, c.options.unacknowledged()), c.w.WriteMessage(&own)); err != nil {
		return Hello{}, errors.Join(err, c.Close())
	}
	c.open(peer)
	return peer, nil
}

func (c *Conn) introduce(own Hello) Hello {
	if own.Version == 0 {
		own.Version = Version
	}
	c.own = own
	return own
}

// awaitHello reads the first frame and checks version and features.
func (c *Conn) awaitHello() (Hello, error) {
	h, body, err := c.r.Next()
	if err != nil {
		return Hello{}, fmt.Errorf("wire: awaiting Hello from %s: %w", c.nc.RemoteAddr(), err)
	}
	if h.Type == TypeError {
		return Hello{}, c.refused(body)
	}
	if h.Type != TypeHello {
		return Hello{}, h.wrong("type", offType, "the first frame must be Hello")
	}
	var peer Hello
	if err := DecodeInto(&peer, body); err != nil {
		return Hello{}, err
	}
	return peer, c.compatible(peer)
}

func (c *Conn) compatible(peer Hello) error {
	if peer.Version != Version {
		return fmt.Errorf("wire: %w: peer speaks protocol version %d, this side version %d only; upgrade the older one", ErrVersion, peer.Version, Version)
	}
	if odd := peer.Required &^ c.own.Features; odd != 0 {
		return fmt.Errorf("wire: %w: %v %q requires features %#x, which this side lacks", ErrVersion, peer.Role, peer.Node, odd)
	}
	if odd := c.own.Required &^ peer.Features; odd != 0 {
		return fmt.Errorf("wire: %w: this side requires features %#x, which %v %q lacks", ErrVersion, odd, peer.Role, peer.Node)
	}
	return nil
}

func (c *Conn) open(peer Hello) {
	c.peer = peer
	c.features = c.own.Features & peer.Features
	c.life.Lock()
	defer c.life.Unlock()
	if !c.closed {
		c.alive.Go(c.keepalive)
	}
}

// abandon ends a handshake that failed. The peer is told what it did wrong, but not what it said
// itself or what the connection did.
func (c *Conn) abandon(err error) error {
	_, told := errors.AsType[*RemoteError](err)
	if told || CodeOf(err, 0) == 0 {
		c.Close() // err says more than a failed close
		return err
	}
	_ = c.Abort(Refusal(err, 0, "", 0)) // an attempt; err is what the caller needs
	return err
}
