package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/farside-storage/farside/wire"
)

// Candidate is one of several managers of the same groups. While it leads it runs a [Node]; otherwise it only tells
// tools that it stands by, and who leads. Like a start, every term begins a new epoch: it fences the controls, asks
// them what they show, and goes on or reverts.
type Candidate struct {
	opts     Options
	election Election
	log      *slog.Logger
	hello    wire.Hello
	started  time.Time
	listener net.Listener

	mu      sync.Mutex
	node    *Node // nil while another manager leads
	since   time.Time
	took    *float64 // see Leadership.TakeoverMillis
	ended   string
	endedAt time.Time
}

// NewCandidate checks the options, whose Log must be nil, and listens. Run does the work.
func NewCandidate(ctx context.Context, o Options, e Election) (*Candidate, error) {
	if o.Log != nil {
		return nil, errors.New("manager: a candidate has its log from the election")
	}
	complete := o
	complete.Log = struct{ Log }{} // each term brings one
	if err := complete.Validate(); err != nil {
		return nil, err
	}
	c := &Candidate{opts: o, election: e, log: o.Logger, started: time.Now(), hello: wire.Hello{Role: wire.RoleManager, Node: o.Name}}
	if c.log == nil {
		c.log = slog.Default()
	}
	if _, err := rand.Read(c.hello.Instance[:]); err != nil {
		return nil, fmt.Errorf("manager: instance number: %w", err)
	}
	if o.Listen == "" {
		return c, nil
	}
	var err error
	c.listener, err = wire.Listen(ctx, o.Listen)
	return c, err
}

// Addr is where the candidate listens for tools; nil if it does not.
func (c *Candidate) Addr() net.Addr {
	if c.listener == nil {
		return nil
	}
	return c.listener.Addr()
}

// Run stands for election, leads, and stands again, until ctx ends (nil) or going on is of no use. It may be called
// once.
func (c *Candidate) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var tools sync.WaitGroup
	if c.listener != nil {
		d := desk{c.listener, c.opts.Wire, c.hello, c.log, c.answerTool}
		tools.Go(func() { d.serve(ctx) })
	}
	defer tools.Wait()
	defer cancel()
	for {
		term, err := c.election.Campaign(ctx)
		if err == nil {
			err = c.lead(ctx, term)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, ErrNotLeader):
			return err
		}
	}
}

// lead is one term.
func (c *Candidate) lead(ctx context.Context, term Term) error {
	defer func() {
		if err := term.Close(); err != nil {
			c.log.Warn("giving up the leadership failed; it runs out by itself", "error", err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(term.Context(), cancel)
	defer stop()
	o := c.opts
	o.Log, o.Listen, o.standing = term, "", c.Standing
	n, err := NewNode(ctx, o)
	if err != nil {
		return err
	}
	c.log.Info("this manager leads")
	began := c.setNode(n, nil)
	n.recovered = sync.OnceFunc(func() { c.tookOver(began) })
	err = n.Run(ctx)
	why := context.Cause(term.Context())
	c.setNode(nil, why)
	if why == nil {
		return err // the candidate was stopped
	}
	c.log.Warn("this manager does not lead any more", "error", why)
	for _, g := range n.groups { // its loop has ended
		entry := Entry{Time: time.Now(), Group: g.name, Epoch: g.core.epoch, CG: g.core.round, Kind: EntryStandby, Said: why.Error(),
			Did: "manager " + o.Name + " stopped in state " + g.core.st.String()}
		if err := n.audit(entry); err != nil {
			c.log.Error("audit entry not written", "group", g.name, "error", err)
		}
	}
	return err
}

// setNode begins or ends a term, now.
func (c *Candidate) setNode(n *Node, why error) (now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = time.Now()
	c.node, c.since, c.took = n, now, nil
	if why != nil {
		c.ended, c.endedAt = why.Error(), now
	}
	return now
}

// tookOver notes how long the start of a term took.
func (c *Candidate) tookOver(began time.Time) {
	took := time.Since(began)
	c.log.Info("every group is taken over", "took", took)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node != nil && c.since.Equal(began) {
		c.took = millis(took)
	}
}

func (c *Candidate) leading() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node
}

// Standing says whether this manager leads, and who does.
func (c *Candidate) Standing(ctx context.Context) Leadership {
	l := c.election.Standing(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.Leads = c.node != nil; l.Leads {
		since := c.since
		l.Since, l.TakeoverMillis = &since, c.took
	}
	if c.ended != "" {
		at := c.endedAt
		l.Ended, l.EndedAt = c.ended, &at
	}
	return l
}

// Status returns the status of every group while this manager leads, and who leads otherwise.
func (c *Candidate) Status(ctx context.Context) (NodeStatus, error) {
	if n := c.leading(); n != nil {
		s, err := n.Status(ctx)
		if !errors.Is(err, errEnded) {
			l := c.Standing(ctx)
			s.Leadership = &l
			return s, err
		}
	}
	l := c.Standing(ctx)
	return NodeStatus{
		Node: c.opts.Name, Role: wire.RoleManager.String(), Instance: fmt.Sprintf("%x", c.hello.Instance), Started: c.started,
		Leadership: &l, Groups: []Status{}, Audit: c.opts.Audit.Tail(statusAudit),
	}, nil
}

// answerTool leaves changes to the node of this term. A manager that stands by says whom to ask.
func (c *Candidate) answerTool(ctx context.Context, conn *wire.Conn, h wire.Header, m wire.Message) error {
	if m, ok := m.(*wire.GroupChange); ok {
		if n := c.leading(); n != nil {
			return n.answerTool(ctx, conn, h, m)
		}
		return refuseTool(conn, wire.Refusal(c.elsewhere(ctx), h.Number, m.Group, 0))
	}
	s, err := c.Status(ctx)
	if err != nil {
		return answerStatus(conn, h, nil, err)
	}
	b, err := s.encode()
	return answerStatus(conn, h, b, err)
}

// elsewhere is the refusal of a manager that stands by.
func (c *Candidate) elsewhere(ctx context.Context) error {
	l := c.Standing(ctx)
	switch {
	case l.Leader != nil:
		return fmt.Errorf("manager: %s stands by: ask manager %s at %s, which leads: %w", c.opts.Name, *l.Leader, l.LeaderListen, wire.ErrState)
	case l.Error != "":
		return fmt.Errorf("manager: %s stands by, and who leads is not known (%s): try again when the decision log can be reached: %w", c.opts.Name, l.Error, wire.ErrState)
	}
	return fmt.Errorf("manager: %s stands by and nobody leads yet: try again: %w", c.opts.Name, wire.ErrState)
}
