package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/farside-storage/farside/manager"
)

// Term is a time of leadership, and the decision log while it lasts.
type Term struct {
	cluster *Cluster
	client  *clientv3.Client
	session *concurrency.Session
	key     string // of the leadership
	rev     int64  // at which it was made

	ctx  context.Context
	end  context.CancelCauseFunc
	once sync.Once
	stop func() bool

	mu     sync.Mutex // one write at a time
	groups map[string]*group
}

// group is what a term knows of a group that it began.
type group struct {
	written string   // the value of the key written
	count   uint64   // of this term's writes
	decided []uint64 // CGs with a DECIDED record, ascending
}

func newTerm(ctx context.Context, c *Cluster, client *clientv3.Client, session *concurrency.Session, e *concurrency.Election) *Term {
	t := &Term{cluster: c, client: client, session: session, key: e.Key(), rev: e.Rev(), groups: map[string]*group{}}
	t.ctx, t.end = context.WithCancelCause(ctx)
	t.stop = context.AfterFunc(session.Ctx(), func() {
		t.end(fmt.Errorf("etcd did not renew the lease in time: %w", manager.ErrNotLeader))
	})
	return t
}

// Context ends with the term.
func (t *Term) Context() context.Context { return t.ctx }

// Close gives the leadership up. Groups keep what was written.
func (t *Term) Close() error {
	t.once.Do(func() {
		t.stop()
		t.end(errors.New("the manager stopped leading"))
		t.cluster.resign(t.client, t.session)
	})
	return nil
}

// Where names the log, for people.
func (t *Term) Where() string { return t.cluster.opts.where() }

// over is the error of a call that the end of the term cut short.
func (t *Term) over() error {
	err := context.Cause(t.ctx)
	if errors.Is(err, manager.ErrNotLeader) {
		return err
	}
	return fmt.Errorf("%w: %w", err, manager.ErrNotLeader)
}

// at gives errors their location.
func (t *Term) at(group string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("etcdlog: decision log %s, group %s: %w", t.cluster.opts.where(), group, err)
}

// try repeats a request until etcd answers it or the term ends.
func (t *Term) try(request func(context.Context) error) error {
	for t.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(t.ctx, requestTimeout)
		err := request(ctx)
		cancel()
		if err == nil {
			t.cluster.note(nil)
			return nil
		}
		if t.ctx.Err() == nil {
			t.cluster.note(err)
			pause(t.ctx, retryPause)
		}
	}
	return t.over()
}

// leads is the condition of every transaction.
func (t *Term) leads() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(t.key), "=", t.rev)
}

// deposed ends the term: a transaction found that the leadership is gone.
func (t *Term) deposed() error {
	t.end(fmt.Errorf("etcd refused a write, the lease had run out: %w", manager.ErrNotLeader))
	return t.over()
}
