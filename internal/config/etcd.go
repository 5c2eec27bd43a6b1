package config

import (
	"fmt"
	"net"
	"path"
	"strings"
	"time"
)

// etcdScheme begins a decision log in etcd.
const etcdScheme = "etcd://"

// EtcdLog is a decision log in etcd.
type EtcdLog struct {
	// Endpoints are the members' addresses, host:port. At least one.
	Endpoints []string
	// Prefix of the keys; "" if none was given.
	Prefix string
}

// Etcd returns where in etcd the decision log is; false if it is in a file.
func (m *Manager) Etcd() (EtcdLog, bool) {
	log, err := parseEtcd(m.DecisionLog)
	return log, err == nil && m.inEtcd()
}

func (m *Manager) inEtcd() bool { return strings.HasPrefix(m.DecisionLog, etcdScheme) }

// parseEtcd reads etcd://host:port,host:port/prefix.
func parseEtcd(text string) (log EtcdLog, err error) {
	rest := strings.TrimPrefix(text, etcdScheme)
	hosts, prefix, _ := strings.Cut(rest, "/")
	log.Prefix = prefix
	if strings.Contains(hosts, "@") {
		// Not shown: what stands before it may be a password.
		return log, fmt.Errorf("has an \"@\": a user and its password are given with etcd_user and etcd_password_file")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if h, port, err := net.SplitHostPort(host); err != nil || h == "" || port == "" {
			return log, fmt.Errorf("%q is not the address of an etcd: write etcd://HOST:PORT,HOST:PORT", host)
		}
		log.Endpoints = append(log.Endpoints, host)
	}
	if prefix != "" && (strings.HasPrefix(prefix, "/") || path.Clean(prefix) != prefix || strings.ContainsAny(prefix, "?#\x00")) {
		return log, fmt.Errorf("the prefix %q of the keys in etcd: write words with \"/\" between them", prefix)
	}
	return log, nil
}

// checkEtcd checks what belongs to a decision log in etcd.
func (d *decoder) checkEtcd(m *Manager) {
	given := map[string]string{
		"etcd_ca": m.EtcdCA, "etcd_cert": m.EtcdCert, "etcd_key": m.EtcdKey, "etcd_user": m.EtcdUser, "etcd_password_file": m.EtcdPasswordFile,
	}
	if !m.inEtcd() {
		for _, key := range []string{"etcd_ca", "etcd_cert", "etcd_key", "etcd_user", "etcd_password_file"} {
			if given[key] != "" {
				d.problem("manager."+key, "belongs to a decision log in etcd: set manager.decision_log to \"etcd://HOST:PORT\", or leave this out")
			}
		}
		return
	}
	log, err := parseEtcd(m.DecisionLog)
	if err != nil {
		d.problem("manager.decision_log", "%v", err)
	}
	d.together("etcd_cert", m.EtcdCert, "etcd_key", m.EtcdKey)
	d.together("etcd_user", m.EtcdUser, "etcd_password_file", m.EtcdPasswordFile)
	d.within("manager.etcd_lease", m.EtcdLease, time.Second, 10*time.Minute)
	if m.EtcdLease.Std()%time.Second != 0 {
		d.problem("manager.etcd_lease", "%v is not a number of whole seconds", m.EtcdLease)
	}
	for _, e := range log.Endpoints {
		if host, _, err := net.SplitHostPort(e); err == nil && !loopback(host) && m.EtcdCA == "" && m.EtcdCert == "" {
			d.problem("manager.decision_log", "%s is not a loopback address: without TLS etcd is reached on loopback only; set manager.etcd_ca", e)
		}
	}
}

func (d *decoder) together(a, valueA, b, valueB string) {
	d.required("manager."+a, valueA == "" && valueB != "", "this too: it goes with "+b)
	d.required("manager."+b, valueB == "" && valueA != "", "this too: it goes with "+a)
}
