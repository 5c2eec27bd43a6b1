package alloc

import (
	"errors"
	"fmt"
)

// What a caller can tell apart with errors.Is. All but [ErrFull] come wrapped in a [BlockError].
var (
	// ErrFull: no extent without a holder has a free block. Space returns with
	// [Map.Release] and [Map.Return].
	ErrFull = errors.New("alloc: no free block outside the extents that are held: " +
		"wait for a release, or add devices")

	ErrUsed    = errors.New("the block is in use already: two pointers name it")
	ErrRetired = errors.New("the block is retired or holds no data: no pointer may name it")
	ErrFree    = errors.New("the block is free already: it was released twice, or never taken")
	ErrRange   = errors.New("the block is past the end of the pool")
	ErrStarted = errors.New("blocks can be marked only before the map is in use")
)

// BlockError says at which block a call stopped. What the call was to do is done for
// the blocks before Block, and not for Block and those after it; with ErrRange and ErrStarted
// nothing is done.
type BlockError struct {
	Op    string // "mark", "release", "retire"
	Block uint64
	Cause error // ErrUsed, ErrRetired, ErrFree, ErrRange, ErrStarted
}

func (e *BlockError) Error() string {
	return fmt.Sprintf("alloc: %s block %d: %v", e.Op, e.Block, e.Cause)
}

func (e *BlockError) Unwrap() error { return e.Cause }
