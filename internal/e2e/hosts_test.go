package e2e

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/hosttest"
	"github.com/farside-storage/farside/internal/sitetest"
)

// hosts write until they are stopped, and connect again when a primary was away.
type hosts struct {
	acked *atomic.Uint64 // newest record that was answered
	all   *hosttest.Hosts
}

// startHosts has one host write records in order round all volumes, and one for each volume write at random
// behind them.
func (c *cluster) startHosts(seed uint64) *hosts {
	h := hosttest.Start(c.t, c.hosted(), seed)
	return &hosts{&h.Acked, h}
}

// hosted lists the volumes as hosts see them.
func (c *cluster) hosted() (volumes []hosttest.Volume) {
	for _, v := range c.volumes {
		volumes = append(volumes, hosttest.Volume{Export: v.export, Host: v.host, Replica: v.replica, Blocks: c.l.volumeSize / block})
	}
	return volumes
}

// stop ends the hosts, and returns the time at which nothing more was written.
func (h *hosts) stop(t testing.TB) time.Time {
	t.Helper()
	return h.all.Stop(t)
}

// awaitRecords waits until n more records were answered.
func (h *hosts) awaitRecords(t testing.TB, n uint64) uint64 {
	t.Helper()
	return sitetest.AwaitCount(t, "answers to the host", h.acked.Load, n)
}

// image reads a whole export.
func image(address, export string) ([]byte, error) { return hosttest.Image(address, export) }

// images are what the copies show, by volume.
type images hosttest.Images

func (c *cluster) images() (images, error) {
	m, err := hosttest.Replicas(c.hosted())
	return images(m), err
}

// differ says where two sets of images differ, "" if nowhere.
func (m images) differ(other images) string {
	return hosttest.Images(m).Differ(hosttest.Images(other))
}

// order returns the newest record that the images show, or an error if they show one without another before it.
func (m images) order() (newest uint64, err error) { return hosttest.Images(m).Order() }

// compare wants every copy to equal its primary.
func (c *cluster) compare() {
	c.t.Helper()
	if err := hosttest.Compare(c.hosted()); err != nil {
		c.t.Error(err)
	}
}

// awaitImages reads what the copies show.
func (c *cluster) awaitImages() (m images) {
	c.t.Helper()
	await(c.t, "the contents of all copies", func() (err error) {
		m, err = c.images()
		return err
	})
	return m
}

// look reads the copies while they stand still at one CG, by stopping the managers for a moment.
func (c *cluster) look() (cg uint64, m images) {
	c.t.Helper()
	await(c.t, "all secondary controls at the same CG", func() (err error) {
		if err := c.alive(); err != nil {
			return err
		}
		for _, m := range c.managers() {
			m.pause()
			defer m.resume()
		}
		before, err := c.finals()
		if err != nil {
			return err
		}
		if slices.Min(before) != slices.Max(before) {
			return fmt.Errorf("final CGs are %d", before)
		}
		if m, err = c.images(); err != nil {
			return err
		}
		// A command that was on its way may have arrived meanwhile.
		after, err := c.finals()
		if err != nil {
			return err
		}
		if !slices.Equal(before, after) {
			return fmt.Errorf("final CGs are %d, then %d", before, after)
		}
		cg = after[0]
		return nil
	})
	return cg, m
}

// finals asks every secondary for its final CG.
func (c *cluster) finals() (cgs []uint64, err error) {
	for i := range c.secondaries {
		s, err := c.state(i)
		if err != nil {
			return nil, err
		}
		cgs = append(cgs, s.Final)
	}
	return cgs, nil
}

// lookInOrder looks, and wants the records in order.
func (c *cluster) lookInOrder() (cg, newest uint64) {
	c.t.Helper()
	cg, m := c.look()
	newest, err := m.order()
	if err != nil {
		c.t.Errorf("CG %d: %v", cg, err)
	}
	return cg, newest
}
