package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/ring/ringtest"
)

// config is what a seed draws once: the shape of the system, its tunables, and how slow everything is.
type config struct {
	primaries, secondaries int
	volumes                []volumeConfig
	sectors                int // bytes, of all devices
	devices                int // of each pool
	spare                  float64
	journal                int64
	writerBuffers          int
	writerBlocks           int
	settings               manager.Settings
	core                   primary.CoreOptions
	window                 uint64

	latency, device, restart time.Duration
	idle, resume, backoff    time.Duration
	recheck                  time.Duration
	length                   time.Duration // of the phase with faults

	changes bool     // controls come and go
	absent  []string // those that do not take part at first
	moves   bool     // volumes come and go
	late    []string // those that are not in the group at first
}

type volumeConfig struct {
	primary int
	blocks  uint64
	to      []int // secondaries
}

func drawConfig(seed uint64) *config {
	rng := rand.New(rand.NewPCG(seed, 0xc0))
	pick := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)+1))
	}
	c := &config{
		primaries: 1 + rng.IntN(3), secondaries: 1 + rng.IntN(3),
		sectors: []int{512, 4096, 4096}[rng.IntN(3)], devices: 1 + rng.IntN(2),
		spare: 2 + []float64{0.05, 1}[rng.IntN(2)]*rng.Float64(), journal: 2 << 20,
		writerBuffers: 2 + rng.IntN(4), writerBlocks: 1 << rng.IntN(5),
		window:  uint64(64<<10) << rng.IntN(5),
		latency: pick(20*time.Microsecond, time.Millisecond), device: pick(10*time.Microsecond, 400*time.Microsecond),
		restart: pick(5*time.Millisecond, 60*time.Millisecond), idle: pick(20*time.Millisecond, 200*time.Millisecond),
		resume: pick(20*time.Millisecond, 500*time.Millisecond), backoff: pick(10*time.Millisecond, 60*time.Millisecond),
		recheck: 2 * time.Millisecond, length: 800 * time.Millisecond,
	}
	c.settings = manager.Settings{Interval: []time.Duration{0, 0, 5 * time.Millisecond, 20 * time.Millisecond}[rng.IntN(4)],
		CoordinationTimeout: pick(4*time.Millisecond, 40*time.Millisecond), DrainTimeout: pick(100*time.Millisecond, 400*time.Millisecond),
		CommandTimeout: pick(100*time.Millisecond, 300*time.Millisecond), RPOAlert: time.Second}
	c.core = primary.CoreOptions{QueueBytes: int64(64<<10) << rng.IntN(4), CatchupReads: 1 + rng.IntN(4), CatchupBytes: int64(4096) << rng.IntN(5),
		IntentRegion: 64 << 10, IntentLinger: pick(20*time.Millisecond, 200*time.Millisecond)}
	for p := range c.primaries {
		for range 1 + rng.IntN(2) {
			c.volumes = append(c.volumes, volumeConfig{primary: p, blocks: uint64(24 + rng.IntN(73)), to: c.drawCopies(rng)})
		}
	}
	for s := range c.secondaries { // each has something to do
		if !slices.ContainsFunc(c.volumes, func(v volumeConfig) bool { return slices.Contains(v.to, s) }) {
			v := &c.volumes[rng.IntN(len(c.volumes))]
			v.to = append(v.to, s)
			slices.Sort(v.to)
		}
	}
	c.drawMembers(seed)
	c.drawVolumes(seed)
	return c
}

// drawCopies chooses the secondaries of a volume: mostly all.
func (c *config) drawCopies(rng *rand.Rand) []int {
	var to []int
	all := rng.IntN(10) < 7
	for s := range c.secondaries {
		if all || rng.IntN(2) == 0 {
			to = append(to, s)
		}
	}
	if len(to) == 0 {
		to = []int{rng.IntN(c.secondaries)}
	}
	return to
}

func (c *config) virtual() int64 {
	n := uint64(0)
	for _, v := range c.volumes {
		n += v.blocks
	}
	return int64(n * engine.BlockSize)
}

func (c *config) groupSpec(p *primaryNode) []primary.GroupSpec {
	g := primary.GroupSpec{Name: groupName}
	for _, v := range p.slots {
		g.Volumes = append(g.Volumes, v.spec())
	}
	return []primary.GroupSpec{g}
}

func (v *volume) spec() primary.VolumeSpec {
	s := primary.VolumeSpec{Name: v.name, Size: v.blocks * primary.BlockSize}
	for _, to := range v.to {
		s.Secondaries = append(s.Secondaries, to.name)
	}
	return s
}

// poolSpecs sizes the devices of a secondary: metadata, and room for some copies of its volumes.
func (c *config) poolSpecs(s *secondaryNode) []ringtest.Spec {
	mapped := uint64(0)
	for _, v := range s.volumes {
		mapped += v.blocks
	}
	// A CG that holds every block beside what it displaces, and an extent for each writer: with less it might never
	// end.
	const meta, extent, head = 1472, 64, 256
	data := uint64(float64(mapped)*c.spare) + uint64(extent*c.primaries)
	var specs []ringtest.Spec
	if c.devices == 2 {
		second := data/2/extent*extent + head + 2*extent
		specs = append(specs, ringtest.Spec{Path: s.name + ".1", Size: int64(second) * engine.BlockSize, SectorSize: c.sectors})
		data -= data / 2
	}
	first := meta + max(2*extent, (data+extent-1)/extent*extent)
	return slices.Insert(specs, 0, ringtest.Spec{Path: s.name + ".0", Size: int64(first) * engine.BlockSize, SectorSize: c.sectors})
}
