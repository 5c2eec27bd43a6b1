package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Op is one thing that is done to the system from outside: by a host, by fate, by an operator. A run is a
// seed and a list of these; see the package comment for the kinds.
type Op struct {
	At   time.Duration
	Kind string
	// Node and Peer are names: p0.. primaries, s0.. secondaries, m0 and m1 managers, v0.. volumes.
	Node, Peer string
	// A and B are numbers: a block and a count, or an event and how many of it.
	A, B uint64
	Dur  time.Duration
	// How is a word: what a crash keeps, which operation fails.
	How string
}

func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", o.At, o.Kind)
	for _, f := range []struct {
		key, value string
		zero       bool
	}{
		{"node", o.Node, o.Node == ""}, {"peer", o.Peer, o.Peer == ""}, {"a", fmt.Sprint(o.A), o.A == 0}, {"b", fmt.Sprint(o.B), o.B == 0},
		{"for", o.Dur.String(), o.Dur == 0}, {"how", o.How, o.How == ""},
	} {
		if !f.zero {
			fmt.Fprintf(&b, " %s=%s", f.key, f.value)
		}
	}
	return b.String()
}

var kinds = []string{"record", "write", "part", "zeroes", "trim", "kill", "power", "cut", "part-net", "hang", "failover",
	"disk", "checkpoint", "snapshot", "mangle", "rot", "vanish", "stray", "flip", "member", "volume"}

// parseOp reads what String wrote.
func parseOp(line string) (Op, error) {
	var o Op
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return o, fmt.Errorf("%q: want a time and what happens then", line)
	}
	var err error
	if o.At, err = time.ParseDuration(fields[0]); err != nil {
		return o, fmt.Errorf("%q does not begin with a time such as 12.5ms", line)
	}
	if o.Kind = fields[1]; !slices.Contains(kinds, o.Kind) {
		return o, fmt.Errorf("%q is not an operation; known are %s", o.Kind, strings.Join(kinds, ", "))
	}
	for _, f := range fields[2:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "node":
			o.Node = value
		case "peer":
			o.Peer = value
		case "how":
			o.How = value
		case "a":
			o.A, err = strconv.ParseUint(value, 10, 64)
		case "b":
			o.B, err = strconv.ParseUint(value, 10, 64)
		case "for":
			o.Dur, err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("%q is not node, peer, a, b, for or how", key)
		}
		if err != nil {
			return o, fmt.Errorf("%q: %s: %w", line, f, err)
		}
	}
	return o, nil
}

// drawOps makes the list of a seed.
func drawOps(seed uint64, c *config) []Op {
	d := &drawing{rng: rand.New(rand.NewPCG(seed, 0x0b5)), c: c}
	d.hosts()
	d.faults()
	d.members(seed)
	d.moves(seed)
	slices.SortStableFunc(d.ops, func(a, b Op) int { return int(a.At - b.At) })
	return d.ops
}

type drawing struct {
	rng *rand.Rand
	c   *config
	ops []Op
}

func (d *drawing) add(o Op) {
	if o.At == 0 {
		o.At = time.Duration(d.rng.Int64N(int64(d.c.length)))
	}
	o.At = o.At.Truncate(time.Microsecond)
	d.ops = append(d.ops, o)
}

func (d *drawing) dur(most time.Duration) time.Duration {
	return (time.Millisecond + time.Duration(d.rng.Int64N(int64(most)))).Truncate(time.Microsecond)
}

// hosts write in bursts and in between.
func (d *drawing) hosts() {
	n := 100 + d.rng.IntN(200)
	at := time.Duration(0)
	for range n {
		if d.rng.IntN(4) == 0 {
			at = 0
		} else {
			at += time.Duration(d.rng.Int64N(int64(400 * time.Microsecond)))
		}
		if at == 0 || at > d.c.length {
			at = 1 + time.Duration(d.rng.Int64N(int64(d.c.length)))
		}
		d.hostOp(at)
	}
	for range d.rng.IntN(4) {
		d.flood()
	}
}

// flood writes everything, again and again, while the manager stands still or not, so that pools fill up.
func (d *drawing) flood() {
	at := 1 + time.Duration(d.rng.Int64N(int64(d.c.length)))
	n := 1 + d.rng.IntN(6)
	if d.rng.IntN(2) == 0 { // a reader holds on to what is replaced
		d.add(Op{At: at, Kind: "snapshot", Node: d.secondary(), Dur: d.dur(150 * time.Millisecond)})
	}
	if n > 1 && d.rng.IntN(3) > 0 {
		d.add(Op{At: at + d.dur(20*time.Millisecond), Kind: "hang", Node: "m0", Dur: d.dur(60 * time.Millisecond)})
	}
	for range n {
		for i, v := range d.c.volumes {
			d.add(Op{At: at, Kind: "write", Node: fmt.Sprintf("v%d", i), A: chainBlocks, B: v.blocks - chainBlocks})
		}
		at += time.Duration(d.rng.Int64N(int64(10 * time.Millisecond)))
	}
}

func (d *drawing) hostOp(at time.Duration) {
	i := d.rng.IntN(len(d.c.volumes))
	free := d.c.volumes[i].blocks - chainBlocks
	n := 1 + d.rng.Uint64N(min(8, free))
	if d.rng.IntN(20) == 0 {
		n = 1 + d.rng.Uint64N(free)
	}
	// A few blocks are hot.
	block := d.rng.Uint64N(free - n + 1)
	if d.rng.IntN(2) == 0 {
		block = min(block, 5)
	}
	o := Op{At: at, Node: fmt.Sprintf("v%d", i), A: chainBlocks + block, B: n}
	if d.rng.IntN(4) == 0 {
		o.How = "fua"
	}
	switch k := d.rng.IntN(100); {
	case k < 40:
		o = Op{At: at, Kind: "record"}
	case k < 80:
		o.Kind = "write"
	case k < 90:
		o.Kind = "zeroes"
	case k < 94:
		o.Kind = "trim"
	default:
		o.Kind = "part"
	}
	d.add(o)
}

func (d *drawing) primary() string   { return fmt.Sprintf("p%d", d.rng.IntN(d.c.primaries)) }
func (d *drawing) secondary() string { return fmt.Sprintf("s%d", d.rng.IntN(d.c.secondaries)) }

func (d *drawing) anybody() string {
	switch d.rng.IntN(6) {
	case 0:
		return "m0"
	case 1, 2:
		return d.primary()
	}
	return d.secondary()
}

// checkpoint has one made, and the power fail meanwhile or not.
func (d *drawing) checkpoint() {
	o := Op{At: 1 + time.Duration(d.rng.Int64N(int64(d.c.length))), Kind: "checkpoint", Node: d.secondary()}
	if d.rng.IntN(3) == 0 {
		d.add(Op{At: o.At, Kind: "power", Node: o.Node, How: d.policy(), A: 1 + d.rng.Uint64N(3), B: 1 + d.rng.Uint64N(12)})
	}
	d.add(o)
}

var policies = []string{"none", "all", "random", "random", "prefix", "all-but-one"}

func (d *drawing) policy() string { return policies[d.rng.IntN(len(policies))] }

func (d *drawing) faults() {
	if d.rng.IntN(12) == 0 {
		return // a run without faults
	}
	for range 3 + d.rng.IntN(12) {
		d.fault()
	}
	for range 2 + d.rng.IntN(4) {
		d.checkpoint()
		d.add(Op{Kind: "snapshot", Node: d.secondary(), Dur: d.dur(60 * time.Millisecond)})
	}
	d.damage()
}

// damage is an axis of its own: most runs have none.
func (d *drawing) damage() {
	some := func(least, most int, o func() Op) {
		for range least + d.rng.IntN(most-least+1) {
			d.add(o())
		}
	}
	switch d.rng.IntN(16) {
	case 0:
		some(1, 3, func() Op {
			return Op{Kind: "disk", Node: d.secondary(), How: []string{"write", "flush", "read", "short"}[d.rng.IntN(4)],
				A: 1 + d.rng.Uint64N(40), Dur: d.dur(100 * time.Millisecond)}
		})
	case 1, 2:
		o := Op{Kind: "rot", Node: d.secondary(), How: d.policy(), A: 1 + d.rng.Uint64N(1<<40)}
		if d.rng.IntN(4) == 0 {
			o.B = 1 + d.rng.Uint64N(4)
		}
		d.add(o)
	case 3, 4:
		some(1, 3, func() Op { return Op{Kind: "mangle", Node: d.primary(), Peer: d.secondary()} })
	case 5:
		some(1, 4, func() Op { return Op{Kind: "flip", Node: d.secondary(), A: 1 + d.rng.Uint64N(1<<40)} })
	case 6:
		some(1, 3, func() Op {
			return Op{Kind: "stray", Node: d.secondary(), A: 1 + d.rng.Uint64N(12), B: 1 + d.rng.Uint64N(96)}
		})
	case 7, 8:
		some(1, 2, func() Op {
			return Op{Kind: "vanish", Node: d.secondary(), A: 1 + d.rng.Uint64N(8), B: d.rng.Uint64N(30), How: d.policy(), Dur: d.dur(200 * time.Millisecond)}
		})
	}
}

func (d *drawing) fault() {
	switch k := d.rng.IntN(100); {
	case k < 30: // at an event of the devices
		o := Op{Kind: "power", Node: d.secondary(), How: d.policy(), A: 1 + d.rng.Uint64N(3), B: 1 + d.rng.Uint64N(60)}
		if d.rng.IntN(3) == 0 {
			o.B = 1 + d.rng.Uint64N(12) // in recovery, and right behind
		}
		d.add(o)
	case k < 37:
		d.add(Op{Kind: "power", Node: d.anybody(), How: d.policy()})
	case k < 40:
		d.add(Op{Kind: "kill", Node: d.anybody()})
	case k < 46:
		o := Op{Kind: "kill", Node: d.secondary(), A: 1 + d.rng.Uint64N(3), B: 1 + d.rng.Uint64N(60)}
		if d.rng.IntN(4) > 0 { // and then the power fails
			o.How, o.Dur = d.policy(), d.dur(10*time.Millisecond)
		}
		d.add(o)
	case k < 48:
		d.add(Op{Kind: "power", Node: d.primary(), How: d.policy()})
	case k < 52:
		d.add(Op{Kind: "power", Node: d.primary(), How: d.policy(), A: 1 + d.rng.Uint64N(3), B: 1 + d.rng.Uint64N(60)})
	case k < 60:
		d.add(Op{Kind: "cut", Node: d.primary(), Peer: d.secondary()})
	case k < 66:
		d.add(Op{Kind: "cut", Node: "m0", Peer: d.secondary()})
	case k < 70:
		d.add(Op{Kind: "cut", Node: "m0", Peer: d.primary()})
	case k < 84:
		o := Op{Kind: "part-net", Node: d.anybody(), Dur: d.dur(150 * time.Millisecond)}
		if d.rng.IntN(2) == 0 {
			o.Peer = d.anybody()
		}
		if d.rng.IntN(2) == 0 {
			o.How = "stall"
		}
		d.add(o)
	case k < 92:
		d.add(Op{Kind: "hang", Node: d.anybody(), Dur: d.dur(80 * time.Millisecond)})
	default:
		d.add(Op{Kind: "failover", How: []string{"crash", "alive", "alive", "log-lost"}[d.rng.IntN(4)]})
	}
}
