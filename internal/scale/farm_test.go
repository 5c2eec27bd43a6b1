package scale

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// farm is the product's manager core with hundreds of controls that do the least a control does, in one seeded loop and virtual time. A CG
// is whole or not there: its updates are left out, its manifests are counted.
type farm struct {
	t    *testing.T
	rng  *rand.Rand
	now  time.Duration
	todo schedule
	seq  uint64

	group manager.Group
	core  *manager.Core
	rec   manager.Recovered // the decision log
	timer uint64            // newest timer asked for
	prim  []*farmPrimary
	sec   []*farmSecondary
	peers map[string]*farmLink

	cuts      map[uint64]*farmCut
	decided   uint64
	sent      map[uint64]*kindCounts // by CG
	finals    uint64                 // the newest CG that is final everywhere
	steps     int
	inCore    time.Duration // spent in Core.Step
	abandoned map[uint64]bool
	strike    func(a manager.Action) bool // takes an action instead of having it carried out
}

// kindCounts counts messages by their type.
type kindCounts [64]int

// farmCut is what is known of a CG everywhere; only the checks look at it.
type farmCut struct {
	complete map[string]bool // secondaries on which it was ever complete
	base     map[string]uint64
}

type farmLink struct {
	up           bool
	session      int           // counts connections, of whatever manager
	last, lastUp time.Duration // arrival of the newest message in each direction
}

type occasion struct {
	at  time.Duration
	seq uint64
	do  func()
}

type schedule []occasion

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	return s[i].at < s[j].at || s[i].at == s[j].at && s[i].seq < s[j].seq
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(occasion)) }
func (s *schedule) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	*s = (*s)[:last]
	return x
}

func newFarm(t *testing.T, primaries, secondaries int) *farm {
	f := &farm{t: t, rng: rand.New(rand.NewPCG(uint64(primaries), uint64(secondaries))), peers: map[string]*farmLink{}, cuts: map[uint64]*farmCut{},
		sent: map[uint64]*kindCounts{}, abandoned: map[uint64]bool{}}
	f.group.Name = groupName
	for i := range primaries {
		p := &farmPrimary{farm: f, name: primaryName(i), sent: make([]uint64, secondaries)}
		f.prim = append(f.prim, p)
		f.group.Primaries = append(f.group.Primaries, p.name)
		f.peers[p.name] = &farmLink{}
	}
	for i := range secondaries {
		s := &farmSecondary{farm: f, index: i, name: secondaryName(i), received: map[uint64]*farmReceived{}}
		f.sec = append(f.sec, s)
		f.group.Secondaries = append(f.group.Secondaries, s.name)
		f.peers[s.name] = &farmLink{}
	}
	f.startManager()
	return f
}

func (f *farm) wall() time.Time { return time.Unix(1000, 0).Add(f.now) }

func (f *farm) at(t time.Duration, do func()) {
	f.seq++
	heap.Push(&f.todo, occasion{t, f.seq, do})
}

func (f *farm) soon() time.Duration { return time.Duration(20+f.rng.IntN(300)) * time.Microsecond }

// until goes on until something is true; it fails if nothing happens any more, or for too long.
func (f *farm) until(what string, ok func() bool) {
	f.t.Helper()
	for limit := f.now + time.Minute; !ok(); f.steps++ {
		if len(f.todo) == 0 || f.now > limit || f.steps > 1<<24 {
			f.t.Fatalf("waited in vain until %s: the group is in %v: %s", what, f.core.State(), f.core.Status(f.wall()).Waiting)
		}
		next := heap.Pop(&f.todo).(occasion)
		f.now = next.at
		next.do()
	}
}

// startManager gives the group to a new start of a manager; what the one before sent is still on its way.
func (f *farm) startManager() {
	f.rec.Epoch++
	set := manager.DefaultSettings()
	set.Interval, set.RPOAlert, set.CoordinationTimeout = 0, 0, 200*time.Millisecond
	core, err := manager.NewCore(f.group, set, f.rec, f.wall())
	if err != nil {
		f.t.Fatal(err)
	}
	f.core = core
	for name := range f.peers {
		f.peers[name].up = false
	}
	f.step(manager.Tick{})
	for _, p := range f.prim {
		f.connect(p.name)
	}
	for _, s := range f.sec {
		f.connect(s.name)
	}
}

func (f *farm) step(ev manager.Event) {
	began := time.Now()
	actions := f.core.Step(f.wall(), ev)
	f.inCore += time.Since(began)
	var broken []manager.Reconnect
	for _, a := range actions {
		if f.strike != nil && f.strike(a) {
			continue
		}
		switch a := a.(type) {
		case manager.Send:
			f.send(a)
		case manager.Persist:
			core := f.core
			f.at(f.now+f.soon(), func() {
				if f.core == core {
					f.durable(a)
				}
			})
		case manager.SetTimer:
			f.setTimer(a.At)
		case manager.Audit:
			f.audit(a.Entry)
		case manager.Reconnect:
			broken = append(broken, a)
		}
	}
	for _, r := range broken {
		f.t.Errorf("%s is to be connected anew: %s", r.Peer, r.Reason)
	}
}

func (f *farm) setTimer(at time.Time) {
	f.timer++
	if mine := f.timer; !at.IsZero() {
		f.at(max(f.now, at.Sub(time.Unix(1000, 0))), func() {
			if f.timer == mine {
				f.step(manager.Tick{})
			}
		})
	}
}

func (f *farm) durable(p manager.Persist) {
	f.rec.Known, f.rec.Reserved = true, max(f.rec.Reserved, p.Record.Reserve)
	if d := p.Record.Decided; d != nil {
		f.rec.Decided, f.decided = *d, max(f.decided, d.CG)
	}
	f.step(manager.Durable{ID: p.ID})
}

// audit looks at what the manager says it does.
func (f *farm) audit(e manager.Entry) {
	switch e.Kind {
	case manager.EntryFinal, manager.EntryDecided:
		if e.Kind == manager.EntryFinal {
			f.finals = e.CG
		}
		if e.CG%16 != 0 { // a status of hundreds of controls takes its time
			return
		}
		point := f.core.Status(f.wall()).RecoveryPoint
		for _, s := range f.sec {
			if point != nil && s.final >= *point {
				point = nil
			}
		}
		if point != nil {
			f.t.Fatalf("R5: CG %d is reported as recovery point and final nowhere", *point)
		}
	case manager.EntryHalt:
		f.t.Fatalf("the manager halted: %s", e.Did)
	}
}

func (f *farm) count(kind wire.Type, cg uint64) {
	if f.sent[cg] == nil {
		f.sent[cg] = &kindCounts{}
	}
	f.sent[cg][kind]++
}

// send has a command arrive, in order with others on its connection.
func (f *farm) send(a manager.Send) {
	l := f.peers[a.To]
	c := *a.Message.(wire.Commanded).Head()
	if !l.up || c.Epoch != f.rec.Epoch {
		f.t.Fatalf("R4: %v of epoch %d to %s, connected %t", a.Message.Type(), c.Epoch, a.To, l.up)
	}
	if r, ok := a.Message.(*wire.Revert); ok && r.Discard {
		for n := r.CG; n <= r.Through; n++ {
			f.abandoned[n] = true
		}
	}
	f.count(a.Message.Type(), c.CG)
	l.last = max(l.last, f.now+f.soon())
	session := l.session
	f.at(l.last, func() { f.control(a.To).obey(a.Message, c, session) })
}

// answer has a message arrive at the manager if the connection lasts; session is the one over which it was asked.
func (f *farm) answer(name string, session int, m wire.Message) {
	l := f.peers[name]
	if !l.up || l.session != session {
		return
	}
	var cg uint64
	if c, ok := m.(wire.Commanded); ok {
		cg = c.Head().CG
	}
	f.count(m.Type(), cg)
	l.lastUp = max(l.lastUp, f.now+f.soon())
	f.at(l.lastUp, func() {
		if l.up && l.session == session {
			f.step(manager.Received{From: name, Message: m})
		}
	})
}

func (f *farm) connect(name string) {
	l := f.peers[name]
	l.up, l.last, l.lastUp = true, f.now, f.now
	l.session++
	f.step(manager.Connected{Peer: name, Instance: wire.UUID{f.control(name).incarnation()}})
}

func (f *farm) disconnect(name string) {
	f.peers[name].up = false
	f.peers[name].session++
	f.step(manager.Disconnected{Peer: name, Reason: "lost"})
}

type farmControl interface {
	obey(m wire.Message, c wire.Command, session int)
	incarnation() byte
}

func (f *farm) control(name string) farmControl {
	var i int
	if _, err := fmt.Sscanf(name[1:], "%d", &i); err != nil {
		panic(err)
	}
	if name[0] == 'p' {
		return f.prim[i]
	}
	return f.sec[i]
}

// cutOf is what is known of a CG.
func (f *farm) cutOf(n uint64) *farmCut {
	if f.cuts[n] == nil {
		f.cuts[n] = &farmCut{complete: map[string]bool{}, base: map[string]uint64{}}
	}
	return f.cuts[n]
}
