package protomodel

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	product "github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

var flagWalks = flag.Int("model.walks", 300, "random walks with the product's manager")

// walk drives the product's manager, instead of the model's, against the controls of the model. A step is chosen at random.
type walk struct {
	world
	core     *product.Core
	rec      product.Recovered
	persists []product.Persist
	now      time.Time
	timer    time.Time
	instance [4]byte
	thawID   map[uint64]uint8
	trace    []string
}

var walkGroup = product.Group{Name: "g", Primaries: []string{"P1", "P2"}, Secondaries: []string{"S1", "S2"}}

func newWalk(t *testing.T, cfg *Config) *walk {
	k := &walk{world: world{Config: cfg}, now: time.Unix(1000, 0)}
	for i := range k.data {
		k.data[i] = [2]stream{{up: true}, {up: true}}
	}
	k.start(t)
	return k
}

func (k *walk) start(t *testing.T) {
	k.rec.Epoch++
	k.persists, k.thawID, k.timer = nil, map[uint64]uint8{}, time.Time{}
	set := product.DefaultSettings()
	set.Interval, set.RPOAlert = 0, 0
	core, err := product.NewCore(walkGroup, set, k.rec, k.now)
	if err != nil {
		t.Fatal(err)
	}
	k.core = core
}

func controlIndex(name string) int {
	for i := range 4 {
		if controlName(i) == name {
			return i
		}
	}
	panic(name)
}

func (k *walk) tell(ev product.Event) {
	var broken []product.Reconnect
	for _, a := range k.core.Step(k.now, ev) {
		switch a := a.(type) {
		case product.Send:
			if c := &k.port[controlIndex(a.To)].conn[0]; c.up {
				k.push(&c.down, k.fromWire(a.Message))
			}
		case product.Persist:
			k.persists = append(k.persists, a)
		case product.SetTimer:
			k.timer = a.At
		case product.Reconnect:
			broken = append(broken, a)
		}
	}
	for _, r := range broken {
		k.disconnect(controlIndex(r.Peer), true)
	}
}

func (k *walk) disconnect(control int, keep bool) {
	wasUp := k.port[control].conn[0].up
	k.lose(control, 0, keep)
	if wasUp {
		k.tell(product.Disconnected{Peer: controlName(control), Reason: "lost"})
	}
}

func (k *walk) fromWire(m wire.Message) msg {
	n := uint8(m.(wire.Commanded).Head().CG)
	switch m := m.(type) {
	case *wire.Fence:
		return msg{kind: fence}
	case *wire.Open:
		return msg{kind: open, cg: n, arg: uint8(m.Final)}
	case *wire.Hold:
		return msg{kind: hold, cg: n}
	case *wire.Thaw:
		if k.thawID[m.CG] == 0 {
			k.g.nextID++
			k.thawID[m.CG] = k.g.nextID
		}
		return msg{kind: thaw, cg: n, id: k.thawID[m.CG]}
	case *wire.FinalNote:
		return msg{kind: finalNote, cg: n}
	case *wire.Query:
		return msg{kind: query}
	case *wire.Link:
		return msg{kind: link, cg: n}
	case *wire.Release:
		return msg{kind: release, cg: n}
	case *wire.Revert:
		return msg{kind: revert, cg: n, arg: uint8(m.Through)}
	}
	panic(m)
}

func toWire(epoch uint64, m msg) wire.Message {
	c := wire.Command{Group: "g", Epoch: epoch, CG: uint64(m.cg)}
	switch m.kind {
	case opened:
		return &wire.Opened{Command: c}
	case held:
		return &wire.Held{Command: c}
	case thawed:
		return &wire.Thawed{Command: c, OK: m.arg == 1}
	case drained:
		return &wire.Drained{Command: c}
	case lost:
		return &wire.Lost{Command: c}
	case stateOf:
		return &wire.State{Command: c, Final: uint64(m.arg), Linked: uint64(m.cg), Complete: uint64(m.cg), Receiving: uint64(m.id), Awaited: 1}
	case complete:
		return &wire.Complete{Command: c}
	case linked:
		return &wire.Linked{Command: c}
	case final:
		return &wire.Final{Command: c}
	case reverted:
		return &wire.Reverted{Command: c}
	case stale:
		return &wire.Error{Code: wire.CodeStaleEpoch, Group: "g", Text: m.kind.String()}
	}
	return &wire.Error{Code: wire.CodeState, Group: "g", CG: c.CG, Text: m.kind.String()}
}

// step takes one step at random; faults are rarer than what goes on without.
func (k *walk) step(t *testing.T, r *rand.Rand) {
	fault := r.IntN(40) == 0
	var choice []step
	for _, s := range k.steps(nil) {
		if s.fault() == fault && (s.kind < restart || s.kind == restart && k.rec.Epoch < 3) {
			choice = append(choice, s)
		}
	}
	if !fault {
		for c := range k.port {
			if !k.port[c].conn[0].up {
				choice = append(choice, step{kind: connect, a: uint8(c)})
			}
		}
		if len(k.persists) > 0 {
			choice = append(choice, step{kind: writeLog})
		}
		if len(choice) == 0 || r.IntN(60) == 0 {
			choice = []step{{kind: timeout}}
		}
	}
	if len(choice) > 0 {
		k.carryOut(t, choice[r.IntN(len(choice))])
	}
}

func (k *walk) carryOut(t *testing.T, s step) {
	control := int(s.a)
	if s.kind != writeLog && s.kind != timeout {
		k.trace = append(k.trace, k.describe(s))
	} else {
		k.trace = append(k.trace, map[stepKind]string{writeLog: "a record is durable", timeout: "time passes"}[s.kind])
	}
	switch s.kind {
	case connect:
		k.port[control].conn[0] = conn{epoch: uint8(k.rec.Epoch), up: true}
		k.tell(product.Connected{Peer: controlName(control), Instance: wire.UUID{k.instance[control]}})
	case replyTo:
		m := k.port[control].conn[0].upwards.pop()
		k.tell(product.Received{From: controlName(control), Message: toWire(k.rec.Epoch, m)})
	case writeLog:
		k.makeDurable()
	case timeout:
		if k.timer.After(k.now) {
			k.now = k.timer
		}
		k.tell(product.Tick{})
	case loseConn:
		k.disconnect(control, true)
	case crash:
		k.instance[control]++
		wasUp := k.port[control].conn[0].up
		k.apply(s)
		if wasUp {
			k.tell(product.Disconnected{Peer: controlName(control), Reason: "crashed"})
		}
	case restart:
		for c := range k.port {
			k.lose(c, 0, true)
		}
		k.start(t)
	default:
		k.apply(s)
	}
	if p := k.core.Status(k.now).RecoveryPoint; p != nil {
		k.reportPoint(uint8(*p))
	}
	k.checkState(0, [2]uint8{})
	if k.core.State() == product.StateHalted {
		k.violate("refusal: the manager halted: %v", k.core.Status(k.now).Alerts)
	}
}

func (k *walk) makeDurable() {
	p := k.persists[0]
	k.persists = k.persists[1:]
	k.rec.Known = true
	k.rec.Reserved = max(k.rec.Reserved, p.Record.Reserve)
	if d := p.Record.Decided; d != nil {
		k.rec.Decided = *d
		k.log.known, k.log.decided = true, uint8(d.CG)
		k.g.ever.add(uint8(d.CG))
	}
	k.tell(product.Durable{ID: p.ID})
}

// walked sums up what walks did.
type walked struct {
	walks, steps, done, faults int
	violation                  string
	trace                      []string
}

func walkOften(t *testing.T, cfg *Config, walks int) (sum walked) {
	for seed := range walks {
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		k := newWalk(t, cfg)
		sum.walks++
		for range 3000 {
			k.step(t, r)
			sum.steps++
			if k.violation != "" {
				sum.violation, sum.trace = k.violation, k.trace[max(0, len(k.trace)-60):]
				return sum
			}
			if k.rec.Reserved > 240 || k.faults > 200 {
				break // the model's numbers end here
			}
		}
		sum.done += int(k.g.done)
		sum.faults += int(k.faults)
	}
	return sum
}

// The product's manager keeps the rules, too: random walks, as its states are too many to be explored. It never halts.
func TestWalkProduct(t *testing.T) {
	walks := *flagWalks
	if raceEnabled {
		walks /= 10
	}
	w := walkOften(t, &Config{Faults: 255}, walks)
	t.Logf("%d walks, %d steps, %d crashes and expired holds, %d CGs final everywhere", w.walks, w.steps, w.faults, w.done)
	if w.violation != "" {
		t.Fatalf("walk %d: %s, after ...\n%s", w.walks-1, w.violation, strings.Join(w.trace, "\n"))
	}
	if w.done < walks {
		t.Errorf("only %d CGs became final in %d walks: nothing was tried", w.done, walks)
	}
}

// The walks notice when the controls do not keep the rules that the product's manager relies on.
func TestWalkNotices(t *testing.T) {
	for _, rule := range []Rule{ExpiredHoldFailsTheCut, EveryManifestAwaited} {
		w := walkOften(t, &Config{Faults: 255, Without: rule}, 100)
		t.Logf("without %q: walk %d: %s", rule, w.walks-1, w.violation)
		if w.violation == "" {
			t.Errorf("%d walks without %q, and nothing was noticed", w.walks, rule)
		}
	}
}

// goOn takes steps without a fault, and nothing that lost connections left, until something is true.
func (k *walk) goOn(t *testing.T, until func() bool) {
	t.Helper()
	for range 1000 {
		if k.violation != "" || until() {
			return
		}
		var s []step
		for c := range k.port {
			if !k.port[c].conn[0].up {
				s = append(s, step{kind: connect, a: uint8(c)})
			}
		}
		for _, x := range k.steps(nil) {
			if !x.fault() && x.kind != deliverOld {
				s = append(s, x)
			}
		}
		if len(k.persists) > 0 {
			s = append(s, step{kind: writeLog})
		}
		s = append(s, step{kind: timeout})
		k.carryOut(t, s[0])
	}
	t.Fatalf("it never came to that:\n%s", strings.Join(k.trace, "\n"))
}

func (k *walk) waits(control int, what kind) func() bool {
	return func() bool { c := &k.port[control].conn[0].down; return c.n > 0 && c.q[0].kind == what }
}

// What an old connection of the product's manager left does harm unless the new one ends it.
func TestLateMessages(t *testing.T) {
	const p2 = 1
	scripts := map[string]struct {
		run  func(k *walk)
		want string
	}{
		"a HOLD comes after the hold of the next attempt expired": {func(k *walk) {
			k.goOn(t, k.waits(p2, hold))
			k.carryOut(t, step{kind: loseConn, a: p2})
			k.goOn(t, func() bool { return k.p[0].open > k.p[1].open && k.p[1].held })
			k.carryOut(t, step{kind: expire, a: p2})
			k.lateOnes(t, p2)
			k.goOn(t, func() bool { return k.s[0].linked > 0 })
		}, "cut:"},
	}
	for name, script := range scripts {
		for _, rule := range []Rule{0, NewConnectionSupersedes} {
			t.Run(name+", without: "+rule.String(), func(t *testing.T) {
				k := newWalk(t, &Config{Faults: 255, Without: rule})
				if script.run(k); rule == 0 {
					k.goOn(t, func() bool { return k.g.done > 0 })
				}
				if want := script.want; rule == 0 && k.violation != "" || rule != 0 && !strings.HasPrefix(k.violation, want) {
					t.Errorf("violation %q after\n%s", k.violation, strings.Join(k.trace, "\n"))
				}
			})
		}
	}
}

// lateOnes delivers what a lost connection left, if anything.
func (k *walk) lateOnes(t *testing.T, control int) {
	for i := range k.port[control].orphans {
		for k.port[control].orphans[i].q.n > 0 {
			k.carryOut(t, step{kind: deliverOld, a: uint8(control), b: uint8(i)})
		}
	}
}
