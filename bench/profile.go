package bench

import (
	"maps"
	"slices"

	"github.com/pkg/profile"
)

var profileModes = map[string]func(*profile.Profile){
	"cpu":   profile.CPUProfile,
	"mem":   profile.MemProfile,
	"mutex": profile.MutexProfile,
	"block": profile.BlockProfile,
	"trace": profile.TraceProfile,
}

func profileNames() []string { return slices.Sorted(maps.Keys(profileModes)) }

// startProfile begins the profile that was asked for. Stopping it writes the file, also after an
// interrupt: the run ends by its context, not by the package's signal hook.
func startProfile(o Options) (stop func(), err error) {
	if o.Profile == "" {
		return func() {}, nil
	}
	dir := o.ProfileDir
	if dir == "" {
		dir = "."
	}
	options := []func(*profile.Profile){profileModes[o.Profile], profile.ProfilePath(dir), profile.NoShutdownHook, profile.Quiet}
	if o.Profile == "mem" {
		options = []func(*profile.Profile){profile.MemProfile, profile.MemProfileAllocs, profile.ProfilePath(dir), profile.NoShutdownHook, profile.Quiet}
	}
	p := profile.Start(options...)
	o.Progress("a " + o.Profile + " profile is written to " + dir)
	return p.Stop, nil
}
