package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
)

// firstCopy is a new group: the volume of one primary is whole soon, that of the other one when the test says so.
type firstCopy struct {
	*cluster
	slow *volume
}

// left is how many blocks the slow copy lacks.
func (f firstCopy) left() (blocks uint64) {
	f.t.Helper()
	await(f.t, "the state of the first copy", func() error {
		var s primary.Status
		if err := f.primaries[1].status(&s); err != nil {
			return err
		}
		c := s.Groups[0].Volumes[0].Copies[0]
		if c.FirstCopy == nil {
			return fmt.Errorf("%+v", c)
		}
		blocks = c.FirstCopy.BlocksLeft
		return nil
	})
	return blocks
}

// goesOn waits for further final CGs, none of which is a recovery point.
func (f firstCopy) goesOn() {
	f.t.Helper()
	s := f.awaitPoint("one whole volume of two", func(s manager.Status) bool {
		return s.OpenCG > 0 && s.FirstCopy != nil && *s.FirstCopy == manager.FirstCopy{Volumes: 2, Whole: 1}
	})
	if s.RecoveryPoint != nil {
		f.t.Fatalf("CG %d is called a recovery point without a volume", *s.RecoveryPoint)
	}
	f.awaitState(0, "further CGs", func(g target.GroupStatus) bool { return g.Final > s.OpenCG })
}

// TestReq07_ANewGroupIsCopiedInSeveralCGs: while the first copy of a new group lasts, its CGs become final, and what they brought stays over
// kills of all controls; there is no recovery point before all volumes are whole.
func TestReq07_ANewGroupIsCopiedInSeveralCGs(tt *testing.T) {
	t := begin(tt)
	long(t)
	t.Parallel()
	// At that rate more than enough is left for a CG of its own for half an hour.
	const written, all = 1024, 64 << 20 / block
	c := newCluster(t, layout{primaries: 2, secondaries: 1, volumeSize: all * block, poolSize: 256 << 20, copyRates: []string{"1GiB", slowly}})
	f := firstCopy{c, c.volumes[1]}
	f.goesOn()

	host, err := nbdclient.Dial(t.Context(), f.slow.host, f.slow.export)
	check(t, err)
	_, err = host.WriteAt(bytes.Repeat([]byte{'x'}, written*block), 0)
	check(t, errors.Join(err, host.Close()))
	f.goesOn() // what the host wrote is in a CG that is final
	goesOnWhereItWas := func(after string) {
		t.Helper()
		f.goesOn()
		if left := f.left(); left > all-written {
			t.Errorf("%s: %d of %d blocks are left, although %d are final on the secondary", after, left, all, written)
		}
	}
	goesOnWhereItWas("before anything is killed")
	if conn, err := nbdclient.Dial(t.Context(), f.slow.replica, f.slow.export); err == nil {
		t.Errorf("a copy that is not whole is served: %v", conn.Close())
	}
	c.secondaries[0].kill()
	c.secondaries[0].launch()
	goesOnWhereItWas("the secondary was killed")
	c.manager.kill()
	const said = "first copy, 1 of 2 volumes whole: the group has no recovery point"
	if o := command(t, "recover", "--plan", "--config", c.manager.Config()); o.code != 0 || !strings.Contains(o.out, said) {
		t.Errorf("recover --plan ends with %d, and does not say %q:\n%s%s", o.code, said, o.out, o.err)
	}
	c.manager.launch()
	goesOnWhereItWas("the manager was killed")
	c.primaries[1].kill()
	c.primaries[1].launch()
	f.goesOn()

	text, err := os.ReadFile(c.primaries[1].Config())
	check(t, err)
	check(t, c.primaries[1].Configure(strings.Replace(string(text), slowly, "1GiB", 1)))
	must(t, "primary", "reload", c.primaries[1].Listen())
	s := c.awaitPoint("the first recovery point", func(s manager.Status) bool { return s.RecoveryPoint != nil })
	if s.FirstCopy != nil {
		t.Errorf("recovery point %d, and %v", *s.RecoveryPoint, s.FirstCopy)
	}
	c.compare()
}
