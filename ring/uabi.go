package ring

import (
	"unsafe"

	iouring "github.com/iceber/iouring-go/syscall"
)

// What the ABI package lacks. Source of all: the kernel's include/uapi/linux/io_uring.h.
const (
	// setupSingleIssuer is IORING_SETUP_SINGLE_ISSUER, since kernel 6.0.
	setupSingleIssuer uint32 = 1 << 12
	// setupDeferTaskrun is IORING_SETUP_DEFER_TASKRUN, since kernel 6.1.
	setupDeferTaskrun uint32 = 1 << 13
	// sqTaskrun is IORING_SQ_TASKRUN: completions wait for the issuer to enter the kernel.
	sqTaskrun uint32 = 1 << 2
	// enterRegisteredRing is IORING_ENTER_REGISTERED_RING, since kernel 5.18.
	enterRegisteredRing uint32 = 1 << 4
	// registerRingFDs and unregisterRingFDs are IORING_(UN)REGISTER_RING_FDS, since kernel 5.18.
	registerRingFDs   uint8 = 20
	unregisterRingFDs uint8 = 21
	// maxEntries is IORING_MAX_ENTRIES of the kernel's io_uring/io_uring.h.
	maxEntries = 32768
)

// rsrcUpdate is struct io_uring_rsrc_update.
type rsrcUpdate struct {
	offset uint32
	resv   uint32
	data   uint64
}

// The kernel reads and writes these by size: they must not drift.
var (
	_ [64]byte  = [unsafe.Sizeof(iouring.SubmissionQueueEntry64{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(iouring.CompletionQueueEvent16{})]byte{}
	_ [120]byte = [unsafe.Sizeof(iouring.IOURingParams{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(iouring.SubmissionQueueRingOffset{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(iouring.CompletionQueueRingOffset{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(rsrcUpdate{})]byte{}
)

// setupSteps are the sets of setup flags to ask for, best first: each step gives up what the
// kernel release before does not know.
var setupSteps = []uint32{
	iouring.IORING_SETUP_SUBMIT_ALL | iouring.IORING_SETUP_COOP_TASKRUN | iouring.IORING_SETUP_TASKRUN_FLAG | setupSingleIssuer | setupDeferTaskrun, // 6.1
	iouring.IORING_SETUP_SUBMIT_ALL | iouring.IORING_SETUP_COOP_TASKRUN | iouring.IORING_SETUP_TASKRUN_FLAG | setupSingleIssuer,                     // 6.0
	iouring.IORING_SETUP_SUBMIT_ALL | iouring.IORING_SETUP_COOP_TASKRUN | iouring.IORING_SETUP_TASKRUN_FLAG,                                         // 5.19
	iouring.IORING_SETUP_SUBMIT_ALL, // 5.18
	0,                               // 5.15
}
