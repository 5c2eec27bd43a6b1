package etcdlog_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/manager/etcdlog"
)

var withPrefix = clientv3.WithPrefix()

// client reaches etcd past this package.
func client(t *testing.T, s *etcdtest.Servers) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Addrs(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// keys returns the values under a prefix.
func keys(t *testing.T, c *clientv3.Client, prefix string) (out []string) {
	t.Helper()
	r, err := c.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		out = append(out, string(kv.Value))
	}
	return out
}

func write(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open, empty := write(t, dir, "open", "secret", 0o644), write(t, dir, "empty", "\n", 0o600)
	long := write(t, dir, "long", strings.Repeat("x", 5000), 0o600)
	good := etcdlog.Options{Endpoints: []string{"127.0.0.1:1"}, Name: "m1"}
	for want, spoil := range map[string]func(o *etcdlog.Options){
		"a name":                      func(o *etcdlog.Options) { o.Name = "" },
		"at least one address":        func(o *etcdlog.Options) { o.Endpoints = nil },
		"host:port":                   func(o *etcdlog.Options) { o.Endpoints = []string{"host"} },
		"not a loopback one":          func(o *etcdlog.Options) { o.Endpoints = []string{"10.1.1.1:2379"} },
		"whole seconds":               func(o *etcdlog.Options) { o.Lease = 1500 * time.Millisecond },
		"the prefix":                  func(o *etcdlog.Options) { o.Prefix = "/a" },
		"go together: give both or":   func(o *etcdlog.Options) { o.Cert = "/c" },
		"the password file go":        func(o *etcdlog.Options) { o.User = "u" },
		"others may not read it":      func(o *etcdlog.Options) { o.User, o.PasswordFile = "u", open },
		"is empty":                    func(o *etcdlog.Options) { o.User, o.PasswordFile = "u", empty },
		"not a password":              func(o *etcdlog.Options) { o.User, o.PasswordFile = "u", long },
		"no such file":                func(o *etcdlog.Options) { o.User, o.PasswordFile = "u", dir+"/none" },
		"holds no certificate":        func(o *etcdlog.Options) { o.CA = open },
		"certificate " + open:         func(o *etcdlog.Options) { o.Cert, o.Key = open, open },
		"certificate of the CA: open": func(o *etcdlog.Options) { o.CA = dir + "/none" },
	} {
		o := good
		spoil(&o)
		if _, err := etcdlog.Open(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// TestUserAndPassword: with etcd's authentication switched on the right password works, a wrong one is said to be wrong, and neither is
// shown anywhere.
func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, 1)
	raw := client(t, s)
	const right, wrong = "right-horse", "wrong-horse"
	for _, user := range []string{"root", "farside"} {
		if _, err := raw.UserAdd(t.Context(), user, right); err != nil {
			t.Fatal(err)
		}
	}
	o := options(s)
	o.Prefix = "ours"
	read := clientv3.PermissionType(clientv3.PermReadWrite)
	if _, err := raw.RoleAdd(t.Context(), "ours"); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.RoleGrantPermission(t.Context(), "ours", "ours/", clientv3.GetPrefixRangeEnd("ours/"), read); err != nil {
		t.Fatal(err)
	}
	for user, role := range map[string]string{"root": "root", "farside": "ours"} {
		if _, err := raw.UserGrantRole(t.Context(), user, role); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raw.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.User, o.PasswordFile = "farside", write(t, dir, "right", right+"\n", 0o600)
	c := open(t, o)
	term := campaign(t, c)
	if _, err := term.Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%+v", c.Standing(t.Context()))

	o.PasswordFile = write(t, dir, "wrong", wrong, 0o600)
	_, err := open(t, o).Campaign(t.Context())
	if err == nil || !strings.Contains(err.Error(), "check the user, its password") {
		t.Fatalf("wrong password: %v", err)
	}
	shown += err.Error()
	o.PasswordFile, o.Prefix = write(t, dir, "right", right, 0o600), "theirs"
	if _, err = open(t, o).Campaign(t.Context()); err == nil || !strings.Contains(err.Error(), "permissions on the prefix") {
		t.Fatalf("a prefix without permission: %v", err)
	}
	if shown += err.Error() + log.String(); strings.Contains(shown, "horse") {
		t.Errorf("a password is shown: %s", shown)
	}
}

// TestTLS: etcd with certificates on both sides. Without ours, or with another CA, nothing is sent.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newCA(t, dir, "ca")
	cert, key := ca.issue(t, dir, "server")
	mine, mineKey := ca.issue(t, dir, "client")
	s := etcdtest.Start(t, 1, "--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca.path)
	o := options(s)
	o.CA, o.Cert, o.Key = ca.path, mine, mineKey
	if _, err := campaign(t, open(t, o)).Begin("g", 0); err != nil {
		t.Fatal(err)
	}
	stranger := o
	stranger.CA = newCA(t, dir, "other").path
	without := o
	without.Cert, without.Key = "", ""
	for name, o := range map[string]etcdlog.Options{"another CA": stranger, "no certificate": without} {
		c := open(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := c.Campaign(ctx)
			done <- err
		}()
		var l manager.Leadership
		for !strings.Contains(l.Error, "tls") && !strings.Contains(l.Error, "deadline") && !strings.Contains(l.Error, "connection") {
			l = c.Standing(t.Context())
		}
		if l.Leader != nil {
			t.Errorf("%s: %+v", name, l)
		}
		cancel()
		if err := <-done; err == nil {
			t.Errorf("%s: was elected", name)
		}
	}
}

type authority struct {
	path string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, dir, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{writePEM(t, dir, name+".pem", "CERTIFICATE", der), cert, key}
}

func (a authority) issue(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(etcdtest.Host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, dir, name+".pem", "CERTIFICATE", der), writePEM(t, dir, name+".key", "EC PRIVATE KEY", private)
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	return write(t, dir, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), 0o600)
}
