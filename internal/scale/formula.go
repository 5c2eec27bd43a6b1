package scale

import "github.com/farside-storage/farside/wire"

// PerCG is how many messages of each kind a CG costs that is formed without a failure, by primaries, secondaries and
// data connections. Kinds that it does not list cost nothing by CG.
func PerCG(primaries, secondaries, connections int) map[wire.Type]int {
	return map[wire.Type]int{
		wire.TypeHold: primaries, wire.TypeHeld: primaries,
		wire.TypeThaw: primaries, wire.TypeThawed: primaries,
		wire.TypeDrained:  primaries,
		wire.TypeManifest: connections,
		wire.TypeComplete: secondaries,
		wire.TypeLink:     secondaries, wire.TypeLinked: secondaries,
		wire.TypeRelease: secondaries, wire.TypeFinal: secondaries,
		wire.TypeFinalNote: primaries,
	}
}

// ManagerMessages is how many of them the manager sends or receives.
func ManagerMessages(primaries, secondaries int) int { return 6*primaries + 5*secondaries }

// Layout says where volumes are: volume i is served by primary i mod P, and those of one primary go to one secondary
// after the other.
type Layout struct{ Primaries, Secondaries, Volumes int }

// Of gives the primary and the secondary of a volume.
func (l Layout) Of(volume int) (primary, secondary int) {
	return volume % l.Primaries, (volume/l.Primaries + volume) % l.Secondaries
}

// Connections counts the pairs of a primary and a secondary that share a volume: each has one data connection.
func (l Layout) Connections() int {
	pairs := map[[2]int]bool{}
	for v := range l.Volumes {
		p, s := l.Of(v)
		pairs[[2]int{p, s}] = true
	}
	return len(pairs)
}
