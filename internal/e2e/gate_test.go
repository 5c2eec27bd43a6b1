package e2e

import (
	"fmt"
	"slices"
	"sync"

	"github.com/farside-storage/farside/internal/frameproxy"
	"github.com/farside-storage/farside/wire"
)

// place is one kind of frame on the way to or from one secondary.
type place struct {
	secondary int
	kind      wire.Type
}

// gates hold commands of the manager back, and lose frames, at the proxies of a cluster.
type gates struct {
	c       *cluster
	mu      sync.Mutex
	change  sync.Cond
	limit   map[place]uint64   // frames of CGs above it wait
	waiting map[place][]uint64 // CGs whose frames wait, or have not noticed yet that they may go on
	lose    map[place]bool     // the next one is lost, with the connection
	open    bool               // for ever
}

func newGates(c *cluster) *gates {
	g := &gates{c: c, limit: map[place]uint64{}, waiting: map[place][]uint64{}, lose: map[place]bool{}}
	g.change.L = &g.mu
	for i, p := range c.proxies {
		p.OnFrame(func(kind wire.Type, body []byte) frameproxy.Verdict { return g.frame(place{i, kind}, body) })
	}
	c.t.Cleanup(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open = true
		g.change.Broadcast()
	})
	return g
}

func (g *gates) frame(at place, body []byte) frameproxy.Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lose[at] {
		g.lose[at] = false
		return frameproxy.Break
	}
	if at.kind != wire.TypeLink && at.kind != wire.TypeRelease {
		return frameproxy.Pass
	}
	m, err := wire.Decode(at.kind, body)
	if err != nil {
		return frameproxy.Break
	}
	g.await(at, m.(interface{ Head() *wire.Command }).Head().CG)
	if g.lose[at] {
		g.lose[at] = false
		return frameproxy.Break
	}
	return frameproxy.Pass
}

// await returns when the frame of a CG may pass; g.mu is held.
func (g *gates) await(at place, cg uint64) {
	if g.passes(at, cg) {
		return
	}
	g.waiting[at] = append(g.waiting[at], cg)
	for !g.passes(at, cg) {
		g.change.Wait()
	}
	i := slices.Index(g.waiting[at], cg)
	g.waiting[at] = slices.Delete(g.waiting[at], i, i+1)
}

func (g *gates) passes(at place, cg uint64) bool {
	limit, held := g.limit[at]
	return g.open || !held || cg <= limit
}

// newestWaiting is the newest CG whose frame waits at a place, and goes on waiting; 0: none does. g.mu is held.
func (g *gates) newestWaiting(at place) (newest uint64) {
	for _, cg := range g.waiting[at] {
		if !g.passes(at, cg) {
			newest = max(newest, cg)
		}
	}
	return newest
}

// hold lets frames of CGs up to cg pass, and later ones wait.
func (g *gates) hold(cg uint64, kind wire.Type, secondaries ...int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range secondaries {
		g.limit[place{s, kind}] = cg
	}
	g.change.Broadcast()
}

// release lets all frames pass.
func (g *gates) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.limit)
	g.change.Broadcast()
}

// loseNext breaks the connection at the next frame, or at the one that waits when it may go on.
func (g *gates) loseNext(kind wire.Type, secondary int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose[place{secondary, kind}] = true
}

// awaitWaiting waits until a frame of a CG after cg waits at every one of the secondaries.
func (g *gates) awaitWaiting(cg uint64, kind wire.Type, secondaries ...int) (held uint64) {
	g.c.t.Helper()
	await(g.c.t, fmt.Sprintf("a %v command", kind), func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, s := range secondaries {
			if held = g.newestWaiting(place{s, kind}); held <= cg {
				return fmt.Errorf("the newest is of CG %d, want one after %d", held, cg)
			}
		}
		return nil
	})
	return held
}
