package nettest

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/testtool"
)

// Net is a network of hosts. Its methods may be called from any goroutine.
type Net struct {
	t       testing.TB
	program string // ip
	space   *space // the switch's
	running sync.WaitGroup

	mu     sync.Mutex
	hosts  []*Host
	ports  int // ever
	ways   map[[2]*Host]*way
	shape  Shape
	filter Filter
	ended  bool
}

// Host is a machine in the network.
type Host struct {
	// Name is for messages only.
	Name string
	// IP is its address, a loopback one: see the package comment.
	IP string

	net   *Net
	use   sync.RWMutex // held by those who use space; Replace changes it
	space *space
	port  *port // nil while the host is being replaced; guarded by Net.mu
}

// New makes a network without hosts, which ends with the test. The test is skipped where it is not run as root or the
// machine has no network namespaces to give.
func New(t testing.TB) *Net {
	t.Helper()
	testtool.NeedRoot(t)
	n := &Net{t: t, program: testtool.Need(t, "ip", "iproute2"), ways: map[[2]*Host]*way{}}
	var err error
	if n.space, err = newSpace(); err != nil {
		giveUp(t, err)
	}
	t.Cleanup(n.close)
	return n
}

// giveUp ends the test: skipped if the machine does not allow what root needs for a network of its own (a container
// without the capabilities, a kernel without namespaces), failed otherwise.
func giveUp(t testing.TB, err error) {
	t.Helper()
	for _, refusal := range []error{unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOSYS, unix.EOPNOTSUPP, unix.EAFNOSUPPORT} {
		if errors.Is(err, refusal) {
			t.Skipf("this machine gives root no network namespaces of its own: %v", err)
		}
	}
	t.Fatal(err)
}

// Host adds a host.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	n.mu.Lock()
	number := len(n.hosts) + 1
	n.mu.Unlock()
	h := &Host{Name: name, IP: fmt.Sprintf("127.77.0.%d", number), net: n}
	h.settle(number)
	n.t.Cleanup(func() { h.space.close() })
	n.mu.Lock()
	n.hosts = append(n.hosts, h)
	n.mu.Unlock()
	return h
}

// settle gives a host a namespace and connects it.
func (h *Host) settle(number int) {
	h.net.t.Helper()
	space, err := newSpace()
	if err == nil {
		h.space = space
		if err = h.connect(number); err != nil {
			space.close()
		}
	}
	if err != nil {
		giveUp(h.net.t, fmt.Errorf("host %s: %w", h.Name, err))
	}
}

// Replace puts a new machine with the same address in the place of the host, whose processes die without a word: what
// they would still send is lost.
func (h *Host) Replace() {
	h.net.t.Helper()
	h.use.Lock()
	defer h.use.Unlock()
	n := h.net
	n.mu.Lock()
	old, number := h.port, slices.Index(n.hosts, h)+1
	h.port = nil
	n.mu.Unlock()
	old.close()
	h.space.close()
	h.settle(number)
}

// connect gives a host its address and a port of the switch.
func (h *Host) connect(number int) error {
	n := h.net
	n.mu.Lock()
	n.ports++
	name := fmt.Sprintf("port%d", n.ports)
	n.mu.Unlock()
	err := h.space.ip(n.program, "link set lo up\naddr del 127.0.0.1/8 dev lo\n")
	if err == nil {
		err = h.space.set("ipv4/conf/all/route_localnet", "1")
	}
	if err == nil {
		err = n.space.ip(n.program, fmt.Sprintf("link add %s type veth peer name eth0 address %v netns %s\nlink set %s up\n", name, mac(number), h.space.path(), name))
	}
	if err == nil {
		err = h.space.ip(n.program, fmt.Sprintf("addr add %s/16 dev eth0\nlink set eth0 up\n", h.IP))
	}
	var p *port
	if err == nil {
		p, err = n.openPort(name)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h.port = p
	n.running.Go(func() { n.carry(h, p) })
	return nil
}

// Do calls f where the host is: a socket that f makes on this goroutine is the host's, for any goroutine to use. That
// includes a net.Dial to a literal address.
func (h *Host) Do(f func()) {
	h.use.RLock()
	defer h.use.RUnlock()
	_ = h.space.do(func() error { // it returns what f does: nothing
		f()
		return nil
	})
}

// Start starts a process on the host, which dies with this one.
func (h *Host) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // or with the thread, which lives as long as the network
	h.use.RLock()
	defer h.use.RUnlock()
	return h.space.do(cmd.Start)
}

// close ends the switch. Hosts have ended before.
func (n *Net) close() {
	n.mu.Lock()
	n.ended = true
	for _, h := range n.hosts {
		if h.port != nil {
			h.port.close()
		}
	}
	for _, w := range n.ways {
		close(w.late)
	}
	n.mu.Unlock()
	n.running.Wait()
	n.space.close()
}
