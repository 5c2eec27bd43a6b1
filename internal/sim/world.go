package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring/ringtest"
)

// world is one run: everything in it happens in one loop, in virtual time.
type world struct {
	clock
	seed    uint64
	cfg     *config
	rng     *rand.Rand
	volumes []*volume
	prim    []*primaryNode
	sec     []*secondaryNode
	man     [2]*managerNode
	log     *decisionLog
	host    *host
	hist    *history
	jobs    []*job // of an operator, one after the other

	conns      []*conn
	partitions []*partition
	memory     *memory
	quiet      bool // no faults any more

	lastDecided uint64
	point       uint64 // newest recovery point that a manager spoke of
	report      Report
	verbose     func(string)
}

// Violation is an invariant that was found broken.
type Violation struct {
	Invariant string        `json:"invariant"`
	Text      string        `json:"text"`
	At        time.Duration `json:"at"` // virtual time
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s at %v: %s", v.Invariant, v.At, v.Text)
}

// fail ends the run: an invariant is broken.
func (w *world) fail(invariant, format string, args ...any) {
	panic(&Violation{invariant, fmt.Sprintf(format, args...), w.now})
}

func (w *world) trace(format string, args ...any) {
	if w.verbose == nil {
		return
	}
	w.verbose(fmt.Sprintf("%12v  ", w.now) + fmt.Sprintf(format, args...))
}

func newWorld(seed uint64, c *config) (*world, error) {
	w := &world{seed: seed, cfg: c, rng: rand.New(rand.NewPCG(seed, 1)), hist: newHistory(),
		log: &decisionLog{decided: map[uint64]bool{}, file: c.group(), members: newMembers(c.group())}, memory: memories.Get().(*memory)}
	for i := range w.cfg.secondaries {
		w.sec = append(w.sec, &secondaryNode{node: w.newNode(fmt.Sprintf("s%d", i), uint64(100+i)), index: i, copies: map[*volume]*copyOf{}})
	}
	for i := range w.cfg.primaries {
		w.prim = append(w.prim, &primaryNode{node: w.newNode(fmt.Sprintf("p%d", i), uint64(200+i)), index: i})
	}
	for i := range w.man {
		w.man[i] = &managerNode{node: w.newNode(fmt.Sprintf("m%d", i), uint64(300+i))}
	}
	for i, vc := range w.cfg.volumes {
		p := w.prim[vc.primary]
		name := fmt.Sprintf("v%d", i)
		in := !slices.Contains(w.cfg.late, name)
		v := &volume{name: name, owner: p, device: len(p.volumes), blocks: vc.blocks, configured: in, served: in, index: -1,
			dirty: make([]bool, vc.blocks), sums: make([]uint64, vc.blocks), buf: make([]byte, engine.BlockSize)}
		p.volumes = append(p.volumes, v)
		w.volumes = append(w.volumes, v)
		for _, s := range vc.to {
			v.to = append(v.to, w.sec[s])
			w.sec[s].volumes = append(w.sec[s].volumes, v)
			w.sec[s].copies[v] = &copyOf{sure: presenceOf(in), moved: !in}
		}
	}
	w.host = newHost(w)
	return w, w.makeDevices()
}

func (w *world) makeDevices() error {
	for _, p := range w.prim {
		var specs []ringtest.Spec
		for _, v := range p.volumes {
			specs = append(specs, ringtest.Spec{Path: p.name + "." + v.name, Size: int64(v.blocks) * engine.BlockSize, SectorSize: w.cfg.sectors})
		}
		p.devs = ringtest.MustNew(ringtest.Options{Seed: p.rng.Uint64(), Memory: &w.memory.sectors}, specs...)
		for _, v := range p.volumes { // they held something before
			for b := uint64(chainBlocks); b < v.blocks; b += 3 {
				w.host.fill(v.buf)
				p.devs.WriteAt(v.device, v.buf, int64(b)*engine.BlockSize)
			}
		}
	}
	for _, s := range w.sec {
		if err := s.makePool(); err != nil {
			return fmt.Errorf("seed %d: format %s: %w", w.seed, s.name, err)
		}
	}
	return nil
}

// makePool gives a secondary new devices.
func (s *secondaryNode) makePool() error {
	w := s.w
	s.devs = ringtest.MustNew(ringtest.Options{Seed: s.rng.Uint64(), Memory: &w.memory.sectors}, w.cfg.poolSpecs(s)...)
	return s.format()
}

// close frees what the run has outside of Go's heap.
func (w *world) close() {
	for _, s := range w.sec {
		if s.up {
			s.devs.Uncertain()
			s.free()
		}
	}
	w.memory.release()
}

// run does ops, then lets everything heal and waits for a CG that holds it all.
func (w *world) run(ops []Op) (v *Violation) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Violation:
			v = r
		default:
			v = &Violation{"panic", fmt.Sprintf("%v\n%s", r, debug.Stack()), w.now}
		}
	}()
	for _, s := range w.sec {
		s.start()
	}
	for _, p := range w.prim {
		p.start()
	}
	w.man[0].start()
	for _, o := range ops {
		w.at(o.At, func() { w.do(o) })
	}
	for w.step(w.cfg.length) {
	}
	w.now = max(w.now, w.cfg.length)
	w.heal()
	w.settle()
	return nil
}

// heal ends every fault.
func (w *world) heal() {
	w.trace("faults end")
	w.quiet = true
	for _, p := range w.partitions {
		p.until = min(p.until, w.now)
	}
	for _, s := range w.sec {
		s.heal()
		if !s.up {
			s.start()
		}
	}
	for _, p := range w.prim {
		disarm(p.devs)
		if !p.up && !p.halted {
			p.start()
		}
	}
	if !w.man[0].leads() && !w.man[1].leads() {
		w.man[0].stop(false)
		w.man[0].start()
	}
}

// settleBound is how long the system may take, without faults, to make everything final.
const settleBound = 2 * time.Minute

// settle: once faults have ended a CG with everything becomes final, everywhere.
func (w *world) settle() {
	w.finishJobs()
	records := 20
	if w.anyDamage() {
		records = w.rewrite()
	}
	for range records {
		w.host.record()
		w.until(w.now + 2*time.Millisecond)
	}
	w.until(w.now + 100*time.Millisecond) // hosts' requests end
	w.host.stopped = true
	if len(w.host.flying) > 0 {
		w.fail("progress", "%d requests of hosts have not ended", len(w.host.flying))
	}
	since, limit := w.wall(), w.now+settleBound
	stands := stand{w.lastDecided, w.now}
	for !w.settled(since) {
		stands.check(w)
		if w.now >= limit {
			w.fail("progress", "no CG became final within %v of the last fault: %s", settleBound, w.describe())
		}
		w.complete()
		w.until(w.now + 5*time.Millisecond)
	}
	w.checkEnd()
}

// anyDamage says whether blocks of data may have been damaged.
func (w *world) anyDamage() bool {
	return slices.ContainsFunc(w.sec, func(s *secondaryNode) bool { return s.damaged > 0 })
}

// rewrite has hosts write every block again: damage ends when what is damaged is replaced. It gives the number of
// records that replace those of the chain.
func (w *world) rewrite() int {
	for _, v := range w.volumes {
		w.host.other(primary.OpWrite, v, chainBlocks*engine.BlockSize, (v.blocks-chainBlocks)*engine.BlockSize, false)
	}
	return 20 + 2*len(w.host.places)
}

func (w *world) until(t time.Duration) {
	for w.step(t) {
	}
	w.now = max(w.now, t)
}

// settled says whether a CG that was cut after since is final everywhere.
func (w *world) settled(since time.Time) bool {
	d := w.log.rec.Decided
	if d.Cut.Before(since) || w.point < d.CG {
		return false
	}
	for _, s := range w.sec {
		if w.judged(s) && (!s.up || s.pool == nil || s.pool.Inspect().State(s.group).Final != d.CG || !s.whole(d.CG)) {
			return false
		}
	}
	if m := w.leader(); w.cfg.changes {
		return m.up && w.closed(m.core.Members()) && len(m.core.Members().Joining) == 0
	}
	return true
}

// checkEnd: every copy is the primary.
func (w *world) checkEnd() {
	for _, s := range w.sec {
		if !w.judged(s) {
			continue
		}
		s.damaged = 0
		w.readAll(s)
		final := s.pool.Inspect().State(s.group).Final
		for _, v := range s.volumes {
			if !v.configured {
				continue
			}
			now, then := v.image(), w.hist.image(final, v)
			for b := range now {
				if now[b] != then[b] {
					w.fail("progress", "%s: volume %s block %d differs from the primary, which nobody writes to", s.name, v.name, b)
				}
			}
		}
	}
}

func (w *world) describe() string {
	out := fmt.Sprintf("decided %v;", tail(w.log.order))
	for _, m := range w.man {
		if m.up {
			s := m.core.Status(w.wall())
			out += fmt.Sprintf(" %s leads %t %v waits for %q, last failure %+v;", m.name, m.leads(), m.core.State(), s.Waiting, s.LastFailure)
		}
	}
	for _, s := range w.sec {
		out += " " + s.name + " " + s.describe() + ";"
	}
	for _, p := range w.prim {
		if p.up {
			out += fmt.Sprintf(" %s %+v;", p.name, p.core.Status().Groups)
		}
	}
	return out
}

func (s *secondaryNode) describe() string {
	if s.pool == nil {
		return "down"
	}
	st := s.pool.Inspect().State(s.group)
	return fmt.Sprintf("epoch %d, final %d, linked %d, complete %d, discarded %d, receiving %d, free %d, sessions %d",
		st.Epoch, st.Final, st.Linked, st.Complete, st.Discarded, st.Receiving, s.pool.FreeBlocks(), len(s.sessions))
}

func (w *world) secondary(name string) *secondaryNode {
	for _, s := range w.sec {
		if s.name == name {
			return s
		}
	}
	return nil
}

// controls lists the nodes of all primaries, then of all secondaries.
func (w *world) controls() (all []*node) {
	for _, p := range w.prim {
		all = append(all, p.node)
	}
	for _, s := range w.sec {
		all = append(all, s.node)
	}
	return all
}

func (w *world) primary(name string) *primaryNode {
	for _, p := range w.prim {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (w *world) volume(name string) *volume {
	for _, v := range w.volumes {
		if v.name == name {
			return v
		}
	}
	return nil
}

// leader is the manager that m0 stands for in operations: the one with the newest epoch.
func (w *world) leader() *managerNode {
	if w.man[1].epoch > w.man[0].epoch {
		return w.man[1]
	}
	return w.man[0]
}
