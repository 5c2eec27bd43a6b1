package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
)

// seed of the moments at which roles are killed.
func seed(t testing.TB) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// delay waits for a random time below most: the moment of a failure is any moment.
func delay(rng *rand.Rand, most time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(most)))) }

// TestReq01_SecondarySurvivesKill kills a secondary control again and again while it receives, also while it
// starts. What was final stays final and keeps its contents; the pool is sound each time.
func TestReq01_SecondarySurvivesKill(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	rng := seed(t)
	c := newCluster(t, layout{primaries: 1, secondaries: 1})
	h := c.startHosts(rng.Uint64())
	s := c.secondaries[0]
	for range 5 {
		h.awaitRecords(t, 50)
		cg, m := c.look()
		c.manager.pause() // or a newer CG takes its place
		s.kill()
		for range rng.IntN(3) {
			s.launch()
			delay(rng, 100*time.Millisecond)
			s.kill()
		}
		c.sound(c.dir + "/s1.pool")
		s.launch()
		st := c.awaitState(0, "the killed secondary", func(target.GroupStatus) bool { return true })
		if st.Final < cg {
			t.Errorf("final CG %d before, %d after the kill", cg, st.Final)
		}
		if st.Final == cg { // a RELEASE may have been on its way
			if d := m.differ(c.awaitImages()); d != "" {
				t.Errorf("CG %d before and after the kill: %s", cg, d)
			}
		}
		c.manager.resume()
		c.awaitPoint("a CG after the kill", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > st.Final })
		c.lookInOrder()
	}
	c.awaitCutAfter(h.stop(t))
	c.compare()
}

// sound has the pool of a killed secondary checked, as soon as the kernel has let go of it.
func (c *cluster) sound(pool string) {
	c.t.Helper()
	await(c.t, "a check of "+pool, func() error {
		o := command(c.t, "check", "--data", "--device", pool)
		err := fmt.Errorf("check: status %d\n%s%s", o.code, o.out, o.err)
		switch {
		case o.code == 0:
			return nil
		case strings.Contains(o.err, "device is in use"):
			return err
		}
		return hopeless(err)
	})
}

// TestReq02_HostsAreAnsweredWithoutTheSecondary: while the secondary's process does not run at all, writes and flushes
// are answered; it has them later.
func TestReq02_HostsAreAnsweredWithoutTheSecondary(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	c := newCluster(t, layout{primaries: 1, secondaries: 1})
	v := c.volumes[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	host, err := nbdclient.Dial(ctx, v.host, v.export)
	check(t, err)
	defer func() { check(t, host.Close()) }()

	c.secondaries[0].pause()
	want := bytes.Repeat([]byte("written while the secondary stood still, "), 200)[:block]
	for i := range int64(500) {
		if _, err := host.WriteAt(want, i*block); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	check(t, host.Flush())
	answered := time.Now()
	c.secondaries[0].resume()

	c.awaitCutAfter(answered)
	got, err := image(v.replica, v.export)
	check(t, err)
	if !bytes.Equal(got[:500*block], bytes.Repeat(want, 500)) {
		t.Error("the copy lacks what was answered")
	}
	c.compare()
}

// TestReq07_Req08_KillEachRole kills each role, at random moments under load that spans two volumes on each of two
// secondary controls. Whatever was being done: each secondary comes back at one of two neighbouring
// CGs, shows what it showed of that CG before, and no copy ever shows a record without one before it.
func TestReq07_Req08_KillEachRole(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	rng := seed(t)
	c := newCluster(t, layout{primaries: 2, secondaries: 2, interval: 50 * time.Millisecond})
	h := c.startHosts(rng.Uint64())
	victims := slices.Concat(c.roles(), c.roles())
	rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	w := witness{c: c, shown: map[[2]uint64]images{}}
	for _, p := range victims {
		delay(rng, 150*time.Millisecond)
		before := c.point()
		p.kill()
		if p == c.manager {
			w.observe() // nobody moves the copies now
			p.launch()
		} else {
			c.manager.pause()
			p.launch()
			if p.Kind == "secondary" {
				w.observe()
			}
			c.manager.resume()
		}
		c.awaitPoint("a CG after "+p.Name+" was killed", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > before })
		cg, newest := c.lookInOrder()
		t.Logf("killed %s at CG %d; CG %d shows records 1 to %d of %d", p.Name, before, cg, newest, h.acked.Load())
	}
	c.awaitCutAfter(h.stop(t))
	c.compare()
	if _, newest := c.lookInOrder(); newest < h.acked.Load() {
		t.Errorf("the copies end with record %d of %d", newest, h.acked.Load())
	}
}

// point is the recovery point now.
func (c *cluster) point() uint64 {
	c.t.Helper()
	return *c.awaitPoint("the recovery point", func(s manager.Status) bool { return s.RecoveryPoint != nil }).RecoveryPoint
}

// witness remembers what each secondary showed of a CG.
type witness struct {
	c     *cluster
	shown map[[2]uint64]images
}

// observe looks at each secondary while the manager does nothing.
func (w *witness) observe() {
	c := w.c
	c.t.Helper()
	finals, seen := make([]uint64, len(c.secondaries)), make(images, len(c.volumes))
	for i, p := range c.secondaries {
		finals[i] = w.still(i, seen)
		m := w.of(i, seen)
		key := [2]uint64{uint64(i), finals[i]}
		if known := w.shown[key]; known != nil && known.differ(m) != "" {
			c.t.Errorf("%s shows two contents of CG %d: %s", p.Name, finals[i], known.differ(m))
		}
		w.shown[key] = m
	}
	w.neighbours(finals)
	if slices.Min(finals) == slices.Max(finals) {
		if _, err := seen.order(); err != nil {
			c.t.Errorf("CG %d: %v", finals[0], err)
		}
	}
}

// still reads a secondary's volumes into seen and returns their CG. A command may be on its way still: it reads between two equal
// answers.
func (w *witness) still(i int, seen images) (cg uint64) {
	c := w.c
	c.t.Helper()
	await(c.t, "a secondary at rest", func() error {
		before, err := c.state(i)
		if err != nil {
			return err
		}
		for k, v := range c.volumes {
			if v.secondary != i {
				continue
			}
			if seen[k], err = image(v.replica, v.export); err != nil {
				return err
			}
		}
		after, err := c.state(i)
		if err == nil && before.Final != after.Final {
			err = errors.New("it moved on")
		}
		cg = after.Final
		return err
	})
	return cg
}

// of picks the volumes of one secondary.
func (w *witness) of(i int, seen images) (m images) {
	for k, v := range w.c.volumes {
		if v.secondary == i {
			m = append(m, seen[k])
		}
	}
	return m
}

// neighbours wants final CGs to be equal, or two that were decided one after the other.
func (w *witness) neighbours(finals []uint64) {
	w.c.t.Helper()
	low, high := slices.Min(finals), slices.Max(finals)
	decided := w.c.decisions()
	i := slices.Index(decided, high)
	if i < 0 || low != high && (i == 0 || decided[i-1] != low) {
		w.c.t.Errorf("secondary controls show final CGs %d, decided were %d", finals, decided[max(0, len(decided)-5):])
	}
}

// TestReq14_TwoByTwo: two primaries and two secondaries form CGs together; every one of them takes part.
func TestReq14_TwoByTwo(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	c := newCluster(t, layout{primaries: 2, secondaries: 2})
	h := c.startHosts(1)
	first := c.point()
	var newest uint64
	for range 3 {
		h.awaitRecords(t, 100)
		cg, n := c.lookInOrder()
		if cg < first || n < newest {
			t.Errorf("CG %d shows records to %d, CG %d before it to %d", cg, n, first, newest)
		}
		first, newest = cg, n
	}
	for _, p := range c.secondaries {
		await(t, p.Name+" receives from both primaries", func() error {
			var s target.Status
			if err := p.status(&s); err != nil {
				return err
			}
			if len(s.Sessions) != 2 || s.Sessions[0].Peer == s.Sessions[1].Peer || s.Sessions[0].Bytes == 0 || s.Sessions[1].Bytes == 0 {
				return fmt.Errorf("sessions %+v", s.Sessions)
			}
			return nil
		})
	}
	c.awaitPoint("CGs of all four", func(s manager.Status) bool { return len(s.Controls) == 4 && s.CGsFormed > 0 })
	c.awaitCutAfter(h.stop(t))
	c.compare()
	if _, newest := c.lookInOrder(); newest != h.acked.Load() {
		t.Errorf("the copies show records to %d, written were %d", newest, h.acked.Load())
	}
	if got := c.decisions(); len(got) < 3 {
		t.Errorf("after several CGs the decisions are %d", got)
	}
}
