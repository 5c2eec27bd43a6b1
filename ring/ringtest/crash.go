package ringtest

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/farside-storage/farside/ring"
)

// Event is a moment at which a crash can be ordered.
type Event uint8

const (
	// Submission: the device has got a request.
	Submission Event = iota
	// Completion: the device has done a request; its completion is not delivered.
	Completion
	// FlushEnd: a flush has ended well; its completion is not delivered.
	FlushEnd
	eventCount
)

// CrashAt orders a crash at the n-th event of this kind from now on, n >= 1. To go through all: n = 1, 2, 3 ... until a
// run ends without Crashed.
func (d *Devices) CrashAt(e Event, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashAt[e] = d.counts[e] + n
}

// Count says how many events of the kind this incarnation has seen.
func (d *Devices) Count(e Event) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[e]
}

// Crashed says whether this incarnation has ended in a crash.
func (d *Devices) Crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}

// happened counts an event and says whether a crash was ordered for it.
func (d *Devices) happened(e Event) bool {
	d.counts[e]++
	return d.counts[e] == d.crashAt[e]
}

// crash ends the incarnation. Writes in flight become the newest versions of their chains: as much in
// doubt as all the others, and in random order.
func (d *Devices) crash() {
	if d.crashed {
		return
	}
	d.crashed, d.arrived = true, d.seq
	var flying []*request
	for _, q := range d.queues {
		for _, i := range q.flying {
			flying = append(flying, &q.slots[i])
		}
	}
	d.rng.Shuffle(len(flying), func(i, j int) { flying[i], flying[j] = flying[j], flying[i] })
	for _, r := range flying {
		k := d.disks[r.Device]
		switch r.Op {
		case ring.OpWrite:
			d.write(k, d.landing(r), r.Buf, false)
		case ring.OpDiscard:
			d.discard(k, r.Off, r.Len)
		case ring.OpWriteZeroes:
			d.zero(k, r.Off, r.Len)
		}
	}
	for _, q := range d.queues {
		q.Wake()
	}
}

// landing is where a write in flight goes: elsewhere if it is misdirected.
func (d *Devices) landing(r *request) int64 {
	if r.fault != nil && r.fault.Kind == Misdirected {
		if off := r.Off + r.fault.Shift; off >= 0 && off+r.Bytes() <= d.infos[r.Device].Size {
			return off
		}
	}
	return r.Off
}

// Uncertain is a sector of which a crash may leave one of several versions.
type Uncertain struct {
	Device int
	// Off is the sector's byte offset.
	Off int64
	// Seqs numbers its versions, oldest (the durable one) first. Sectors changed by one request
	// have the same number; higher numbers were applied later, over all devices.
	Seqs []uint64
}

// Policy chooses what a crash leaves: for each sector in doubt the index of a version in Seqs.
type Policy func(rng *rand.Rand, sectors []Uncertain) []int

// None loses all that is not durable.
func None(_ *rand.Rand, sectors []Uncertain) []int { return make([]int, len(sectors)) }

// All loses nothing.
func All(_ *rand.Rand, sectors []Uncertain) []int {
	return pick(sectors, func(u *Uncertain) int { return len(u.Seqs) - 1 })
}

// Random chooses for each sector by itself.
func Random(rng *rand.Rand, sectors []Uncertain) []int {
	return pick(sectors, func(u *Uncertain) int { return rng.IntN(len(u.Seqs)) })
}

// Prefix keeps the changes up to one of them, as if none was reordered.
func Prefix(rng *rand.Rand, sectors []Uncertain) []int {
	seqs := changes(sectors)
	if len(seqs) == 0 {
		return nil
	}
	last := rng.IntN(len(seqs) + 1)
	if last == len(seqs) {
		return None(rng, sectors)
	}
	return upTo(sectors, seqs[last])
}

// AllButOne loses one change that nothing later covers, or one sector of it, and nothing else.
func AllButOne(rng *rand.Rand, sectors []Uncertain) []int {
	if len(sectors) == 0 {
		return nil
	}
	var seqs []uint64
	for i := range sectors {
		seqs = append(seqs, sectors[i].Seqs[len(sectors[i].Seqs)-1])
	}
	slices.Sort(seqs)
	seqs = slices.Compact(seqs)
	lost := seqs[rng.IntN(len(seqs))]
	whole := rng.IntN(2) == 0
	choice := All(rng, sectors)
	for _, i := range rng.Perm(len(sectors)) {
		s := sectors[i].Seqs
		if s[len(s)-1] != lost {
			continue
		}
		choice[i]--
		if !whole {
			break
		}
	}
	return choice
}

func pick(sectors []Uncertain, f func(*Uncertain) int) []int {
	choice := make([]int, len(sectors))
	for i := range sectors {
		choice[i] = f(&sectors[i])
	}
	return choice
}

// changes lists the numbers of all changes in doubt, ascending.
func changes(sectors []Uncertain) []uint64 {
	var seqs []uint64
	for i := range sectors {
		seqs = append(seqs, sectors[i].Seqs[1:]...)
	}
	slices.Sort(seqs)
	return slices.Compact(seqs)
}

// upTo keeps the newest version not above seq.
func upTo(sectors []Uncertain, seq uint64) []int {
	return pick(sectors, func(u *Uncertain) int {
		n := 0
		for n+1 < len(u.Seqs) && u.Seqs[n+1] <= seq {
			n++
		}
		return n
	})
}

// Crash ends this incarnation, if that has not happened yet, and gives devices as the machine finds
// them when it comes up again. It may be called several times, for several outcomes of the same crash.
// Faults are not inherited, but devices that vanished stay away.
func (d *Devices) Crash(p Policy) *Devices {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash()
	sectors := d.uncertain()
	return d.image(sectors, p(d.rng, sectors))
}

// Restart is Crash for the last time: the receiver must not be used any more, as its contents are handed over, not
// copied.
func (d *Devices) Restart(p Policy) *Devices {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash()
	sectors := d.uncertain()
	choice := p(d.rng, sectors)
	n := d.successor()
	n.disks = d.disks
	for _, k := range n.disks {
		k.log, k.stats = k.log[:0], Stats{}
	}
	n.settle(sectors, choice)
	return n
}

// Uncertain ends this incarnation and lists the sectors in doubt, in the order of their places.
func (d *Devices) Uncertain() []Uncertain {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash()
	return d.uncertain()
}

func (d *Devices) uncertain() []Uncertain {
	var list []Uncertain
	for dev, k := range d.disks {
		for _, i := range k.touched(0, d.infos[dev].Size/int64(k.size)) {
			s := k.find(i)
			if len(s.later) == 0 {
				continue
			}
			u := Uncertain{Device: dev, Off: i * int64(k.size), Seqs: []uint64{s.base.seq}}
			for _, v := range s.later {
				u.Seqs = append(u.Seqs, v.seq)
			}
			list = append(list, u)
		}
	}
	return list
}

// Reset ends this incarnation, if that has not happened yet, and gives devices as they are after a reset without loss
// of power: reads see the versions that p chose, those above are gone, and what was not durable is still not. It may
// be called several times, for several futures of the same devices.
func (d *Devices) Reset(p Policy) *Devices {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash()
	sectors := d.uncertain()
	return d.warm(sectors, p(d.rng, sectors))
}

// Kill is [Devices.Reset] after the death of the process: the devices hold what had completed, and of what was in
// flight any part. The next incarnation reads it, and may lose it with the power.
func (d *Devices) Kill() *Devices {
	return d.Reset(func(rng *rand.Rand, sectors []Uncertain) []int {
		least := upTo(sectors, d.arrived)
		for i := range sectors {
			least[i] += rng.IntN(len(sectors[i].Seqs) - least[i])
		}
		return least
	})
}

func (d *Devices) warm(sectors []Uncertain, choice []int) *Devices {
	n := d.successor()
	for _, k := range d.disks {
		n.disks = append(n.disks, k.clone())
	}
	for i, u := range sectors {
		k := n.disks[u.Device]
		s := k.find(u.Off / int64(k.size))
		s.later = s.later[:choice[i]]
	}
	for _, k := range n.disks {
		k.relog()
	}
	return n
}

func (d *Devices) image(sectors []Uncertain, choice []int) *Devices {
	n := d.successor()
	for _, k := range d.disks {
		n.disks = append(n.disks, k.clone())
	}
	n.settle(sectors, choice)
	return n
}

// settle leaves the chosen versions of sectors, and no others.
func (d *Devices) settle(sectors []Uncertain, choice []int) {
	for i, u := range sectors {
		k := d.disks[u.Device]
		k.keep(k.find(u.Off/int64(k.size)), choice[i])
	}
}

// Crashes ends this incarnation and goes through outcomes of the crash, with a name for each: every possible
// one, if there are no more than most; else none, all, and as many prefixes, all-but-ones and random ones
// in turn as make most, which then is at least 4.
func (d *Devices) Crashes(most int) iter.Seq2[string, *Devices] {
	sectors := d.Uncertain()
	return func(yield func(string, *Devices) bool) {
		if total := outcomes(sectors, most); total <= most {
			d.enumerate(sectors, yield)
			return
		}
		d.sample(max(most, 4), yield)
	}
}

// outcomes counts combinations of versions, but not further than a little above limit.
func outcomes(sectors []Uncertain, limit int) int {
	total := 1
	for i := range sectors {
		if total *= len(sectors[i].Seqs); total > limit {
			return limit + 1
		}
	}
	return total
}

func (d *Devices) enumerate(sectors []Uncertain, yield func(string, *Devices) bool) {
	choice := make([]int, len(sectors))
	for {
		fixed := func(*rand.Rand, []Uncertain) []int { return choice }
		if !yield(fmt.Sprintf("versions %v", choice), d.Crash(fixed)) {
			return
		}
		i := 0
		for ; i < len(choice); i++ {
			if choice[i]++; choice[i] < len(sectors[i].Seqs) {
				break
			}
			choice[i] = 0
		}
		if i == len(choice) {
			return
		}
	}
}

func (d *Devices) sample(most int, yield func(string, *Devices) bool) {
	if !yield("none", d.Crash(None)) || !yield("all", d.Crash(All)) {
		return
	}
	named := []struct {
		name   string
		policy Policy
	}{{"prefix", Prefix}, {"all but one", AllButOne}, {"random", Random}}
	for i := 2; i < most; i++ {
		c := named[(i-2)%len(named)]
		if !yield(fmt.Sprintf("%s, sample %d", c.name, i), d.Crash(c.policy)) {
			return
		}
	}
}
