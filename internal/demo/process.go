package demo

import (
	"sync"

	"github.com/farside-storage/farside/internal/frameproxy"
	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/wire"
)

const (
	// endTime is how long a role may take to end when it is asked to: on a machine under load the kernel alone has
	// taken a minute.
	endTime = 3 * patience
	// logEnd is how much of a log is shown when something failed, in bytes.
	logEnd = 2000
)

// start runs the role from its configuration file; its log goes to a file of its name.
func (d *demo) start(name, kind, toml string) (*proc.Role, error) {
	r := &proc.Role{Name: name, Kind: kind, Dir: d.dir, Farside: d.o.Command}
	if err := r.Configure(toml); err != nil {
		return nil, err
	}
	return r, r.Launch()
}

// strikeAtLink has strike called, once, before the second secondary control gets its next LINK, and breaks the
// manager's connection to it: the moment at which a failure must be undone everywhere.
func (d *demo) strikeAtLink(strike func()) {
	var once sync.Once
	d.proxy.OnFrame(func(kind wire.Type, _ []byte) frameproxy.Verdict {
		verdict := frameproxy.Pass
		if kind == wire.TypeLink {
			once.Do(func() {
				strike()
				verdict = frameproxy.Break
			})
		}
		return verdict
	})
}
