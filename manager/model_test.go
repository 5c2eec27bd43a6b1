package manager

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/farside-storage/farside/wire"
)

// The model: primaries, secondaries, their data connections, a decision log and a chain of
// dependent host writes, all in one thread. Every message waits in a queue until the test delivers
// it, so that the test chooses the order of everything. Rules are checked as things happen.

type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

const unopened = math.MaxUint64 // tag of writes before the first OPEN

type world struct {
	pointed bool // a recovery point was reported, ever
	t       tester
	group   Group
	set     Settings
	now     time.Time
	core    *Core
	timer   time.Time
	epoch   uint64

	rec      Recovered // durable log
	persists []Persist
	audit    []Entry

	prim []*mprim
	sec  []*msec
	link map[string]*mlink
	// Controls from baseP and baseS on are spare: no write concerns them, and they are no members at first.
	baseP, baseS int
	away         func(name string) bool // controls that cannot be reached; may be nil

	acked       []int // the chain of dependent writes, in order
	writing     *mwrite
	nextWrite   int
	highest     uint64              // highest CG number ever given out
	pred        func() bool         // what until waits for
	halts       bool                // a halt is expected
	drop        func(p, s int) bool // manifests to lose
	finals      int                 // CGs that became final everywhere
	lastCommon  uint64
	lastPrefix  int
	everDecided uint64
	payload     uint64 // blocks that primaries say they sent for a CG
}

type mwrite struct {
	k    int
	p, s int
}

type mlink struct {
	up     bool
	down   []Send     // to the peer
	upward []Received // to the manager
}

type mprim struct {
	name     string
	inst     byte
	open     uint64
	final    uint64
	epoch    uint64
	hold     uint64
	heldSent bool
	until    time.Time
	mem      []mrec
	sent     []map[uint64]int // per secondary and CG
	data     [][]mframe       // queue to each secondary
	mute     int              // messages to leave unanswered
	refuse   int              // messages to refuse
	stuck    int              // CGs that it does not drain, although all its secondaries have them
}

type mrec struct {
	k, s int
	cg   uint64
}

type mframe struct {
	cg       uint64
	k        int
	manifest bool
	count    int
}

type msec struct {
	name                    string
	inst                    byte
	epoch                   uint64
	final, linked, complete uint64
	through                 uint64
	image                   map[int]bool
	compl                   map[uint64]map[int]bool
	recv                    []map[uint64]map[int]bool // per primary and CG
	cnt                     []map[uint64]int
	mani                    []map[uint64]bool
	failed                  string
	mute, refuse            int
	vacant                  bool // all volumes are gone: nothing is sent to it
	// Of its volumes, lackFinal are not whole as of the final CG, lackAt with a CG that was complete, and lacks with the
	// next one. Each final CG makes as many of them whole as brings says.
	lacks, brings, lackFinal uint64
	lackAt                   map[uint64]uint64
	linkedBack, discardCalls int
}

func newWorld(t tester, nP, nS int, set Settings) *world { return newWorldWith(t, nP, nS, 0, set) }

// newWorldWith makes a world with spare primaries and as many spare secondaries.
func newWorldWith(t tester, nP, nS, spare int, set Settings) *world {
	w := &world{t: t, set: set, now: time.Unix(1000, 0), link: map[string]*mlink{}, baseP: nP, baseS: nS}
	nP, nS = nP+spare, nS+spare
	w.group.Name = "g"
	for i := range nP {
		p := &mprim{name: fmt.Sprintf("p%d", i+1)}
		for range nS {
			p.sent = append(p.sent, map[uint64]int{})
			p.data = append(p.data, nil)
		}
		w.prim = append(w.prim, p)
		w.group.Primaries = append(w.group.Primaries, p.name)
		w.link[p.name] = &mlink{}
	}
	for i := range nS {
		s := &msec{name: fmt.Sprintf("s%d", i+1), image: map[int]bool{}, compl: map[uint64]map[int]bool{}, lackAt: map[uint64]uint64{}}
		s.forget(nP)
		w.sec = append(w.sec, s)
		w.group.Secondaries = append(w.group.Secondaries, s.name)
		w.link[s.name] = &mlink{}
	}
	w.group.Primaries, w.group.Secondaries = w.group.Primaries[:w.baseP], w.group.Secondaries[:w.baseS]
	w.startManager()
	return w
}

// takesPart says whether a control is one of those with which the manager forms CGs.
func (w *world) takesPart(name string) bool {
	return slices.ContainsFunc(slices.Concat(w.core.prim, w.core.sec), func(m *member) bool { return m.name == name })
}

// members are the secondaries that take part.
func (w *world) members() (out []*msec) {
	for _, s := range w.sec {
		if w.takesPart(s.name) {
			out = append(out, s)
		}
	}
	return out
}

// change adds or removes a control. One that is added comes with volumes that were just made.
func (w *world) change(name, role string) error {
	m := w.core.Members()
	var err error
	if m.Has(name) {
		m, err = m.Without(name)
	} else if m, err = m.With(name, role); err == nil && w.core.byName[name] == nil {
		w.remake(name)
	}
	if err == nil {
		w.step(ChangeMembers{m})
	}
	return err
}

func (w *world) remake(name string) {
	for i, p := range w.prim {
		if p.name == name {
			w.crashPrimary(i)
		}
	}
	for i, s := range w.sec {
		if s.name == name {
			*s = msec{name: name, inst: s.inst + 1, epoch: s.epoch, image: map[int]bool{}, compl: map[uint64]map[int]bool{}, lackAt: map[uint64]uint64{}}
			s.forget(len(w.prim))
			for _, p := range w.prim {
				p.data[i], p.sent[i] = nil, map[uint64]int{}
			}
		}
	}
}

func (s *msec) forget(nP int) {
	s.recv, s.cnt, s.mani = nil, nil, nil
	for range nP {
		s.recv = append(s.recv, map[uint64]map[int]bool{})
		s.cnt = append(s.cnt, map[uint64]int{})
		s.mani = append(s.mani, map[uint64]bool{})
	}
}

// Manager.

func (w *world) startManager() {
	w.epoch++
	w.rec.Epoch = w.epoch
	c, err := NewCore(w.group, w.set, w.rec, w.now)
	if err != nil {
		w.t.Fatalf("new core: %v", err)
	}
	w.core = c
	w.step(Tick{})
}

// crashManager loses the connections, and any suffix of the records that were being made durable.
func (w *world) crashManager(keep int, lose bool) {
	for i, p := range w.persists {
		if i < keep {
			w.makeDurable(p.Record)
		}
	}
	w.persists = nil
	for _, l := range w.link {
		*l = mlink{}
	}
	if lose {
		w.rec = Recovered{}
		w.forgetHighest()
	}
	w.timer = time.Time{}
	w.startManager()
}

// forgetHighest: with the log lost and nothing received anywhere, nobody knows that a number was used. That is harmless:
// a primary that is further refuses it, and one that restarted has no stream of it.
func (w *world) forgetHighest() {
	for _, s := range w.sec {
		if s.state(wire.Command{}).Receiving > 0 {
			return
		}
	}
	w.highest = 0
}

func (w *world) makeDurable(r Record) {
	if r.Decided != nil {
		if r.Members == nil && (!r.Decided.Cut.IsZero() || r.Decided.CG > w.everDecided) { // else it is told again, without a control
			w.checkDecision(*r.Decided)
		}
		w.rec.Decided = *r.Decided
		w.everDecided = max(w.everDecided, r.Decided.CG)
	}
	if r.Reserve != 0 {
		w.rec.Reserved = r.Reserve
	}
	if r.Settings != nil {
		w.rec.Settings = r.Settings
	}
	if r.Paused != nil {
		w.rec.Paused = *r.Paused
	}
	if r.Members != nil {
		if r.Members.Version != w.membersVersion()+1 {
			w.t.Fatalf("members of version %d after %d", r.Members.Version, w.membersVersion())
		}
		w.rec.Members = r.Members
	}
	if r.Decided != nil || r.Reserve != 0 {
		w.rec.Known = true
	}
}

func (w *world) membersVersion() uint64 {
	if w.rec.Members == nil {
		return 0
	}
	return w.rec.Members.Version
}

// checkDecision: R3, DECIDED(n) only if every secondary has n linked; and the cut is consistent: what n shows is a prefix
// of the dependent writes.
func (w *world) checkDecision(d Decision) {
	n := d.CG
	var sets []map[int]bool
	for _, s := range w.sec {
		if !contains(d.Secondaries, s.name) {
			if n > w.everDecided && w.takesPart(s.name) {
				w.t.Fatalf("DECIDED(%d) without %s", n, s.name)
			}
			continue
		}
		if s.linked != n {
			w.t.Fatalf("R3: DECIDED(%d) but %s links %d", n, s.name, s.linked)
		}
		sets = append(sets, s.image, s.compl[n])
	}
	w.checkPrefix(n, sets)
}

func (w *world) checkPrefix(n uint64, sets []map[int]bool) {
	has := func(k int) bool { return slices.ContainsFunc(sets, func(m map[int]bool) bool { return m[k] }) }
	i := 0
	for i < len(w.acked) && has(w.acked[i]) {
		i++
	}
	w.lastPrefix = i
	for j := i; j < len(w.acked); j++ {
		if has(w.acked[j]) {
			w.t.Fatalf("CG %d shows write %d without write %d before it", n, w.acked[j], w.acked[i])
		}
	}
}

func (w *world) step(ev Event) {
	for _, a := range w.core.Step(w.now, ev) {
		switch a := a.(type) {
		case Send:
			w.checkSend(a)
			w.link[a.To].down = append(w.link[a.To].down, a)
		case Persist:
			w.persists = append(w.persists, a)
		case Audit:
			w.audit = append(w.audit, a.Entry)
		case SetTimer:
			w.timer = a.At
		case Reconnect:
			defer w.disconnect(a.Peer, a.Reason)
		case Leave:
			*w.link[a.Peer] = mlink{}
		}
	}
	if w.core.State() == StateHalted && !w.halts {
		w.t.Fatalf("halted: %s", w.core.stats.halted)
	}
	w.checkStatus()
}

// checkSend checks what the manager sends against what is true at that moment.
func (w *world) checkSend(a Send) {
	if !w.link[a.To].up {
		w.t.Fatalf("send %v to %s, which is not connected", a.Message.Type(), a.To)
	}
	h := head(a.Message)
	if h.Epoch != w.epoch || h.Group != w.group.Name {
		w.t.Fatalf("R4: %v to %s carries epoch %d, group %q", a.Message.Type(), a.To, h.Epoch, h.Group)
	}
	switch a.Message.Type() {
	case wire.TypeLink:
		for _, s := range w.members() {
			if s.complete < h.CG {
				w.t.Fatalf("R1: LINK(%d) sent, %s has complete %d", h.CG, s.name, s.complete)
			}
		}
	case wire.TypeRelease:
		if w.rec.Decided.CG != h.CG {
			w.t.Fatalf("R2: RELEASE(%d) sent, durable decision is %d", h.CG, w.rec.Decided.CG)
		}
	case wire.TypeRevert:
		if h.CG <= w.rec.Decided.CG {
			w.t.Fatalf("R3: REVERT(%d) sent, decided %d", h.CG, w.rec.Decided.CG)
		}
	case wire.TypeOpen:
		if h.CG != w.core.open || h.CG < w.highest {
			w.t.Fatalf("CG %d opened again, highest %d", h.CG, w.highest)
		}
		w.useNumber(h.CG)
	case wire.TypeThaw:
		w.useNumber(h.CG + 1)
	}
}

func (w *world) useNumber(n uint64) {
	w.highest = max(w.highest, n)
	if w.rec.Reserved < n {
		w.t.Fatalf("CG number %d used, durably reserved are numbers up to %d", n, w.rec.Reserved)
	}
}

func (w *world) checkStatus() {
	st := w.core.Status(w.now)
	if st.RecoveryPoint == nil {
		return
	}
	// The one that had it final may have been removed since; then it is decided, and another one is about to make it final.
	removed := func(s *msec) bool {
		return w.baseS < len(w.sec) && s.linked >= *st.RecoveryPoint && w.rec.Decided.CG >= *st.RecoveryPoint
	}
	if !slices.ContainsFunc(w.sec, func(s *msec) bool { return s.final >= *st.RecoveryPoint || removed(s) }) {
		w.t.Fatalf("R5: recovery point %d reported, no secondary has it final", *st.RecoveryPoint)
	}
	for _, s := range w.sec {
		if lacks := s.lackAt[*st.RecoveryPoint]; lacks > 0 && !w.pointed {
			w.t.Fatalf("R5: recovery point %d reported, %d volumes are not whole with it on %s", *st.RecoveryPoint, lacks, s.name)
		}
	}
	w.pointed = true
}

func head(m wire.Message) wire.Command { return *m.(wire.Commanded).Head() }

// Connections.

func (w *world) connect(name string) {
	l := w.link[name]
	if l.up || w.core.byName[name] == nil || w.away != nil && w.away(name) {
		return
	}
	*l = mlink{up: true}
	w.step(Connected{name, w.instance(name)})
}

func (w *world) instance(name string) wire.UUID {
	for _, p := range w.prim {
		if p.name == name {
			return wire.UUID{p.inst, 1}
		}
	}
	for _, s := range w.sec {
		if s.name == name {
			return wire.UUID{s.inst, 2}
		}
	}
	panic(name)
}

func (w *world) disconnect(name, why string) {
	l := w.link[name]
	if !l.up {
		return
	}
	*l = mlink{}
	w.step(Disconnected{name, why})
}

func (w *world) reply(name string, m wire.Message) {
	if l := w.link[name]; l.up {
		l.upward = append(l.upward, Received{name, m})
	}
}

func (w *world) toManager(name string) bool {
	l := w.link[name]
	if len(l.upward) == 0 {
		return false
	}
	m := l.upward[0]
	l.upward = l.upward[1:]
	w.step(m)
	return true
}

func (w *world) toPeer(name string) bool {
	l := w.link[name]
	if len(l.down) == 0 {
		return false
	}
	m := l.down[0]
	l.down = l.down[1:]
	for i, p := range w.prim {
		if p.name == name {
			w.primTakes(i, m)
		}
	}
	for _, s := range w.sec {
		if s.name == name {
			w.secTakes(s, m)
		}
	}
	return true
}

func (w *world) persistOne() bool {
	if len(w.persists) == 0 {
		return false
	}
	p := w.persists[0]
	w.persists = w.persists[1:]
	w.makeDurable(p.Record)
	w.step(Durable{p.ID})
	return true
}

// Primaries.

func (w *world) primTakes(i int, m Send) {
	p := w.prim[i]
	h := head(m.Message)
	if h.Epoch < p.epoch {
		w.reply(p.name, &wire.Error{Code: wire.CodeStaleEpoch, Group: h.Group, Text: "stale"})
		return
	}
	p.epoch = h.Epoch
	if p.mute > 0 {
		p.mute--
		return
	}
	if p.refuse > 0 && m.Message.Type() != wire.TypeFence && m.Message.Type() != wire.TypeFinalNote {
		p.refuse--
		w.reply(p.name, &wire.Error{Code: wire.CodeState, Group: h.Group, CG: h.CG, Text: "no"})
		return
	}
	switch b := m.Message.(type) {
	case *wire.Open:
		w.primOpen(p, *b)
	case *wire.Hold:
		if b.CG != p.open {
			w.reply(p.name, &wire.Error{Code: wire.CodeState, Group: h.Group, CG: p.open, Text: "not open"})
			return
		}
		p.hold, p.heldSent = b.CG, false
		p.until = w.now.Add(time.Duration(b.TimeoutMicros) * time.Microsecond)
	case *wire.Thaw:
		w.primThaw(i, *b)
	case *wire.FinalNote:
		p.forget(b.CG)
	}
}

func (p *mprim) forget(final uint64) {
	p.final = max(p.final, final)
	p.mem = slices.DeleteFunc(p.mem, func(r mrec) bool { return r.cg <= p.final })
}

func (w *world) primOpen(p *mprim, o wire.Open) {
	if o.CG < p.open {
		w.reply(p.name, &wire.Error{Code: wire.CodeState, Group: o.Group, CG: p.open, Text: "lower"})
		return
	}
	p.forget(o.Final)
	p.hold = 0
	if o.CG > p.open {
		p.open = o.CG
		for i := range p.mem {
			p.mem[i].cg = o.CG
			p.stream(p.mem[i])
		}
	}
	w.reply(p.name, &wire.Opened{Command: o.Command})
}

func (p *mprim) stream(r mrec) {
	p.data[r.s] = append(p.data[r.s], mframe{cg: r.cg, k: r.k})
	p.sent[r.s][r.cg]++
}

func (w *world) holding(p *mprim) bool {
	if p.hold != 0 && !w.now.Before(p.until) {
		p.hold = 0
	}
	return p.hold != 0
}

// primHeld answers HOLD once no write is in progress.
func (w *world) primHeld(i int) bool {
	p := w.prim[i]
	if !w.holding(p) || p.heldSent || w.writing != nil && w.writing.p == i {
		return false
	}
	p.heldSent = true
	w.reply(p.name, &wire.Held{Command: wire.Command{Group: w.group.Name, Epoch: p.epoch, CG: p.hold}})
	return true
}

// primThaw cuts if nothing is in progress; whether this hold was answered is left to the manager to know.
func (w *world) primThaw(i int, t wire.Thaw) {
	p := w.prim[i]
	ok := w.holding(p) && p.hold == t.CG && !(w.writing != nil && w.writing.p == i)
	w.reply(p.name, &wire.Thawed{Command: t.Command, OK: ok})
	if !ok {
		return
	}
	p.hold, p.open = 0, t.CG+1
	for s := range w.sec {
		p.data[s] = append(p.data[s], mframe{cg: t.CG, manifest: true, count: p.sent[s][t.CG]})
	}
	if p.stuck > 0 {
		p.stuck--
		return
	}
	w.reply(p.name, &wire.Drained{Command: t.Command, Blocks: w.payload})
}

func (w *world) crashPrimary(i int) {
	p := w.prim[i]
	p.inst++
	p.open, p.hold, p.mute, p.refuse = 0, 0, 0, 0
	for j := range p.mem {
		p.mem[j].cg = unopened
	}
	for s := range w.sec {
		p.sent[s], p.data[s] = map[uint64]int{}, nil
		w.sec[s].recv[i], w.sec[s].cnt[i], w.sec[s].mani[i] = map[uint64]map[int]bool{}, map[uint64]int{}, map[uint64]bool{}
	}
	if w.writing != nil && w.writing.p == i {
		w.writing = nil // never acknowledged
	}
	w.disconnect(p.name, "crash")
}

// Host writes: each one begins after the one before was acknowledged.

func (w *world) beginWrite(p, s int) bool {
	if w.writing != nil || w.holding(w.prim[p]) {
		return false
	}
	w.nextWrite++
	w.writing = &mwrite{w.nextWrite, p, s}
	return true
}

func (w *world) endWrite() bool {
	if w.writing == nil {
		return false
	}
	x := *w.writing
	w.writing = nil
	p := w.prim[x.p]
	r := mrec{x.k, x.s, p.open}
	if p.open == 0 {
		r.cg = unopened
	}
	p.mem = append(p.mem, r)
	if p.open != 0 {
		p.stream(r)
	}
	w.acked = append(w.acked, x.k)
	return true
}

// Secondaries.

func (w *world) toSecondary(pi, si int) bool {
	p, s := w.prim[pi], w.sec[si]
	if len(p.data[si]) == 0 {
		return false
	}
	f := p.data[si][0]
	p.data[si] = p.data[si][1:]
	if s.vacant || f.cg <= s.through || f.manifest && w.drop != nil && w.drop(pi, si) {
		return true
	}
	if f.cg <= s.complete {
		w.t.Fatalf("%s: frame of CG %d, which is complete", s.name, f.cg)
	}
	if f.manifest {
		if s.cnt[pi][f.cg] != f.count {
			w.t.Fatalf("%s: manifest of %s for CG %d counts %d, received %d", s.name, p.name, f.cg, f.count, s.cnt[pi][f.cg])
		}
		s.mani[pi][f.cg] = true
		w.tryComplete(s, f.cg)
		return true
	}
	if s.recv[pi][f.cg] == nil {
		s.recv[pi][f.cg] = map[int]bool{}
	}
	s.recv[pi][f.cg][f.k] = true
	s.cnt[pi][f.cg]++
	return true
}

func (w *world) tryComplete(s *msec, cg uint64) {
	set := map[int]bool{}
	for i, p := range w.prim {
		if i >= w.baseP && !w.takesPart(p.name) {
			continue
		}
		if !s.mani[i][cg] {
			return
		}
		for k := range s.recv[i][cg] {
			set[k] = true
		}
	}
	w.completed(s, cg, set)
}

func (w *world) completed(s *msec, cg uint64, set map[int]bool) {
	s.compl[cg], s.complete, s.lackAt[cg] = set, cg, s.lacks
	w.reply(s.name, &wire.Complete{Command: wire.Command{Group: w.group.Name, Epoch: s.epoch, CG: cg}, Awaited: modelVolumes, Lacking: s.lacks})
}

// modelVolumes is how many volumes a secondary has that is not vacant.
const modelVolumes = 3

// copying has a secondary begin with so many volumes that are not whole; each final CG brings so many of them.
func (s *msec) copying(volumes, brings uint64) {
	s.lacks, s.lackFinal, s.brings = volumes, volumes, brings
}

// secAsked: a vacant secondary completes what every primary has sent.
func (w *world) secAsked(s *msec, q wire.Query) {
	if q.Drained && s.vacant && q.CG > max(s.complete, s.through) {
		for _, p := range w.prim {
			if w.takesPart(p.name) && p.open <= q.CG {
				w.t.Fatalf("%s is asked to complete CG %d, which is not cut on %s", s.name, q.CG, p.name)
			}
		}
		w.completed(s, q.CG, map[int]bool{})
	}
	w.reply(s.name, ptr(s.state(q.Command)))
}

func (s *msec) state(h wire.Command) wire.State {
	recv := max(s.through, s.complete)
	for i := range s.recv {
		for cg := range s.recv[i] {
			recv = max(recv, cg)
		}
	}
	h.CG, h.Epoch = s.linked, s.epoch
	awaited, then := uint64(modelVolumes), s.lackFinal
	if s.vacant {
		awaited = 0
	}
	if s.complete > s.final {
		then = s.lackAt[s.complete]
	}
	return wire.State{Command: h, Final: s.final, Linked: s.linked, Complete: s.complete, Receiving: recv, Failed: s.failed, Awaited: awaited, Lacking: s.lackFinal, LackingThen: then}
}

func (w *world) secTakes(s *msec, m Send) {
	h := head(m.Message)
	if h.Epoch < s.epoch {
		w.reply(s.name, &wire.Error{Code: wire.CodeStaleEpoch, Group: h.Group, Text: "stale"})
		return
	}
	s.epoch = h.Epoch
	if s.mute > 0 {
		s.mute--
		return
	}
	if s.refuse > 0 && m.Message.Type() != wire.TypeFence {
		s.refuse--
		w.reply(s.name, &wire.Error{Code: wire.CodeIO, Group: h.Group, CG: h.CG, Text: "no"})
		return
	}
	switch m.Message.Type() {
	case wire.TypeFence:
		w.reply(s.name, ptr(s.state(h)))
	case wire.TypeQuery:
		w.secAsked(s, *m.Message.(*wire.Query))
	case wire.TypeLink:
		w.secLink(s, h)
	case wire.TypeRelease:
		w.secRelease(s, h)
	case wire.TypeRevert:
		w.secRevert(s, *m.Message.(*wire.Revert))
	}
}

func (w *world) secLink(s *msec, h wire.Command) {
	if s.linked != h.CG && (s.complete != h.CG || s.linked != s.final) {
		w.reply(s.name, &wire.Error{Code: wire.CodeState, Group: h.Group, CG: h.CG, Text: "not complete"})
		return
	}
	s.linked = h.CG
	w.reply(s.name, &wire.Linked{Command: h})
}

func (w *world) secRelease(s *msec, h wire.Command) {
	if s.final < h.CG {
		if s.linked != h.CG {
			w.t.Fatalf("RELEASE(%d) at %s, which links %d", h.CG, s.name, s.linked)
		}
		for k := range s.compl[h.CG] {
			s.image[k] = true
		}
		delete(s.compl, h.CG)
		s.final = h.CG
		s.lackFinal = s.lackAt[h.CG]
		s.lacks = s.lackFinal - min(s.brings, s.lackFinal)
		w.checkCommon()
	}
	w.reply(s.name, &wire.Final{Command: h})
}

// checkCommon: whenever every secondary has the same CG final, what they show together is a prefix of the writes.
func (w *world) checkCommon() {
	var sets []map[int]bool
	for _, s := range w.members() {
		if s.final != w.sec[0].final {
			return
		}
		sets = append(sets, s.image)
	}
	if w.sec[0].final > w.lastCommon {
		w.lastCommon = w.sec[0].final
		w.finals++
	}
	w.checkPrefix(w.lastCommon, sets)
}

func (w *world) secRevert(s *msec, r wire.Revert) {
	if s.linked == r.CG && s.linked > s.final {
		if w.rec.Decided.CG >= r.CG {
			w.t.Fatalf("R3: CG %d reverted at %s after its decision", r.CG, s.name)
		}
		s.linked = s.final
		s.linkedBack++
	}
	if r.Discard {
		s.discardCalls++
		drop := func(cg uint64) bool { return cg >= r.CG && cg <= r.Through }
		for cg := range s.compl {
			if drop(cg) {
				delete(s.compl, cg)
			}
		}
		for i := range s.recv {
			for cg := range s.recv[i] {
				if drop(cg) {
					delete(s.recv[i], cg)
				}
			}
		}
		if drop(s.complete) {
			s.complete = s.final
		}
		s.through = max(s.through, r.Through)
	}
	w.reply(s.name, &wire.Reverted{Command: r.Command})
}

// crashSecondary loses what is not durable; every primary then sends the open CG again and gives up one that was cut.
func (w *world) crashSecondary(si int) {
	s := w.sec[si]
	s.inst++
	s.mute, s.refuse = 0, 0
	s.forget(len(w.prim))
	w.disconnect(s.name, "crash")
	for _, p := range w.prim {
		p.data[si], p.sent[si] = nil, map[uint64]int{}
		if cut := p.open - 1; p.open > 0 && cut > s.complete && cut > p.final && cut > s.through {
			w.reply(p.name, &wire.Lost{Command: wire.Command{Group: w.group.Name, Epoch: p.epoch, CG: cut}, Reason: s.name + " restarted"})
		}
		for _, r := range p.mem {
			if r.s == si && r.cg == p.open {
				p.stream(r)
			}
		}
	}
}

// pump makes one fair turn: everything is delivered once, every peer is connected. It reports whether anything happened,
// and stops at once where w.pred holds.
func (w *world) pump() bool {
	did := false
	for _, f := range w.turns() {
		did = f() || did
		if w.pred != nil && w.pred() {
			return true
		}
	}
	return did
}

func (w *world) turns() []func() bool {
	out := []func() bool{w.persistOne}
	for _, n := range w.names() {
		out = append(out,
			func() bool {
				up := w.link[n].up
				w.connect(n)
				return w.link[n].up && !up
			},
			func() bool { return w.toManager(n) },
			func() bool { return w.toPeer(n) })
	}
	for i := range w.prim {
		out = append(out, func() bool { return w.primHeld(i) })
		for s := range w.sec {
			for range 8 { // faster than writes come, or a backlog would never end
				out = append(out, func() bool { return w.toSecondary(i, s) })
			}
		}
	}
	return append(out, w.endWrite)
}

func (w *world) names() (out []string) {
	for _, p := range w.prim {
		out = append(out, p.name)
	}
	for _, s := range w.sec {
		out = append(out, s.name)
	}
	return out
}

// tick lets time pass until the manager's timer is due.
func (w *world) tick() {
	if w.timer.After(w.now) {
		w.now = w.timer
	} else {
		w.now = w.now.Add(time.Millisecond)
	}
	w.step(Tick{})
}

// until runs the world fairly until pred, with writes going on.
func (w *world) until(what string, pred func() bool) {
	w.t.Helper()
	w.pred = pred
	defer func() { w.pred = nil }()
	for i := range 4000 {
		if pred() {
			return
		}
		w.beginWrite(i%w.baseP, i/2%w.baseS)
		if !w.pump() || i%50 == 49 {
			w.tick()
		}
	}
	b, _ := json.MarshalIndent(w.core.Status(w.now), "", " ")
	w.t.Fatalf("never: %s; status %s", what, b)
}

func (w *world) inState(s State) func() bool { return func() bool { return w.core.State() == s } }

// progress: the next CGs become final, and contain everything acknowledged before.
func (w *world) progress() {
	w.t.Helper()
	n, f := len(w.acked), w.finals
	w.until("two more CGs final, with all writes", func() bool { return w.finals >= f+2 && w.lastPrefix >= n })
}

func ptr[T any](v T) *T { return &v }
