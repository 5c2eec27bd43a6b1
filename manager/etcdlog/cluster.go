package etcdlog

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/farside-storage/farside/manager"
)

const (
	requestTimeout = 2 * time.Second // of one attempt; attempts are repeated
	askTimeout     = time.Second     // of a question for the status
	retryPause     = 200 * time.Millisecond
	// A silent member is noticed within the two together, and another one taken; gRPC asks no more often. Until then
	// requests fail one by one and go to the members in turn.
	keepAliveTime, keepAliveTimeout = 10 * time.Second, 2 * time.Second
)

// Cluster is this manager's part in one election. Any goroutine may use it; one at a time campaigns.
type Cluster struct {
	opts     Options
	tls      *tls.Config
	password string

	ctx    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	client  *clientv3.Client   // nil before the first connect
	lost    []clientv3.LeaseID // of terms that ended while etcd could not be told
	failure string             // why etcd does not answer, "" if it did last
}

// Open checks the options and reads the files they name. It does not wait for etcd.
func Open(o Options) (*Cluster, error) {
	if err := o.prepare(); err != nil {
		return nil, err
	}
	secure, err := o.tls()
	if err != nil {
		return nil, err
	}
	password, err := o.password()
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: o, tls: secure, password: password}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends connections. Terms must have been closed before.
func (c *Cluster) Close() error {
	c.cancel()
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	var err error
	if client != nil {
		err = client.Close()
	}
	c.wg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil // that is how it ends
	}
	return err
}

// connect returns the client, made at the first call: with a user, etcd must answer for that.
func (c *Cluster) connect() (*clientv3.Client, error) {
	c.mu.Lock()
	made := c.client
	c.mu.Unlock()
	if made != nil {
		return made, nil
	}
	scheme := "http://"
	if c.tls != nil {
		scheme = "https://"
	}
	urls := make([]string, len(c.opts.Endpoints))
	for i, e := range c.opts.Endpoints {
		urls[i] = scheme + e
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: urls, TLS: c.tls, Username: c.opts.User, Password: c.password, Context: c.ctx,
		DialTimeout: requestTimeout, DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout, PermitWithoutStream: true,
		Logger: zap.NewNop(), // errors are returned to us and logged here
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
	return client, nil
}

// note keeps what became of the last request for the status, and logs it when it changes.
func (c *Cluster) note(err error) {
	text := ""
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("etcd does not answer: %w", err)
	}
	if err != nil {
		text = err.Error()
	}
	c.mu.Lock()
	before := c.failure
	c.failure = text
	c.mu.Unlock()
	switch {
	case text != "" && before == "":
		c.opts.Logger.Warn("the decision log cannot be reached: nothing new is decided, hosts go on writing; trying again", "log", c.opts.where(), "error", text)
	case text == "" && before != "":
		c.opts.Logger.Info("the decision log can be reached again", "log", c.opts.where())
	}
}

// fatal says whether trying again is of no use: etcd answered, and what it said lasts.
func fatal(err error) bool {
	return errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrPermissionDenied)
}

// candidate is the value of a key in the election.
type candidate struct {
	Node   string   `json:"node"`
	Listen string   `json:"listen"`
	Groups []string `json:"groups"`
}

func (c *Cluster) electionPrefix() string { return c.opts.Prefix + "/leader" }

// Standing says who leads, as etcd has it now.
func (c *Cluster) Standing(ctx context.Context) manager.Leadership {
	l := manager.Leadership{Log: c.opts.where()}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	now, err := c.leader(ctx)
	c.mu.Lock()
	failure := c.failure
	c.mu.Unlock()
	switch {
	case errors.Is(err, context.DeadlineExceeded) && failure != "":
		l.Error = failure // tells more
	case err != nil:
		l.Error = err.Error()
	}
	if now == nil {
		return l
	}
	l.Leader, l.LeaderListen = &now.Node, now.Listen
	if mine := slices.Sorted(slices.Values(c.opts.Groups)); !slices.Equal(mine, slices.Sorted(slices.Values(now.Groups))) {
		l.Problem = fmt.Sprintf("manager %s has the groups %q under this prefix, this one has %q: give managers with other groups a prefix of their own, "+
			"etcd://HOST:PORT/PREFIX", now.Node, now.Groups, c.opts.Groups)
	}
	return l
}

// leader returns nil if nobody leads.
func (c *Cluster) leader(ctx context.Context) (*candidate, error) {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if client == nil {
		return nil, errors.New("etcd has not answered yet")
	}
	r, err := client.Get(ctx, c.electionPrefix()+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return nil, fmt.Errorf("etcd does not answer: %w", err)
	}
	if len(r.Kvs) == 0 {
		return nil, nil
	}
	now := new(candidate)
	if err := json.Unmarshal(r.Kvs[0].Value, now); err != nil {
		return nil, fmt.Errorf("key %s: %w", r.Kvs[0].Key, err)
	}
	return now, nil
}

// Campaign waits until this manager leads.
func (c *Cluster) Campaign(ctx context.Context) (manager.Term, error) {
	for {
		t, err := c.campaign(ctx)
		switch {
		case ctx.Err() != nil:
			if t != nil {
				err = errors.Join(err, t.Close())
			}
			return nil, errors.Join(ctx.Err(), err)
		case err == nil:
			return t, nil
		case fatal(err):
			return nil, fmt.Errorf("etcdlog: %s refuses this manager: %w; check the user, its password and its permissions on the prefix", c.opts.where(), err)
		}
		c.note(err)
		pause(ctx, retryPause)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// campaign is one attempt: a session, and a place in its election.
func (c *Cluster) campaign(ctx context.Context) (*Term, error) {
	client, err := c.connect()
	if err != nil {
		return nil, err
	}
	if err := c.revokeLost(ctx, client); err != nil {
		return nil, err
	}
	session, err := c.session(ctx, client)
	if err != nil {
		return nil, err
	}
	c.note(nil)
	election, err := c.stand(ctx, session)
	if err != nil {
		c.resign(client, session)
		return nil, err
	}
	return newTerm(ctx, c, client, session, election), nil
}

// revokeLost ends the leases of earlier terms, or this manager would wait for itself.
func (c *Cluster) revokeLost(ctx context.Context, client *clientv3.Client) error {
	for {
		c.mu.Lock()
		lost := slices.Clone(c.lost)
		c.mu.Unlock()
		if len(lost) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		_, err := client.Revoke(ctx, lost[0])
		cancel()
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		c.mu.Lock()
		c.lost = slices.DeleteFunc(c.lost, func(id clientv3.LeaseID) bool { return id == lost[0] })
		c.mu.Unlock()
	}
}

// session takes a lease that is renewed until the session ends.
func (c *Cluster) session(ctx context.Context, client *clientv3.Client) (*concurrency.Session, error) {
	grant, cancel := context.WithTimeout(ctx, requestTimeout)
	lease, err := client.Grant(grant, int64(c.opts.Lease/time.Second))
	cancel()
	if err != nil {
		return nil, err
	}
	session, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID), concurrency.WithContext(c.ctx))
	if err != nil {
		c.forget(lease.ID)
	}
	return session, err
}

// stand waits for its turn; it gives up when the session ends, since its place in the election went with that.
func (c *Cluster) stand(ctx context.Context, session *concurrency.Session) (*concurrency.Election, error) {
	value, err := json.Marshal(candidate{c.opts.Name, c.opts.Listen, c.opts.Groups})
	if err != nil {
		return nil, err
	}
	election := concurrency.NewElection(session, c.electionPrefix())
	standing, cancel := context.WithCancel(ctx)
	defer cancel()
	elected := make(chan error, 1)
	// It resigns when standing ends, which lasts as long as etcd is silent: nobody waits for that before Close.
	c.wg.Go(func() { elected <- election.Campaign(standing, string(value)) })
	select {
	case err := <-elected:
		return election, err
	case <-session.Done():
		return nil, errors.New("etcd did not renew the lease in time")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// resign gives up a lease, and with it the leadership or the place in the election.
func (c *Cluster) resign(client *clientv3.Client, session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	if _, err := client.Revoke(ctx, session.Lease()); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.forget(session.Lease()) // it ends by itself, if we do not come back before
	}
}

func (c *Cluster) forget(lease clientv3.LeaseID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = append(c.lost, lease)
}
