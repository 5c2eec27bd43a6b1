package etcdlog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// FuzzGroup: whatever stands in etcd, reading it returns an error or values that are read from it again the same.
func FuzzGroup(f *testing.F) {
	f.Add("epoch", []byte("77"), "0000000000000003", []byte(`{"cg":3,"epoch":77,"cut":"2026-01-02T03:04:05Z","primaries":["p"],"secondaries":["s"]}`))
	f.Add("settings", []byte(`{"interval":"1s","coordination_timeout":"50ms","drain_timeout":"30s","command_timeout":"5s","rpo_alert":"30s"}`), "zz", []byte("{}"))
	f.Add("paused", []byte("true"), "", []byte("null"))
	f.Add("reserved", []byte("18446744073709551616"), "ffffffffffffffff", []byte(`{"cg":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, item string, value []byte, cg string, decision []byte) {
		c := &Cluster{opts: Options{Prefix: "p"}}
		key := c.decidedPrefix("g") + cg
		part := func(key string, value []byte) *pb.ResponseOp {
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
				Kvs: []*mvccpb.KeyValue{{Key: []byte(key), Value: value}}}}}
		}
		resp := &clientv3.TxnResponse{Responses: []*pb.ResponseOp{
			part(c.groupKey("g", item), value), part(c.groupKey("g", "written"), []byte("1.1")), part(key, nil), part(key, decision)}}
		g, rec, err := c.parse("g", resp)
		if err != nil {
			return
		}
		if len(g.decided) != 1 || g.decided[0] != rec.Decided.CG || !strings.HasSuffix(key, c.decidedKey("g", rec.Decided.CG)) {
			t.Fatalf("key %s was read as %d, %+v", key, g.decided, rec.Decided)
		}
		if rec.Settings != nil && rec.Settings.Validate() != nil {
			return // the core refuses those
		}
		if _, again, err := c.parse("g", resp); err != nil || cmp.Diff(rec, again) != "" {
			t.Fatalf("read again: %v", err)
		}
	})
}
