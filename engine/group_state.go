package engine

import (
	"fmt"

	"github.com/farside-storage/farside/internal/plant"
)

// groupState is what the journal says about a group, and the rules by which commands change it. It is
// pure: commands return the record to be made durable, apply carries a durable record out. Opening a
// pool replays records through the same apply.
//
//	final <= linked <= complete
//
// linked == final, or linked is the one CG that can be reverted. complete == linked, or the one CG
// that can be linked next.
type groupState struct {
	name     string
	epoch    uint64 // highest seen; commands of a lower one are refused (rule R4)
	final    uint64 // newest final CG, 0 none
	linked   uint64 // newest linked CG
	complete uint64 // newest complete CG
	through  uint64 // CGs up to this that are not final were discarded
}

// Command heads every command of a replication manager.
type Command struct {
	Epoch uint64
	CG    uint64
}

func (s *groupState) checkEpoch(c Command) error {
	if c.Epoch < s.epoch && !plant.On(plant.LowerEpoch) {
		return fmt.Errorf("group %s: epoch %d: %w: epoch %d is in force", s.name, c.Epoch, ErrStaleEpoch, s.epoch)
	}
	return nil
}

func (s *groupState) refuse(what string, c Command) error {
	return fmt.Errorf("group %s: cannot %s CG %d: %w: complete %d, linked %d, final %d",
		s.name, what, c.CG, ErrState, s.complete, s.linked, s.final)
}

// Each of the following returns the record that carries the command out, or nil if there is
// nothing to do because it was done before.

func (s *groupState) fence(epoch uint64) (*record, error) {
	if err := s.checkEpoch(Command{Epoch: epoch}); err != nil || epoch == s.epoch {
		return nil, err
	}
	return &record{kind: recFence, epoch: epoch}, nil
}

func (s *groupState) completed(cg, entries uint64) (*record, error) {
	if cg <= s.through || cg <= s.complete {
		return nil, fmt.Errorf("group %s: CG %d: %w", s.name, cg, ErrDropped)
	}
	return &record{kind: recComplete, cg: cg, entries: entries}, nil
}

func (s *groupState) link(c Command) (*record, error) {
	if err := s.checkEpoch(c); err != nil {
		return nil, err
	}
	switch {
	case c.CG == s.linked || c.CG == s.final:
		return nil, nil
	case c.CG == s.complete && s.linked == s.final:
		return &record{kind: recLinked, cg: c.CG, epoch: c.Epoch}, nil
	}
	return nil, s.refuse("link", c)
}

func (s *groupState) release(c Command) (*record, error) {
	if err := s.checkEpoch(c); err != nil {
		return nil, err
	}
	switch {
	case c.CG == s.final:
		return nil, nil
	case c.CG == s.linked:
		return &record{kind: recFinal, cg: c.CG, epoch: c.Epoch}, nil
	}
	return nil, s.refuse("release", c)
}

// revert takes CG c.CG back if the links show it. through > 0 also discards all CGs from c.CG to through.
func (s *groupState) revert(c Command, through uint64) (*record, error) {
	if err := s.checkEpoch(c); err != nil {
		return nil, err
	}
	if c.CG <= s.final {
		return nil, s.refuse("revert", c)
	}
	if through != 0 && through < c.CG {
		return nil, fmt.Errorf("group %s: revert CG %d and discard through %d: %w", s.name, c.CG, through, ErrState)
	}
	if s.linked != c.CG && through <= s.through {
		return nil, nil
	}
	return &record{kind: recReverted, cg: c.CG, epoch: c.Epoch, through: through}, nil
}

// apply carries out a record; replaying one twice changes nothing more.
func (s *groupState) apply(r *record) {
	s.epoch = max(s.epoch, r.epoch)
	switch r.kind {
	case recComplete:
		s.complete = max(s.complete, r.cg)
	case recLinked:
		s.linked = max(s.linked, r.cg)
	case recFinal:
		s.final = max(s.final, r.cg)
		s.linked = max(s.linked, r.cg)
		s.complete = max(s.complete, r.cg)
	case recReverted:
		if r.cg <= s.final {
			return
		}
		if s.linked >= r.cg {
			s.linked = s.final
		}
		if r.through > 0 {
			s.through = max(s.through, r.through)
			if s.complete <= r.through {
				s.complete = s.linked
			}
		}
	}
}
