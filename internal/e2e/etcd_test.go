package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
)

// awaitStanding asks a manager until it leads or stands by as wanted.
func awaitStanding(t testing.TB, p *process, what string, ok func(manager.Leadership) bool) {
	t.Helper()
	await(t, p.Name+": "+what, func() error {
		var s manager.NodeStatus
		if err := p.status(&s); err != nil {
			return err
		}
		if s.Leadership == nil || !ok(*s.Leadership) {
			return fmt.Errorf("%+v", s.Leadership)
		}
		return nil
	})
}

func leads(l manager.Leadership) bool { return l.Leads }

func standsBy(leader string) func(manager.Leadership) bool {
	return func(l manager.Leadership) bool { return !l.Leads && l.Leader != nil && *l.Leader == leader }
}

// TestReq20_ManagersShareAnEtcd: the leading manager stands still and wakes up too late, is killed, loses its etcd. Hosts write all the time, and in the end
// the copy is equal.
func TestReq20_ManagersShareAnEtcd(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	servers := etcdtest.Start(t, 1)
	c := newCluster(t, layout{primaries: 2, secondaries: 2, log: "etcd://" + servers.Members[0].Addr + "/" + groupName})
	h := c.startHosts(5)
	m1 := c.manager
	m2 := start(t, c.dir, "manager", "m2", c.managerConfig("m2"))
	awaitStanding(t, m2, "stands by", standsBy("m1"))
	goOn := func(leader *process) {
		t.Helper()
		c.manager = leader
		n := h.awaitRecords(t, 20)
		at := c.awaitPoint("a recovery point", func(s manager.Status) bool { return s.RecoveryPoint != nil })
		c.awaitPoint("the next one", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > *at.RecoveryPoint })
		t.Logf("%s leads: record %d, CG %d", leader.Name, n, *at.RecoveryPoint)
	}

	m1.pause()
	awaitStanding(t, m2, "leads", leads)
	goOn(m2)
	m1.resume()
	awaitStanding(t, m1, "stands by", standsBy("m2"))
	goOn(m2)

	plan := command(t, "recover", "--plan", "--timeout", patience.String(), "--config", m1.Config())
	if plan.code != 0 || !strings.Contains(plan.out, "in use") {
		t.Errorf("recover --plan while a manager leads: %+v", plan)
	}
	if apply := command(t, "recover", "--apply", "--config", m1.Config()); apply.code == 0 {
		t.Errorf("recover --apply while a manager leads: %+v", apply)
	}

	m2.kill()
	awaitStanding(t, m1, "leads", leads)
	goOn(m1)

	servers.Members[0].Kill()
	awaitStanding(t, m1, "says that the log is gone", func(l manager.Leadership) bool { return !l.Leads && l.Error != "" })
	h.awaitRecords(t, 20)
	servers.Members[0].Start()
	awaitStanding(t, m1, "leads again", leads)
	goOn(m1)

	servers.Members[0].Freeze() // its connections stay open
	awaitStanding(t, m1, "says that the log is silent", func(l manager.Leadership) bool { return !l.Leads && l.Error != "" })
	decided := c.decisions()
	h.awaitRecords(t, 20)
	if now := c.decisions(); !slices.Equal(now, decided) {
		t.Errorf("decided without a log: CGs %d", now[len(decided):])
	}
	last := decided[len(decided)-1]
	for i := range c.secondaries { // what was decided before may arrive late
		if s := c.awaitState(i, "its state", func(target.GroupStatus) bool { return true }); s.Final > last {
			t.Errorf("%s has CG %d final, the last one decided is %d", c.secondaries[i].Name, s.Final, last)
		}
	}
	servers.Members[0].Thaw()
	awaitStanding(t, m1, "has taken over again", func(l manager.Leadership) bool { return l.Leads && l.TakeoverMillis != nil })
	goOn(m1)

	m1.kill() // the log is free once the lease has run out
	await(t, "a plan with the log", func() error {
		if o := command(t, "recover", "--plan", "--timeout", patience.String(), "--config", m1.Config()); o.code != 0 || strings.Contains(o.out, "in use") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	must(t, "recover", "--apply", "--timeout", patience.String(), "--config", m1.Config())
	m1.launch()
	awaitStanding(t, m1, "leads after a recovery", leads)
	c.awaitCutAfter(h.stop(t))
	c.compare()
}
