package engine

import (
	"errors"
	"fmt"
)

var (
	// ErrPoolFull: no free physical block. Space returns when a CG becomes final or is discarded.
	ErrPoolFull = errors.New("pool is full")
	// ErrJournalFull: no room for the command, because a CG of some group has long been complete without being released
	// or discarded. Room returns when that happens.
	ErrJournalFull = errors.New("journal is full")
	// ErrCGTooLarge: the tables of a CG do not fit into the journal, however empty it is.
	ErrCGTooLarge = errors.New("CG is too large for the journal")
	// ErrStaleEpoch: the command came from a manager that has been replaced.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrState: the command does not fit the state of the CG.
	ErrState = errors.New("not possible in this state")
	// ErrUnknown: no such group or volume.
	ErrUnknown = errors.New("unknown")
	// ErrClosed: the pool or writer was closed.
	ErrClosed = errors.New("closed")
	// ErrUnknownFormat: the pool has a format version or features that this program does not know. It is not damaged.
	ErrUnknownFormat = errors.New("the pool is not damaged, but was written by another version of farside; use that one, or a newer one")
	// ErrFailed: the journal or a flush failed. Nothing is acknowledged until the pool is opened again.
	ErrFailed = errors.New("pool stopped acknowledging")
	// ErrPastEnd: the range reaches past the end of its volume.
	ErrPastEnd = errors.New("past the end of the volume")
	// ErrNotWhole: blocks of the volume's first copy may be missing, so it must not be served as a copy.
	ErrNotWhole = errors.New("volume is not whole: its first copy is not complete")
	// ErrSetAside: the volume takes no updates. See [Group.SetAside].
	ErrSetAside = errors.New("volume was set aside")
	// ErrDropped: the update belongs to a CG that was discarded; it was ignored.
	ErrDropped = errors.New("CG was discarded")
)

// CorruptionError says where a pool is damaged.
type CorruptionError struct {
	Device    string // path
	Offset    int64  // bytes
	Structure string // "superblock", "root", "table page", "journal", "data block"
	Reason    string
	Err       error // cause, may be nil
}

func (e *CorruptionError) Error() string {
	s := fmt.Sprintf("%s at offset %d of %s: %s", e.Structure, e.Offset, e.Device, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *CorruptionError) Unwrap() error { return e.Err }

// ChecksumError says that a block is not the one that was sent or stored.
type ChecksumError struct {
	Volume string
	Block  VBlock
	At     PBlock // 0: it had not been stored yet
	Want   uint64 // for stored blocks only the high 28 bits are known
	Got    uint64
}

func (e *ChecksumError) Error() string {
	if e.At == 0 {
		return fmt.Sprintf("volume %s block %d: checksum %016x, announced %016x", e.Volume, e.Block, e.Got, e.Want)
	}
	return fmt.Sprintf("volume %s block %d at physical block %d: checksum %07x, stored for %07x",
		e.Volume, e.Block, e.At, e.Got>>pblockBits, e.Want>>pblockBits)
}
