package etcdlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farside-storage/farside/manager"
)

// decisionsKept is how many DECIDED records the log keeps per group; only the newest is needed.
const decisionsKept = 1000

func (c *Cluster) groupKey(group, item string) string {
	return c.opts.Prefix + "/group/" + group + "/" + item
}

func (c *Cluster) decidedPrefix(group string) string { return c.groupKey(group, "decided/") }

func (c *Cluster) decidedKey(group string, cg uint64) string {
	return fmt.Sprintf("%s%016x", c.decidedPrefix(group), cg)
}

// Begin starts a new epoch of a group and returns what the log holds.
func (t *Term) Begin(name string, floor uint64) (rec manager.Recovered, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if name == "" || strings.Contains(name, "/") {
		return rec, t.at(name, errors.New("a group's name has no \"/\" and is not empty"))
	}
	g, rec, err := t.read(name)
	if err != nil {
		return rec, t.at(name, err)
	}
	rec.Epoch = max(rec.Epoch+1, uint64(t.rev), floor)
	if err := t.write(name, g, clientv3.OpPut(t.cluster.groupKey(name, "epoch"), strconv.FormatUint(rec.Epoch, 10))); err != nil {
		return rec, t.at(name, err)
	}
	t.groups[name] = g
	return rec, nil
}

// read returns all that the log holds of a group, as of one moment in which this manager led.
func (t *Term) read(name string) (g *group, rec manager.Recovered, err error) {
	var resp *clientv3.TxnResponse
	err = t.try(func(ctx context.Context) (err error) {
		resp, err = t.client.Txn(ctx).If(t.leads()).Then(t.cluster.gets(name)...).Commit()
		return err
	})
	if err != nil {
		return nil, rec, err
	}
	if !resp.Succeeded {
		return nil, rec, t.deposed()
	}
	return t.cluster.parse(name, resp)
}

// Peek reads what the log holds of a group without leading, and changes nothing; Epoch is the newest one given. While a
// manager leads, the error wraps [manager.ErrLogInUse].
func (c *Cluster) Peek(ctx context.Context, name string) (rec manager.Recovered, err error) {
	at := func(err error) error {
		return fmt.Errorf("etcdlog: decision log %s, group %s: %w", c.opts.where(), name, err)
	}
	client, err := c.connect()
	if err != nil {
		return rec, at(err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now, err := c.leader(ctx)
	if err != nil {
		return rec, at(err)
	}
	resp, err := client.Txn(ctx).Then(c.gets(name)...).Commit()
	if err != nil {
		return rec, at(err)
	}
	if _, rec, err = c.parse(name, resp); err != nil {
		return rec, at(err)
	}
	if now != nil {
		return rec, at(fmt.Errorf("manager %s at %s leads: %w", now.Node, now.Listen, manager.ErrLogInUse))
	}
	return rec, nil
}

// gets reads everything of a group; parse knows their order.
func (c *Cluster) gets(name string) []clientv3.Op {
	all, decided := c.groupKey(name, ""), c.decidedPrefix(name)
	return []clientv3.Op{
		clientv3.OpGet(all, clientv3.WithRange(decided)),
		clientv3.OpGet(clientv3.GetPrefixRangeEnd(decided), clientv3.WithRange(clientv3.GetPrefixRangeEnd(all))),
		clientv3.OpGet(decided, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)),
		clientv3.OpGet(decided, clientv3.WithLastKey()...),
	}
}

func (c *Cluster) parse(name string, resp *clientv3.TxnResponse) (g *group, rec manager.Recovered, err error) {
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	g = new(group)
	for _, kv := range slices.Concat(kvs(0), kvs(1)) {
		if err := readItem(g, &rec, strings.TrimPrefix(string(kv.Key), c.groupKey(name, "")), kv.Value); err != nil {
			return nil, rec, err
		}
	}
	for _, kv := range kvs(2) {
		cg, err := strconv.ParseUint(strings.TrimPrefix(string(kv.Key), c.decidedPrefix(name)), 16, 64)
		if err != nil {
			return nil, rec, fmt.Errorf("key %s: not a CG number: %w", kv.Key, err)
		}
		g.decided = append(g.decided, cg)
	}
	newest, err := c.decisions(name, kvs(3))
	if len(newest) > 0 {
		rec.Decided = newest[0]
	}
	// Only what was decided or given out counts: a manager that died before it could look around knows nothing.
	rec.Known = rec.Reserved > 0 || rec.Decided.CG > 0
	return g, rec, err
}

func readItem(g *group, rec *manager.Recovered, item string, value []byte) (err error) {
	switch item {
	case "epoch":
		rec.Epoch, err = strconv.ParseUint(string(value), 10, 64)
	case "reserved":
		rec.Reserved, err = strconv.ParseUint(string(value), 10, 64)
	case "settings":
		rec.Settings = new(manager.Settings)
		err = json.Unmarshal(value, rec.Settings)
	case "paused":
		rec.Paused, err = strconv.ParseBool(string(value))
	case "members":
		rec.Members = new(manager.Members)
		err = json.Unmarshal(value, rec.Members)
	case "written":
		g.written = string(value)
	default:
		return fmt.Errorf("key %s: this program does not know it: was it written by a later one?", item)
	}
	if err != nil {
		return fmt.Errorf("key %s: %w", item, err)
	}
	return nil
}

func (c *Cluster) decisions(name string, kvs []*mvccpb.KeyValue) ([]manager.Decision, error) {
	var out []manager.Decision
	for _, kv := range kvs {
		var d manager.Decision
		if err := json.Unmarshal(kv.Value, &d); err != nil {
			return nil, fmt.Errorf("decision %s: %w", kv.Key, err)
		}
		if string(kv.Key) != c.decidedKey(name, d.CG) {
			return nil, fmt.Errorf("decision %s says that it is of CG %d", kv.Key, d.CG)
		}
		out = append(out, d)
	}
	return out, nil
}

// Append makes a record durable. It waits as long as etcd cannot be reached and the term lasts.
func (t *Term) Append(name string, r manager.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[name]
	if g == nil {
		return t.at(name, errors.New("was never begun"))
	}
	ops, err := t.puts(name, g, r)
	if err == nil && len(ops) > 0 {
		err = t.write(name, g, ops...)
	}
	if err == nil && r.Decided != nil {
		g.keep(r.Decided.CG)
	}
	return t.at(name, err)
}

func (t *Term) puts(name string, g *group, r manager.Record) (ops []clientv3.Op, err error) {
	put := func(item, value string) { ops = append(ops, clientv3.OpPut(t.cluster.groupKey(name, item), value)) }
	if r.Reserve > 0 {
		put("reserved", strconv.FormatUint(r.Reserve, 10))
	}
	if r.Paused != nil {
		put("paused", strconv.FormatBool(*r.Paused))
	}
	if r.Members != nil {
		v, err := json.Marshal(r.Members)
		if err != nil {
			return nil, err
		}
		put("members", string(v))
	}
	if r.Settings != nil {
		v, err := json.Marshal(r.Settings)
		if err != nil {
			return nil, err
		}
		put("settings", string(v))
	}
	if r.Decided != nil {
		v, err := json.Marshal(r.Decided)
		if err != nil {
			return nil, err
		}
		ops = append(ops, clientv3.OpPut(t.cluster.decidedKey(name, r.Decided.CG), string(v)))
		if old, drop := g.oldest(r.Decided.CG); drop {
			ops = append(ops, clientv3.OpDelete(t.cluster.decidedKey(name, old)))
		}
	}
	return ops, nil
}

// oldest returns the decision that must go when another one comes.
func (g *group) oldest(next uint64) (cg uint64, drop bool) {
	if len(g.decided) < decisionsKept || slices.Contains(g.decided, next) {
		return 0, false
	}
	return g.decided[0], true
}

func (g *group) keep(cg uint64) {
	at, have := slices.BinarySearch(g.decided, cg)
	if have {
		return
	}
	g.decided = slices.Insert(g.decided, at, cg)
	if len(g.decided) > decisionsKept {
		g.decided = g.decided[1:]
	}
}

// write makes changes durable, once, on top of the write before.
func (t *Term) write(name string, g *group, ops ...clientv3.Op) error {
	key := t.cluster.groupKey(name, "written")
	next := fmt.Sprintf("%d.%d", t.rev, g.count+1)
	onTop := clientv3.Compare(clientv3.Value(key), "=", g.written)
	if g.written == "" {
		onTop = clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	ops = append(ops, clientv3.OpPut(key, next))
	var resp *clientv3.TxnResponse
	err := t.try(func(ctx context.Context) (err error) {
		resp, err = t.client.Txn(ctx).If(t.leads(), onTop).Then(ops...).Else(clientv3.OpGet(t.key), clientv3.OpGet(key)).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		if err := t.explain(resp, next); err != nil {
			return err
		}
	}
	g.written, g.count = next, g.count+1
	return nil
}

// explain says why a write did not hold; nil if an attempt that got no answer had taken effect.
func (t *Term) explain(resp *clientv3.TxnResponse, next string) error {
	leader, written := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	if len(leader) == 0 || leader[0].CreateRevision != t.rev {
		return t.deposed()
	}
	if len(written) > 0 && string(written[0].Value) == next {
		return nil
	}
	err := fmt.Errorf("somebody else changed the log while this manager led: find out who writes these keys: %w", manager.ErrNotLeader)
	t.end(err)
	return err
}

// History returns the newest decisions of a group, newest first.
func (t *Term) History(name string, limit int) (out []manager.Decision, err error) {
	if limit <= 0 {
		return nil, nil
	}
	var resp *clientv3.GetResponse
	err = t.try(func(ctx context.Context) (err error) {
		resp, err = t.client.Get(ctx, t.cluster.decidedPrefix(name), clientv3.WithPrefix(), clientv3.WithLimit(int64(limit)),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
		return err
	})
	if err != nil {
		return nil, t.at(name, err)
	}
	out, err = t.cluster.decisions(name, resp.Kvs)
	return out, t.at(name, err)
}
