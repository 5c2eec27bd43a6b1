package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/loopdev"
	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/internal/testtool"
	"github.com/farside-storage/farside/manager"
)

// onLoopDevices gives layout loop devices.
func onLoopDevices(t testing.TB) func(size int64, sector int) string {
	dir := folder(t)
	return func(size int64, sector int) string {
		return loopdev.ForTest(t, dir, size, loopdev.Options{BlockSize: sector}).Path
	}
}

// uri is how libnbd names an export.
func uri(address, export string) string {
	return "nbd+unix:///" + export + "?socket=" + strings.TrimPrefix(address, "unix:")
}

// load is fio that writes and verifies through NBD.
type load struct {
	t    testing.TB
	v    *volume
	dir  string
	seed int64
	size int64
	cmd  *exec.Cmd
	out  string
	done chan error // how it ended
}

// startFio writes every block of half the volume once, in random order, then reads all back and verifies.
func startFio(t testing.TB, v *volume, dir string, seed, size int64) *load {
	t.Helper()
	name := fmt.Sprintf("fio-%s-%d", v.name, seed)
	l := &load{t: t, v: v, dir: dir, seed: seed, size: size, out: filepath.Join(dir, name+".json"), done: make(chan error, 1)}
	l.cmd = exec.Command(testtool.Need(t, "fio", "fio"), "--name="+name, "--ioengine=nbd", "--uri="+uri(v.host, v.export), "--rw=randwrite",
		"--bs=4k", "--iodepth=16", fmt.Sprintf("--size=%d", size), fmt.Sprintf("--randseed=%d", seed), "--rate_iops=,1200",
		"--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--group_reporting", "--output-format=json", "--output="+l.out)
	l.cmd.Dir = dir
	check(t, spawn(l.cmd))
	check(t, proc.LimitFiles(l.cmd, 1<<20)) // where its server is gone, fio may report that for ever
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(l.kill)
	return l
}

// again returns a load that runs: another one, if this one has ended, which then must have been well.
func (l *load) again() *load {
	l.t.Helper()
	select {
	case err := <-l.done:
		l.done <- err
		check(l.t, l.wait())
		return startFio(l.t, l.v, l.dir, l.seed+100, l.size)
	default:
		return l
	}
}

// kill ends fio, whatever it was at.
func (l *load) kill() {
	l.cmd.Process.Kill() // it may have ended by itself
	l.done <- <-l.done
}

// wait returns whether fio wrote and verified everything.
func (l *load) wait() error {
	end := time.AfterFunc(3*patience, func() { l.cmd.Process.Kill() })
	defer end.Stop()
	err := <-l.done
	l.done <- err
	text, rerr := os.ReadFile(l.out)
	if err != nil || rerr != nil {
		return fmt.Errorf("fio: %v, %v\n%s", err, rerr, text[:min(len(text), 4<<10)])
	}
	var report struct {
		Jobs []struct {
			Error       int
			Read, Write struct {
				TotalIOs int64 `json:"total_ios"`
			}
		}
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return fmt.Errorf("fio's report: %w\n%s", err, text)
	}
	for _, j := range report.Jobs {
		if j.Error != 0 || j.Write.TotalIOs == 0 || j.Read.TotalIOs < j.Write.TotalIOs {
			return fmt.Errorf("fio: error %d, %d writes, %d verified", j.Error, j.Write.TotalIOs, j.Read.TotalIOs)
		}
	}
	if len(report.Jobs) == 0 {
		return fmt.Errorf("fio did nothing: %s", text)
	}
	return nil
}

// TestReq01_Req08_LoopDevices replicates two volumes on loop devices to two pools on loop devices with sectors of 4 KiB,
// while fio writes and verifies. Each role is killed under that load. Hosts notice only that of the primary
// that serves them. At the end each copy equals its primary.
func TestReq01_Req08_LoopDevices(tt *testing.T) {
	t := begin(tt)
	long(t)
	testtool.NeedRoot(t)
	testtool.Need(t, "fio", "fio")
	qemu := testtool.Need(t, "qemu-img", "qemu-utils")
	t.Parallel()
	const size = 64 << 20
	c := newCluster(t, layout{primaries: 1, secondaries: 2, volumeSize: size, poolSize: 512 << 20, device: onLoopDevices(t), interval: 200 * time.Millisecond})
	dir := folder(t)
	rng := seed(t)

	var loads []*load
	for i, v := range c.volumes {
		loads = append(loads, startFio(t, v, dir, int64(i+1), size/2))
	}
	for _, p := range []*process{c.secondaries[0], c.manager, c.secondaries[1]} {
		for i, l := range loads {
			loads[i] = l.again()
		}
		c.killUnderLoad(p)
		delay(rng, 300*time.Millisecond)
	}
	for _, l := range loads {
		check(t, l.wait())
	}
	// A host of a primary that dies gets errors. What it writes afterwards, it can verify.
	victim := startFio(t, c.volumes[0], dir, 11, size/2)
	written := c.received(0)
	await(t, "writes of fio", func() error {
		if now := c.received(0); now < written+100 {
			return fmt.Errorf("%s has received %d updates, before fio %d", c.secondaries[0].Name, now, written)
		}
		return nil
	})
	c.killUnderLoad(c.primaries[0])
	victim.kill()                                               // it may try for ever
	await(t, "the primary to serve hosts again", func() error { // the CG after the kill may have been complete before it
		host, err := nbdclient.Dial(t.Context(), c.volumes[0].host, c.volumes[0].export)
		if err != nil {
			return err
		}
		return host.Close()
	})
	check(t, startFio(t, c.volumes[0], dir, 12, size/4).wait())
	cg := c.awaitCutAfter(time.Now())
	for _, v := range c.volumes {
		out := tool(t, qemu, "compare", "-f", "raw", "-F", "raw", uri(v.host, v.export), uri(v.replica, v.export))
		t.Logf("CG %d, %s: %s", cg, v.name, strings.TrimSpace(out))
	}
	c.nbdcopyEquals()
}

// received is how many updates a secondary has taken in since it started.
func (c *cluster) received(i int) (updates uint64) {
	c.t.Helper()
	await(c.t, "its counters", func() error {
		var s target.Status
		err := c.secondaries[i].status(&s)
		updates = s.Counters.Updates
		return err
	})
	return updates
}

// killUnderLoad kills a role, starts it again, and waits for a CG after that.
func (c *cluster) killUnderLoad(p *process) {
	c.t.Helper()
	before := c.point()
	p.kill()
	p.launch()
	s := c.awaitPoint("a CG after "+p.Name+" was killed", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > before })
	c.t.Logf("killed %s at CG %d, went on with CG %d", p.Name, before, *s.RecoveryPoint)
}

// nbdcopyEquals copies both sides with nbdcopy, and wants the same bytes.
func (c *cluster) nbdcopyEquals() {
	c.t.Helper()
	nbdcopy := testtool.Need(c.t, "nbdcopy", "libnbd-bin")
	dir := folder(c.t)
	for _, v := range c.volumes {
		var both images
		for i, from := range []string{v.host, v.replica} {
			to := filepath.Join(dir, fmt.Sprint(v.name, i))
			tool(c.t, nbdcopy, uri(from, v.export), to)
			b, err := os.ReadFile(to)
			check(c.t, err)
			both = append(both, b)
		}
		if d := both[:1].differ(both[1:]); d != "" || len(both[0]) != len(both[1]) {
			c.t.Errorf("nbdcopy of %s: %d and %d bytes, %s", v.name, len(both[0]), len(both[1]), d)
		}
	}
}
