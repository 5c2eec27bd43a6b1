package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzEtcd: an address that is accepted has endpoints, and written anew it means the same.
func FuzzEtcd(f *testing.F) {
	for _, s := range []string{"etcd://127.0.0.1:2379", "etcd://a:1,[::1]:2/x/y", "etcd://u:p@h:1", "etcd://,", "etcd:///p", "etcd://h:1/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		log, err := parseEtcd(text)
		if err != nil {
			return
		}
		if len(log.Endpoints) == 0 || strings.HasPrefix(log.Prefix, "/") || strings.Contains(strings.Join(log.Endpoints, ","), "@") {
			t.Fatalf("%q was read as %+v", text, log)
		}
		again := etcdScheme + strings.Join(log.Endpoints, ",")
		if log.Prefix != "" {
			again += "/" + log.Prefix
		}
		if back, err := parseEtcd(again); err != nil || cmp.Diff(log, back) != "" {
			t.Fatalf("%q: %v, %+v instead of %+v", again, err, back, log)
		}
	})
}
