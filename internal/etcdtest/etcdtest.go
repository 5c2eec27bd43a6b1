// Package etcdtest runs real etcd servers on loopback for tests, and gates in front of them that let nothing through.
//
// # Invariants
//
//   - Every server dies with the test, and with the test's process.
//   - A killed member keeps its data: started again it knows what it had acknowledged.
package etcdtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/internal/testtool"
)

// Servers is an etcd of one or more members.
type Servers struct {
	Members []*Member
}

// Member is one server of an etcd.
type Member struct {
	// Addr is its address for clients, host:port.
	Addr string

	t       testing.TB
	program string
	args    []string
	log     string
	cmd     *exec.Cmd // nil: does not run
}

// Start runs an etcd of n members, with elections and leases as short as it allows, and more arguments. It does not
// wait until they answer.
func Start(t testing.TB, n int, args ...string) *Servers {
	t.Helper()
	program := testtool.Need(t, "etcd", "etcd-server")
	dir := t.TempDir()
	s := &Servers{}
	var cluster, peers []string
	ports := freePorts(t, 2*n)
	for i := range n {
		peers = append(peers, "http://"+ports[2*i])
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	scheme := "http://"
	if strings.Contains(strings.Join(args, " "), "--cert-file") {
		scheme = "https://"
	}
	for i := range n {
		addr := ports[2*i+1]
		m := &Member{Addr: addr, t: t, program: program, log: filepath.Join(dir, fmt.Sprintf("m%d.log", i))}
		m.args = append([]string{"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--listen-client-urls", scheme + addr, "--advertise-client-urls", scheme + addr,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", filepath.Base(dir),
			"--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap", "--log-level", "warn"}, args...)
		s.Members = append(s.Members, m)
		m.Start()
		t.Cleanup(func() {
			if m.cmd != nil {
				m.Kill()
			}
			if t.Failed() {
				b, _ := os.ReadFile(m.log) // only to help
				t.Logf("log of etcd %s:\n%s", m.Addr, b[max(0, len(b)-2000):])
			}
		})
	}
	return s
}

// Addrs are the addresses of all members.
func (s *Servers) Addrs() []string {
	var out []string
	for _, m := range s.Members {
		out = append(out, m.Addr)
	}
	return out
}

// Start runs a member that was killed.
func (m *Member) Start() {
	m.t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	m.cmd = exec.Command(m.program, m.args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := proc.Start(m.cmd); err != nil {
		m.t.Fatal(err)
	}
}

// Kill ends a member at once, as a power failure does.
func (m *Member) Kill() {
	m.t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		m.t.Error(err)
	}
	_ = m.cmd.Wait() // it was killed, and says so
	m.cmd = nil
}

// Freeze stops a member where it is: its connections stay, and nothing comes over them. Thaw or Kill it.
func (m *Member) Freeze() { m.signal(syscall.SIGSTOP) }

// Thaw lets a frozen member go on.
func (m *Member) Thaw() { m.signal(syscall.SIGCONT) }

func (m *Member) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Error(err)
	}
}

// Host is the loopback address of all servers that this process starts. It is another one in each process: what was
// found free there is so until the server listens, as no other process takes a port of it, and no outgoing connection
// does.
var Host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))

var lastPort atomic.Uint32 // that was given out

// freePorts returns addresses of Host that were never given out before, and on which nobody listens.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	const lowest, highest = 12000, 31000
	var addrs []string
	for len(addrs) < n {
		port := lowest + lastPort.Add(1)
		if port > highest {
			t.Fatalf("no free port on %s", Host)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", Host, port))
		if err != nil {
			continue // somebody listens on all addresses
		}
		addrs = append(addrs, l.Addr().String())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return addrs
}
