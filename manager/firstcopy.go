package manager

import (
	"fmt"

	"github.com/farside-storage/farside/wire"
)

// The first copy of a new group takes many CGs. They are linked and decided like all others, but none of them is a
// recovery point before one leaves no volume out: see "First copies" in the package comment.

// founded says whether the group has had a recovery point, durably.
func (c *Core) founded() bool { return c.decided.CG > 0 && !c.decided.FirstCopy }

// leavesOut says whether a decision for a CG leaves the group without a recovery point; lacking counts the volumes of a
// secondary that are not whole with that CG.
func (c *Core) leavesOut(lacking func(*member) uint64) bool {
	return !c.founded() && !all(c.sec, func(s *member) bool { return lacking(s) == 0 })
}

// lackingAt counts the volumes of a secondary that are not whole once CG n, which it links, is final there.
func lackingAt(st wire.State, n uint64) uint64 {
	if st.Final >= n {
		return st.Lacking
	}
	return st.LackingThen
}

// FirstCopy is how far the first copy of a group is that never had a recovery point. A volume counts once for each
// secondary control that it has a copy on.
type FirstCopy struct {
	Volumes uint64 `json:"volumes"` // that the secondaries wait for
	Whole   uint64 `json:"whole"`   // those of them that have all of their first copy
}

func (f FirstCopy) String() string {
	return fmt.Sprintf("first copy, %d of %d volumes whole", f.Whole, f.Volumes)
}

// firstCopyStatus is nil if the group has had a recovery point, or that is not known.
func (c *Core) firstCopyStatus() *FirstCopy {
	if c.founded() || c.st == StateStarting || !all(c.sec, func(s *member) bool { return s.stateKnown }) {
		return nil
	}
	return c.progressOfCopy()
}

func (c *Core) progressOfCopy() *FirstCopy {
	f := &FirstCopy{}
	for _, s := range c.sec {
		f.Volumes += s.state.Awaited
		f.Whole += s.state.Awaited - min(s.state.Lacking, s.state.Awaited)
	}
	return f
}

// pointText says what a CG is that is final everywhere.
func (c *Core) pointText() string {
	if c.founded() {
		return "recovery point"
	}
	return "no recovery point yet: " + c.progressOfCopy().String()
}

// ExplainFirstCopy says what a recovery finds of a first copy: "" if the decision log says that the group has had a
// recovery point, or is lost and all volumes are whole.
func ExplainFirstCopy(rec Recovered, f FirstCopy) string {
	switch {
	case rec.Known && rec.Decided.CG > 0 && !rec.Decided.FirstCopy:
		return ""
	case f.Whole >= f.Volumes && rec.Decided.FirstCopy:
		return fmt.Sprintf("%v: the next CG is the group's first recovery point", f)
	case f.Whole >= f.Volumes:
		return ""
	case rec.Known:
		return fmt.Sprintf("%v: the group has no recovery point before all of them are. The first copy goes on where it was", f)
	}
	return fmt.Sprintf("%v. The decision log would say whether the group ever had a recovery point; without it, no CG counts as one before all "+
		"volumes are whole. Those that are stay readable, as of the CG that is final", f)
}
