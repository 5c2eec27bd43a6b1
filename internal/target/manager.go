package target

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/wire"
)

// obedience serves one manager's connection. Commands of one group run in their order on a goroutine of their own, so
// that a slow device holds up neither pings nor other groups.
type obedience struct {
	node   *Node
	link   *link
	number uint64 // of the connection: see Chain
	work   sync.WaitGroup

	lanes map[string]chan order // the reader's

	mu     sync.Mutex
	groups map[string]*charge // those that the manager has spoken of
}

// order is a command on its way.
type order struct {
	command wire.Commanded
	frame   uint64
}

// charge is what the manager was told of a group without asking.
type charge struct {
	epoch    uint64 // of its newest command that was obeyed
	complete uint64 // newest CG told of
	refused  uint64 // newest CG told of that was refused
	lost     bool
}

// laneDepth is how many commands of a group may wait; a manager has one or two.
const laneDepth = 32

// obey serves a manager until its connection ends.
func (n *Node) obey(l *link) {
	o := &obedience{node: n, link: l, number: n.managers.Add(1), lanes: map[string]chan order{}, groups: map[string]*charge{}}
	n.opts.Logger.Info("manager connected", "peer", l.name())
	o.work.Go(o.announce)
	frame, err := o.read()
	err = l.reason(err)
	l.cancel(err) // commands that wait for the journal go on in the pool, unheard
	for _, lane := range o.lanes {
		close(lane)
	}
	o.work.Wait()
	n.opts.Logger.Info("manager left", "peer", l.name(), "error", err)
	l.end(err, frame, "", 0)
}

func (o *obedience) read() (frame uint64, err error) {
	for {
		h, body, err := o.link.conn.Next()
		if refused, ok := errors.AsType[*wire.RemoteError](err); ok && !refused.Message.Code.EndsConnection() {
			continue // nothing here waits for an answer
		}
		if err != nil {
			return h.Number, err
		}
		if h.Type == wire.TypeStatus {
			err = o.node.replyStatus(o.link)
		} else {
			err = o.queue(h, body)
		}
		if err != nil {
			return h.Number, err
		}
	}
}

// queue gives a command to the lane of its group.
func (o *obedience) queue(h wire.Header, body []byte) error {
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		return err
	}
	c, ok := m.(wire.Commanded)
	if !ok {
		return unexpected(h)
	}
	name := c.Head().Group
	lane := o.lanes[name]
	if lane == nil {
		g, err := o.node.opts.Pool.Group(name)
		if err != nil {
			return o.refuse(order{c, h.Number}, fromEngine(err))
		}
		lane = make(chan order, laneDepth)
		o.lanes[name] = lane
		o.work.Go(func() {
			for x := range lane {
				o.carryOut(g, x)
			}
		})
	}
	select {
	case lane <- order{c, h.Number}:
		return nil
	case <-o.link.ctx.Done():
		return context.Cause(o.link.ctx)
	}
}

// carryOut does a command and answers it.
func (o *obedience) carryOut(g *engine.Group, x order) {
	if o.link.ctx.Err() != nil {
		return
	}
	o.subscribe(g.Name())
	answer, err := o.do(g, x.command)
	if o.link.ctx.Err() != nil {
		return
	}
	if err != nil {
		err = o.refuse(x, err)
	} else {
		o.obeyed(g.Name(), x.command.Head().Epoch)
		o.node.leaders.note(g.Name(), o.link.peer.Node, x.command.Head().Epoch)
		err = o.link.conn.WriteMessage(answer)
	}
	if err != nil {
		o.link.stop(err)
	}
}

// refuse answers a command with an error; it returns one if that ends the connection.
func (o *obedience) refuse(x order, err error) error {
	c := x.command.Head()
	if errors.Is(err, wire.ErrStaleEpoch) {
		err = o.node.leaders.explain(c.Group, err)
	}
	o.node.opts.Logger.Warn("command refused", "peer", o.link.name(), "command", x.command.Type().String(),
		"group", c.Group, "cg", c.CG, "epoch", c.Epoch, "error", err)
	e := wire.Refusal(err, x.frame, c.Group, c.CG)
	if e.Code.EndsConnection() {
		return err
	}
	return o.link.conn.WriteMessage(e)
}

// do carries a command out.
func (o *obedience) do(g *engine.Group, m wire.Commanded) (wire.Message, error) {
	answer, err := o.node.chain.Obey(o.link.ctx, o.number, o.node.opts.Pool, g, m, func() Report {
		return Report{Instance: o.node.opts.Instance, PoolFull: o.node.poolFull(g.Name())}
	})
	if r, ok := m.(*wire.Revert); ok && err == nil {
		err = o.node.joined(o.link.ctx, g, r.Final)
	}
	return answer, err
}

// joined ends the streams of a group of which CG final is final, if it is not here: their primaries may believe that
// what they sent of it counts. When they attach again they are told what is here.
func (n *Node) joined(ctx context.Context, g *engine.Group, final uint64) error {
	st, err := g.State(ctx)
	if err != nil || st.Final >= final {
		return fromEngine(err)
	}
	d := n.desk(g.Name())
	d.mu.Lock()
	sessions := slices.Clone(d.sessions)
	d.mu.Unlock()
	for _, s := range sessions {
		s.cancel(refuse(wire.CodeState, "group %q: this control has joined it since, and CG %d is final there: attach again", g.Name(), final))
	}
	for _, s := range sessions {
		select {
		case <-s.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// subscribe makes announce tell the manager of what happens to the group from now on; what was before is in
// the answers.
func (o *obedience) subscribe(group string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.groups[group] == nil {
		complete, failure := o.node.opts.Events.newest(group)
		o.groups[group] = &charge{complete: complete, lost: failure != nil}
	}
}

func (o *obedience) obeyed(group string, epoch uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups[group].epoch = max(o.groups[group].epoch, epoch)
}

// announce tells the manager, unasked, of complete CGs and of a failed pool.
func (o *obedience) announce() {
	events := o.node.opts.Events
	news := events.subscribe()
	defer events.unsubscribe(news)
	for {
		select {
		case <-news:
		case <-o.link.ctx.Done():
			return
		}
		for _, m := range o.due() {
			if err := o.link.conn.WriteMessage(m); err != nil {
				o.link.stop(err)
				return
			}
		}
	}
}

// due collects what the manager was not told yet.
func (o *obedience) due() []wire.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []wire.Message
	for group, c := range o.groups {
		head := wire.Command{Group: group, Epoch: c.epoch}
		complete, failure := o.node.opts.Events.newest(group)
		if complete > c.complete {
			c.complete = complete
			out = o.tellComplete(out, group, complete, c.epoch)
		}
		if r := o.node.opts.Events.newestRefused(group); r.cg > c.refused {
			c.refused, head.CG = r.cg, r.cg
			out = append(out, &wire.Lost{Command: head, Reason: r.why.Error()})
		}
		if failure != nil && !c.lost {
			c.lost, head.CG = true, o.inWork(group)
			out = append(out, &wire.Lost{Command: head, Reason: failure.Error()})
		}
	}
	return out
}

// tellComplete tells of a complete CG, unless it has been given up meanwhile, or the pool has failed: that is told, too.
func (o *obedience) tellComplete(out []wire.Message, group string, cg, epoch uint64) []wire.Message {
	g, err := o.node.opts.Pool.Group(group)
	if err != nil {
		return out
	}
	if st, err := g.State(o.link.ctx); err == nil && st.Complete == cg {
		out = append(out, Completed(st, epoch))
	}
	return out
}

// inWork is the CG that a failure of the pool hits: the newest that is not final.
func (o *obedience) inWork(group string) uint64 {
	g, err := o.node.opts.Pool.Group(group)
	if err != nil {
		return 0
	}
	st, _ := g.State(o.link.ctx) // its error is the failure being told
	return max(st.Receiving, st.Complete, st.Final+1)
}
