package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/etcdtest"
	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/manager"
)

var (
	kills     = flag.Int("kills", 20, "how many processes TestReq01_Req07_Req08_RealKills kills")
	killsRole = flag.String("kills.role", "", "kill processes of this role only: manager, primary or secondary")
	killsSeed = flag.Uint64("kills.seed", 0, "draw victims and moments from this seed; 0: another one each time")
	killsTime = flag.Duration("kills.time", 150*time.Second, "begin no new round of kills after this time; 0: no limit")
	killsEtcd = flag.Bool("kills.etcd", false, "two managers that share an etcd, in place of one with a file")
)

// TestReq01_Req07_Req08_RealKills runs every role as a process on loop devices, under load through NBD, and kills random ones
// with SIGKILL at random moments: sometimes two at once, sometimes again while they start. Whatever the moment was,
//
//   - nobody ever shows an older recovery point or final CG than it has shown before, and the copies, once they stand
//     still, are at none that is older than any that anybody has shown;
//   - the copies of all volumes together show one state of the hosts, never a record without one before it;
//   - pools are sound;
//   - once hosts pause, each copy becomes equal to its primary, and holds every record that was answered.
func TestReq01_Req07_Req08_RealKills(tt *testing.T) {
	t := begin(tt)
	long(t)
	testtool.NeedRoot(t)
	if !slices.Contains([]string{"", "manager", "primary", "secondary"}, *killsRole) {
		t.Fatalf("-kills.role %q: want manager, primary, secondary, or nothing for all of them", *killsRole)
	}
	t.Parallel()
	k := startCampaign(t)
	for round := 1; k.goesOn(); round++ {
		k.round()
		if round%roundsPerComparison == 0 {
			k.compareAll()
		}
	}
	k.compareAll()
	k.end()
}

const (
	roundsPerComparison = 5
	longestDelay        = 200 * time.Millisecond // before a kill
	longestStart        = 120 * time.Millisecond // from a start to the next kill: most of them while it recovers
)

// campaign is a cluster of which processes are killed.
type campaign struct {
	*cluster
	rng    *rand.Rand
	hosts  *hosts
	began  time.Time
	killed map[string]int // by role
	shown  shown
}

func startCampaign(t testing.TB) *campaign {
	t.Helper()
	seed := *killsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to draw the same again: -kills %d -kills.seed %d", *kills, seed)
	k := &campaign{rng: rand.New(rand.NewPCG(seed, 0)), killed: map[string]int{}}
	l := layout{primaries: 2, secondaries: 2, interval: 50 * time.Millisecond, device: bigSectors(t)}
	if *killsEtcd {
		l.log = "etcd://" + etcdtest.Start(t, 1).Members[0].Addr + "/" + groupName
	}
	k.cluster = newCluster(t, l)
	if *killsEtcd {
		k.standby = []*process{start(t, k.dir, "manager", "m2", k.managerConfig("m2"))}
	}
	k.hosts = k.startHosts(k.rng.Uint64())
	k.began = time.Now()
	k.watchAll()
	return k
}

// bigSectors gives layout loop devices with sectors of 4 KiB, with files in memory and direct I/O to them.
func bigSectors(t testing.TB) func(size int64, sector int) string {
	dir := folder(t)
	return func(size int64, _ int) string {
		d := loopdev.ForTest(t, dir, size, loopdev.Options{BlockSize: 4096})
		if direct, err := d.Direct(); err != nil || !direct {
			t.Logf("%s: no direct I/O to files in %s (%v)", d.Path, dir, err) // an older kernel
		}
		return d.Path
	}
}

func (k *campaign) count() (n int) {
	for _, of := range k.killed {
		n += of
	}
	return n
}

// goesOn says whether to begin another round.
func (k *campaign) goesOn() bool {
	if *killsTime > 0 && time.Since(k.began) > *killsTime {
		k.t.Logf("no more kills: %v are over (-kills.time)", *killsTime)
		return false
	}
	return k.count() < *kills && !k.t.Failed()
}

// round kills, starts again, and looks.
func (k *campaign) round() {
	k.t.Helper()
	victims := k.draw()
	delay(k.rng, longestDelay)
	var story []string
	for _, p := range victims {
		k.kill(p)
		story = append(story, p.Name)
	}
	for i, p := range k.secondaries {
		if slices.Contains(victims, p) && k.rng.IntN(2) == 0 { // else it starts while the kernel still ends what was killed
			k.sound(k.pools[i])
			story = append(story, "(checked)")
		}
	}
	k.rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for _, p := range victims {
		p.launch()
		for k.rng.IntN(3) == 0 {
			delay(k.rng, longestStart)
			k.kill(p)
			p.launch()
			story = append(story, p.Name+" again")
		}
	}
	before := k.shown.newest()
	k.awaitPoint(fmt.Sprintf("a CG after %s was killed", strings.Join(story, ", ")), func(s manager.Status) bool {
		return s.RecoveryPoint != nil && *s.RecoveryPoint > before
	})
	cg, newest := k.inspect()
	k.t.Logf("%3d kills after %5.1f s: %s; CG %d, then CG %d with records 1 to %d", k.count(), time.Since(k.began).Seconds(), strings.Join(story, " "), before, cg, newest)
}

// draw chooses one process, sometimes two.
func (k *campaign) draw() (victims []*process) {
	all := slices.DeleteFunc(k.roles(), func(p *process) bool { return *killsRole != "" && p.Kind != *killsRole })
	k.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if k.rng.IntN(4) == 0 {
		return all[:min(2, len(all))]
	}
	return all[:1]
}

func (k *campaign) kill(p *process) {
	k.t.Helper()
	check(k.t, p.Ended())
	p.kill()
	k.killed[p.Kind]++
}

// inspect looks at the copies while they stand still.
func (k *campaign) inspect() (cg, newest uint64) {
	k.t.Helper()
	before := k.shown.newest()
	cg, newest = k.lookInOrder()
	if cg < before {
		k.t.Errorf("the copies are at CG %d, but CG %d was shown as final before", cg, before)
	}
	return cg, newest
}

// compareAll has hosts pause, and wants each copy to become equal to its primary.
func (k *campaign) compareAll() {
	k.t.Helper()
	paused, acked := k.hosts.all.Pause()
	defer k.hosts.all.Resume()
	k.awaitCutAfter(paused)
	k.compare()
	if cg, newest := k.inspect(); newest != acked {
		k.t.Errorf("CG %d, cut after the last record, shows records to %d of %d", cg, newest, acked)
	}
}

// end stops the hosts, kills the secondaries, has their pools checked, and sums up.
func (k *campaign) end() {
	k.t.Helper()
	k.hosts.stop(k.t)
	for i, p := range k.secondaries {
		p.kill()
		k.sound(k.pools[i])
	}
	var roles []string
	for _, role := range slices.Sorted(maps.Keys(k.killed)) {
		roles = append(roles, fmt.Sprintf("%s %d", role, k.killed[role]))
	}
	k.t.Logf("%d kills in %.0f s (%s): %d recovery points and final CGs shown, none lost", k.count(), time.Since(k.began).Seconds(), strings.Join(roles, ", "), k.shown.answers)
}

// shown is what processes have said of the newest CG that is safe.
type shown struct {
	mu      sync.Mutex
	cg      uint64 // largest of all
	answers int
}

func (s *shown) newest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cg
}

func (s *shown) note(cg uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cg = max(s.cg, cg)
	s.answers++
}

// watchAll asks managers for their recovery point and secondaries for their final CG all the time, until the test ends.
func (k *campaign) watchAll() {
	ctx, cancel := context.WithCancel(context.Background())
	var watchers sync.WaitGroup
	k.t.Cleanup(func() { cancel(); watchers.Wait() })
	for i := range k.secondaries {
		watchers.Go(func() {
			k.watch(ctx, k.secondaries[i].Name, func() (uint64, error) { s, err := k.state(i); return s.Final, err })
		})
	}
	for _, m := range k.managers() {
		watchers.Go(func() {
			k.watch(ctx, m.Name, func() (uint64, error) { return recoveryPoint(m) })
		})
	}
}

// recoveryPoint is what a manager shows, 0 for nothing.
func recoveryPoint(p *process) (uint64, error) {
	var s manager.NodeStatus
	if err := p.status(&s); err != nil || len(s.Groups) != 1 || s.Groups[0].RecoveryPoint == nil {
		return 0, err
	}
	return *s.Groups[0].RecoveryPoint, nil
}

// watch wants the answers of a process never to go back, over all its lives. While it is away it does not answer.
func (k *campaign) watch(ctx context.Context, name string, ask func() (uint64, error)) {
	var last uint64
	for ctx.Err() == nil {
		cg, err := ask()
		if err == nil && cg > 0 {
			if cg < last {
				k.t.Errorf("%s showed CG %d, and later CG %d", name, last, cg)
			}
			last = max(last, cg)
			k.shown.note(cg)
		}
		select { // between two questions
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}
