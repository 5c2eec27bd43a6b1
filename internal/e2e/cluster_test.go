package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/frameproxy"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/internal/sitetest"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
)

const (
	block     = 4096
	groupName = "shop"
	// peerTimeout is how long a peer may be silent, or owe an answer: on a busy machine nothing must fail for being slow.
	peerTimeout = 30 * time.Second
	// coordinationTimeout is how long host writes may wait for a cut. With the default no cut succeeds where five processes share a
	// twentieth of a processor.
	coordinationTimeout = time.Second
	// etcdLease is how long the log belongs to a manager that does not renew it; tests wait for its end.
	etcdLease = 10 * time.Second
)

// volume is one volume and its copy.
type volume struct {
	name, export       string
	primary, secondary int
	host, replica      string // NBD addresses
}

// layout says what installation to make. Every primary has one volume on each secondary.
type layout struct {
	primaries, secondaries int
	volumeSize, poolSize   int64
	interval               time.Duration
	commandTimeout         time.Duration
	// copyRates limits the first copies of each primary. The installation is then ready before they end.
	copyRates []string
	// log is the decision log; "": a file.
	log string
	// proxies stand between the manager and the secondaries.
	proxies bool
	// device gives a block device for a pool or volume; nil: files.
	device func(size int64, sector int) string
}

// cluster is an installation that runs.
type cluster struct {
	t       testing.TB
	l       layout
	dir     string
	volumes []*volume

	secondaries, primaries []*process
	manager                *process
	standby                []*process // managers that share the log
	proxies                []*frameproxy.Proxy
	pools                  []string // devices of the secondaries
}

func newCluster(t testing.TB, l layout) *cluster {
	t.Helper()
	if l.interval == 0 {
		l.interval = 100 * time.Millisecond
	}
	if l.commandTimeout == 0 {
		l.commandTimeout = peerTimeout
	}
	if l.volumeSize == 0 {
		l.volumeSize = 8 << 20
	}
	if l.poolSize == 0 {
		l.poolSize = 192 << 20
	}
	c := &cluster{t: t, l: l, dir: folder(t)}
	for p := range l.primaries {
		for s := range l.secondaries {
			name := fmt.Sprintf("v%d", len(c.volumes)+1)
			c.volumes = append(c.volumes, &volume{name: name, export: groupName + "/" + name, primary: p, secondary: s,
				host: c.socket(fmt.Sprintf("p%d-nbd", p+1)), replica: c.socket(fmt.Sprintf("s%d-nbd", s+1))})
		}
	}
	for i := range l.secondaries {
		c.secondaries = append(c.secondaries, start(t, c.dir, "secondary", fmt.Sprintf("s%d", i+1), c.secondaryConfig(i)))
		if l.proxies {
			c.proxies = append(c.proxies, newProxy(t, c.managed(i), c.socket(fmt.Sprintf("s%d", i+1))))
		}
	}
	for i := range l.primaries {
		c.primaries = append(c.primaries, start(t, c.dir, "primary", fmt.Sprintf("p%d", i+1), c.primaryConfig(i)))
	}
	c.manager = start(t, c.dir, "manager", "m1", c.managerConfig("m1"))
	if l.copyRates == nil {
		c.awaitPoint("the first copy", func(s manager.Status) bool { return s.RecoveryPoint != nil })
	}
	return c
}

func (c *cluster) socket(name string) string { return "unix:" + filepath.Join(c.dir, name+".sock") }

// managed is the address at which the manager finds a secondary.
func (c *cluster) managed(i int) string {
	if c.l.proxies {
		return c.socket(fmt.Sprintf("s%d-proxy", i+1))
	}
	return c.socket(fmt.Sprintf("s%d", i+1))
}

func (c *cluster) secondaryConfig(i int) string {
	name := fmt.Sprintf("s%d", i+1)
	pool := filepath.Join(c.dir, name+".pool")
	if c.l.device != nil {
		pool = c.l.device(c.l.poolSize, 4096)
		must(c.t, "format", "--device", pool, "--pool", name)
	} else {
		must(c.t, "format", "--device", pool, "--pool", name, "--create", fmt.Sprint(c.l.poolSize))
	}
	c.pools = append(c.pools, pool)
	b := c.nodeConfig(name) + fmt.Sprintf("\n[secondary]\ndevices = [%q]\nnbd = %q\n", pool, c.socket(name+"-nbd"))
	for _, v := range c.volumes {
		if v.secondary == i {
			b += fmt.Sprintf("\n[[secondary.volume]]\nname = %q\ngroup = %q\nsize = %d\n", v.name, groupName, c.l.volumeSize)
		}
	}
	return b
}

func (c *cluster) primaryConfig(i int) string {
	name := fmt.Sprintf("p%d", i+1)
	b := c.nodeConfig(name) + c.stateDir(name) + fmt.Sprintf("\n[primary]\nnbd = %q\n", c.socket(name+"-nbd"))
	if c.l.copyRates != nil {
		b += fmt.Sprintf("first_copy_rate = %q\n", c.l.copyRates[i])
	}
	for _, v := range c.volumes {
		if v.primary != i {
			continue
		}
		where := fmt.Sprintf("file = %q\nsize = %d", filepath.Join(c.dir, v.name+".volume"), c.l.volumeSize)
		if c.l.device != nil {
			where = fmt.Sprintf("device = %q", c.l.device(c.l.volumeSize, 512))
		}
		b += fmt.Sprintf("\n[[primary.volume]]\nname = %q\ngroup = %q\n%s\nsecondary = %q\n", v.name, groupName, where, c.socket(fmt.Sprintf("s%d", v.secondary+1)))
	}
	return b
}

func (c *cluster) managerConfig(name string) string {
	var primaries, secondaries []string
	for i := range c.l.primaries {
		primaries = append(primaries, c.socket(fmt.Sprintf("p%d", i+1)))
	}
	for i := range c.l.secondaries {
		secondaries = append(secondaries, c.managed(i))
	}
	log := ""
	if c.l.log != "" {
		log = fmt.Sprintf("\n[manager]\ndecision_log = %q\netcd_lease = %q\n", c.l.log, etcdLease)
	}
	return c.nodeConfig(name) + c.stateDir(name) + log + fmt.Sprintf("\n[[manager.group]]\nname = %q\nprimaries = %s\nsecondaries = %s\ninterval = %q\ncoordination_timeout = %q\ncommand_timeout = %q\n",
		groupName, list(primaries), list(secondaries), c.l.interval, coordinationTimeout, c.l.commandTimeout)
}

func list(words []string) string {
	b, err := json.Marshal(words)
	if err != nil {
		panic(err) // strings can be marshalled
	}
	return string(b)
}

func (c *cluster) nodeConfig(name string) string {
	return fmt.Sprintf("[node]\nname = %q\nlisten = %q\npeer_timeout = %q\n", name, c.socket(name), peerTimeout)
}

func (c *cluster) stateDir(name string) string {
	c.t.Helper()
	dir := filepath.Join(c.dir, name)
	check(c.t, os.Mkdir(dir, 0o700))
	return fmt.Sprintf("state_dir = %q\n", dir)
}

// roles lists all processes.
func (c *cluster) roles() []*process {
	return slices.Concat(c.managers(), c.primaries, c.secondaries)
}

// managers lists all managers.
func (c *cluster) managers() []*process { return append([]*process{c.manager}, c.standby...) }

// alive is an error once a process has ended by itself.
func (c *cluster) alive() error {
	var errs []error
	for _, p := range c.roles() {
		errs = append(errs, p.Ended())
	}
	if err := errors.Join(errs...); err != nil {
		return hopeless(err)
	}
	return nil
}

// group asks the manager that leads for the group's state.
func (c *cluster) group() (manager.Status, error) {
	var errs []error
	for _, m := range c.managers() {
		s, err := groupOf(m)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return manager.Status{}, errors.Join(errs...)
}

func groupOf(m *process) (manager.Status, error) { return sitetest.Group(m.Name, m.status) }

// awaitPoint asks the manager until ok.
func (c *cluster) awaitPoint(what string, ok func(manager.Status) bool) manager.Status {
	c.t.Helper()
	return sitetest.AwaitGroup(c.t, what, func() (manager.Status, error) {
		if err := c.alive(); err != nil {
			return manager.Status{}, err
		}
		return c.group()
	}, ok)
}

// awaitCutAfter waits for a recovery point that was cut after t, and until every secondary shows it: the first one that does
// makes it the recovery point.
func (c *cluster) awaitCutAfter(t time.Time) uint64 {
	c.t.Helper()
	s := c.awaitPoint("a CG cut after the last write", func(s manager.Status) bool { return s.RecoveryCut != nil && s.RecoveryCut.After(t) })
	cg := *s.RecoveryPoint
	for i := range c.secondaries {
		c.awaitState(i, fmt.Sprintf("CG %d", cg), func(s target.GroupStatus) bool { return s.Final >= cg })
	}
	return cg
}

// state asks a secondary for its group.
func (c *cluster) state(i int) (target.GroupStatus, error) {
	return sitetest.Copy(c.secondaries[i].Name, c.secondaries[i].status)
}

// awaitState waits until a secondary answers and ok holds.
func (c *cluster) awaitState(i int, what string, ok func(target.GroupStatus) bool) target.GroupStatus {
	c.t.Helper()
	return sitetest.AwaitCopy(c.t, c.secondaries[i].Name, what, func() (target.GroupStatus, error) {
		if err := c.alive(); err != nil {
			return target.GroupStatus{}, err
		}
		return c.state(i)
	}, ok)
}

// audit is the first manager's audit log.
func (c *cluster) audit() sitetest.AuditLog {
	return sitetest.AuditLog{Path: filepath.Join(c.dir, "m1", node.AuditLogFile), Alive: c.alive}
}

// awaitEntry waits for an entry of the audit log, from the one numbered seen on.
func (c *cluster) awaitEntry(what string, seen int, ok func(manager.Entry) bool) []manager.Entry {
	c.t.Helper()
	return c.audit().Await(c.t, what, seen, ok)
}

// seen is the length of the audit log now.
func (c *cluster) seen() int {
	c.t.Helper()
	return c.audit().Seen(c.t)
}

// decisions lists the CGs that the manager decided, 0 first. A manager that was killed between the decision and its
// audit entry leaves the entry to the next one, whose plan at the start then is to go forward.
func (c *cluster) decisions() []uint64 {
	c.t.Helper()
	all, err := c.audit().Entries()
	check(c.t, err)
	cgs := []uint64{0}
	for _, e := range all {
		decided := e.Kind == manager.EntryDecided || e.Kind == manager.EntryFinal || e.Kind == manager.EntryPlan && strings.HasPrefix(e.Did, "forward")
		if decided && e.CG > cgs[len(cgs)-1] {
			cgs = append(cgs, e.CG)
		}
	}
	return cgs
}
