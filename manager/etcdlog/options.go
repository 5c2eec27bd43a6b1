package etcdlog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"strings"
	"time"
)

// Defaults and bounds of Options.
const (
	DefaultPrefix = "farside"
	DefaultLease  = 5 * time.Second
	LeastLease    = time.Second
	MostLease     = 10 * time.Minute
)

// Options of a Cluster.
type Options struct {
	// Endpoints are the addresses of etcd's members, host:port. At least one.
	Endpoints []string
	// Prefix of all keys; "": DefaultPrefix. One for each set of managers with the same groups.
	Prefix string
	// Lease is how long a leader that is gone keeps the others waiting, in whole seconds; 0: DefaultLease. The server
	// may make it longer: etcd has a least lease of one and a half of its election timeouts.
	Lease time.Duration

	// Name and Listen of this manager, for the status of the others. Groups that it manages.
	Name, Listen string
	Groups       []string

	// CA, Cert and Key are PEM files: what etcd's certificate is checked against, and what this manager shows. TLS is
	// used if any of them is given; without it only loopback addresses are accepted.
	CA, Cert, Key string
	// User and PasswordFile for etcd's own authentication. A line end at the end of the file is not part of the
	// password.
	User, PasswordFile string

	Logger *slog.Logger // nil: slog.Default
}

// prepare fills in defaults and says what is wrong.
func (o *Options) prepare() error {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.Name == "":
		return errors.New("etcdlog: give this manager a name")
	case len(o.Endpoints) == 0:
		return errors.New("etcdlog: give at least one address of etcd, host:port")
	case o.Lease < LeastLease || o.Lease > MostLease || o.Lease%time.Second != 0:
		return fmt.Errorf("etcdlog: the lease %v: give whole seconds, from %v to %v", o.Lease, LeastLease, MostLease)
	case strings.HasPrefix(o.Prefix, "/") || path.Clean(o.Prefix) != o.Prefix:
		return fmt.Errorf("etcdlog: the prefix %q: give words with \"/\" between them, such as %q", o.Prefix, DefaultPrefix)
	case (o.Cert == "") != (o.Key == ""):
		return errors.New("etcdlog: a certificate and its key go together: give both or none")
	case (o.User == "") != (o.PasswordFile == ""):
		return errors.New("etcdlog: a user and the password file go together: give both or none")
	}
	return o.checkEndpoints()
}

func (o *Options) secure() bool { return o.CA != "" || o.Cert != "" }

func (o *Options) checkEndpoints() error {
	for _, e := range o.Endpoints {
		host, _, err := net.SplitHostPort(e)
		if err != nil {
			return fmt.Errorf("etcdlog: the address %q of etcd: write host:port", e)
		}
		if ip := net.ParseIP(host); !o.secure() && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("etcdlog: the address %q of etcd is not a loopback one: without TLS only those are accepted; give the CA's certificate", e)
		}
	}
	return nil
}

// where names the log for people.
func (o *Options) where() string {
	return "etcd://" + strings.Join(o.Endpoints, ",") + "/" + o.Prefix
}

// tls returns nil if TLS is not to be used.
func (o *Options) tls() (*tls.Config, error) {
	if !o.secure() {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("etcdlog: certificate of the CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcdlog: certificate of the CA: %s holds no certificate in PEM form", o.CA)
		}
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("etcdlog: certificate %s with key %s: %w", o.Cert, o.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// password reads the password; its file may be readable by its owner only.
func (o *Options) password() (string, error) {
	if o.PasswordFile == "" {
		return "", nil
	}
	info, err := os.Stat(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("etcdlog: password file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("etcdlog: the password file %s has mode %04o: others may not read it; chmod it to 0600", o.PasswordFile, info.Mode().Perm())
	}
	if info.Size() > 4096 {
		return "", fmt.Errorf("etcdlog: the password file %s has %d bytes: this is not a password", o.PasswordFile, info.Size())
	}
	b, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("etcdlog: password file: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("etcdlog: the password file %s is empty", o.PasswordFile)
	}
	return password, nil
}
