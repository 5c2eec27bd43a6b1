package protomodel

import (
	"bytes"
	"hash/maphash"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// Everything below is made of single bytes, so that a State has no padding and can be compared, hashed and copied as
// memory. Unused places of queues are zero.

type kind uint8

const (
	_ kind = iota
	// manager -> primary
	fence // to secondaries too
	open  // arg: final
	hold
	thaw // id: of the cut (ghost)
	finalNote
	// manager -> secondary
	query
	link
	release
	revert // arg: through, 0 without discard
	// primary -> manager
	opened
	held
	thawed // arg: 1 OK
	drained
	lost
	// secondary -> manager
	stateOf // cg: linked, arg: final, id: highest number seen
	complete
	linked
	final
	reverted
	// both
	stale // a lower epoch is refused
	refused
	refusedOpen // arg: the CG open at the primary
)

var kindNames = [...]string{"-", "FENCE", "OPEN", "HOLD", "THAW", "FINALNOTE", "QUERY", "LINK", "RELEASE", "REVERT", "OPENED", "HELD",
	"THAWED", "DRAINED", "LOST", "STATE", "COMPLETE", "LINKED", "FINAL", "REVERTED", "STALE", "REFUSED", "REFUSED OPEN"}

func (k kind) String() string { return kindNames[k] }

type msg struct {
	kind        kind
	cg, arg, id uint8
}

const (
	queueLen  = 6
	orphanLen = 2
	numbers   = 256 // CG numbers stay below
)

type queue struct {
	n uint8
	q [queueLen]msg
}

func (w *world) push(q *queue, m msg) {
	if q.n == queueLen {
		w.violate("bound: more than %d messages wait on a connection", queueLen)
		return
	}
	q.q[q.n] = m
	q.n++
}

func (q *queue) pop() msg {
	m := q.q[0]
	copy(q.q[:], q.q[1:])
	q.n--
	q.q[q.n] = msg{}
	return m
}

// conn is a connection between one start of a manager and a control: in order, reliable until it is lost.
type conn struct {
	epoch   uint8 // of the manager
	up      bool
	down    queue // to the control
	upwards queue // to the manager
}

// orphan is what was on its way to a control when its connection was lost: any prefix of it still arrives, at any time.
type orphan struct {
	epoch uint8
	q     queue
}

// port is all that leads to one control: a connection for each manager, and what lost ones left.
type port struct {
	conn    [2]conn
	orphans [orphanLen]orphan
}

type primary struct {
	epoch  uint8 // volatile, like all but final
	known  bool  // some manager said which CG is open
	open   uint8 // kept over a crash as ghost: the tag of its newest write
	final  uint8
	base   uint8 // the open CG holds the changes made after this one
	held   bool
	cut    uint8 // newest CG cut and not final; 0 none
	cutID  uint8
	cutOn  uint8 // base of cut
	sent   [2]bool
	drain  bool
	lostCG uint8
}

// manifest stands for all that one primary sends of one CG to one secondary.
type manifest struct{ cg, id, base uint8 }

// stream is the data connection of a primary to a secondary.
type stream struct {
	up bool
	n  uint8
	q  [4]manifest
}

// received is what a secondary has of a CG that is not final, by primary.
type received struct {
	cg   uint8
	have [2]bool
	id   [2]uint8
	base [2]uint8
}

type secondary struct {
	epoch, final, linked, complete, through uint8 // durable, and so is received up to complete
	fenced                                  uint8 // ghost: the highest epoch ever
	received                                [2]received
	image                                   [2]uint8 // ghost: the cuts that the final view shows
	ever                                    set      // ghost: CGs that were complete here
}

// set holds CG numbers.
type set [numbers / 8]uint8

func (s *set) add(n uint8)      { s[n/8] |= 1 << (n % 8) }
func (s *set) has(n uint8) bool { return s[n/8]&(1<<(n%8)) != 0 }

// keep drops numbers above n.
func (s *set) keep(n uint8) {
	for i := range s {
		if byte(i) > n/8 {
			s[i] = 0
		}
	}
	s[n/8] &= 1<<(n%8+1) - 1
}

// forget drops numbers up to n.
func (s *set) forget(n uint8) {
	for i := range n / 8 {
		s[i] = 0
	}
	s[n/8] &^= 1<<(n%8+1) - 1
}

type mstate uint8

const (
	starting mstate = iota
	idle
	holding
	thawing
	draining
	linking
	deciding
	releasing
	reverting
	halted
)

var mstateNames = [...]string{"STARTING", "IDLE", "HOLD", "THAW", "DRAIN", "LINK", "DECIDED", "RELEASE", "REVERTING", "HALTED"}

func (m mstate) String() string { return mstateNames[m] }

type haltReason uint8

const (
	_           haltReason = iota
	fencedOff              // a higher epoch leads
	tableRefuse            // the decision table has no row
	contradicts            // a control contradicts the log
)

type visit uint8

const (
	visitPending visit = iota
	visitAsked
	visitRevert
	visitDone
)

// primaryView and secondaryView are what a manager knows of a control.
type primaryView struct {
	opens                 uint8 // OPENs not answered
	held, thawed, drained bool
}

type secondaryView struct {
	complete, linked, final bool
	fresh                   bool // reported on this connection
	showsLinked, showsFinal uint8
	seen                    uint8
	queries                 uint8
	visit                   visit
	revertCG                uint8
}

// manager is one start of a manager; the older of two is fenced but does not know it yet. All of it is volatile.
type manager struct {
	epoch                            uint8 // 0: there is none
	st                               mstate
	why                              haltReason
	round, open, final, decided      uint8
	high, reserved, through          uint8
	start, linkSent, logKnown, apart bool // apart: it writes to another log than the leader
	p                                [2]primaryView
	s                                [2]secondaryView
}

type decisionLog struct {
	known                    bool
	epoch, decided, reserved uint8
}

// ghost is what only the properties look at.
type ghost struct {
	nextID    uint8
	reported  uint8 // newest recovery point that a manager told anybody
	broken    set   // CGs of which a write was admitted after one of a newer CG
	ever      set   // decisions that were ever durable
	abandoned set   // CGs that a leading manager gave up
	done      uint8 // CGs final everywhere
	lastDone  uint8
	logLost   bool
}

// State is everything. Index 0 of manager is the leader; ports 0 and 1 are those of the primaries.
type State struct {
	m         [2]manager
	log       decisionLog
	port      [4]port
	p         [2]primary
	s         [2]secondary
	data      [2][2]stream // primary, secondary
	g         ghost
	faults    uint8
	takeovers uint8
}

func (s *State) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s))
}

type fingerprint [2]uint64

var hashSeed = maphash.MakeSeed()

func (s *State) fingerprint() fingerprint {
	b := s.bytes()
	return fingerprint{xxhash.Sum64(b), maphash.Bytes(hashSeed, b)}
}

func swap[T any](a *[2]T) { a[0], a[1] = a[1], a[0] }

func (s *State) swapPrimaries() {
	s.port[0], s.port[1] = s.port[1], s.port[0]
	swap(&s.p)
	swap(&s.data)
	for i := range 2 {
		swap(&s.m[i].p)
		swap(&s.s[i].image)
		for j := range s.s[i].received {
			r := &s.s[i].received[j]
			swap(&r.have)
			swap(&r.id)
			swap(&r.base)
		}
	}
}

func (s *State) swapSecondaries() {
	s.port[2], s.port[3] = s.port[3], s.port[2]
	swap(&s.s)
	for i := range 2 {
		swap(&s.data[i])
		swap(&s.p[i].sent)
		swap(&s.m[i].s)
	}
}

// canonical returns the least of the four states that differ in the names of the primaries and secondaries only. No
// rule looks at a name, so they behave alike.
func (s State) canonical() State {
	best := s
	for i := range 3 {
		if i%2 == 0 {
			s.swapPrimaries()
		} else {
			s.swapSecondaries()
		}
		if bytes.Compare(s.bytes(), best.bytes()) < 0 {
			best = s
		}
	}
	return best
}

// tidy drops what can have no effect any more, so that equal futures are equal states.
func (w *world) tidy() {
	w.silence()
	s := &w.State
	least := min(s.s[0].final, s.s[1].final)
	gone := max(least, min(s.s[0].through, s.s[1].through))
	s.g.broken.forget(gone)
	s.g.ever.forget(least)
	s.g.abandoned.forget(least)
	for i := range s.s {
		s.s[i].ever.forget(least)
	}
	for i := range s.port {
		o := &s.port[i].orphans
		for j := range o {
			for o[j].q.n > 0 && w.pointless(i, &o[j]) {
				o[j].q.pop()
			}
			if o[j].q.n == 0 {
				o[j] = orphan{}
			}
		}
		a := unsafe.Slice((*byte)(unsafe.Pointer(&o[0])), unsafe.Sizeof(o[0]))
		b := unsafe.Slice((*byte)(unsafe.Pointer(&o[1])), unsafe.Sizeof(o[1]))
		if bytes.Compare(a, b) < 0 {
			swap(o)
		}
	}
}

// pointless says that the next message of what a lost connection left will have no effect, whenever it arrives: nobody
// waits for the answer, and an epoch is forgotten only in a crash, after which nothing of old connections arrives.
func (w *world) pointless(control int, o *orphan) bool {
	switch known := *w.epochOf(control); {
	case o.epoch > known:
		return false
	case o.epoch < known:
		return !w.Without.has(LowerEpochRefused)
	}
	return o.q.q[0].kind == fence || o.q.q[0].kind == query
}
