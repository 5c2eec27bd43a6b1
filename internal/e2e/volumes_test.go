package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
)

const (
	// newSize is the size of a volume that joins: more than what a first copy may leave to one CG, so that it is spread.
	newSize = 40 << 20
	// slowly is a rate at which its first copy takes many minutes: it ends when the test says so.
	slowly = "16KiB"
)

// newVolume is a volume that joins group and leaves it.
type newVolume struct {
	c      *cluster
	before string // the primary's configuration without it
	volume
}

// newVolumeOf makes the file of the volume, full of data.
func newVolumeOf(c *cluster, rng *rand.Rand) *newVolume {
	c.t.Helper()
	text, err := os.ReadFile(c.primaries[0].Config())
	check(c.t, err)
	v := &newVolume{c: c, before: string(text), volume: *c.volumes[0]}
	v.name, v.export = "new", groupName+"/new"
	data := make([]byte, newSize)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	check(c.t, os.WriteFile(v.file(), data, 0o600))
	return v
}

func (v *newVolume) file() string { return filepath.Join(v.c.dir, v.name+".volume") }

// configure writes the primary's file with the volume, and a rate for its first copy if one is given.
func (v *newVolume) configure(rate string) {
	v.c.t.Helper()
	text := v.before + fmt.Sprintf("\n[[primary.volume]]\nname = %q\ngroup = %q\nfile = %q\nsize = %d\nsecondary = %q\n",
		v.name, groupName, v.file(), newSize, v.c.socket("s1"))
	if rate != "" {
		text = strings.Replace(text, "[primary]\n", fmt.Sprintf("[primary]\nfirst_copy_rate = %q\n", rate), 1)
	}
	check(v.c.t, v.c.primaries[0].Configure(text))
}

// group runs add-volume or remove-volume.
func (v *newVolume) group(command string, more ...string) {
	v.c.t.Helper()
	must(v.c.t, append([]string{"group", command, groupName, v.name, "--timeout", (2 * patience).String(), "--config", v.c.primaries[0].Config()}, more...)...)
}

// left is what the first copy lacks.
func (v *newVolume) left() (blocks uint64) {
	v.c.t.Helper()
	await(v.c.t, "the state of the first copy", func() error {
		var s primary.Status
		if err := v.c.primaries[0].status(&s); err != nil {
			return err
		}
		for _, o := range s.Groups[0].Volumes {
			if o.Name == v.name && o.Copies[0].FirstCopy != nil {
				blocks = o.Copies[0].FirstCopy.BlocksLeft
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Groups[0].Volumes)
	})
	return blocks
}

// goesOn waits for so many further recovery points, and wants the first copy to be under way still.
func (v *newVolume) goesOn(points int) {
	v.c.t.Helper()
	for range points {
		before := v.c.point()
		v.c.awaitPoint("another recovery point", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > before })
	}
	if left := v.left(); left == 0 {
		v.c.t.Fatal("the first copy was to be under way all the time")
	}
}

// write has a host write to the volume, which it leaves afterwards.
func (v *newVolume) write(fill byte, block int64) {
	v.c.t.Helper()
	host, err := nbdclient.Dial(v.c.t.Context(), v.host, v.export)
	check(v.c.t, err)
	_, err = host.WriteAt(bytes.Repeat([]byte{fill}, 4096), block*4096)
	check(v.c.t, errors.Join(err, host.Close()))
}

// TestReq14_VolumeJoinsUnderLoad: a large volume joins a group while hosts write. The recovery point of the others goes on during its first copy, over kills
// of both of its controls; then it is whole, equals the primary, leaves the group, and is deleted.
func TestReq14_VolumeJoinsUnderLoad(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	rng := seed(t)
	c := newCluster(t, layout{primaries: 1, secondaries: 2, poolSize: 256 << 20})
	h := c.startHosts(rng.Uint64())
	v := newVolumeOf(c, rng)
	v.configure(slowly)
	v.group("add-volume", "--no-wait")
	v.goesOn(3)
	v.write('x', 17)
	if conn, err := nbdclient.Dial(t.Context(), v.replica, v.export); err == nil {
		t.Errorf("a copy that is not whole is served: %v", conn.Close())
	}
	c.secondaries[0].kill()
	c.secondaries[0].launch()
	v.goesOn(2)
	c.primaries[0].kill()
	c.primaries[0].launch()
	v.goesOn(2)
	c.manager.kill()
	c.manager.launch()
	v.goesOn(2)
	v.write('y', newSize/block-1)

	v.configure("")
	v.group("add-volume") // again; it waits
	c.awaitCutAfter(h.stop(t))
	c.compare()
	want, err := image(v.host, v.export)
	check(t, err)
	got, err := image(v.replica, v.export)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the copy of the new volume differs from its primary")
	}

	v.leaves(want)
	c.compare()
}

// leaves has the volume leave. Its copy stays as it is, until it is deleted.
func (v *newVolume) leaves(want []byte) {
	c := v.c
	c.t.Helper()
	check(c.t, c.primaries[0].Configure(v.before))
	await(c.t, "the primary to notice that the hosts are gone", func() error {
		o := command(c.t, "primary", "reload", c.primaries[0].Listen())
		if o.code == 0 {
			return nil
		}
		return fmt.Errorf("status %d: %s", o.code, o.err)
	})
	for range 2 { // the second time nothing is left to do
		v.group("remove-volume", "--secondary", c.secondaries[0].Listen())
	}
	before := c.point()
	c.awaitPoint("a recovery point without the volume", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > before })
	got, err := image(v.replica, v.export)
	check(c.t, err)
	if !bytes.Equal(got, want) {
		c.t.Error("the copy that was left has changed")
	}
	for range 2 {
		v.group("remove-volume", "--delete", "--secondary", c.secondaries[0].Listen())
	}
	c.awaitState(0, "no copy", func(s target.GroupStatus) bool { return len(s.Volumes) == 1 })
	before = c.point()
	c.awaitPoint("a recovery point after the copy was deleted", func(s manager.Status) bool { return s.RecoveryPoint != nil && *s.RecoveryPoint > before })
}
